"""A channel's health as its answers show it: a breaker. Time is passed in.

States: closed (used), open (left to the end of the plan), half open (one call tries it). The last candidate is never
taken out: a plan whose channels are all open still tries them.
"""

from __future__ import annotations


class Breaker:
    """Opens after ``failures_max`` failures in a row, for ``pause_s``."""

    __slots__ = ("_failures", "_open_until", "failures_max", "pause_s")

    def __init__(self, failures_max: int, pause_s: float) -> None:
        self.failures_max = failures_max
        self.pause_s = pause_s
        self._failures = 0
        self._open_until = 0.0

    def usable(self, now_s: float) -> bool:
        """Whether a call should try the channel now."""
        return not self._open_until or now_s >= self._open_until

    @property
    def is_open(self) -> bool:
        return self._open_until > 0.0

    def trying(self, now_s: float) -> None:
        """A call goes to the channel: when it is the trial of a half-open breaker, others wait for its answer."""
        if self._open_until and now_s >= self._open_until:
            self._open_until = now_s + self.pause_s

    def succeeded(self) -> None:
        self._failures = 0
        self._open_until = 0.0

    def failed(self, now_s: float) -> None:
        self._failures += 1
        if self._failures >= self.failures_max:
            self._open_until = now_s + self.pause_s
