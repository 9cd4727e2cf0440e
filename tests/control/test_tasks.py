"""Tasks in the state: declared with what kept pairs say, seen with what the journal says, forgotten by a named person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from support.tasks_side import SYSTEM, TasksSide, answer, banking, request
from upeti.control.store import Store
from upeti.control.tasks import Wanted, declare, declared, forget, keep_agreement, survey
from upeti.journal.acts import read_acts
from upeti.learning.answers import AnswerFormError
from upeti.learning.target import Kind
from upeti.learning.tasks import Agreement, Seen, TaskError
from upeti.learning.template import TemplateError

OpenStore = Callable[[], Store]
WHO = {"by": "head of support", "why": "asked all day"}
URGENT = "Is this message urgent? Say yes or no, and nothing else."


@pytest.fixture
def side(open_store: OpenStore) -> TasksSide:
    return TasksSide(open_store())


def see(side: TasksSide, **options: Any) -> dict[str, Seen]:
    return {one.name: one for one in survey(side.store, side.bodies, **options)}


def test_tasks_are_seen_by_tag_and_by_template(side: TasksSide) -> None:
    rows = banking(90)
    side.calls(rows[:60], task="intent")
    side.call(task="intent", cost_pico=5)  # not kept, and of the task all the same
    side.calls([(text, "yes" if "card" in text else "no") for text, _ in rows], system=URGENT, cost_pico=1_000)
    side.calls(
        [(text, f"Well, {text} That depends.") for text, _ in rows[:40]], system="", task="chat", cost_pico=10**10
    )
    side.call(task="never-kept")
    side.calls(rows[:3], task="few", cost_pico=1)
    found = see(side)
    assert [*found] == [
        "intent",
        next(name for name in found if name.startswith("found-")),
        "chat",
        "never-kept",
        "few",
    ]
    intent = found["intent"]
    assert (intent.calls, intent.costs, intent.captured, intent.of_template) == (61, {"USD": 120_000_005}, 60, 60)
    assert (intent.channel, intent.model, intent.route, intent.declared) == ("sim", "gpt-4", "intents", False)
    assert intent.template is not None
    assert intent.template.parts == ((SYSTEM,), ("", ""))
    assert intent.form is not None
    assert intent.form.kind == "label"
    assert intent.labels is not None
    assert intent.labels.distinct == len({said for _, said in rows[:60]})
    assert intent.against == ()
    urgent = next(one for name, one in found.items() if name.startswith("found-"))
    assert (urgent.tag, urgent.calls, urgent.costs, urgent.captured) == ("", 90, {"USD": 90_000}, 90)
    assert urgent.labels is not None
    assert {value for value, _ in urgent.labels.commonest} == {"yes", "no"}
    assert "free text" in " ".join(found["chat"].against)
    assert found["never-kept"].against == (
        "no pair of it is kept on chat_completions: `upeti capture status` says why not",
    )
    assert (found["few"].captured, found["few"].against) == (3, ("only 3 of its pairs are kept, 20 are needed",))


def test_a_declaration_binds_what_was_found(side: TasksSide) -> None:
    side.calls(banking(60), task="intent")
    side.calls(banking(5), task="intent", model="gpt-3.5")
    made = declare(side.store, side.bodies, Wanted(name="intents-of-desk", tag="intent", target=Kind.ANSWER, **WHO))
    assert declared(side.store) == [made]
    assert (made.route, made.channel, made.model, made.target) == ("intents", "sim", "gpt-4", Kind.ANSWER)
    assert made.template_sha256 == made.template.digest
    act = next(one for one in read_acts(side.store.data_dir) if one.kind == "tasks.declared")
    assert (act.actor, act.subject, act.reason) == ("head of support", "intents-of-desk", "asked all day")
    detail = msgspec.json.decode(act.detail)
    assert (detail["template_sha256"], detail["alpha"], detail["model"]) == (made.template_sha256, 0.05, "gpt-4")
    with pytest.raises(TaskError, match="already"):
        declare(side.store, side.bodies, Wanted(name="intents-of-desk", tag="intent", **WHO))
    seen = see(side)["intents-of-desk"]  # the name stands for the tag
    assert (seen.declared, seen.calls, seen.captured, seen.tag) == (True, 65, 65, "intent")
    changes = side.store.changes()
    with pytest.raises(TaskError, match="--by and --why"):
        forget(side.store, "intents-of-desk", by="", why="")
    forget(side.store, "intents-of-desk", by="head of support", why="the prompt changes")
    assert declared(side.store) == []
    assert side.store.changes() == changes + 1
    assert [one.kind for one in read_acts(side.store.data_dir)] == ["tasks.declared", "tasks.forgotten"]
    with pytest.raises(TaskError, match="no declared task"):
        forget(side.store, "intents-of-desk", by="x", why="y")


def test_a_task_without_a_tag_is_declared_by_its_template(side: TasksSide) -> None:
    side.calls(banking(50))
    side.calls([(text, "yes") for text, _ in banking(40)], system=URGENT)
    name = next(name for name, one in see(side).items() if one.labels is not None and one.labels.distinct == 1)
    made = declare(side.store, side.bodies, Wanted(name="urgent", template=name, **WHO))
    assert made.template.parts == ((URGENT,), ("", ""))
    found = see(side)
    assert name not in found
    assert (found["urgent"].calls, found["urgent"].declared) == (40, True)
    assert sum(one.calls for one in found.values()) == 90


def test_what_cannot_be_told_is_not_declared(side: TasksSide) -> None:
    def refused(words: str, error: type[Exception] = TaskError, **wanted: Any) -> None:
        with pytest.raises(error, match=words):
            declare(side.store, side.bodies, Wanted(name="t", **(WHO | wanted)))

    refused("say which calls are meant")
    refused("no pair with the tag `none` is kept", tag="none")
    side.calls(banking(10), task="few")
    refused("only 10 kept pairs", tag="few")
    refused("0 templates of these pairs begin with ffff", tag="few", template="ffff")
    side.calls(banking(40), task="intent")
    refused("was answered by sim/gpt-9", tag="intent", model="gpt-9")
    refused("--alpha is a share", tag="intent", alpha=1.0)
    side.calls([(text, text) for text, _ in banking(60)], task="chat")
    refused("free text", AnswerFormError, tag="chat")
    for _ in range(30):
        side.call(request("the same"), answer("no"), task="same")
    refused("nothing varies", TemplateError, tag="same")
    assert declared(side.store) == []


def test_calls_about_tasks_are_of_no_task(side: TasksSide) -> None:
    side.calls(banking(50), feature="stability")
    assert see(side) == {}


def test_the_last_agreement_is_shown(side: TasksSide) -> None:
    side.calls(banking(30), task="intent")
    measured = {
        "task": "intent",
        "route": "intents",
        "channel": "sim",
        "model": "gpt-4",
        "failed": 0,
        "currency": "USD",
    }
    for at_ns, agreed in ((1, 40), (2, 48)):
        keep_agreement(side.store, Agreement(at_ns=at_ns, asked=50, agreed=agreed, cost="0.01", **measured))
    agreement = see(side)["intent"].agreement
    assert agreement is not None
    assert (agreement.agreed, agreement.asked) == (48, 50)
