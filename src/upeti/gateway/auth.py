"""From a call's headers to its caller."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from upeti.core.errors import Forbidden, Unauthenticated
from upeti.gateway.snapshot import Caller, Snapshot, hidden

_CURE = "Send a key made with `upeti keys create`, as `Authorization: Bearer …`, `api-key` or `x-api-key`."


def identify(headers: Mapping[bytes, bytes], keys: Mapping[bytes, Caller], now_ns: int) -> Caller:
    """Return who calls. Keys are looked up by the SHA-256 of the whole key. Raises ``Unauthenticated``."""
    bearer = headers.get(b"authorization")
    if bearer is not None and bearer.startswith((b"Bearer ", b"bearer ")):
        key = bearer[7:].strip()
    else:
        key = headers.get(b"api-key") or headers.get(b"x-api-key") or b""
    if not key:
        raise Unauthenticated("missing_api_key", f"No API key was sent. {_CURE}")
    caller = keys.get(sha256(key).digest())
    if caller is None:
        raise Unauthenticated("invalid_api_key", f"The API key is not known here, or was revoked. {_CURE}")
    if caller.expires_ns and caller.expires_ns <= now_ns:
        raise Unauthenticated("expired_api_key", f"The API key has expired. {_CURE}")
    return caller


def check_served(caller: Caller, snapshot: Snapshot) -> None:
    """Raises ``Forbidden`` for a tenant that a case has suspended, or holds."""
    case = snapshot.suspended.get(caller.tenant)
    if case is not None:
        raise Forbidden("tenant_suspended", snapshot.notices.get(case, f"This tenant is suspended (case {case})."))


def check_route(caller: Caller, route: str) -> None:
    """Raises ``Forbidden`` when the key is limited to other routes, or the route to other keys."""
    if (caller.routes or hidden(route)) and route not in caller.routes:
        raise Forbidden(
            "route_not_allowed", f"This key may not use the model {route!r}. Ask for a key with that route."
        )
