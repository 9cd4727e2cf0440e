"""Sealing secrets for the state: AES-256-GCM under one master key that is not in the state.

A sealed secret is ``b"UPS1"``, a random nonce of 12 bytes, then ciphertext and tag; the magic is
authenticated with it. The master key is 64 hex digits in ``UPETI_MASTER_KEY``, or in
``{data_dir}/master.key``, which is made at first use and readable by its owner alone. A random nonce is
safe for 2³² secrets under one key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from upeti.providers.sealed import KEY_BYTES, KEY_FILE, KEY_VARIABLE, MAGIC, NONCE_BYTES, master_key


def seal(secret: bytes, key: bytes) -> bytes:
    """Return ``secret`` sealed under a master ``key`` of 32 bytes."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return MAGIC + nonce + AESGCM(key).encrypt(nonce, secret, MAGIC)


def master_key_or_new(data_dir: Path) -> bytes:
    """Return the master key, made and kept in the data directory when there is none yet.

    Raises ``ConfigError`` when there is one that cannot be used.
    """
    path = data_dir / KEY_FILE
    if not os.environ.get(KEY_VARIABLE) and not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{KEY_FILE}.{secrets.token_hex(4)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # fails when another process was first: then its key is the key
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return master_key(data_dir)
