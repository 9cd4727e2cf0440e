"""One of three channels is cut off under load: nobody with another candidate loses a call, and the books are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.sim.cut_off import WAYS, CutOffWorld, Outcome
from upeti.sim.world import World

SIGNALS = ("key", "account", "billing", "disguised", "forbidden")  # an answer says it; the rest is no answer at all


def check(outcome: Outcome) -> None:
    assert not outcome.lost, outcome
    assert not outcome.streams_lost, outcome
    assert outcome.streams_broken > 0, outcome
    if outcome.way in SIGNALS:
        assert outcome.met > 0, outcome
        assert outcome.probes_until_latched <= 1, outcome


async def test_no_call_is_lost_whichever_way_a_channel_is_cut_off(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        scene = CutOffWorld(world)
        await scene.start()
        for way in ("key", "disguised", "reset"):
            check(await scene.run(way, rate=120, seconds=1.5))
            await scene.restore(way)
        assert await world.stop() == 0
        assert scene.audit() == []


@pytest.mark.slow
async def test_under_a_thousand_calls_a_second_in_every_way(tmp_path: Path) -> None:
    """The figures that are promised; `python -m benchmarks.cutoff` prints them."""
    async with World(tmp_path) as world:
        scene = CutOffWorld(world)
        await scene.start()
        for way in WAYS:
            outcome = await scene.run(way, rate=1_000, seconds=6)
            assert outcome.usual_ms < 100, (
                f"this machine cannot carry the load now, before anything is cut off: {outcome}"
            )
            check(outcome)
            if way in SIGNALS or way in ("reset", "refused"):
                assert outcome.first_added_ms < 50, outcome
            await scene.restore(way)
        assert await world.stop() == 0
        assert scene.audit() == []
