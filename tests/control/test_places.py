"""Files of a data directory: private, locked by one, written whole."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from upeti.control.places import NodeError, Places, TakenError, write_private

LOCKER = """
import sys, time
from pathlib import Path
from upeti.control.places import Places
Places(Path(sys.argv[1])).lock("keeper")
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "deep" / "data")
    made.make()
    return made


def test_directories_are_the_owners_alone(places: Places) -> None:
    places.make()
    assert stat.S_IMODE(places.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(places.run.stat().st_mode) == 0o700


def test_a_lock_ends_with_its_process(places: Places) -> None:
    process = subprocess.Popen([sys.executable, "-c", LOCKER, str(places.data_dir)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(TakenError, match=rf"another keeper \(process {process.pid}\) runs on .*data; stop it, or"):
        places.lock("keeper")
    places.lock("serve")
    process.kill()
    process.wait()
    process.stdout.close()
    places.lock("keeper")


def test_the_token_is_made_once(places: Places) -> None:
    token = places.token()
    assert places.token() == token
    assert len(token) >= 64
    assert stat.S_IMODE(places.admin_token.stat().st_mode) == 0o600


def test_private_files_are_replaced_whole(places: Places) -> None:
    path = places.run / "file"
    path.write_text("public")
    path.chmod(0o644)
    write_private(path, "private")
    assert path.read_text() == "private"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in places.run.iterdir()) == ["file"]


def test_a_data_directory_is_one_node_for_good(tmp_path: Path) -> None:
    places = Places(tmp_path)
    first = places.node("north-1")
    assert places.node("north-1") == places.node("") == first
    assert first.name == "north-1"
    with pytest.raises(NodeError, match=r"is the data directory of the node `north-1`, not of `south`"):
        places.node("south")


def test_without_a_name_a_node_has_that_of_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "büro 7.example")
    one, other = Places(tmp_path / "a"), Places(tmp_path / "b")
    for places in (one, other):
        places.make()
    assert one.node("").name == "b-ro-7.example"
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert one.node("").name == "b-ro-7.example"
    assert one.node("").token != other.node("").token
