"""Where a secret is found becomes the secret, and an error never shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.core.errors import ConfigError
from upeti.gateway.secrets import resolve
from upeti.gateway.snapshot import SecretRef


def test_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPETI_TEST_SECRET", "s3cret")
    assert resolve(SecretRef("env", "UPETI_TEST_SECRET"), tmp_path) == "s3cret"


def test_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("  s3cret\n")
    assert resolve(SecretRef("file", str(tmp_path / "secret")), tmp_path) == "s3cret"


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak", "nul\x00", "漢字", "tab\tbed", "latin \xe9"])
def test_what_cannot_stand_in_a_header_is_refused_unseen(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_bytes(text.encode("latin-1" if "latin" in text else "utf-8"))
    name = str(tmp_path / "secret")
    with pytest.raises(ConfigError, match="cannot be sent") as caught:
        resolve(SecretRef("file", name), tmp_path)
    assert not text or text not in str(caught.value).replace(name, "")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (SecretRef("env", "UPETI_NOT_SET"), "UPETI_NOT_SET is not set"),
        (SecretRef("file", "/nowhere/secret"), "/nowhere/secret cannot be read: No such file"),
        (SecretRef("stored", "x", b"UPS1" + bytes(40)), "master"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, reference: SecretRef, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(reference, tmp_path)
