"""Bearer tokens of Microsoft Entra for Azure channels; needs the extra ``azure`` (package azure-identity).

A token lives about an hour. A thread fetches the next one ahead of time, so no call waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from upeti.core.errors import ConfigError
from upeti.gateway.snapshot import ChannelView

_SCOPE = "https://cognitiveservices.azure.com/.default"
_AHEAD_S = 300  # azure-identity itself refreshes five minutes before a token ends
_RETRY_S = 10


def token_source(view: ChannelView) -> Callable[[], str]:
    """Return a function that gives the newest token at once. Raises ``ConfigError`` without the extra or a token."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise ConfigError(f'channel {view.name}: entra = true needs `pip install "upeti[azure]"`') from error
    credential = DefaultAzureCredential()
    try:
        first = credential.get_token(_SCOPE)
    except Exception as error:
        raise ConfigError(f"channel {view.name}: no token from Microsoft Entra: {error}") from error
    newest = [first.token]

    def renew(expires_s: float) -> None:
        while True:
            time.sleep(max(_RETRY_S, expires_s - _AHEAD_S - time.time()))
            try:
                token = credential.get_token(_SCOPE)
            except Exception:  # noqa: S112 - whatever it is, the old token may still live: try again
                continue
            newest[0], expires_s = token.token, token.expires_on

    threading.Thread(target=renew, args=(first.expires_on,), name=f"entra-{view.name}", daemon=True).start()
    return lambda: newest[0]
