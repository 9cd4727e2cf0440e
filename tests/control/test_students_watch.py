"""A student whose files are refused is an incident, once, until it is loaded again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.gateway_side import KeptLog, until
from support.rollout_side import added
from upeti.control.kept_child import KeptChild
from upeti.control.latches import all_incidents
from upeti.control.processes import identity, is_alive
from upeti.control.store import Store
from upeti.control.students_watch import HANGS_S, Told, hangs, read_status, take
from upeti.journal.acts import read_acts

OpenStore = Callable[[], Store]
NOW_NS = 1_790_000_000 * 10**9


def test_a_refused_student_is_one_incident_on_each_node_until_it_is_loaded(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store()
    one = added(store, tmp_path)
    refused = {"intents-1": Told("refused", one.sha256, "weights.safetensors was changed")}
    for node in ("n1", "n1", "n2"):
        take(store, store.data_dir, node, refused, NOW_NS)
    first, second = sorted(all_incidents(store, "own"), key=lambda found: found.excerpt)
    assert (first.scope, first.detail, first.meaning) == ("student", "intents@1", "files_refused")
    assert (first.why, first.recovered_ns) == ("weights.safetensors was changed", 0)
    # Another version, or one that nobody knows, is not meant.
    other = {"intents-1": Told("ready", "ab" * 32), "else": Told("refused", one.sha256, "x")}
    take(store, store.data_dir, "n1", other, NOW_NS + 1)
    assert {found.recovered_ns for found in all_incidents(store)} == {0}
    take(store, store.data_dir, "n1", {"intents-1": Told("ready", one.sha256)}, NOW_NS + 2)
    recovered = {found.id: found.recovered_ns for found in all_incidents(store)}
    assert recovered == {first.id: NOW_NS + 2, second.id: 0}
    kinds = [done.kind for done in read_acts(store.data_dir) if done.subject == first.id]
    assert kinds == ["student.refused", "student.loaded"]
    # And it may happen again.
    take(store, store.data_dir, "n1", refused, NOW_NS + 3)
    assert len(all_incidents(store)) == 3


def test_who_has_said_nothing_for_long_hangs(tmp_path: Path) -> None:
    assert not hangs(tmp_path, 3, 1e9)  # it has not begun
    (tmp_path / "students-status.json").write_text(json.dumps({"pid": 3, "alive_s": 50.0, "students": {}}))
    assert not hangs(tmp_path, 3, 50.0 + HANGS_S)
    assert hangs(tmp_path, 3, 50.1 + HANGS_S)
    assert not hangs(tmp_path, 4, 1e9)  # another one, which has not said anything yet


async def test_a_process_that_hangs_is_ended_and_another_one_started(tmp_path: Path) -> None:
    """The supervisor's own way of keeping a process, with one that does nothing."""
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, sys, time\n"
        "with open(sys.argv[1], 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "time.sleep(60)\n"
    )
    pids = tmp_path / "pids"
    log = KeptLog("keeper", lambda: 0)
    first: list[int] = []

    def hung(pid: int) -> bool:
        first.append(pid)
        return pid == first[0] and pids.exists()

    kept = KeptChild("sleeper", "sleeper", lambda: [str(pids)], "", log, hung)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        running = asyncio.ensure_future(kept.run())
        await until(lambda: pids.exists() and len(pids.read_text().split()) == 2, seconds=15, what="another process")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in log.lines] == ["sleeper_hangs"]
    assert str(first[0]) == pids.read_text().split()[0]
    assert not is_alive(first[0], identity(first[0]))


def test_a_status_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    path = tmp_path / "students-status.json"
    for said in (b"", b"{", b"\xff", b'{"students": 3}'):
        path.write_bytes(said)
        assert read_status(tmp_path) is None
    path.write_text(
        json.dumps({"pid": 3, "students": {"m": {"state": "ready", "why": "", "sha256": "ab", "steps": []}}})
    )
    assert read_status(tmp_path) == {"m": Told("ready", "ab")}
