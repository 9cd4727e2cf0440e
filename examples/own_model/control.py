"""The control API of the Upeti that a demo has started."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any


def ask_control(data_dir: Path, path: str) -> Any:
    """Return what the control API says at a path. Raises ``OSError`` when it is not there."""
    address, token = ((data_dir / "run" / name).read_text().strip() for name in ("control-address", "admin-token"))
    request = urllib.request.Request(f"http://{address}{path}", headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)
