"""A budget shared out to workers as leases, so that it holds without asking for every call.

Rules: spent + Σ left of all leases ≤ limit at every moment, so no order of calls, deaths and delays can
overspend. A lease's truth is two sums that only grow or are given back: what was granted and what its holder
has posted. Plain integers of pico units; no clock, no store: whoever calls makes a change durable before he
tells anyone.

A cost above its bound is an error of the bound. It is spent in full, never clamped, and the lease of its
holder is empty until it is granted more.
"""

from __future__ import annotations

import msgspec


class Lease(msgspec.Struct):
    """What one holder may spend: granted less given back, and what it says it has posted so far."""

    granted_pico: int = 0
    posted_pico: int = 0

    @property
    def left_pico(self) -> int:
        """What the holder may still hold or post from; never below zero."""
        return max(0, self.granted_pico - self.posted_pico)

    @property
    def owed_pico(self) -> int:
        """What the holder has posted beyond what it was granted: above a bound, or while nothing was refused."""
        return max(0, self.posted_pico - self.granted_pico)


class Budget(msgspec.Struct):
    """One budget: its limit, what is spent, and the leases of holders that are not closed."""

    limit_pico: int
    spent_pico: int = 0  # everything ever posted, by open and closed holders
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)

    @property
    def leased_pico(self) -> int:
        """What holders may still spend without asking."""
        return sum(lease.left_pico for lease in self.leases.values())

    @property
    def rest_pico(self) -> int:
        """What is neither spent nor leased; below zero after the limit was lowered or a bound was overrun."""
        return self.limit_pico - self.spent_pico - self.leased_pico

    def report(self, holder: str, posted_pico: int) -> None:
        """Move what ``holder`` has posted since its last word from leased to spent.

        ``posted_pico`` is the sum since the holder began; an older, lower sum that comes late changes
        nothing.
        """
        lease = self.leases.setdefault(holder, Lease())
        fresh_pico = posted_pico - lease.posted_pico
        if fresh_pico > 0:
            lease.posted_pico = posted_pico
            self.spent_pico += fresh_pico

    def grant(self, holder: str, need_pico: int, holders: int) -> int:
        """Add to the lease of ``holder`` and return by how much: at most the rest, 0 when there is none.

        With plenty left the grant is half of an equal share for each of ``holders``, so that most calls
        need no word; it shrinks as the rest shrinks, down to the bare need. Less than the need is granted
        when that is all there is: the holder may have several calls waiting, and some of them may fit.
        What the holder has posted beyond its lease is spent already: it is granted on top, once there is
        anything left, and takes nothing of the rest.
        """
        lease = self.leases.setdefault(holder, Lease())
        rest_pico = self.rest_pico
        slice_pico = max(self.short_pico(holder, need_pico), rest_pico // (2 * max(1, holders)))
        amount_pico = min(slice_pico, rest_pico)
        if amount_pico <= 0:
            return 0
        amount_pico += lease.owed_pico
        lease.granted_pico += amount_pico
        return amount_pico

    def short_pico(self, holder: str, need_pico: int) -> int:
        """Return how much of the rest a need of ``holder`` takes."""
        lease = self.leases.get(holder)
        return need_pico if lease is None else max(0, need_pico - lease.owed_pico)

    def give_back(self, holder: str, amount_pico: int) -> int:
        """Take back from the lease of ``holder``; return how much it was, at most what the lease has left."""
        lease = self.leases.get(holder)
        if lease is None:
            return 0
        taken_pico = max(0, min(amount_pico, lease.left_pico))
        lease.granted_pico -= taken_pico
        return taken_pico

    def correct(self, holder: str, left_pico: int, posted_pico: int) -> int:
        """Believe a holder that says, with nothing under way, what its lease has left; return what came back.

        A word can be lost with its connection: a grant that was never received, a return that never arrived.
        Both leave this side with more leased than the holder has. The other way round is not believed.
        """
        self.report(holder, posted_pico)
        return self.give_back(holder, self.leases[holder].left_pico - max(0, left_pico))

    def close(self, holder: str, posted_pico: int) -> int:
        """End the lease of ``holder``, whose journal says that it posted ``posted_pico`` in all.

        Returns what of the lease comes back to the budget.
        """
        self.report(holder, posted_pico)
        return self.leases.pop(holder).left_pico
