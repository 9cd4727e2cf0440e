"""What the impression log says beside the verdict: which of two rankings people prefer, and what an idea would have earned.

Rules: an engaged event counts for the last impression of the item to the user before it, within the time that counts. In
an interleaved experiment it counts for the arm whose pick the item was. The screen takes what the log knows, the probability
of each item at its place, and what the caller knows, the probability that their idea would have put it there; interleaved
lists are no basis for it, since the coin's probabilities are not logged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from upeti.core.errors import ConfigError
from upeti.feed.experiment import Experiment
from upeti.feed.impressions import Impression, ImpressionLog
from upeti.feed.interactions import is_positive
from upeti.feed.interleaving import Preference, preference
from upeti.feed.items import Feedback
from upeti.feed.off_policy import Screened, screen

_NS_MAX: Final = 2**63 - 1
_ROWS_MIN: Final = 2


class Preferred(NamedTuple):
    """Which of two interleaved arms people take more from."""

    arms: tuple[str, str]
    preference: Preference  # of the second over the first
    impressions: int
    events: int

    @property
    def advice(self) -> str:
        low, high = self.preference.interval.low, self.preference.interval.high
        if low <= 0 <= high:
            return "Go on: neither is preferred yet. The answer stays valid however often you look."
        better, other = self.arms[::-1] if low > 0 else self.arms
        return (
            f"People prefer {better} to {other}. How many more events that is, and what it is worth, an A/B test says."
        )


def preferred(experiment: Experiment, log: ImpressionLog, feedback: Sequence[Feedback], now_ns: int) -> Preferred:
    """Return the preference as of ``now_ns``. Raises ``ConfigError`` when nothing is interleaved, or it has not begun."""
    if not experiment.interleaved:
        raise ConfigError(f"experiment {experiment.name} is not interleaved: its verdict is that of `upeti feed worth`")
    if not experiment.started_ns:
        raise ConfigError(f"experiment {experiment.name} has not begun: upeti feed experiment start {experiment.name}")
    to_ns = min(experiment.stopped_ns or _NS_MAX, now_ns)
    rows = log.read(experiment.started_ns, to_ns, experiment.name)
    engaged = engaged_of(rows, feedback, experiment.engaged_kinds, experiment.engaged_within_s)
    first, second = (arm.name for arm in experiment.arms)
    events = [(row.user, int(row.arm == second)) for row in rows if row.impression_id in engaged]
    found = preference(events, experiment.users_planned, experiment.error_share)
    return Preferred((first, second), found, len(rows), len(events))


def screened(
    probabilities: Mapping[str, float], experiments: Sequence[Experiment], log: ImpressionLog,
    feedback: Sequence[Feedback], *, kinds: Collection[str] = (), within_s: int = 86_400,
) -> list[Screened]:  # fmt: skip
    """Return what another way to rank would have earned, in engaged events per impression; users are the units.

    ``probabilities``: impression → the probability with which the idea would have put that item at that place, 0 to 1.
    Raises ``ConfigError`` for impressions that are not in the log, or of which the log does not know the probability.
    """
    rows = log.read()  # all of it: an event counts for the last impression before it, whichever that is
    asked = [row for row in rows if row.impression_id in probabilities]
    if len(asked) < max(_ROWS_MIN, len(probabilities)):
        raise ConfigError(
            f"{len(probabilities) - len(asked):,} of {len(probabilities):,} impressions are not in the log; name those that "
            f"GET /v1/impressions or /v1/feed gave, {_ROWS_MIN} or more"
        )
    mixed = {one.name for one in experiments if one.interleaved}
    if any(row.experiment in mixed for row in asked):
        raise ConfigError("interleaved lists are no basis for a screen: leave their impressions out")
    engaged = engaged_of(rows, feedback, kinds, within_s)
    try:
        return screen(
            [float(row.impression_id in engaged) for row in asked],
            [row.propensity for row in asked],
            [probabilities[row.impression_id] for row in asked],
            clusters=[row.user for row in asked],
        )
    except ValueError as error:
        raise ConfigError(f"{error}") from None


def engaged_of(
    rows: Iterable[Impression], feedback: Iterable[Feedback], kinds: Collection[str], within_s: int
) -> set[str]:
    """Return the impressions that somebody engaged with; ``rows`` in the order of time, ``kinds`` empty: positive ones."""
    shown: dict[tuple[str, str], tuple[list[int], list[str]]] = {}
    for row in rows:
        times, names = shown.setdefault((row.user, row.item), ([], []))
        times.append(row.at_ns)
        names.append(row.impression_id)
    found = set()
    for one in feedback:
        if not (one.kind in kinds if kinds else is_positive(one.kind)):
            continue
        times, names = shown.get((one.user, one.item), ([], []))
        at = bisect_right(times, one.at_ns) - 1
        if at >= 0 and one.at_ns - times[at] <= within_s * 10**9:
            found.add(names[at])
    return found
