"""Why a call, or one of its candidates, was not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upeti.core.errors import BudgetExceeded, CallError
from upeti.gateway.holds import Attempt
from upeti.gateway.live import Lane

if TYPE_CHECKING:
    from upeti.gateway.rehearsal import Rehearsal


class TimedOut(Exception):
    """Raised into a fiber whose deadline has passed."""


class ClientLeft(Exception):
    """Raised into a fiber whose client has gone, when nothing was sent yet or the policy is to cancel."""


class Answer:
    """A whole answer of a provider, kept until it is clear whether the client gets it."""

    __slots__ = ("attempt", "body", "headers", "lane", "rehearsal", "request_id", "status")

    def __init__(
        self,
        attempt: Attempt,
        lane: Lane,
        status: int,
        headers: dict[bytes, bytes],
        request_id: str,
        body: bytes,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self.attempt = attempt
        self.lane = lane
        self.status = status
        self.headers = headers
        self.request_id = request_id  # the provider's own
        self.body = body
        self.rehearsal = rehearsal  # the drill that answered in the provider's place


class Failure:
    """Why a candidate did not answer, and what to tell the client if nobody does."""

    __slots__ = ("again", "answer", "deferred", "error", "final", "soon_s")

    def __init__(
        self,
        *,
        error: CallError | None = None,
        answer: Answer | None = None,
        again: bool = False,
        final: bool = False,
        soon_s: float | None = None,
        deferred: str = "",
    ) -> None:
        self.error = error
        self.answer = answer  # the provider's own error, given back as it came
        self.again = again  # the same candidate may be tried again, after the others
        self.final = final  # no other candidate is asked
        self.deferred = deferred  # why an own model left the call to the next candidate
        self.soon_s = soon_s  # the same candidate is tried once more after this time, before the others

    @property
    def rank(self) -> int:
        """Which failure the client is told of: a provider's own words before ours, money before lack of anything, and
        anything before a deferral.
        """
        if self.deferred:
            return -1
        if self.answer is not None:
            return 2
        return 1 if isinstance(self.error, BudgetExceeded) else 0
