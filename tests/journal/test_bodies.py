"""Bodies: in a directory and at an address of fsspec's, whole or not at all, each tenant's own, erasable."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from upeti.core.errors import ConfigError, JournalError
from upeti.journal.bodies import Address, Bodies, Directory, bodies_at, body_digest

SALT, OTHER = b"a" * 32, b"b" * 32
TEXT = b'{"messages":["' + b"halo " * 100 + b'"]}'


@pytest.fixture(params=["directory", "memory"])
def bodies(request: pytest.FixtureRequest, tmp_path: Path) -> Bodies:
    return bodies_at(tmp_path, "" if request.param == "directory" else f"memory://{tmp_path.name}/bodies")


def test_a_body_comes_back_until_it_is_erased(bodies: Bodies) -> None:
    digest = bodies.put(SALT, TEXT)
    assert digest == body_digest(SALT, TEXT)
    assert bodies.put(SALT, TEXT) == digest
    assert bodies.read(SALT, digest) == TEXT
    ((there, at_s),) = bodies.kept()
    assert there == digest
    assert at_s > 1_700_000_000
    assert bodies.erase(digest)
    assert bodies.read(SALT, digest) is None
    assert not bodies.erase(digest)
    assert list(bodies.kept()) == []
    assert bodies.put(SALT, TEXT) == digest, "what was erased can come again"
    assert bodies.read(SALT, digest) == TEXT


def test_two_tenants_share_none_and_open_none_of_each_other(bodies: Bodies) -> None:
    ours, theirs = bodies.put(SALT, TEXT), bodies.put(OTHER, TEXT)
    assert ours != theirs
    with pytest.raises(JournalError, match="not what was kept"):
        bodies.read(SALT, theirs)
    assert bodies.erase(ours)
    assert bodies.read(OTHER, theirs) == TEXT


def test_an_empty_body_is_one(bodies: Bodies) -> None:
    assert bodies.read(SALT, bodies.put(SALT, b"")) == b""


@pytest.mark.parametrize("place", ["directory", "memory"])
def test_damage_is_told(tmp_path: Path, place: str) -> None:
    where = Directory(tmp_path) if place == "directory" else Address(f"memory://{tmp_path.name}")
    bodies = Bodies(where)
    digest, other = bodies.put(SALT, TEXT), bodies.put(SALT, b"another")
    name, name_of_other = (f"{one[:2]}/{one}.zst" for one in (digest, other))
    packed, packed_other = where.read(name), where.read(name_of_other)
    assert packed is not None
    assert packed_other is not None
    for damaged, what in ((packed[:-3], "damaged"), (b"", "damaged"), (packed_other, "not what was kept")):
        where.remove(name)
        where.write(name, damaged)
        with pytest.raises(JournalError, match=what):
            bodies.read(SALT, digest)
    where.remove(name)
    where.write(name, packed)
    assert bodies.read(SALT, digest) == TEXT


def test_files_are_the_owners_alone_and_none_is_left_half_written(tmp_path: Path) -> None:
    bodies = bodies_at(tmp_path, "")
    digest = bodies.put(SALT, TEXT)
    (file,) = (tmp_path / "bodies").glob("*/*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    half = file.with_name(f"{file.name}.0a1b2c3d")  # of a process that was killed
    half.write_bytes(file.read_bytes()[:10])
    assert [one for one, _ in bodies.kept()] == [digest]
    os.utime(half, (1000, 1000))
    young = file.with_name(f"{file.name}.ffffffff")
    young.write_bytes(b"being written")
    bodies.tidy(2000)
    assert not half.exists()
    assert young.exists()
    assert bodies.read(SALT, digest) == TEXT


def test_a_place_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[capture\] url = 'nosuch://x' cannot be used: .*upeti\[s3\]"):
        bodies_at(tmp_path, "nosuch://x")
