"""The snapshot's file: written in one step, read back as it was, refused when it is something else."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from support.gateway_side import KEY, candidate, channel, route, snapshot
from upeti.gateway import snapshot as s


def whole() -> s.Snapshot:
    channels = [channel("up", 80, api_key=s.SecretRef("stored", "x", b"\x00\xff"), deployments={"a": "b"})]
    callers = {KEY: s.Caller("k1", "acme", "shop", budgets=("b",), routes=frozenset({"m"}), expires_ns=7)}
    return snapshot(channels, [route("m", candidate("up", context_tokens=9))], callers=callers, unpriced="record")


def test_it_is_read_as_it_was_written_and_only_by_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.msgpack"
    path.write_bytes(b"an older one")
    s.write(path, whole())
    assert s.read(path) == whole()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize("data", [b"", b"\x00", b"{}", msgspec.msgpack.encode({"version": 1}), s.encode(whole())[:-1]])
def test_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        s.decode(data)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    later = msgspec.msgpack.decode(s.encode(whole()))
    later["of_a_later_version"] = 1
    assert s.decode(msgspec.msgpack.encode(later)) == whole()
