"""Own models as candidates of a real gateway: shares, deferrals, a time of their own, and what never reaches a client."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gateway_side import (
    KEY,
    Books,
    candidate,
    channel,
    chat,
    request,
    route,
    serving,
    snapshot,
)
from support.student_side import ScriptedStudent, answered, deferred, failed, scripted_student
from upeti.control.drill_world import without_alternative, world_of
from upeti.core.amount import PICO_PER_UNIT
from upeti.gateway import students
from upeti.gateway.faults import Fault, Kind
from upeti.gateway.latch import Latch, Scope, State, Subject
from upeti.gateway.snapshot import Caller, CaptureView, ShareView, Snapshot
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price
from upeti.rights.data_policy import DataPolicy
from upeti.sim.provider import SimProvider
from upeti.wire.deferral import Reason

CALL = request(chat("m", max_tokens=5))
OWN, TEACHER = "own/own-1", "teacher/gpt"
FREE = {"*": (Price("local", "USD", 0, {"input": 0, "output": 0}),)}
ALL = {"own": {"own-1": ShareView(1_000_000)}}
HOUR_NS = 3600 * 10**9


def share(share_ppm: int, *, sticky: bool = False) -> dict[str, Any]:
    return {"own": {"own-1": ShareView(share_ppm, sticky)}}


def scene(own: int, teacher: SimProvider | int, model: str = "gpt", **changes: Any) -> Snapshot:
    limits = {key: changes.pop(key) for key in ("attempts_max", "deadline_ms", "attempt_timeout_ms") if key in changes}
    channels = [channel("own", own, "student", path="/v1", answer_within_ms=300), channel("teacher", teacher)]
    first = candidate("own", "own-1", prices=FREE)
    return snapshot(
        channels, [route("m", first, candidate("teacher", model, order=1), **limits)], **({"shares": ALL} | changes)
    )


def alone(own: int, **changes: Any) -> Snapshot:
    channels = [channel("own", own, "student", path="/v1", answer_within_ms=300)]
    routes = [route("m", candidate("own", "own-1", prices=FREE))]
    return snapshot(channels, routes, **({"shares": ALL} | changes))


def ended(books: Books) -> list[tuple[str, str, str, int]]:
    """Return (channel, how it ended, how it was settled, cost) of every attempt, in order."""
    channels = {(one.call, one.attempt): one.channel for one in books.opened}
    settled = sorted(books.settled, key=lambda one: (one.call, one.attempt))
    return [(channels[one.call, one.attempt], one.ended, one.outcome.value, one.cost_pico) for one in settled]


@pytest.fixture
async def own() -> AsyncIterator[ScriptedStudent]:
    async with scripted_student() as student:
        yield student


async def test_an_answer_of_its_own_costs_nothing_and_asks_no_teacher(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    async with serving(tmp_path, scene(own.port, provider)) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.headers["x-upeti-served-by"], answer.headers["x-upeti-cost"]) == (200, OWN, "0")
        assert answer.json["choices"][0]["message"]["content"] == "card_lost"
    assert [one["model"] for one in own.asked] == ["own-1"]
    assert not provider.seen
    assert ended(served.books()) == [("own", "answered", "posted", 0)]


@pytest.mark.parametrize("reason", [*Reason, "a word of tomorrow"])
async def test_a_deferral_goes_on_to_the_teacher_and_costs_nothing(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider, reason: str
) -> None:
    own.answer = lambda _: deferred(reason)
    calls = BudgetTerms(name="calls", limit="100", unit="calls", window="minute")
    tokens = BudgetTerms(name="tokens", limit="100000", unit="tokens", window="minute")
    limits = {"key:k1": 10**12, calls.root: calls.limit_pico, tokens.root: tokens.limit_pico}
    first = scene(
        own.port,
        provider,
        attempts_max=1,  # the teacher's: a deferral is none
        callers={KEY: Caller("k1", "acme", "shop", budgets=("key:k1",), limit="1")},
        budgets=(calls, tokens),
    )
    async with serving(tmp_path, first, limits_pico=limits) as served:
        for _ in range(7):
            answer = await served.ask(CALL)
            assert (answer.status, answer.headers["x-upeti-served-by"]) == (200, TEACHER)
            assert b"own words" not in answer.body
            assert "x-upeti-deferred" not in answer.headers
        live = served.gateway.view.channels["own"]
        assert not live.breaker.is_open
        purses = {purse.unit: purse for purse in served.gateway.holds._purses.values()}
        assert purses["calls"].posted == 7 * PICO_PER_UNIT  # one for each call, not for each attempt
        known = reason if reason in list(Reason) else "other"
        assert served.gateway._samples()[f'upeti_deferrals_total{{channel="own",reason="{known}"}}'] == 7
    books = served.books()
    assert Counter(ended(books))["own", "deferred", "posted", 0] == 7
    assert [one.status for one in books.settled if one.ended == "deferred"] == [422] * 7
    assert all(one.meters == {"input": 0, "output": 0} for one in books.settled if one.ended == "deferred")
    used = sum(sum(one.meters.values()) for one in books.settled if one.meters)
    assert purses["tokens"].posted == used * PICO_PER_UNIT


async def test_a_streamed_call_is_deferred_alike(tmp_path: Path, own: ScriptedStudent, provider: SimProvider) -> None:
    own.answer = lambda _: deferred()
    async with serving(tmp_path, scene(own.port, provider)) as served:
        answer = await served.ask(request(chat("m", max_tokens=5, stream=True)))
        assert answer.headers["x-upeti-served-by"] == TEACHER
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_when_nobody_is_left_the_client_is_told_what_helps(tmp_path: Path, own: ScriptedStudent) -> None:
    own.answer = lambda _: deferred("out_of_scope")
    async with serving(tmp_path, alone(own.port)) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.code) == (503, "student_deferred")
        assert "(out_of_scope)" in answer.json["error"]["message"]
        assert "add a candidate" in answer.json["error"]["message"]
    assert [one.code for one in served.books().refused] == ["student_deferred"]


@pytest.mark.parametrize(
    ("teachers", "status", "code"), [("m-err500", 500, "server_error"), ("m-reset", 502, "upstream_failed")]
)
async def test_of_a_deferral_and_a_failure_the_client_is_told_the_failure(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider, teachers: str, status: int, code: str
) -> None:
    own.answer = lambda _: deferred()
    async with serving(tmp_path, scene(own.port, provider, teachers, attempts_max=1)) as served:
        answer = await served.ask(CALL)
        assert answer.status == status
        assert answer.json["error"]["code"] == code
    assert next(row[1] for row in ended(served.books())) == "deferred"


async def test_from_another_kind_of_channel_the_header_means_nothing(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    own.answer = lambda _: deferred()
    channels = [channel("own", own.port), channel("teacher", provider)]
    routes = [route("m", candidate("own", "own-1"), candidate("teacher", "gpt", order=1))]
    async with serving(tmp_path, snapshot(channels, routes)) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.headers["x-upeti-served-by"]) == (422, OWN)
        assert "x-upeti-deferred" not in answer.headers
    assert ended(served.books()) == [("own", "refused", "posted", 0)]


@pytest.mark.parametrize("said", [failed(500), failed(400), failed(404), failed(422), deferred(status=500)])
async def test_no_other_error_of_an_own_model_reaches_a_client(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider, said: bytes
) -> None:
    own.answer = lambda _: said
    async with serving(tmp_path, scene(own.port, provider)) as served:
        answer = await served.ask(CALL)
        assert answer.headers["x-upeti-served-by"] == TEACHER
    assert [row[1] for row in ended(served.books())] == ["refused", "answered"]
    async with serving(tmp_path / "alone", alone(own.port)) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.code) == (502, "upstream_failed")
        assert b"own words" not in answer.body
        for _ in range(4):
            await served.ask(CALL)
        assert served.gateway.view.channels["own"].breaker.is_open


# -- its own time ------------------------------------------------------------------------------------------------------


async def test_one_that_is_silent_is_passed_over_in_its_own_time(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    own.answer = lambda _: None
    async with serving(tmp_path, scene(own.port, provider, attempt_timeout_ms=600_000)) as served:
        answers = await asyncio.gather(*(served.ask(CALL) for _ in range(6)))
        assert {answer.headers["x-upeti-served-by"] for answer in answers} == {TEACHER}
        assert served.gateway.view.channels["own"].breaker.is_open
        asked = len(own.asked)
        assert (await served.ask(CALL)).status == 200  # the teacher is asked first from now on
        assert len(own.asked) == asked
    counted = Counter(row[:3] for row in ended(served.books()))
    assert counted == {("own", "timed_out", "estimated"): 6, ("teacher", "answered", "posted"): 7}
    assert not [row for row in ended(served.books()) if row[0] == "own" and row[3]]


async def test_a_route_that_gives_less_time_is_obeyed(tmp_path: Path, own: ScriptedStudent) -> None:
    own.answer = lambda _: None
    first = scene(own.port, 9, attempt_timeout_ms=50)
    async with serving(tmp_path, first) as served:
        assert (await served.ask(CALL)).code == "upstream_failed"  # the teacher's port is closed
        way = next(iter(served.gateway.view._ways.values()))
        assert [lane.timeout_s for lane in way.lanes] == [0.05, 0.05]


async def test_one_that_dies_within_its_answer_is_passed_over(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    def die(_: dict[str, Any]) -> bytes:
        asyncio.get_running_loop().call_soon(own.cut)
        return answered()[:-5]

    own.answer = die
    async with serving(tmp_path, scene(own.port, provider)) as served:
        answer = await served.ask(CALL)
        assert answer.headers["x-upeti-served-by"] == TEACHER
    assert ended(served.books())[0] == ("own", "cut", "estimated", 0)


# -- shares ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares", [{}, {"own": {}}, {"own": {"own-2": ShareView(1_000_000)}}, share(0), share(0, sticky=True)]
)
async def test_without_a_share_it_is_not_asked(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider, shares: dict[str, Any]
) -> None:
    async with serving(tmp_path, scene(own.port, provider, shares=shares)) as served:
        for _ in range(3):
            assert (await served.ask(CALL)).headers["x-upeti-served-by"] == TEACHER
        served.swap(shares=ALL)
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == OWN
        served.swap(shares=shares)
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == TEACHER
    assert len(own.asked) == 1
    async with serving(tmp_path / "alone", alone(own.port, shares=shares)) as served:
        answer = await served.ask(CALL)
        assert (answer.status, answer.code) == (503, "student_not_asked")


async def test_a_model_on_another_kind_of_channel_needs_no_share(tmp_path: Path, own: ScriptedStudent) -> None:
    routes = [route("m", candidate("own", "own-1", prices=FREE))]
    async with serving(tmp_path, snapshot([channel("own", own.port, "embedded")], routes)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == OWN


async def test_a_share_is_drawn_by_call_and_a_larger_one_holds_a_smaller(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    async with serving(tmp_path, scene(own.port, provider, shares=share(250_000))) as served:
        seen = Counter([(await served.ask(CALL)).headers["x-upeti-served-by"] for _ in range(200)])
    # 50 are expected, the standard deviation is 6.
    assert 20 < seen[OWN] < 80
    assert seen[OWN] + seen[TEACHER] == 200
    async with serving(tmp_path / "alone", alone(own.port, shares=share(500_000))) as served:
        codes = Counter([(await served.ask(CALL)).status for _ in range(40)])
        refused = [await served.ask(CALL) for _ in range(20)]
    assert codes.keys() == {200, 503}
    assert {answer.code for answer in refused if answer.status == 503} == {"student_not_asked"}


async def test_a_sticky_share_keeps_an_end_user_on_one_side(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    callers = {KEY: Caller("k1", "acme", ""), "second": Caller("k2", "acme", "")}
    first = scene(own.port, provider, callers=callers, shares=share(500_000, sticky=True))
    async with serving(tmp_path, first) as served:

        async def side(key: str = KEY, **fields: Any) -> str:
            sides = {
                (await served.ask(request(chat("m", max_tokens=5, **fields), key=key))).headers["x-upeti-served-by"]
                for _ in range(4)
            }
            (found,) = sides
            return found

        small = {f"u{number}": await side(user=f"u{number}") for number in range(30)}
        assert set(small.values()) == {OWN, TEACHER}
        # The newer name of the same field says the same, and wins; without any the key decides.
        assert {user: await side(safety_identifier=user, user="x") for user in list(small)[:8]} == dict(
            list(small.items())[:8]
        )
        assert await side() == await side(user="")
        served.swap(shares=share(800_000, sticky=True))
        large = {user: await side(user=user) for user in small}
        assert not [user for user in small if small[user] == OWN and large[user] == TEACHER]
        assert len([1 for one in large.values() if one == OWN]) > len([1 for one in small.values() if one == OWN])


@given(who=st.binary(max_size=60))
def test_whatever_a_body_says_of_its_user_is_a_side(who: bytes) -> None:
    class _Call:
        caller = Caller("k1", "acme", "")
        body = b'{"user":' + who + b"}"

    assert students._caller_of(_Call()).startswith("k1/")  # type: ignore[arg-type]


# -- the plan's other rules --------------------------------------------------------------------------------------------


def latch(name: str) -> Latch:
    subject = Subject(Scope.CHANNEL, name)
    return Latch(subject, State.LATCHED, time.time_ns(), "inc_1", "account_cut", "the provider has cut the account off")


async def test_a_latched_teacher_leaves_what_the_own_model_is_sure_of(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    own.answer = lambda body: answered() if body.get("user") == "sure" else deferred()
    async with serving(tmp_path, scene(own.port, provider, latches=(latch("teacher"),))) as served:
        assert (await served.ask(request(chat("m", user="sure")))).headers["x-upeti-served-by"] == OWN
        answer = await served.ask(CALL)
        assert (answer.status, answer.code) == (503, "student_deferred")
        assert "inc_1" in answer.json["error"]["message"]
        served.swap(shares=share(1, sticky=True))
        answer = await served.ask(CALL)
        assert (answer.status, answer.code) == (503, "student_not_asked")
        assert "inc_1" in answer.json["error"]["message"]
    assert not provider.seen


def test_nobody_counts_on_it_when_a_provider_is_cut_off() -> None:
    world = world_of(scene(9, 9), (), time.time_ns())
    assert [name for name, one in world.channels.items() if one.partial] == ["own"]
    assert without_alternative(world, "teacher").keys() == {"m"}
    assert not without_alternative(world, "own")


@pytest.mark.parametrize(
    "changes",
    [
        {"latches": (latch("own"),)},
        {"not_served": {"own": {"own-1": "act_1"}}},
        {"policies": (DataPolicy("p", channels_denied=frozenset({"own"})),)},
        {"faults": (Fault("own", Kind.REFUSED, 1_000_000, 0, time.time_ns() + HOUR_NS, "drl_1"),)},
    ],
)
async def test_latches_quarantine_policies_and_drills_hold_for_it(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider, changes: dict[str, Any]
) -> None:
    async with serving(tmp_path, scene(own.port, provider, **changes)) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == TEACHER
    assert not own.asked


async def test_it_answers_nobody_whose_texts_may_not_go_to_its_teacher(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    """Its answers are audited there."""
    channels = [channel("own", own.port, "student", path="/v1"), channel("teacher", provider), channel("eu", provider)]
    first, second, third = (("own", "own-1"), ("teacher", "gpt"), ("eu", "gpt"))
    ways = [candidate(*first, prices=FREE), candidate(*second, order=1), candidate(*third, order=2)]
    shares = {"own": {"own-1": ShareView(1_000_000, teacher="teacher")}}
    policy = DataPolicy("p", channels_denied=frozenset({"teacher"}))
    world = snapshot(channels, [route("m", *ways)], shares=shares)
    async with serving(tmp_path, world) as served:
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == OWN
        served.swap(policies=(policy,))
        assert (await served.ask(CALL)).headers["x-upeti-served-by"] == "eu/gpt"
    assert len(own.asked) == 1


async def test_routes_of_audits_are_for_their_key_alone_and_nobodys_conduct(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    routes = [route("*", candidate("teacher", "gpt")), route("audit:intents", candidate("teacher", "gpt"))]
    callers = {
        KEY: Caller("k1", "acme", "shop"),
        "auditor": Caller("audit:intents", "audit", "", "audit", routes=frozenset({"audit:intents"})),
    }
    watched = CaptureView({}, watch=True, body_bytes_max=1_000_000)
    world = snapshot([channel("teacher", provider)], routes, callers=callers, capture=watched)
    audit = chat("audit:intents", max_tokens=5)
    async with serving(tmp_path, world) as served:
        dropped = served.gateway.capture.dropped  # nobody takes them here: all that are watched are counted
        assert (await served.ask(request(audit, key="auditor"))).status == 200
        assert dropped == {}
        assert (await served.ask(CALL)).status == 200
        assert dropped == {"not_connected": 1}
        refused = await served.ask(request(audit))
        assert (refused.status, refused.json["error"]["code"]) == (403, "route_not_allowed")
        for key, names in ((KEY, []), ("auditor", ["audit:intents"])):
            listed = await served.ask(request(path="/v1/models", method="GET", key=key))
            assert [one["id"] for one in listed.json["data"]] == names


async def test_apis_that_it_does_not_speak_go_to_the_others(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    first = scene(own.port, provider, default_channel="own")
    async with serving(tmp_path, first) as served:
        answer = await served.ask(request({"model": "m", "input": "hi"}, path="/v1/embeddings"))
        assert answer.headers["x-upeti-served-by"] == TEACHER
        files = await served.ask(request(path="/v1/files", method="GET"))
        assert files.headers["x-upeti-served-by"].startswith("teacher/")
    assert not own.asked


async def test_a_share_that_is_taken_while_a_call_is_under_way_is_heeded(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    """The teacher comes first here; by the time it has failed, the own model is rolled back."""
    channels = [channel("own", own.port, "student", path="/v1"), channel("teacher", provider)]
    routes = [route("m", candidate("teacher", "m-slow200-err500"), candidate("own", "own-1", prices=FREE, order=1))]
    async with serving(tmp_path, snapshot(channels, routes, shares=ALL)) as served:
        asking = asyncio.ensure_future(served.ask(CALL))
        await provider.wait_for(1)
        served.swap(shares=share(0))
        assert (await asking).status == 500
    assert not own.asked


async def test_the_official_client_reads_what_was_deferred(
    tmp_path: Path, own: ScriptedStudent, provider: SimProvider
) -> None:
    own.answer = lambda _: deferred()
    async with serving(tmp_path, scene(own.port, provider)) as served:
        client = served.openai()
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content
        await client.close()
