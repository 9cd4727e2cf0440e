"""What limits allowed at each moment, told from the journals alone: never too much held, never refused without need.

Rules: as the auditor, of which it is a part, it shares no code with what it judges. An attempt counts with its bound from
when it was opened until it is settled, and with its cost from then on. Times are those of the records; on several machines
they are as good as their clocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from upeti.sim.auditor import Finding, Journal, Prices, Provided, cells_of, cost_of


@dataclass
class Exposure:
    """What was spent and held of one budget, over time."""

    changes: list[tuple[int, int]] = field(default_factory=list)  # (moment, change); sorted by ``finish``
    moments_ns: list[int] = field(default_factory=list)
    sums_pico: list[int] = field(default_factory=list)  # after the change of the same place

    def finish(self) -> None:
        self.changes.sort()  # of one moment, what is given back comes first
        self.moments_ns = [moment for moment, _ in self.changes]
        self.sums_pico = list(accumulate(change for _, change in self.changes))

    def most_pico(self, first_ns: int | None = None, last_ns: int | None = None) -> int:
        """Return the most that was spent and held at any moment from ``first_ns`` to ``last_ns``."""
        begin = 0 if first_ns is None else max(0, bisect_right(self.moments_ns, first_ns) - 1)
        end = len(self.moments_ns) if last_ns is None else bisect_right(self.moments_ns, last_ns)
        before = [0] if first_ns is None or not self.moments_ns or first_ns < self.moments_ns[0] else []
        return max([*before, *self.sums_pico[begin:end]], default=0)


def exposures(journal: Journal) -> dict[str, Exposure]:
    """Return budget → what was spent and held of it over time."""
    found: dict[str, Exposure] = defaultdict(Exposure)
    for attempt in journal.attempts.values():
        for budget in attempt.budgets:
            changes = found[budget].changes
            changes.append((attempt.opened_ns, attempt.bound_pico))
            for place, settled in enumerate(attempt.settled):
                held = attempt.bound_pico if place == 0 else 0
                changes.append((max(settled["at_ns"], attempt.opened_ns), settled["cost_pico"] - held))
    for exposure in found.values():
        exposure.finish()
    return dict(found)


def judge_moments(journal: Journal, limits_pico: Mapping[str, int]) -> Iterator[Finding]:
    """Yield budgets of which more was spent and held at some moment than their limit."""
    for budget, exposure in exposures(journal).items():
        limit = limits_pico.get(budget)
        if limit is not None and exposure.most_pico() > limit:
            yield Finding("overheld", budget, f"{exposure.most_pico()} pico spent and held at once, of {limit}")


def judge_refusals(
    journal: Journal,
    limits_pico: Mapping[str, int],
    *,
    share_percent: int,
    window_s: float,
    troubled_ns: Sequence[tuple[int, int]] = (),
) -> Iterator[Finding]:
    """Yield calls that were refused although every budget had their bound and ``share_percent`` of its limit left.

    What was left is the least of the last ``window_s`` before the refusal: so long may it take to find out. The bound of a
    refused call is the dearest of the same key and route; its budgets are those of the same key and feature. Within
    ``troubled_ns`` (first, last) refusals are not judged.
    """
    found = exposures(journal)
    budgets: dict[tuple[str, str], set[str]] = defaultdict(set)
    bounds: dict[tuple[str, str], int] = defaultdict(int)
    for attempt in journal.attempts.values():
        budgets[attempt.key, attempt.feature].update(attempt.budgets)
        place = (attempt.key, attempt.route)
        bounds[place] = max(bounds[place], attempt.bound_pico)
    for refusal in journal.refusals:
        place = (refusal.key, refusal.route)
        if refusal.code != "budget_exceeded" or place not in bounds:
            continue
        if any(first <= refusal.at_ns <= last for first, last in troubled_ns):
            continue
        spare = []
        for budget in budgets[refusal.key, refusal.feature] & limits_pico.keys():
            limit = limits_pico[budget]
            most = found[budget].most_pico(refusal.at_ns - int(window_s * 1e9), refusal.at_ns)
            spare.append(limit - most - bounds[place] - limit * share_percent // 100)
        if spare and min(spare) >= 0:
            detail = f"refused with {min(spare)} pico more left than its bound and {share_percent} %"
            yield Finding("refused_without_need", refusal.call_id, detail)


def owed_by_provider(
    journal: Journal, provided: Mapping[str, Provided], prices: Prices
) -> dict[tuple[str, int, int], int]:
    """Return what the provider bills for each attempt, in pico units, where it said so: nothing for what it never saw.

    The key is that of ``Journal.attempts``.
    """
    owed: dict[tuple[str, int, int], int] = {}
    for key, attempt in journal.attempts.items():
        seen = provided.get(attempt.id, Provided())
        cells = cells_of(attempt, prices)
        if not seen.seen:
            owed[key] = 0
        elif cells is not None and len(seen.served) >= seen.seen:
            cost = cost_of(cells, seen.billed)
            if cost is not None:
                owed[key] = cost
    return owed
