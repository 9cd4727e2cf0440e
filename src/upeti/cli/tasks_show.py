"""What `upeti tasks` prints: a table of tasks, one task in words, the same as values for JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upeti.cli.output import aligned, cell, plain, table
from upeti.core.amount import decimal_text
from upeti.learning.tasks import saving_pico
from upeti.learning.template import pattern_text
from upeti.money.window import iso_time

if TYPE_CHECKING:
    from rich.console import Console

    from upeti.learning.tasks import Agreement, Seen, Task

AUDIT_SHARE: Final = 0.05  # that a saving reckons with, and that a declaration has unless told otherwise


def _saved(seen: Seen, share: Decimal, audit_share: float = AUDIT_SHARE) -> dict[str, int]:
    audited = Decimal(str(audit_share))
    return {currency: saving_pico(pico, share, audited) for currency, pico in seen.costs.items()}


def values_shown(seen: Seen, share: Decimal) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(seen)
    del shown["dearest"]
    shown["template_sha256"] = seen.template.digest if seen.template is not None else None
    shown["costs"] = {currency: decimal_text(pico) for currency, pico in seen.costs.items()}
    shown["assumed_share"] = str(share)
    shown["would_save"] = {currency: decimal_text(pico) for currency, pico in _saved(seen, share).items()}
    return shown


def print_list(screen: Console, found: list[Seen], share: Decimal) -> None:
    numbers = ("calls", "cost", "kept", "values", "bits", "itself", "would save")
    columns = ("task", "declared", "route", "teacher", "calls", "cost", "kept", "answers", "values", "bits", "itself")
    shown = table([(name, name in numbers) for name in (*columns, "would save")])
    costs = aligned([_first(one.costs) for one in found])
    saved = aligned([_first(_saved(one, share)) for one in found])
    for one, cost, could in zip(found, costs, saved, strict=True):
        currency = next(iter(one.costs), "")
        more = f" (+{len(one.costs) - 1})" if len(one.costs) > 1 else ""
        labels = one.labels
        row = (
            one.name,
            "yes" if one.declared else "",
            one.route,
            f"{one.channel}/{one.model}",
            one.calls,
            f"{cost} {currency}{more}" if cost is not None else "",
            one.captured,
            one.form.kind if one.form is not None else "",
            labels.distinct if labels is not None else "",
            f"{labels.entropy_bits:.2f}" if labels is not None else "",
            _percent(one.agreement) if one.agreement is not None else "",
            f"{could} {currency}" if could is not None and not one.against else "",
        )
        shown.add_row(*map(cell, row))
    screen.print(shown)
    for one in found:
        for reason in one.against:
            print_line(screen, f"{one.name}: {reason}.")
    print_line(
        screen,
        f"Would save: at an assumed share of {share} answered by an own model, {AUDIT_SHARE:.0%} of them audited; "
        "the machine that serves it is not in it.",
    )


def print_one(screen: Console, seen: Seen, declaration: Task | None, measured: list[Agreement], share: Decimal) -> None:
    tag = f", tag {seen.tag}" if seen.tag else ""
    print_line(screen, f"{seen.name}: route {seen.route}, answered by {seen.channel}/{seen.model}{tag}.")
    cost = (
        ", ".join(f"{decimal_text(pico)} {currency}" for currency, pico in seen.costs.items()) or "nothing with a price"
    )
    unpriced = f", {seen.unpriced} without a price" if seen.unpriced else ""
    print_line(screen, f"{seen.calls:,} calls, {cost}{unpriced}.")
    saved = ", ".join(f"{decimal_text(pico)} {currency}" for currency, pico in _saved(seen, share).items())
    if saved and not seen.against:
        print_line(
            screen, f"Owning it would save {saved} at an assumed share of {share}, {AUDIT_SHARE:.0%} of it audited."
        )
    if seen.template is not None:
        print_line(
            screen,
            f"\nTemplate {seen.template.digest[:16]}, of which {seen.of_template} of {seen.captured} kept pairs are:",
        )
        print_line(screen, _shortened(pattern_text(seen.template)))
    if seen.form is not None and seen.labels is not None:
        labels = seen.labels
        print_line(
            screen,
            f"\nAnswers: {seen.form.kind} ({', '.join(seen.form.names)}), {labels.distinct} different, "
            f"{labels.entropy_bits:.2f} bits, {labels.unreadable} of {labels.answers} not of this form. The commonest:",
        )
        for value, count in labels.commonest:
            print_line(screen, f"  {count:>6,}  {value}")
    for one in measured:
        print_line(screen, f"\n{agreement_text(one)}")
    for reason in seen.against:
        print_line(screen, f"\nAgainst it: {reason}.")
    if declaration is not None:
        told = f"Declared by {declaration.by} ({declaration.why}): {taught(declaration)}. {promise(declaration)}"
        print_line(screen, f"\n{told}")


def print_line(screen: Console, text: str) -> None:
    for line in text.split("\n"):
        screen.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def _shortened(text: str, letters: int = 2_000) -> str:
    return text if len(text) <= letters else f"{text[: letters // 2]}\n…\n{text[-letters // 2 :]}"


def _first(amounts: dict[str, int]) -> int | None:
    return next(iter(amounts.values()), None)


def _percent(agreement: Agreement) -> str:
    return f"{agreement.agreed / agreement.asked:.1%}"


def agreement_text(one: Agreement) -> str:
    failed = f", {one.failed} not answered" if one.failed else ""
    return (
        f"{iso_time(one.at_ns, 'UTC')}: {one.channel}/{one.model}, asked again on route {one.route}, said the same in "
        f"{one.agreed} of {one.asked}{_interval(one)}{failed}; that cost {one.cost} {one.currency}."
    )


def _interval(one: Agreement) -> str:
    try:
        from upeti.learning.bounds import interval
    except ModuleNotFoundError:  # the bounds are exact, and need the libraries of `upeti[learning]`
        return ""
    _, low, high = interval(one.agreed, one.asked)
    return f" ({_percent(one)}, 95 % interval {low:.1%} to {high:.1%})"


def taught(task: Task) -> str:
    tag = f"calls with the tag {task.tag}" if task.tag else "calls of its template"
    return f"{tag} on route {task.route}, taught by {task.channel}/{task.model}"


def answered(task: Task) -> str:
    return f"answers are {task.form.kind} ({', '.join(task.form.names)}), template {task.template_sha256[:16]}"


def promise(task: Task) -> str:
    of = {"system": "all its calls", "answer": "the student's answers", "class": "the calls of each class"}[task.target]
    return (
        f"At most {task.alpha:.4g} of {of} may be answered other than by the teacher, with certainty {1 - task.delta:.4g}; "
        f"{task.audit_share:.4g} of the student's answers are audited, for at most {task.audit_limit} {task.audit_currency} "
        "a month."
    )


def reasons(left_out: dict[str, int]) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in left_out.items()) or "none is kept"
