"""What the parts of one call share on its way: the call itself, why a candidate did not answer, who is told what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upeti.core.errors import BudgetExceeded, CallError
from upeti.gateway.fiber import Fiber
from upeti.gateway.holds import Attempt
from upeti.gateway.live import LiveChannel
from upeti.gateway.request import Call, Request
from upeti.gateway.snapshot import Caller

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway
    from upeti.gateway.server import ClientConnection


class Answer:
    """A whole answer of a provider, kept until it is clear whether the client gets it."""

    __slots__ = ("attempt", "body", "channel", "headers", "status")

    def __init__(
        self, attempt: Attempt, channel: LiveChannel, status: int, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        self.attempt = attempt
        self.channel = channel
        self.status = status
        self.headers = headers
        self.body = body


class TimedOut(Exception):
    """Raised into a fiber whose deadline has passed."""


class ClientLeft(Exception):
    """Raised into a fiber whose client has gone, when the policy is to cancel."""


class Failure:
    """Why a candidate did not answer, and what to tell the client if nobody does."""

    __slots__ = ("again", "answer", "error")

    def __init__(self, *, error: CallError | None = None, answer: Answer | None = None, again: bool = False) -> None:
        self.error = error
        self.answer = answer  # the provider's own error, given back as it came
        self.again = again  # the same candidate may be tried again

    @property
    def rank(self) -> int:
        """Which failure the client is told of: a provider's own words before ours, money before lack of anything."""
        if self.answer is not None:
            return 2
        return 1 if isinstance(self.error, BudgetExceeded) else 0


class Serving:
    """One call on its way: what its attempts share."""

    __slots__ = (
        "attempts",
        "call",
        "call_id",
        "caller",
        "client",
        "deadline_s",
        "fiber",
        "gateway",
        "number",
        "request",
        "view",
    )

    def __init__(
        self, call: Call, client: ClientConnection, gateway: Gateway, fiber: Fiber, number: int, call_id: str
    ) -> None:
        self.call = call
        self.client = client
        self.gateway = gateway
        self.fiber = fiber
        self.number = number
        self.call_id = call_id
        self.view = gateway.view
        self.attempts = 0
        self.caller: Caller
        self.request: Request
        self.deadline_s = 0.0
