"""Where a provider's secret is found becomes the secret, in this process's memory only."""

from __future__ import annotations

import os
from pathlib import Path

from upeti.core.errors import ConfigError
from upeti.gateway.snapshot import SecretRef


def resolve(reference: SecretRef, data_dir: Path) -> str:
    """Return an API key. Raises ``ConfigError`` that names the reference, never the secret."""
    secret = _find(reference, data_dir)
    if not secret or any(not "!" <= letter <= "~" for letter in secret):
        raise ConfigError(
            f"the secret {reference.kind}:{reference.name} is empty or holds blanks: it cannot be sent in a header"
        )
    return secret


def header_value(reference: SecretRef, data_dir: Path) -> str:
    """Return the whole value of a header, such as ``Bearer …``. Raises ``ConfigError``, as ``resolve``."""
    value = _find(reference, data_dir)
    if not value or any(not " " <= letter <= "~" for letter in value):
        raise ConfigError(
            f"the secret {reference.kind}:{reference.name} is empty or no line of ASCII: it cannot be sent in a header"
        )
    return value


def _find(reference: SecretRef, data_dir: Path) -> str:
    if reference.kind == "env":
        secret = os.environ.get(reference.name, "")
        if not secret:
            raise ConfigError(f"the environment variable {reference.name} is not set: set it where Upeti is started")
    elif reference.kind == "file":
        try:
            secret = Path(reference.name).read_text(errors="replace").strip()
        except OSError as error:
            raise ConfigError(f"the secret file {reference.name} cannot be read: {error.strerror}") from error
    else:
        # Only a gateway with stored secrets pays for the library's memory.
        from upeti.providers.sealed import master_key, open_sealed

        secret = open_sealed(reference.sealed, master_key(data_dir)).decode(errors="replace")
    return secret
