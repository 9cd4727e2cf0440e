"""What changes reaches workers; what is broken does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from support.keeper_side import CONFIG, Connect, KeeperProcess, until


async def test_a_changed_file_reaches_workers(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.write_config(CONFIG.replace('limit = "0.000000001"', 'limit = "2"'))
    version = await worker.hear_of_snapshot()
    assert keeper.snapshot().version == version > 1
    assert (await worker.ask(1)).limit_pico == 2 * 10**12


async def test_a_broken_file_is_refused(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.write_config(CONFIG.replace('channel = "up"', 'channel = "pu"'))
    until(lambda: "config_refused" in keeper.events())
    assert keeper.snapshot().version == 1
    status = keeper.get("/v1/status")
    assert status["config_error"].endswith("route `m`: there is no channel `pu`; choose from up, or add a [[channel]]")
    assert (await worker.ask(1)).amount_pico > 0
    # A key must work all the same, and so must a keeper that starts now.
    code, body = keeper.request("POST", "/v1/keys", body={"tenant": "late"})
    assert code == 201
    assert await worker.hear_of_snapshot() > 1
    keeper.kill()
    keeper.start("--resume", str(keeper.data_dir))
    digest = hashlib.sha256(json.loads(body)["key"].encode()).digest()
    assert keeper.snapshot().keys[digest].tenant == "late"
    assert keeper.get("/v1/status")["config_error"] != ""
    keeper.write_config(CONFIG)
    until(lambda: keeper.get("/v1/status")["config_error"] == "")


def test_a_broken_file_at_the_start_is_refused(tmp_path: Path) -> None:
    keeper = KeeperProcess(tmp_path, CONFIG.replace("local", "local\x00"))
    keeper.start(ready=False)
    assert keeper.process is not None
    assert keeper.process.wait(timeout=20) == 2
    assert f"{keeper.config}:10: this is not TOML" in keeper.log_text()


async def test_hanging_up_makes_a_new_snapshot(keeper: KeeperProcess, connect: Connect) -> None:
    worker = await connect(keeper, "key:k1")
    keeper.hang_up()
    assert await worker.hear_of_snapshot() == keeper.snapshot().version == 2
