"""Sealed secrets open with their key and with no other."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.control.seal import master_key_or_new, seal
from upeti.core.errors import ConfigError
from upeti.providers.sealed import KEY_FILE, KEY_VARIABLE, master_key, open_sealed

KEY = bytes(range(32))


@given(st.binary(max_size=200))
def test_what_was_sealed_opens(secret: bytes) -> None:
    sealed = seal(secret, KEY)
    assert open_sealed(sealed, KEY) == secret
    assert len(secret) < 8 or secret not in sealed


def test_the_same_secret_is_never_sealed_the_same_way() -> None:
    assert seal(b"x", KEY) != seal(b"x", KEY)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_is_found(place: int, change: int) -> None:
    sealed = bytearray(seal(b"secret", KEY))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(ConfigError):
        open_sealed(bytes(sealed), KEY)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(ConfigError, match="does not open with this master key; restore the key"):
        open_sealed(seal(b"secret", KEY), bytes(32))


def test_the_key_is_made_once_and_is_the_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    key = master_key_or_new(tmp_path / "data")
    assert master_key_or_new(tmp_path / "data") == master_key(tmp_path / "data") == key
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "data" / KEY_FILE).stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == [KEY_FILE]


def test_the_environment_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    assert master_key_or_new(tmp_path) == b"\xab" * 32
    assert list(tmp_path.iterdir()) == []


def test_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"master\.key cannot be read .*; restore it"):
        master_key(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, "not hex")
    with pytest.raises(ConfigError, match="UPETI_MASTER_KEY does not hold 64 hex digits; make such a key"):
        master_key(tmp_path)
