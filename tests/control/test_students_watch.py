"""A student whose files are refused is an incident, once, until it is loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from support.rollout_side import added
from upeti.control.latches import all_incidents
from upeti.control.store import Store
from upeti.control.students_watch import Told, read_status, take
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
