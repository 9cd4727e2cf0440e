"""The models API: what the list shows and a look-up finds is what a key may call. Answered here, never relayed."""

from __future__ import annotations

from typing import Any

import msgspec

from upeti.core.errors import NotFound
from upeti.gateway.live import LiveView
from upeti.gateway.snapshot import Caller, RouteView, hidden

_ANY = "*"


def models_body(view: LiveView, caller: Caller, name: str) -> bytes:
    """Return the answer of ``GET /v1/models``, or of ``/v1/models/{name}``. Raises ``NotFound``."""
    if not name:
        routes = [route for route in view.routes.values() if route.name != _ANY and _may(caller, route.name)]
        return msgspec.json.encode({"object": "list", "data": [_model(route, route.name) for route in routes]})
    route = (view.routes.get(name) or view.routes.get(_ANY)) if name != _ANY else None
    if route is None or not _may(caller, route.name):
        raise NotFound(
            "model_not_found",
            f"There is no model {name[:100]!r} for this key: GET /v1/models lists those that there are.",
            param="model",
        )
    return msgspec.json.encode(_model(route, name))


def _may(caller: Caller, route: str) -> bool:
    return route in caller.routes or not (caller.routes or hidden(route))


def _model(route: RouteView, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": route.created_s, "owned_by": "upeti"}
