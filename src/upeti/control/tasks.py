"""Declared tasks, and what the journal and the kept pairs say of all tasks, declared or not.

Rules: a declaration is an act before it takes effect, and is in the state, as budgets set by command are: it holds what
was found in kept pairs (a template, a form), which nobody writes by hand into a file. It is never edited; one that is
forgotten can be declared anew. A call belongs to the task whose tag it carries; without a tag, to the task whose template
it is of.
"""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import delete, insert, select

from upeti.control import pairs
from upeti.control.store import Store
from upeti.control.tables_tasks import agreements, tasks
from upeti.journal.acts import act, record_acts
from upeti.journal.bodies import Bodies
from upeti.journal.task_spend import TaskSpend, spend_of_tasks
from upeti.learning.answers import AnswerForm, AnswerFormError, form_of, read_answer
from upeti.learning.target import Kind
from upeti.learning.tasks import (
    FOUND,
    Agreement,
    Labels,
    Seen,
    Task,
    TaskError,
    check,
    labels_of,
    most_common,
    ranked,
)
from upeti.learning.template import (
    LEAST,
    Prompt,
    Template,
    TemplateError,
    find_templates,
    match,
    read_prompt,
    template_of,
)

WIRE: Final = "chat_completions"  # the only one that students read
OWN_FEATURES: Final = frozenset({"audit", "stability"})  # calls of Upeti's own about tasks are of no task
SAMPLE: Final = 2_000  # pairs of a task that are looked at, the newest
_FORM_SAMPLE: Final = 500


class Kept(msgspec.Struct, frozen=True):
    """A kept pair with its bodies, and its prompt where it has one."""

    pair: pairs.Pair
    request: bytes
    answer: bytes
    prompt: Prompt | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to declare; "" for what the kept pairs say."""

    name: str
    tag: str = ""
    template: str = ""  # digest, or how it begins, or the name under which it was found
    route: str = ""
    channel: str = ""
    model: str = ""
    target: Kind = Kind.SYSTEM
    alpha: float = 0.05
    delta: float = 0.05
    audit_share: float = 0.05
    audit_limit: str = "10"
    audit_currency: str = "USD"
    by: str = ""
    why: str = ""


# -- declarations
# -------------------------------------------------------------------------------------------------------------


def declared(store: Store) -> list[Task]:
    """Return the declared tasks by name."""
    query = select(tasks.c.declaration).order_by(tasks.c.name)
    with store.engine.connect() as connection:
        return [msgspec.convert(one, Task) for one in connection.execute(query).scalars()]


def declare(store: Store, bodies: Bodies, wanted: Wanted) -> Task:
    """Declare a task with what the kept pairs say of it. Raises ``TaskError``, ``TemplateError``, ``AnswerFormError``."""
    if any(one.name == wanted.name for one in declared(store)):
        raise TaskError(f"there is a task `{wanted.name}` already: `upeti tasks forget {wanted.name}` first")
    kept, template = _chosen(store, bodies, wanted)
    mine = [one for one in kept if one.prompt is not None and match(template, one.prompt) is not None]
    if len(mine) < LEAST:
        raise TaskError(
            f"only {len(mine)} kept pairs are of this template, {LEAST} are needed to tell the form of its answers: "
            "`upeti capture status` says what is kept and why not more"
        )
    channel, model = most_common([(one.pair.channel, one.pair.model) for one in mine])
    route, _ = most_common([(one.pair.route, "") for one in mine])
    channel, model = wanted.channel or channel, wanted.model or model
    of_teacher = [one for one in mine if (one.pair.channel, one.pair.model) == (channel, model)]
    if not of_teacher:
        raise TaskError(f"no kept pair of the task was answered by {channel}/{model}: `upeti tasks show` says by whom")
    now_ns = time.time_ns()
    made = Task(
        name=wanted.name,
        tag=wanted.tag,
        route=wanted.route or route,
        channel=channel,
        model=model,
        template=template,
        template_sha256=template.digest,
        form=form_of(one.answer for one in of_teacher[:_FORM_SAMPLE]),
        target=wanted.target,
        alpha=wanted.alpha,
        delta=wanted.delta,
        audit_share=wanted.audit_share,
        audit_limit=wanted.audit_limit,
        audit_currency=wanted.audit_currency,
        declared_ns=now_ns,
        by=wanted.by,
        why=wanted.why,
    )
    check(made)
    fields = msgspec.to_builtins(made)
    detail = {name: fields[name] for name in fields if name not in ("name", "template", "form", "by", "why")}
    record_acts(store.data_dir, act(now_ns, made.by, "tasks.declared", made.name, made.why, **detail))
    row = {
        "name": made.name,
        "tag": made.tag,
        "template_sha256": made.template_sha256,
        "declared_ns": now_ns,
        "declaration": fields,
    }
    with store.changing() as connection:
        connection.execute(insert(tasks).values(row))
    return made


def forget(store: Store, name: str, *, by: str, why: str) -> None:
    """Take a declaration back; what was measured of the task stays. Raises ``TaskError``."""
    if not by.strip() or not why.strip():
        raise TaskError("forgetting has a name and a reason: give --by and --why")
    if all(one.name != name for one in declared(store)):
        raise TaskError(f"there is no declared task `{name}`: `upeti tasks list` shows them")
    record_acts(store.data_dir, act(time.time_ns(), by, "tasks.forgotten", name, why))
    with store.changing() as connection:
        connection.execute(delete(tasks).where(tasks.c.name == name))


def _chosen(store: Store, bodies: Bodies, wanted: Wanted) -> tuple[list[Kept], Template]:
    """Return the pairs that a declaration speaks of, and their template."""
    if not wanted.tag and not wanted.template:
        raise TaskError(
            "say which calls are meant: --tag TAG of x-upeti-task, or --template; `upeti tasks list` has both"
        )
    kept = read_kept(store, bodies, wanted.tag)
    prompts = [one.prompt for one in kept if one.prompt is not None]
    if not prompts:
        of = f"with the tag `{wanted.tag}`" if wanted.tag else "without a tag"
        raise TaskError(f"no pair {of} is kept on {WIRE}: `upeti capture status` says what is kept and why not more")
    if not wanted.template:
        return kept, template_of(prompts)
    start = wanted.template.removeprefix(FOUND)
    found = [one.template for one in find_templates(prompts) if one.template.digest.startswith(start)]
    if len(found) != 1:
        raise TaskError(
            f"{len(found)} templates of these pairs begin with {start}: `upeti tasks list --json` has digests"
        )
    return kept, found[0]


def read_kept(store: Store, bodies: Bodies, tag: str, count: int = SAMPLE) -> list[Kept]:
    """Return the newest pairs with a tag ("": with none), without those of calls that Upeti makes about tasks itself."""
    found = []
    for pair in pairs.newest(store, count, task=tag, wire=WIRE):
        body = pairs.body(store, bodies, pair) if pair.feature not in OWN_FEATURES else None
        if body is not None:
            found.append(Kept(pair, *body, read_prompt(body[0])))
    return found


# -- what is seen
# -------------------------------------------------------------------------------------------------------------


def survey(
    store: Store,
    bodies: Bodies,
    *,
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
    data_dir: Path | None = None,
) -> list[Seen]:
    """Return all tasks with what is known of them, what can be owned and costs most first. Raises ``JournalError``."""
    from upeti.journal.events_store import connect

    known = declared(store)
    names = {one.tag: one.name for one in known if one.tag}
    groups: dict[str, list[Kept]] = {}
    templates: dict[str, Template] = {one.name: one.template for one in known}
    few: dict[str, int] = {}
    for tag, count in pairs.by_task(store, WIRE).items():
        if tag and count < LEAST and tag not in names:
            few[tag] = count  # a tag may be an id of each call: such pairs are counted, not read
        elif tag:
            groups[names.get(tag, tag)] = read_kept(store, bodies, tag)
        else:
            for name, template, members in _untagged(read_kept(store, bodies, tag), known):
                templates[name] = template
                groups[name] = members
    by_call = {one.pair.call_id: name for name, members in groups.items() for one in members if not one.pair.task}
    with connect(data_dir or store.data_dir, skip_damaged=True) as connection:
        spends = spend_of_tasks(connection, by_call, first_day, last_day)
    spent: dict[str, list[TaskSpend]] = defaultdict(list)
    for one in spends:
        spent[names.get(one.tag, one.task) if one.tag else one.task].append(one)
    by_name = {one.name: one for one in known}
    latest = _latest_agreements(store, known)
    everything = {*groups, *few, *spent, *by_name}
    return ranked(
        _seen(
            name,
            by_name.get(name),
            spent[name],
            groups.get(name, []),
            templates.get(name),
            latest.get(name),
            few.get(name, 0),
        )
        for name in everything
    )


def _untagged(kept: Sequence[Kept], known: Iterable[Task]) -> list[tuple[str, Template, list[Kept]]]:
    """Return (name, template, pairs) of the tasks that pairs without a tag are of: declared ones, then those found."""
    made: list[tuple[str, Template, list[Kept]]] = []
    left = [one for one in kept if one.prompt is not None]

    def take(name: str, template: Template) -> None:
        nonlocal left
        mine = [one for one in left if one.prompt is not None and match(template, one.prompt) is not None]
        taken = {one.pair.pair_id for one in mine}
        left = [one for one in left if one.pair.pair_id not in taken]
        if mine:
            made.append((name, template, mine))

    for task in known:
        if not task.tag:
            take(task.name, task.template)
    found = [one.template for one in find_templates(one.prompt for one in left if one.prompt is not None)]
    for template in sorted(found, key=lambda one: (-one.words, one.digest)):  # as they were counted
        take(f"{FOUND}{template.digest[:8]}", template)
    return made


def _seen(
    name: str,
    task: Task | None,
    spent: Sequence[TaskSpend],
    kept: Sequence[Kept],
    template: Template | None,
    agreement: Agreement | None,
    few: int,
) -> Seen:
    costs: dict[str, int] = defaultdict(int)
    dearest: dict[str, int] = {}
    for one in spent:
        if one.cost_pico is not None:
            costs[one.currency] += one.cost_pico
        dearest[one.currency] = max(dearest.get(one.currency, 0), one.dearest_pico or 0)
    against: list[str] = []
    prompts = [one.prompt for one in kept if one.prompt is not None]
    if few:
        against.append(f"only {few} of its pairs are kept, {LEAST} are needed")
    elif not kept:
        against.append(f"no pair of it is kept on {WIRE}: `upeti capture status` says why not")
    elif template is None:
        try:
            template = template_of(prompts)
        except TemplateError as error:
            against.append(str(error))
    mine = [p for p in prompts if match(template, p) is not None] if template is not None else []
    form, labels = _answers(task, kept, against)
    if task is not None:
        route, channel, model = task.route, task.channel, task.model
    else:
        route, channel, model = _mostly(spent, kept)
    return Seen(
        name=name,
        tag=task.tag
        if task is not None
        else next((one.tag for one in spent), kept[0].pair.task if kept else name if few else ""),
        declared=task is not None,
        route=route,
        channel=channel,
        model=model,
        calls=sum(one.calls for one in spent),
        unpriced=sum(one.unpriced for one in spent),
        costs=dict(costs),
        dearest={currency: pico for currency, pico in dearest.items() if pico},
        captured=len(kept) or few,
        template=template,
        of_template=len(mine),
        form=form,
        labels=labels,
        against=tuple(against),
        agreement=agreement,
    )


def _answers(task: Task | None, kept: Sequence[Kept], against: list[str]) -> tuple[AnswerForm | None, Labels | None]:
    form = task.form if task is not None else None
    if not kept:
        return form, None
    if form is None:
        try:
            form = form_of(one.answer for one in kept[:_FORM_SAMPLE])
        except AnswerFormError as error:
            against.append(str(error))
            return None, None
    return form, labels_of(read_answer(form, one.answer) for one in kept)


def _mostly(spent: Sequence[TaskSpend], kept: Sequence[Kept]) -> tuple[str, str, str]:
    """Return route, channel and model with most calls."""
    if spent:
        most = max(spent, key=lambda one: (one.calls, one.route, one.channel, one.model))
        return most.route, most.channel, most.model
    route, _ = most_common([(one.pair.route, "") for one in kept])
    return route, *most_common([(one.pair.channel, one.pair.model) for one in kept])


# -- agreement of a teacher with itself
# -------------------------------------------------------------------------------------------------------------


def keep_agreement(store: Store, agreement: Agreement) -> None:
    """Add what was measured."""
    with store.writing() as connection:
        connection.execute(insert(agreements).values(msgspec.structs.asdict(agreement)))


def agreements_of(store: Store, name: str) -> list[Agreement]:
    """Return what was measured of a task, oldest first, under earlier names too."""
    task = next((one for one in declared(store) if one.name == name), None)
    names = _names_of(task) if task is not None else {name}
    query = select(agreements).where(agreements.c.task.in_(names)).order_by(agreements.c.at_ns)
    with store.engine.connect() as connection:
        return [Agreement(**row) for row in connection.execute(query).mappings()]


def _latest_agreements(store: Store, known: Iterable[Task]) -> dict[str, Agreement]:
    query = select(agreements).order_by(agreements.c.at_ns)
    with store.engine.connect() as connection:
        latest = {row["task"]: Agreement(**row) for row in connection.execute(query).mappings()}
    for task in known:
        measured = [latest[name] for name in _names_of(task) if name in latest]
        if measured:
            latest[task.name] = max(measured, key=lambda one: one.at_ns)
    return latest


def _names_of(task: Task) -> set[str]:
    """Return the names that a task has, and had before it was declared."""
    return {task.name, task.tag or f"{FOUND}{task.template_sha256[:8]}"}
