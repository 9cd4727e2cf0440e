"""Opening a sealed secret: the one thing a worker needs of ``control/seal``, where the format is described.

Imported only where a stored secret is used, because the library behind it costs memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from upeti.core.errors import ConfigError

MAGIC: Final = b"UPS1"
NONCE_BYTES: Final = 12  # NIST SP 800-38D, 8.2: what AES-GCM takes without hashing
KEY_BYTES: Final = 32
KEY_VARIABLE: Final = "UPETI_MASTER_KEY"
KEY_FILE: Final = "master.key"


def master_key(data_dir: Path) -> bytes:
    """Return the key that seals secrets: from the environment, else from the data directory.

    Raises ``ConfigError`` when there is none, or it is not 64 hex digits.
    """
    text = os.environ.get(KEY_VARIABLE, "")
    source = f"the environment variable {KEY_VARIABLE}"
    if not text:
        source = f"the file {data_dir / KEY_FILE}"
        try:
            text = (data_dir / KEY_FILE).read_text()
        except OSError as error:
            raise ConfigError(
                f"no key to open stored secrets: {source} cannot be read ({error.strerror}); restore it, "
                f"or set {KEY_VARIABLE}, or store the secrets again with `upeti secrets set`"
            ) from None
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{source} does not hold 64 hex digits; make such a key with `openssl rand -hex 32`")
    return key


def open_sealed(sealed: bytes, key: bytes) -> bytes:
    """Return the secret. Raises ``ConfigError`` when it was sealed with another key, or was changed."""
    body = len(MAGIC) + NONCE_BYTES
    if sealed[: len(MAGIC)] != MAGIC or len(sealed) <= body:
        raise ConfigError("a stored secret has a form that this version does not know; store it again")
    try:
        return AESGCM(key).decrypt(sealed[len(MAGIC) : body], sealed[body:], MAGIC)
    except InvalidTag:
        raise ConfigError(
            "a stored secret does not open with this master key; restore the key it was sealed with, "
            "or store the secret again with `upeti secrets set`"
        ) from None
