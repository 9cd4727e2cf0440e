"""Which kept questions may be asked again, and what an answer says of the teacher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.capture_side import DOCUMENT, TERMS
from support.tasks_side import TasksSide, answer, banking, request
from upeti.control import consents
from upeti.control.store import Store
from upeti.control.task_stability import Question, ask_again, questions
from upeti.control.tasks import read_kept, survey
from upeti.feed.gateway_client import GatewayClient
from upeti.learning.tasks import Agreement, TaskError
from upeti.rights import terms_files
from upeti.rights.terms import Binding, Terms
from upeti.sim.behaviours import Behaviour
from upeti.sim.http import Request
from upeti.sim.provider import SimProvider
from upeti.sim.values import Answer, dumps

TEACHER = ("sim", "gpt-4")


@pytest.fixture
def side(tmp_path: Path) -> TasksSide:
    made = TasksSide(Store(tmp_path / "data"))
    consents.give(
        made.store, "acme", purposes=("evaluate",), evidence=DOCUMENT, by="head of legal", why="letter of today"
    )
    return made


def terms(folder: Path, text: str = TERMS.replace('["store",', '["store", "evaluate",')) -> Terms:
    (folder / "terms.toml").write_text(text)
    facts = terms_files.load([str(folder / "terms.toml")])
    bound = (Binding("b1", "sim", "sim-terms", 0),)
    return Terms(facts.contracts, facts.clauses, bound, facts.reviews, channels=frozenset({"sim"}))


def chosen(side: TasksSide, known: Terms, count: int = 100) -> tuple[list[Question], dict[str, int]]:
    (seen,) = survey(side.store, side.bodies)
    assert seen.template is not None
    return questions(side.store, known, read_kept(side.store, side.bodies, seen.tag), seen.template, TEACHER, count)


def test_only_what_may_be_asked_and_says_something_is_asked(side: TasksSide, tmp_path: Path) -> None:
    rows = banking(34)
    side.calls(rows[:30], task="intent")
    side.calls(rows[:3], task="intent")  # the same texts
    side.calls(rows[30:32], task="intent", redactions={"EMAIL": 1})
    side.calls(rows[32:33], task="intent", model="gpt-3.5")
    side.calls(rows[33:], task="intent", tenant="beta")
    side.call(request("hello", "Something else."), answer("hi"), task="intent")
    asked, left_out = chosen(side, terms(tmp_path))
    assert len(asked) == 30
    assert left_out == {
        "something was redacted": 2,
        "answered by another channel or model": 1,
        "no consent of the tenant for the purpose evaluate: `upeti capture consent`": 1,
        "not of the template": 1,
    }
    few, _ = chosen(side, terms(tmp_path), 5)
    assert few == asked[:5]
    nothing, left_out = chosen(side, terms(tmp_path, TERMS))
    assert nothing == []
    assert any("the contract does not permit to evaluate" in reason for reason in left_out)


async def ask(side: TasksSide, says: Callable[[int], Answer], known: Terms, **options: Any) -> tuple[Agreement, str]:
    """Ask an address where ``says`` answers the number of the request."""
    (seen,) = survey(side.store, side.bodies)
    assert seen.form is not None
    asked, _ = chosen(side, known, 10)

    def answering(request: Request, behaviour: Behaviour) -> Answer:
        assert request.header("x-upeti-feature") == "stability"
        assert request.header("x-upeti-task") is None
        assert "stream" not in request.json
        return says(request.number)

    async with SimProvider(says=answering) as provider:
        client = GatewayClient(f"{provider.url}/v1", "key")
        given = {"limit": "1", "currency": "USD", **options}
        return await asyncio.to_thread(ask_again, client, seen, seen.form, asked, **given)


def said(text: str, by: str = "sim/gpt-4", cost: str = "0.01", status: int = 200) -> Answer:
    headers = (("x-upeti-served-by", by), ("x-upeti-cost", cost), ("x-upeti-currency", "USD"))
    return Answer(status, dumps(answer(text) | {"id": "x"}), headers=headers)


async def test_the_same_answers_are_counted_and_others_answers_are_not(side: TasksSide, tmp_path: Path) -> None:
    side.calls([(text, "lost") for text, _ in banking(30)], task="intent", cost_pico=10**10)
    known = terms(tmp_path)
    answers = [said(" lost."), said("found"), said("lost", by="own/student"), said("", status=500), said("{}")]
    made, ended = await ask(side, lambda number: answers[number - 1] if number <= 5 else said("Lost"), known)
    assert (made.asked, made.agreed, made.failed, made.cost, ended) == (8, 6, 2, "0.09", "")
    made, _ = await ask(side, lambda number: said("lost", by="own/student"), known, route="other")
    assert (made.asked, made.agreed, made.route, made.channel, made.model) == (10, 10, "other", "own", "student")


async def test_it_ends_before_the_limit_and_where_nothing_helps(side: TasksSide, tmp_path: Path) -> None:
    side.calls([(text, "lost") for text, _ in banking(30)], task="intent", cost_pico=10**10)
    known = terms(tmp_path)
    made, ended = await ask(side, lambda number: said("lost"), known, limit="0.035")
    assert (made.asked, made.cost) == (3, "0.03")
    assert ended == "the limit of 0.035 USD: one call costs up to 0.01"
    made, ended = await ask(side, lambda number: said("lost", cost="0.01" if number < 3 else "unknown"), known)
    assert (made.asked, "is not known in USD" in ended) == (2, True)
    with pytest.raises(TaskError, match="nothing was measured of `intent`: 403"):
        await ask(
            side, lambda number: Answer(403, json.dumps({"error": {"code": "x", "message": "no"}}).encode()), known
        )
    with pytest.raises(TaskError, match="10 calls were answered by nobody else"):
        await ask(side, lambda number: said("lost", status=502), known)
    with pytest.raises(TaskError, match="--limit"):
        await ask(side, lambda number: said("lost"), known, limit="a lot")
