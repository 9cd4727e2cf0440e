"""A world of processes: it starts, can be looked at, dies in every way it is told to, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.sim.client import Ask, Client
from upeti.sim.world import World, WorldError, is_there

CONFIG = """\
data_dir = "data"
[gateway]
port = 0
workers = 2
[control]
port = 0
[money]
unpriced = "record"
[[channel]]
name = "alpha"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{port}/v1"
[[route]]
name = "m"
candidate = [{{ channel = "alpha" }}]
"""


async def test_it_starts_serves_and_dies(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        port = await world.start_provider("alpha")
        world.config.write_text(CONFIG.format(port=port))
        await world.start()
        assert (len(world.workers()), len(world.keepers())) == (2, 1)
        assert world.control.startswith("http://127.0.0.1:")
        key = (await world.command("keys", "create", "--tenant", "acme")).split()[1]
        async with Client(world.url) as client:
            await world.until(lambda: "snapshot" in {event["event"] for event in world.events()}, "the key")
            await world.kill_provider("alpha")
            assert (await client.call(Ask("m", key))).status == 502
            assert await world.start_provider("alpha") == port
            assert (await client.call(Ask("m", key))).answered
        assert len(world.live_instances()) == 2
        assert [attempt.outcome for attempt in world.journal().attempts.values()][-1] == "unpriced"

        everything = [*world.children()]
        await world.kill_all()
        assert not any(map(is_there, everything))
        await world.start()
        left = await world.kill_supervisor()
        assert len(left) == 3
        await world.until(lambda: not any(map(is_there, left)), "the end of what was left")
        await world.start()
        assert await world.stop() == 0
        assert world.live_instances() == set()
        assert world.provider_log("alpha").read_text().count('"seen"') == 1


async def test_what_does_not_start_or_fails_says_why(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.config.write_text("data_dir = 3\n")
        with pytest.raises(WorldError, match=r"(?s)it ended while starting.*data_dir"):
            await world.start()
        with pytest.raises(WorldError, match=r"exit code 2.*data_dir"):
            await world.command("bill")
        with pytest.raises(WorldError, match="a miracle did not come within 0 s"):
            await world.until(lambda: False, "a miracle", seconds=0.1)
