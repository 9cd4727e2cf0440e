"""The key of this installation, for documents that others check: manifests, reports of drills.

Rules: made at the first use, readable by its owner alone. Public keys are kept beside it, those of earlier keys too, so
that what they signed can still be checked; who checks elsewhere is given the public key by hand.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from upeti.control.places import write_private
from upeti.core.errors import ConfigError
from upeti.rights.envelope import Signed, key_id, seal, unseal

_KEY: Final = "signing-key.pem"
_PUBLIC: Final = "signing-keys.pub.pem"  # the newest last


def sign(data_dir: Path, payload_type: str, payload: bytes) -> bytes:
    """Return a DSSE envelope of ``payload``, as JSON, signed with this installation's key. Raises ``ConfigError``."""
    return seal(_private_key(data_dir), payload_type, payload)


def verify(data: bytes, keys: list[Ed25519PublicKey]) -> Signed:
    """Return what an envelope holds when one of ``keys`` has signed it. Raises ``SignatureError``."""
    return unseal(data, keys)


def public_keys(data_dir: Path) -> list[Ed25519PublicKey]:
    """Return this installation's public keys, the newest last; none when nothing was signed yet. Raises ``ConfigError``."""
    path = data_dir / _PUBLIC
    return keys_in(path.read_text()) if path.exists() else []


def keys_in(text: str) -> list[Ed25519PublicKey]:
    """Return the public keys in a text: PEM blocks, or one key of 32 bytes in base64. Raises ``ConfigError``."""
    end = "-----END PUBLIC KEY-----"
    blocks = [f"{block.strip()}\n{end}\n" for block in text.split(end) if "BEGIN PUBLIC KEY" in block]
    try:
        if not blocks:
            return [Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))]
        found = [load_pem_public_key(block.encode()) for block in blocks]
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        found = []
    keys = [key for key in found if isinstance(key, Ed25519PublicKey)]
    if not keys or len(keys) < len(found):
        raise ConfigError("this is no Ed25519 public key: give a PEM file, or 32 bytes in base64")
    return keys


def rotate(data_dir: Path) -> Ed25519PublicKey:
    """Make a new key to sign with from now on; what earlier keys signed can still be checked. Raises ``ConfigError``."""
    earlier = public_keys(data_dir)
    key = Ed25519PrivateKey.generate()
    # First its public part: nothing is ever signed by a key that nobody knows.
    write_private(data_dir / _PUBLIC, "".join(map(pem_of, (*earlier, key.public_key()))))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(data_dir / _KEY, pem.decode())
    return key.public_key()


def pem_of(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private_key(data_dir: Path) -> Ed25519PrivateKey:
    path = data_dir / _KEY
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        rotate(data_dir)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is no private key ({error}): restore it, or `upeti signing-key rotate`") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key: restore it, or `upeti signing-key rotate`")
    if key_id(key.public_key()) not in {key_id(one) for one in public_keys(data_dir)}:
        with os.fdopen(os.open(data_dir / _PUBLIC, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write(pem_of(key.public_key()))
    return key
