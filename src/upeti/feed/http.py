"""What all routes of the feed service share: who calls, bodies with a limit, JSON, errors.

Rules: a caller is a tenant, found by the SHA-256 of the key; without a valid key nothing is answered but health and the
API's own description. A tenant is never named by the client: it follows from the key, so no request reaches another's.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from upeti.core.errors import CallError, TooLarge, Unauthenticated, UpetiError
from upeti.feed import wire

BODY_BYTES_MAX: Final = 32 * 1024 * 1024  # some 100,000 events, or 500 of the longest items
_CURE: Final = "Send a key made with `upeti keys create`, as `X-API-Key` or `Authorization: Bearer …`."

# SHA-256 of a key → tenant. Raises ``Unauthenticated``, ``Forbidden``.
TenantOf = Callable[[bytes], str]

_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="A key of the gateway; its tenant is the feed's.")
_bearer = HTTPBearer(auto_error=False)


async def tenant_of(  # async: a function of the other kind would wait for a thread
    request: Request,
    key: Annotated[str | None, Depends(_key)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """Return the tenant who calls. Raises ``Unauthenticated``."""
    given = bearer.credentials if bearer is not None else key
    if not given:
        raise Unauthenticated("missing_api_key", f"No API key was sent. {_CURE}")
    find: TenantOf = request.app.state.tenant_of
    return find(sha256(given.encode()).digest())


Caller = Annotated[str, Depends(tenant_of)]


def unknown_key() -> Unauthenticated:
    return Unauthenticated("invalid_api_key", f"The API key is not known here, has expired or was revoked. {_CURE}")


async def body_of(request: Request) -> bytes:
    """Return the body. Raises ``TooLarge`` before it is all read."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > BODY_BYTES_MAX:
            raise TooLarge("body_too_large", f"A body has at most {BODY_BYTES_MAX} bytes: send it in parts.")
        parts.append(part)
    return b"".join(parts)


def json_of(value: Any, status: int = 200) -> Response:
    return Response(wire.encode(value), status, media_type="application/json")


def add_errors(app: FastAPI) -> None:
    """Have every error of ours answered as the gateway answers: OpenAI's shape, with the cure in the message."""

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, CallError)
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else None
        inner = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
        return JSONResponse({"error": inner}, error.status, headers)

    async def wrong(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        inner = {
            "message": f"{param}: {first['msg']}", "type": "invalid_request_error", "param": param, "code": "bad_parameter",
        }  # fmt: skip
        return JSONResponse({"error": inner}, 400)

    async def failed(_request: Request, error: Exception) -> Response:
        inner = {"message": str(error), "type": "api_error", "param": None, "code": "failed"}
        return JSONResponse({"error": inner}, 500)

    app.add_exception_handler(CallError, refused)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(UpetiError, failed)
