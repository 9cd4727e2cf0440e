from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from upeti.cli.main import build, main
from upeti.control.signing import keys_in, pem_of, public_keys, rotate, sign, verify
from upeti.core.errors import ConfigError
from upeti.rights.envelope import SignatureError

TYPE = "application/vnd.in-toto+json"


def test_what_was_signed_is_checked_with_the_public_key_alone(tmp_path: Path) -> None:
    sealed = sign(tmp_path, TYPE, b'{"a":1}')
    (key,) = keys_in("".join(map(pem_of, public_keys(tmp_path))))
    signed = verify(sealed, [key])
    assert (signed.payload_type, signed.payload) == (TYPE, b'{"a":1}')
    assert stat.S_IMODE((tmp_path / "signing-key.pem").stat().st_mode) == 0o600


def test_the_signature_is_that_of_the_specification(tmp_path: Path) -> None:
    """The pre-authentication encoding, spelled out: type and payload with their lengths."""
    envelope = json.loads(sign(tmp_path, "t", b"hello"))
    import base64

    (key,) = public_keys(tmp_path)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), b"DSSEv1 1 t 5 hello")
    assert base64.b64decode(envelope["payload"]) == b"hello"


@pytest.mark.parametrize("name", ["payload", "payloadType"])
def test_a_change_is_seen(tmp_path: Path, name: str) -> None:
    envelope = json.loads(sign(tmp_path, TYPE, b"hello"))
    envelope[name] = "aGVsbG8h" if name == "payload" else "other"
    with pytest.raises(SignatureError, match="changed"):
        verify(json.dumps(envelope).encode(), public_keys(tmp_path))


def test_another_key_is_no_key(tmp_path: Path) -> None:
    sealed = sign(tmp_path, TYPE, b"hello")
    with pytest.raises(SignatureError, match="none of the keys"):
        verify(sealed, [Ed25519PrivateKey.generate().public_key()])


def test_after_a_rotation_both_are_checked(tmp_path: Path) -> None:
    before = sign(tmp_path, TYPE, b"one")
    rotate(tmp_path)
    after = sign(tmp_path, TYPE, b"two")
    keys = public_keys(tmp_path)
    assert len(keys) == 2
    assert [verify(each, keys).payload for each in (before, after)] == [b"one", b"two"]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"payload":"!","payloadType":"t","signatures":[]}'])
def test_what_is_no_envelope_is_said(data: bytes) -> None:
    with pytest.raises(SignatureError, match="no signed document"):
        verify(data, [])


@pytest.mark.parametrize("text", ["", "abc", "-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="no Ed25519 public key"):
        keys_in(text)


def test_a_third_party_needs_the_file_and_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report.dsse.json").write_bytes(sign(data, TYPE, b"hello"))
    (elsewhere / "key.pem").write_text("".join(map(pem_of, public_keys(data))))
    command = ["verify-signature", str(elsewhere / "report.dsse.json"), "--key", str(elsewhere / "key.pem")]
    result = CliRunner().invoke(build("verify-signature"), [*command, "--payload"])
    assert (result.exit_code, result.stdout) == (0, "hello")
    (elsewhere / "report.dsse.json").write_bytes(sign(tmp_path / "other", TYPE, b"hello"))
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert "none of the keys" in capsys.readouterr().err
