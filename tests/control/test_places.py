"""Files of a data directory: private, locked by one, written whole."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from upeti.control.places import Places, TakenError, write_private

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
