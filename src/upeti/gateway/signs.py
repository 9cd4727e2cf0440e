"""Signs of abuse: whose calls the providers' content filters refused, channel by channel, and which tenant is held for it.

Rules: counts are small and fade, by half every ``FADES_S``, so that they tell of the last hour and not of last year. When
a provider blocks a channel for abuse, the suspect is who has most refusals on it; who has none is never one. A hold is
short, of this worker at once and of all by the keeper, who opens a case. Time is passed in.
"""

from __future__ import annotations

from typing import Final

FADES_S: Final = 600.0
HOLD_S: Final = 900.0  # as long as an abuse block of Azure lasts at least; a person decides about more
_TENANTS_MAX: Final = 1_000  # of a channel; keys' tenants are not without end, but nobody promised


class Hold:
    """A tenant whose calls are refused."""

    __slots__ = ("number", "until_ns")

    def __init__(self, number: str, until_ns: int) -> None:
        self.number = number  # of the case, or of the incident until there is one
        self.until_ns = until_ns


class Signs:
    """Counts by channel and tenant, and the tenants that are held."""

    def __init__(self) -> None:
        self.held: dict[str, Hold] = {}
        self.refusals_total: dict[str, int] = {}  # channel → content refusals, for metrics
        self.unsaid: dict[tuple[str, str], int] = {}  # (channel, tenant) → refusals that other workers do not know of
        self._counts: dict[str, dict[str, tuple[float, float]]] = {}  # channel → tenant → (count, when)

    def refused(self, channel: str, tenant: str, now_s: float) -> None:
        """A content filter of ``channel`` refused a call of ``tenant``, or cut its answer off."""
        self.refusals_total[channel] = self.refusals_total.get(channel, 0) + 1
        self.add(channel, tenant, 1, now_s)
        if len(self.unsaid) < _TENANTS_MAX:
            self.unsaid[channel, tenant] = self.unsaid.get((channel, tenant), 0) + 1

    def add(self, channel: str, tenant: str, count: int, now_s: float) -> None:
        """Count what this worker saw, or another one."""
        counts = self._counts.setdefault(channel, {})
        if tenant not in counts and len(counts) >= _TENANTS_MAX:
            del counts[min(counts, key=lambda name: _faded(*counts[name], now_s))]
        counts[tenant] = (_faded(*counts.get(tenant, (0.0, now_s)), now_s) + count, now_s)

    def suspect(self, channel: str, now_s: float) -> tuple[str, int]:
        """Return the tenant with most refusals on ``channel`` and how many; ("", 0) when there is none."""
        counts = {name: _faded(*seen, now_s) for name, seen in self._counts.get(channel, {}).items()}
        # What has faded below one half of a refusal is no sign any more.
        found = max(counts, key=lambda name: counts[name], default="")
        if not found or counts[found] < 0.5:
            return "", 0
        return found, max(1, round(counts[found]))

    def hold(self, tenant: str, number: str, until_ns: int) -> bool:
        """Hold a tenant; return whether it was not held before."""
        new = tenant not in self.held
        self.held[tenant] = Hold(number, until_ns)
        return new

    def release_ended(self, now_ns: int) -> bool:
        """End the holds whose time is over; return whether there were any."""
        ended = [tenant for tenant, hold in self.held.items() if hold.until_ns <= now_ns]
        for tenant in ended:
            del self.held[tenant]
        return bool(ended)


def _faded(count: float, at_s: float, now_s: float) -> float:
    return float(count * 0.5 ** ((now_s - at_s) / FADES_S))
