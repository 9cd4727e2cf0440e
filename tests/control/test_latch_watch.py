"""The keeper and its workers over a cut-off: told to all at once, probed in turn, opened, held; killed in between."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from support.keeper_side import Connect, KeeperProcess, until
from upeti.gateway import keeper_link as link
from upeti.gateway.latch import Latch, Scope, State, Subject

UP = Subject(Scope.CHANNEL, "up")
WHO = {"by": "head of legal", "why": "it was paid"}


def word(incident: str, subject: Subject = UP) -> link.Latched:
    latch = Latch(subject, State.LATCHED, time.time_ns(), incident, "billing_stop", "no credit", "", "messages", "c")
    return link.Latched(latch, "openai-quota", 429, "ab" * 32, "no credit")


async def asked(worker: object, seconds: float = 10.0) -> link.ProbeAsk:
    """Return the next probe that the worker is asked for."""
    while True:
        heard = await worker.hear(seconds)  # type: ignore[attr-defined]
        if isinstance(heard, link.ProbeAsk):
            return heard


async def test_a_latch_is_told_to_all_probed_and_opened(keeper: KeeperProcess, connect: Connect) -> None:
    first, second = await connect(keeper, ""), await connect(keeper, "")
    first.say(word("inc_1"), link.Affected({"inc_1": 1}))
    for worker in (first, second):
        heard = await worker.hear()
        assert isinstance(heard, link.LatchShut), heard
        assert heard.latch.incident == "inc_1"
    await asyncio.to_thread(until, lambda: [one.incident for one in keeper.snapshot().latches] == ["inc_1"])
    second.say(word("inc_2"))  # the same, found at the same time
    heard = await second.hear()
    assert isinstance(heard, link.LatchShut)
    assert heard.latch.incident == "inc_1"
    # Probes: with what has worked, by one worker after the other, while they fail.
    tasks = {worker: asyncio.ensure_future(asked(worker)) for worker in (first, second)}
    seen = []
    for verdict in ("cut", "sound"):
        done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        (worker,) = [one for one, task in tasks.items() if task in done]
        ask = done.pop().result()
        assert (ask.subject, ask.wire, ask.model) == (UP, "messages", "c")
        seen.append(worker)
        worker.say(link.Probed(ask.request, verdict, 200, "answered"))
        tasks[worker] = asyncio.ensure_future(asked(worker))
    assert seen[0] is not seen[1]
    for task in tasks.values():
        task.cancel()
    await asyncio.to_thread(until, lambda: not keeper.snapshot().latches, what="the opening")
    (incident,) = keeper.get("/v1/incidents")
    assert (incident["id"], incident["calls"], incident["probes"]) == ("inc_1", 1, 2)
    assert incident["recovered_by"] == "rule:probe"
    first.say(word("inc_1"))  # said again after a lost connection
    heard = await first.hear()
    assert heard == link.LatchOpened(UP)


async def test_persons_latch_probe_and_open_over_the_api(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "")

    def post(path: str, body: object) -> tuple[int, str]:
        return keeper.request("POST", f"/v1/channels/{path}", body=body)

    assert (await asyncio.to_thread(post, "nowhere/latch", WHO))[0] == 404
    assert (await asyncio.to_thread(post, "up/latch", {"by": "", "why": "x"}))[0] == 422
    assert (await asyncio.to_thread(post, "up/open", WHO))[0] == 422
    assert (await asyncio.to_thread(post, "up/latch", WHO))[0] == 204
    heard = await worker.hear()
    assert isinstance(heard, link.LatchShut)
    assert (heard.latch.state, heard.latch.by) == (State.HELD, "head of legal")
    (shown,) = await asyncio.to_thread(keeper.get, "/v1/channels")
    assert (shown["channel"], shown["state"], shown["by"]) == ("up", "held", "head of legal")
    # A probe tells, and does not open what a person latched.
    probe = asyncio.ensure_future(asyncio.to_thread(post, "up/probe", {}))
    ask = await asked(worker)
    worker.say(link.Probed(ask.request, "sound", 200, "answered"))
    status, text = await probe
    assert (status, json.loads(text)) == (
        200,
        [{"subject": "the channel 'up'", "verdict": "sound", "status": 200, "what": "answered"}],
    )
    assert (await asyncio.to_thread(keeper.get, "/v1/channels"))[0]["state"] == "held"
    assert (await asyncio.to_thread(post, "up/open", WHO))[0] == 204
    assert await worker.hear() == link.LatchOpened(UP)
    assert (await asyncio.to_thread(keeper.get, "/v1/channels"))[0]["state"] == "usable"
    (incident,) = await asyncio.to_thread(keeper.get, "/v1/incidents")
    assert (await asyncio.to_thread(keeper.get, f"/v1/incidents/{incident['id']}")) == incident
    assert (await asyncio.to_thread(keeper.request, "GET", "/v1/incidents/inc_nothing"))[0] == 404


async def test_a_suspect_gets_a_case_and_all_workers_hear_of_it(keeper: KeeperProcess, connect: Connect) -> None:
    first, second = await connect(keeper, ""), await connect(keeper, "")
    first.say(link.Refusals([("up", "acme", 3)]))
    assert await second.hear() == link.Refusals([("up", "acme", 3)])
    until_ns = time.time_ns() + 60 * 10**9
    first.say(link.AbuseBlocked("acme", "up", "inc_1", 3, until_ns))
    for worker in (first, second):
        assert await worker.hear() == link.TenantHeld("acme", "case C-000001", until_ns)
    await asyncio.to_thread(until, lambda: keeper.snapshot().suspended == {"acme": "C-000001"}, what="the hold")


async def test_a_keeper_that_was_killed_goes_on_probing(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "")
    worker.say(word("inc_1"))
    assert isinstance(await worker.hear(), link.LatchShut)
    keeper.kill()
    await asyncio.to_thread(keeper.start)
    assert [one.incident for one in keeper.snapshot().latches] == ["inc_1"]
    again = await connect(keeper, "")
    assert (await asked(again)).subject == UP


def test_a_probe_without_a_worker_says_so(keeper: KeeperProcess, tmp_path: Path) -> None:
    status, text = keeper.request("POST", "/v1/channels/up/probe", body={})
    assert (status, json.loads(text)[0]["verdict"]) == (200, "unsure")
