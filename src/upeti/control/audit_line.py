"""Where audits are asked, and with which keys: left by the keeper for the students' process, readable by their owner alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from upeti.control.compile import Placement
from upeti.control.places import Places, write_private
from upeti.core.config import Config

_FILE: Final = "audit-line.json"  # in the data directory's run
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - where it listens is not where it is asked


class AuditLine(msgspec.Struct, frozen=True):
    """The gateway's address, and the secret that the keys are made of (``keys.audit_key``)."""

    base_url: str
    secret: str
    ca_file: str = ""  # the gateway's own certificate, where it has one


def leave_line(places: Places, placement: Placement, config: Config, secret: str) -> None:
    """Write the file, where it is another one."""
    host = _ANYWHERE.get(placement.gateway_host, placement.gateway_host)
    shown = f"[{host}]" if ":" in host else host
    ca_file = config.gateway.tls_certificate
    line = AuditLine(f"{'https' if ca_file else 'http'}://{shown}:{placement.gateway_port}", secret, ca_file)
    text = msgspec.json.encode(line).decode()
    path = places.run / _FILE
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def line_in(run: Path) -> AuditLine:
    """Return what the keeper left. Raises ``OSError``, ``msgspec.MsgspecError``."""
    return msgspec.json.decode((run / _FILE).read_bytes(), type=AuditLine)
