"""Leases over the keeper's socket: slices, recalls, the last pico, and nobody waits long."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.keeper_side import Connect, FakeWorker, KeeperProcess
from upeti.gateway import keeper_link as link

LIMIT = 1000


async def test_leases_of_two_workers(shared: KeeperProcess, connect: Connect) -> None:
    """Slices at first; near the limit what one does not need is recalled for the other; then nothing is left."""
    budget = shared.new_budget()
    one, two = await connect(shared, budget), await connect(shared, budget)
    assert await one.ask(10) == link.LeaseGrant(budget, 250, 750, LIMIT)
    assert await two.ask(10) == link.LeaseGrant(budget, 187, 563, LIMIT)
    two.say(link.LeaseAsk(budget, 600, 100))
    assert await one.hear() == link.LeaseRecall(budget)
    one.give_back(200, posted_pico=20)
    assert await two.hear() == link.LeaseGrant(budget, 600, 163, LIMIT)
    assert (
        shared.budget(budget).items()
        >= {
            "id": budget,
            "limit": "0.000000001",
            "spent": "0.00000000012",
            "leased": "0.000000000717",
            "left": "0.000000000163",
        }.items()
    )
    one.say(link.LeaseAsk(budget, 900, 20))
    assert await two.hear() == link.LeaseRecall(budget)
    two.give_back(0, posted_pico=787)
    assert await one.hear() == link.LeaseGrant(budget, 163, 0, LIMIT)
    assert await one.ask(1, posted_pico=213) == link.LeaseGrant(budget, 0, 0, LIMIT)


async def test_a_stuck_worker_delays_an_ask_only_a_little(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    stuck, other = await connect(shared, budget), await connect(shared, budget)
    await stuck.ask(900)
    began = time.monotonic()
    assert (await other.ask(500)).amount_pico == 100
    assert 0.15 < time.monotonic() - began < 2.0


async def test_a_report_that_crosses_a_recall_is_not_its_answer(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    holder, other = await connect(shared, budget), await connect(shared, budget)
    await holder.ask(900)
    other.say(link.LeaseAsk(budget, 500, 0))
    assert await holder.hear() == link.LeaseRecall(budget)
    holder.report(20)
    await asyncio.sleep(0.05)
    holder.give_back(880, posted_pico=20)
    assert await other.hear() == link.LeaseGrant(budget, 500, 480, LIMIT)


async def test_a_worker_that_leaves_is_not_waited_for(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    leaving, other = await connect(shared, budget), await connect(shared, budget)
    await leaving.ask(900)
    other.say(link.LeaseAsk(budget, 500, 0))
    assert await leaving.hear() == link.LeaseRecall(budget)
    began = time.monotonic()
    await leaving.close()
    assert await other.hear() == link.LeaseGrant(budget, 100, 0, LIMIT)
    assert time.monotonic() - began < 0.15


async def test_what_could_not_be_written_is_said_again(keeper: KeeperProcess, connect: Connect) -> None:
    """A return that the state did not take would stay leased for as long as its worker lives."""
    budget = keeper.new_budget()
    worker = await connect(keeper, budget, instance="w0-again")
    await worker.ask(900)
    keeper.change_state("ALTER TABLE leases RENAME TO leases_away")
    worker.give_back(600)
    with pytest.raises((EOFError, ConnectionError)):
        await worker.hear()
    keeper.change_state("ALTER TABLE leases_away RENAME TO leases")
    worker = await connect(keeper, budget, instance="w0-again", leases={budget: (300, 0)})
    assert await worker.ask(700) == link.LeaseGrant(budget, 700, 0, LIMIT)


async def test_asks_that_come_together_are_each_answered(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    workers = [await connect(shared, budget) for _ in range(4)]

    async def serve(worker: FakeWorker) -> int:
        granted = 0
        worker.say(*[link.LeaseAsk(budget, 10, 0)] * 50)
        answers = 0
        while answers < 50:
            word = await worker.hear()
            if isinstance(word, link.LeaseRecall):
                worker.give_back(0)
            elif isinstance(word, link.LeaseGrant):
                answers += 1
                granted += word.amount_pico
        return granted

    assert sum(await asyncio.gather(*map(serve, workers))) == LIMIT
    assert shared.budget(budget)["leased"] == "0.000000001"
