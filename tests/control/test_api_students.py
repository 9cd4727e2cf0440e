"""Students by the control API: where they stand, moving them, and the snapshot that follows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.keeper_side import CONFIG, KeeperProcess, running_keeper, until
from support.lineage_side import TERMS
from support.rollout_side import BY, added, certified
from upeti.control.store import Store
from upeti.learning import served as served_file

OWN = '\n[[channel]]\nname = "own"\nkind = "student"\n\n[rights]\nterms_files = ["terms.toml"]\n'


@pytest.fixture
def store(tmp_path: Path, state_url: str) -> Any:
    opened = Store(tmp_path / "data", url=state_url)
    yield opened
    opened.close()


def move(keeper: KeeperProcess, word: str, code: int = 200) -> dict[str, Any]:
    status, answer = keeper.request("POST", f"/v1/students/intents@1/{word}", body=BY)
    assert status == code, answer
    return json.loads(answer)


def test_moving_a_student_reaches_workers_and_the_students_process(tmp_path: Path, state_url: str) -> None:
    (tmp_path / "terms.toml").write_text(TERMS)
    contract = '\n[[contract]]\nchannel = "{0}"\ncontract = "{0}-1"\nfrom = 2026-01-01\n'
    bound = contract.format("kind")
    kind = '\n[[channel]]\nname = "kind"\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:9/v1"\n'
    with running_keeper(tmp_path, CONFIG + OWN + kind + bound, state_url=state_url) as keeper:
        store = Store(tmp_path / "data", url=state_url)
        try:
            added(store, tmp_path)
            assert keeper.get("/v1/students")[0]["why_not_answering"].startswith("it is registered")
            assert move(keeper, "promote")["stage"] == "shadow"
            assert "no certificate" in move(keeper, "promote", 422)["detail"]
            certified(store)
            shown = move(keeper, "promote")
            assert (shown["stage"], shown["why_not_answering"]) == ("canary_1", None)
            assert shown["certificate"]["audits"]["audits"] == 0
            until(lambda: keeper.snapshot().shares["own"]["intents-1"].share_ppm == 10_000, seconds=5, what="share")
            (served,) = served_file.read(tmp_path / "data" / "run")
            assert (served.model, served.threshold, served.shadow) == ("intents-1", 0.5, False)
            began_s = time.monotonic()
            assert move(keeper, "roll-back")["stage"] == "rolled_back"
            until(lambda: "own" not in keeper.snapshot().shares, seconds=5, what="no share")
            print(f"out of the snapshot {time.monotonic() - began_s:.2f} s after the call began")
            assert served_file.read(tmp_path / "data" / "run") == []
            assert "cannot be promoted" in move(keeper, "promote", 409)["detail"]
            assert keeper.request("GET", "/v1/students/nobody")[0] == 404
            assert move(keeper, "retire")["stage"] == "retired"
        finally:
            store.close()
