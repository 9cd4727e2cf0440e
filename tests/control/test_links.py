"""The keeper's side of the socket: who is heard, and who is cut off."""

from __future__ import annotations

import asyncio

import pytest

from support.keeper_side import Connect, KeeperProcess, until
from upeti.gateway import keeper_link as link


async def test_only_the_newest_link_of_an_instance_is_heard(shared: KeeperProcess, connect: Connect) -> None:
    budget = shared.new_budget()
    old = await connect(shared, budget, instance="w0-twice")
    await old.ask(10)
    new = await connect(shared, budget, instance="w0-twice")
    with pytest.raises((EOFError, ConnectionError)):
        await old.hear()
    assert (await new.ask(1)).amount_pico > 0


async def test_a_grant_goes_to_the_link_that_asked_or_to_nobody(shared: KeeperProcess, connect: Connect) -> None:
    """A worker that connects again has said what it has: a grant of before then would be money twice."""
    budget = shared.new_budget()
    old = await connect(shared, budget, instance="w0-again")
    with shared.held_state():  # the transaction of the first ask waits
        old.say(link.LeaseAsk(budget, 600, 0))
        await asyncio.sleep(0.2)
        new = await connect(shared, budget, instance="w0-again", leases={budget: (0, 0)})
    with pytest.raises(TimeoutError):
        await new.hear(0.5)
    assert await new.ask(900) == link.LeaseGrant(budget, 900, 100, 1000)


async def test_a_peer_that_breaks_the_form_is_cut(shared: KeeperProcess, connect: Connect) -> None:
    before = shared.events().count("bad_peer")
    for words in ([link.LeaseAsk("key:k1", 1, 0)], [link.Hello("w0-bad", 0, 1), link.Hello("w0-bad", 0, 1)]):
        reader, writer = await asyncio.open_unix_connection(str(shared.socket))
        writer.write(b"".join(map(link.frame, words)))
        try:
            while await asyncio.wait_for(reader.read(4096), 5):
                pass
        except ConnectionError:
            pass
    assert shared.events().count("bad_peer") == before + 2
    assert (await (await connect(shared, "key:k1")).ask(1)).amount_pico > 0


async def test_metrics_are_summed_over_workers(shared: KeeperProcess, connect: Connect) -> None:
    workers = [await connect(shared, "key:k1") for _ in range(2)]
    for worker in workers:
        worker.say(link.Metrics({'upeti_calls_total{status="7xx"}': 20.0, "upeti_calls_in_flight": 3.0}))
    until(lambda: 'upeti_calls_total{status="7xx"} 40' in shared.request("GET", "/metrics")[1])
    workers[0].say(link.MetricsAsk(7))
    word = await workers[0].hear()
    assert isinstance(word, link.MetricsText)
    assert word.request == 7
    assert "upeti_calls_in_flight 6\n" in word.text
    assert "upeti_keeper_workers 2\n" in word.text
