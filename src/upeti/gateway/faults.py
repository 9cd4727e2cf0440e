"""Faults that are put in a channel's place for a share of the calls: for drills, and for tests.

Rules: whether a call meets a fault follows from its id and the drill alone, so it is the same in every worker, at every
attempt and for whoever looks at the journal later. Nothing is sent to the provider. A fault has a first and a last moment
in it, so it ends also while nobody is there to end it. What it does to health and latches is kept apart (``Rehearsal``):
calls outside the share never see it.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Final

import msgspec

MILLION: Final = 1_000_000
_HASH_RANGE: Final = 1 << 64


class Kind(StrEnum):
    """What a call meets in the provider's place."""

    REFUSED = "refused"  # no connection
    RESET = "reset"  # the connection is closed before the answer
    SILENT = "silent"  # no answer, until the attempt's time is over
    ERROR = "error"  # an error that a provider documents
    SLOW = "slow"  # the provider itself, after ``delay_ms``


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """A fault on one channel. Times are nanoseconds since 1970 UTC, ``until_ns`` is the first moment without it."""

    channel: str
    kind: Kind
    share_millionths: int  # of the calls
    from_ns: int
    until_ns: int
    drill: str  # its id
    # Of an error: what is answered.
    status: int = 0
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    delay_ms: int = 0

    def in_force(self, at_ns: int) -> bool:
        return self.from_ns <= at_ns < self.until_ns

    def takes(self, call_id: str, at_ns: int) -> bool:
        """Whether this call meets it at this moment."""
        return self.in_force(at_ns) and chosen(self.drill, call_id, self.share_millionths)


def chosen(drill: str, call_id: str, share_millionths: int) -> bool:
    """Whether a call is in the share of a drill."""
    digest = sha256(f"{drill}:{call_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * MILLION < share_millionths * _HASH_RANGE
