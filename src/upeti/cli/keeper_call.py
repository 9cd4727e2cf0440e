"""Ask the running keeper, for commands that need a worker to do something now."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from upeti.cli.state import state_of
from upeti.core.errors import ConfigError

_TIMEOUT_S = 60.0


def ask_keeper(config: Path | None, method: str, path: str, body: object = None) -> Any:
    """Return what the control API of this configuration's Upeti answers. Raises ``ConfigError``."""
    from upeti.control.places import Places

    places = Places(state_of(config)[0])
    try:
        address, token = places.control_address.read_text().strip(), places.admin_token.read_text().strip()
        request = urllib.request.Request(
            f"http://{address}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            text = answer.read()
            return json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        raise ConfigError(_detail(error.read())) from None
    except OSError:
        raise ConfigError(
            "Upeti does not run on this data directory, and only its workers can do that; start it"
        ) from None


def _detail(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", "replace")[:500] or "the control API gave no reason"
