"""A worker and its keeper over the real socket, and what a worker does without one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import KEY, Served, SmallKeeper, channel, chat, request, serving, snapshot, until
from upeti.gateway import exchange
from upeti.gateway import keeper_link as link
from upeti.gateway import snapshot as s
from upeti.gateway.snapshot import Caller, Snapshot
from upeti.sim.provider import SimProvider

BUDGET = "key:k1"
LIMIT = 10**10
CALL = request(chat(max_tokens=5))


def budgeted(provider: SimProvider) -> Snapshot:
    return snapshot([channel("up", provider)], callers={KEY: Caller("k1", "acme", "shop", budgets=(BUDGET,))})


def words(keeper: SmallKeeper, kind: type) -> list[Any]:
    return [word for word in keeper.heard if isinstance(word, kind)]


async def lost(served: Served) -> None:
    await until(lambda: served.gateway.keeper._transport is None, what="the loss of the keeper")


async def test_a_worker_says_who_it_is(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={BUDGET: LIMIT}) as served:
        keeper = served.keeper
        assert keeper is not None
        (hello,) = await until(lambda: words(keeper, link.Hello), what="the hello")
        assert hello == link.Hello(served.gateway.instance, 0, os.getpid(), {})


async def test_without_a_keeper_a_call_waits_a_while_and_is_refused(
    tmp_path: Path, provider: SimProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_KEEPER_WAIT_S", 0.1)
    async with serving(tmp_path, budgeted(provider)) as served:
        answered = await served.ask(CALL)
        assert (answered.status, answered.code) == (503, "budget_unavailable")
        assert answered.headers["retry-after"] == "1"
        assert [one.code for one in served.books().refused] == ["budget_unavailable"]
        served.swap(keys={})
        served.swap(keys=snapshot([channel("up", provider)]).keys)  # a key without a limit needs no keeper
        assert (await served.ask(CALL)).status == 200
    assert provider.seen == 1


async def test_a_keeper_that_comes_in_time_serves_who_waits(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, budgeted(provider)) as served:
        asking = asyncio.ensure_future(served.ask(CALL))
        await until(lambda: served.gateway.fibers, what="the call")
        served.keeper = SmallKeeper(tmp_path / "run" / "keeper.sock", {BUDGET: LIMIT})
        await served.keeper.start()
        assert (await asking).status == 200


async def test_a_worker_goes_on_from_its_lease_and_says_so_when_the_keeper_is_back(
    tmp_path: Path, provider: SimProvider
) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={BUDGET: LIMIT}) as served:
        assert served.keeper is not None
        assert (await served.ask(CALL)).status == 200
        await served.keeper.stop()
        await lost(served)
        for _ in range(5):
            assert (await served.ask(CALL)).status == 200
        purse = served.purse(BUDGET)
        spent = sum(one.cost_pico for one in served.books().settled)
        assert (purse.posted, purse.lease) == (spent, LIMIT // 2 - spent)
        # Another keeper process has the store of the one before.
        budgets = served.keeper.budgets
        again = SmallKeeper(tmp_path / "run" / "keeper.sock", {})
        again.budgets = budgets
        await again.start()
        served.keeper = again
        (hello,) = await until(lambda: words(again, link.Hello), what="the hello")
        assert hello.leases == {BUDGET: (purse.lease, spent)}
        assert budgets[BUDGET].spent_pico == spent
        assert (await served.ask(CALL)).status == 200
    spent = sum(one.cost_pico for one in served.books().settled)
    assert (budgets[BUDGET].spent_pico, budgets[BUDGET].rest_pico) == (spent, LIMIT - spent)


async def test_a_recall_is_answered_with_what_is_not_held(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={BUDGET: LIMIT}) as served:
        keeper = served.keeper
        assert keeper is not None
        line = await served.connect()
        line.send(request(chat("m-slow100", max_tokens=5)))
        await provider.wait_for(1)
        lease, held = served.purse(BUDGET).lease, served.purse(BUDGET).held
        assert held > 0
        keeper.tell(link.LeaseRecall(BUDGET))
        returned = await until(lambda: words(keeper, link.LeaseReturn), what="the return")
        assert (returned[-1].amount_pico, returned[-1].posted_pico) == (lease - held, 0)
        assert served.purse(BUDGET).lease == held
        assert (await line.answer()).status == 200
        line.close()


async def test_news_of_a_snapshot_is_taken(tmp_path: Path, provider: SimProvider) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={BUDGET: LIMIT}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: words(keeper, link.Hello), what="the hello")
        new = snapshot([channel("up", provider)], version=2)
        s.write(tmp_path / "run" / "snapshot.msgpack", new)
        keeper.tell(link.SnapshotReady(2))
        await until(lambda: served.gateway.view.snapshot.version == 2, what="the snapshot")
        assert (await served.ask(CALL)).headers.get("x-upeti-budget-left") is None


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", link.FRAME_HEAD.pack(4) + b"null", b"\x02\x00\x00\x00{}"])
async def test_what_is_no_keeper_is_left_and_tried_again(tmp_path: Path, provider: SimProvider, junk: bytes) -> None:
    async with serving(tmp_path, budgeted(provider), limits_pico={BUDGET: LIMIT}) as served:
        keeper = served.keeper
        assert keeper is not None
        await until(lambda: words(keeper, link.Hello), what="the hello")
        for writer in keeper._writers:
            writer.write(junk)
        await until(lambda: len(words(keeper, link.Hello)) == 2, what="another hello")
        assert (await served.ask(CALL)).status == 200
