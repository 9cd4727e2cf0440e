"""A client of the gateway for work in the background: one call at a time and connection, answers as they are.

Rules: it is a client like any other and knows no provider. An answer that did not come is a reply of status 0, not an
exception: whoever calls decides by a table what every status means. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from upeti.core.errors import ConfigError
from upeti.feed.enrichment import UNKNOWN_COST

_TIMEOUT_S: Final = 180.0  # a model may think; the gateway has its own deadline before this
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


class Action(StrEnum):
    """What follows from a reply."""

    READ = "read"
    WAIT = "wait"  # for money or for a minute: the same call may fit later
    BACK_OFF = "back off"  # nobody answered, or a server's fault
    REFUSED = "refused"  # this call will never do
    STOP = "stop"  # no call will do: a person must change something


class Reply(NamedTuple):
    """What came back. Header names are in lower case."""

    status: int  # 0: no answer
    headers: dict[str, str]
    body: bytes
    error: str = ""

    @property
    def call_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def served_by(self) -> tuple[str, str]:
        """Channel and model, empty when it does not say."""
        channel, _, model = self.headers.get("x-upeti-served-by", "").partition("/")
        return channel, model

    @property
    def cost(self) -> str:
        """Exact decimal text; unknown when it is, or when nobody says it of an answer."""
        return self.headers.get("x-upeti-cost", UNKNOWN_COST)

    @property
    def says_cost(self) -> bool:
        return "x-upeti-cost" in self.headers

    @property
    def currency(self) -> str:
        return self.headers.get("x-upeti-currency", "")

    @property
    def retry_after_s(self) -> float | None:
        try:
            return max(0.0, float(self.headers["retry-after"]))
        except (KeyError, ValueError):
            return None

    @property
    def reason(self) -> str:
        """What went wrong, in words."""
        if self.error:
            return self.error
        try:
            said = msgspec.json.decode(self.body)["error"]
            return f"{self.status} {said.get('code')}: {said['message']}"[:500]
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return f"status {self.status}"


def action_of(status: int) -> Action:
    """Return what follows from a status."""
    if status == 200:
        return Action.READ
    if status == 429:  # a budget or a rate, ours or the provider's
        return Action.WAIT
    if status in (400, 413, 422, 431):
        return Action.REFUSED
    if status == 0 or status == 408 or status >= 500:
        return Action.BACK_OFF
    return Action.STOP


class GatewayClient:
    """Posts JSON to the gateway; each thread has a connection of its own."""

    def __init__(self, base_url: str, key: str) -> None:
        """``base_url`` ends in ``/v1``, as OpenAI's clients take it. Raises ``ConfigError``."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{base_url!r} is no address of a gateway; write it like http://127.0.0.1:8080/v1")
        self._parts = parts
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._local = threading.local()

    def post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """Make one call. It is sent once: whether it may be sent again is the caller's to decide."""
        data = msgspec.json.encode(body)
        connection = self._kept() or self._connect()
        self._local.connection = None
        try:
            if connection.sock is None:
                connection.connect()
            connection.request("POST", self._parts.path.rstrip("/") + path, data, {**self._headers, **headers})
            answer = connection.getresponse()
            content = answer.read(_ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Reply(0, {}, b"", f"no answer: {type(error).__name__}: {error}")
        if len(content) > _ANSWER_BYTES_MAX:
            connection.close()
            return Reply(0, {}, b"", "the answer is larger than any labels are")
        if not answer.will_close:
            self._local.connection = connection
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def _kept(self) -> http.client.HTTPConnection | None:
        """Return this thread's connection, unless the gateway has closed it or said something unasked."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None and (connection.sock is None or select.select([connection.sock], [], [], 0)[0]):
            connection.close()
            return None
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
