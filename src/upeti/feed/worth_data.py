"""What the verdict is made from: impressions, what followed them, what the versions cost, and what the journal says of that.

Rules: an engaged event counts for the last impression of the item to the user before it, once, within the experiment's
time. Users who were logged in two arms count in none. The cost of a version counts once, however often it was shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from upeti.core.amount import decimal_text, parse_pico
from upeti.core.errors import ConfigError
from upeti.feed.enrichment_store import EnrichmentStore
from upeti.feed.evaluation import gini
from upeti.feed.experiment import Experiment, is_held_out
from upeti.feed.impressions import ImpressionLog
from upeti.feed.interactions import NEGATIVE_KINDS, is_positive
from upeti.feed.items import Feedback
from upeti.feed.lift import Users
from upeti.feed.sequential import Interval
from upeti.feed.store import FeedStore
from upeti.feed.worth import ArmUsers, Spent, Worth, judge
from upeti.journal import events_store
from upeti.journal.blocks import journal_dir

DAY_NS: Final = 86_400 * 10**9
BEFORE_NS: Final = 28 * DAY_NS  # what a user did in four weeks says most of what CUPED can take out
_NS_MAX: Final = 2**63 - 1

_QUERY: Final = """
WITH shown AS (
    SELECT impression_id, "user", item, at_ns, arm FROM impressions
    WHERE experiment = $experiment AND at_ns >= $from_ns AND at_ns < $to_ns
), followed AS (
    SELECT shown.impression_id, bool_or(events.engaged) AS engaged, bool_or(NOT events.engaged) AS hidden
    FROM events ASOF JOIN shown
    ON events."user" = shown."user" AND events.item = shown.item AND events.at_ns >= shown.at_ns
    WHERE events.at_ns - shown.at_ns <= $within_ns
    GROUP BY shown.impression_id
)
SELECT shown."user" AS person, shown.arm AS arm, (shown.at_ns // 86400000000000)::INTEGER AS day,
    count(*)::DOUBLE AS impressions,
    (count(*) FILTER (WHERE followed.engaged))::DOUBLE AS events,
    (count(*) FILTER (WHERE followed.hidden))::DOUBLE AS hides,
    (count(*) FILTER (WHERE held.item IS NOT NULL))::DOUBLE AS impressions_held_out,
    (count(*) FILTER (WHERE followed.engaged AND held.item IS NOT NULL))::DOUBLE AS events_held_out
FROM shown LEFT JOIN followed USING (impression_id) LEFT JOIN held ON held.item = shown.item
GROUP BY ALL ORDER BY ALL
"""
_SHOWN: Final = """
SELECT arm, item, count(*) FROM impressions
WHERE experiment = $experiment AND at_ns >= $from_ns AND at_ns < $to_ns GROUP BY ALL
"""
_SPENT: Final = """
SELECT arm, quantile_cont(spent, 0.95) FROM (
    SELECT arm, request_id, max(spent_us) AS spent FROM impressions
    WHERE experiment = $experiment AND at_ns >= $from_ns AND at_ns < $to_ns AND spent_us > 0 GROUP BY ALL
) GROUP BY arm
"""
SLOWER_MS: Final = 1.0  # so much longer, and
SLOWER_SHARE: Final = 0.2  # … by such a share, is worth a warning
_SUMS: Final = ("impressions", "events", "hides", "impressions_held_out", "events_held_out")


class Observed(NamedTuple):
    """Sums per user, arm and day, all arrays of one length, and what was logged beside."""

    person: NDArray[np.int64]  # a number for each user
    arm: NDArray[np.int64]  # place in the experiment's arms
    day: NDArray[np.int64]
    sums: dict[str, NDArray[np.float64]]
    before: NDArray[np.float64]  # per person: engaged events before the experiment
    persons: int
    in_two_arms: int
    shown: dict[str, dict[str, int]]  # arm → item → how often
    used: set[tuple[str, str]]  # (item, version) that were shown
    impressions_all: int  # in the time, in any arm or none
    p95_ms: dict[str, float]  # arm → of its lists

    def arms(self, experiment: Experiment, to_day: int | None = None) -> list[ArmUsers]:
        """Return each arm's users with what they did up to and including ``to_day``."""
        counted = np.ones(len(self.day), bool) if to_day is None else self.day <= to_day
        found = []
        for place, arm in enumerate(experiment.arms):
            rows = counted & (self.arm == place)
            people, slot = np.unique(self.person[rows], return_inverse=True)
            sums = {name: _by(slot, self.sums[name][rows], len(people)) for name in _SUMS}
            held = experiment.item_holdout_share > 0
            users = Users(
                sums["events"],
                sums["impressions"],
                self.before[people],
                sums["events_held_out"] if held else None,
                sums["impressions_held_out"] if held else None,
            )
            found.append(ArmUsers(arm, users, Users(sums["hides"], sums["impressions"])))
        return found


def _by(slot: NDArray[np.intp], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.bincount(slot, values, minlength=size).astype(np.float64)


def observe(experiment: Experiment, log: ImpressionLog, feedback: Sequence[Feedback], now_ns: int) -> Observed:
    """Read what happened in the experiment until ``now_ns`` or its end."""
    from_ns, to_ns = experiment.started_ns, min(experiment.stopped_ns or _NS_MAX, now_ns)
    within_ns = experiment.engaged_within_s * 10**9
    kinds = set(experiment.engaged_kinds)

    def engages(one: Feedback) -> bool:
        return one.kind in kinds if kinds else is_positive(one.kind)

    events = [
        (one.user, one.item, one.at_ns, engages(one))
        for one in feedback
        if from_ns <= one.at_ns < to_ns + within_ns and (engages(one) or one.kind in NEGATIVE_KINDS)
    ]
    before: dict[str, int] = {}
    for one in feedback:
        if from_ns - BEFORE_NS <= one.at_ns < from_ns and engages(one):
            before[one.user] = before.get(one.user, 0) + 1
    given = {"experiment": experiment.name, "from_ns": from_ns, "to_ns": to_ns, "within_ns": within_ns}
    with log.connect() as connection:
        connection.register("events", _events_table(events))
        items = connection.execute("SELECT DISTINCT item FROM impressions WHERE experiment = ?", [experiment.name])
        held = [item for (item,) in items.fetchall() if is_held_out(experiment, item)]
        connection.register("held", pa.table({"item": pa.array(held, pa.string())}))
        columns = connection.execute(_QUERY, given).fetchnumpy()
        shown: dict[str, dict[str, int]] = {}
        for arm, item, count in connection.execute(
            _SHOWN, {name: given[name] for name in given if name != "within_ns"}
        ).fetchall():
            shown.setdefault(arm, {})[item] = count
        used, impressions_all = _used(connection, given)
        p95_ms = _p95_ms(connection, experiment, given)
    return _observed(experiment, columns, before, shown, used, impressions_all, p95_ms)


def _events_table(events: Sequence[tuple[str, str, int, bool]]) -> pa.Table:
    kinds = (("user", pa.string()), ("item", pa.string()), ("at_ns", pa.int64()), ("engaged", pa.bool_()))
    return pa.table({name: pa.array([one[place] for one in events], kind) for place, (name, kind) in enumerate(kinds)})


def _used(connection: duckdb.DuckDBPyConnection, given: dict[str, Any]) -> tuple[set[tuple[str, str]], int]:
    times = [given["from_ns"], given["to_ns"]]
    pairs = connection.execute(
        "SELECT DISTINCT item, enrichment_version FROM impressions "
        "WHERE enrichment_version <> '' AND at_ns >= ? AND at_ns < ?",
        times,
    ).fetchall()
    row = connection.execute("SELECT count(*) FROM impressions WHERE at_ns >= ? AND at_ns < ?", times).fetchone()
    used = {(item, version) for item, versions in pairs for version in versions.split(",")}  # one of each source
    return used, int(row[0]) if row else 0


def _p95_ms(connection: duckdb.DuckDBPyConnection, experiment: Experiment, given: dict[str, Any]) -> dict[str, float]:
    rows = connection.execute(_SPENT, {name: given[name] for name in given if name != "within_ns"}).fetchall()
    found = {str(arm): float(spent) / 1000 for arm, spent in rows}
    return {arm.name: found.get(arm.name, math.nan) for arm in experiment.arms}


def _observed(
    experiment: Experiment,
    columns: dict[str, Any],
    before: dict[str, int],
    shown: dict[str, dict[str, int]],
    used: set[tuple[str, str]],
    impressions_all: int,
    p95_ms: dict[str, float],
) -> Observed:
    place_of = {arm.name: place for place, arm in enumerate(experiment.arms)}
    names, person = np.unique(columns["person"].astype(str), return_inverse=True)
    arm = np.array([place_of.get(str(name), -1) for name in columns["arm"]], dtype=np.int64)
    first, last = np.full(len(names), len(place_of)), np.full(len(names), -1)
    np.minimum.at(first, person, arm)
    np.maximum.at(last, person, arm)
    kept = (first == last)[person] & (arm >= 0)
    return Observed(
        person[kept].astype(np.int64),
        arm[kept],
        columns["day"][kept].astype(np.int64),
        {name: columns[name][kept].astype(np.float64) for name in _SUMS},
        np.array([before.get(str(name), 0) for name in names], dtype=np.float64),
        len(names),
        int((first != last).sum()),
        shown,
        used,
        impressions_all,
        p95_ms,
    )


class Point(NamedTuple):
    """A comparison as it stood at the end of a day."""

    day: int
    net_benefit: Interval


class Report(NamedTuple):
    """The verdict, how it came about, and whether the money in it is that of the journal."""

    worth: Worth
    course: dict[tuple[str, str], list[Point]]  # (arm, over) → by day
    calls_pico: int  # what the worker's calls cost, by what the gateway told it
    journal_pico: int | None  # … by the journal; None: it is on another machine
    p95_ms: dict[str, float]  # arm → time that making a list took, at the 95th percentile; NaN where nobody measured
    creator_gini: dict[str, float]  # arm → how unevenly creators are shown; NaN where items name no creator
    not_received: int  # calls in the journal whose answer never reached the worker
    not_received_pico: int


def report(
    experiment: Experiment,
    store: FeedStore,
    tenant: str,
    now_ns: int,
    *,
    data_dir: Path | None = None,
    feature: str = "",
) -> Report:
    """Return the verdict of ``experiment`` as of ``now_ns``.

    ``data_dir``: where the gateway's journal is, for the comparison of costs; ``feature`` is the tag of the worker's calls.
    Raises ``ConfigError`` when it has not begun, or its currency is not that of the costs.
    """
    if experiment.interleaved:
        raise ConfigError(
            f"experiment {experiment.name} is interleaved: it says which arm people prefer (upeti feed experiment preference "
            f"{experiment.name}), not what it is worth"
        )
    if not experiment.started_ns:
        raise ConfigError(f"experiment {experiment.name} has not begun: upeti feed experiment start {experiment.name}")
    observed = observe(experiment, ImpressionLog(store.tenant_dir(tenant)), store.feedback(tenant), now_ns)
    enrichments = EnrichmentStore(store, tenant)
    spent, earlier, currencies = enrichments.spent(
        observed.used, experiment.started_ns, min(experiment.stopped_ns or _NS_MAX, now_ns)
    )
    if currencies - {experiment.currency}:
        raise ConfigError(
            f"enrichment was paid in {', '.join(sorted(currencies))}, and experiment {experiment.name} values events in "
            f"{experiment.currency}; amounts of two currencies are never compared: make the experiment in that currency"
        )
    worth = judge(experiment, observed.arms(experiment), spent, observed.impressions_all)
    if observed.in_two_arms:
        note = (
            f"{observed.in_two_arms:,} users were logged in more than one arm and are left out: look at who logs them"
        )
        worth = worth._replace(warnings=(*worth.warnings, note))
    if earlier.versions:
        note = (
            f"{earlier.versions:,} versions that were bought before it began and never shown in it "
            f"({decimal_text(earlier.pico)} {experiment.currency}) are not counted"
        )
        worth = worth._replace(warnings=(*worth.warnings, note))
    calls_pico, journal = enrichments.balance()[1], None
    lost = (0, 0)
    if data_dir is not None and journal_dir(data_dir).is_dir():  # else the gateway is on another machine
        journal, *lost_ = _journal(data_dir, feature, {call.call_id for call in enrichments.calls()})
        lost = (lost_[0], lost_[1])
    creator_of = {item.id: item.creator for item in store.items(tenant) if item.creator}
    ginis = {arm.name: _creator_gini(observed.shown.get(arm.name, {}), creator_of) for arm in experiment.arms}
    worth = worth._replace(warnings=(*worth.warnings, *_slower(observed.p95_ms, list(worth.users))))
    course = _course(experiment, observed, spent)
    return Report(worth, course, calls_pico, journal, observed.p95_ms, ginis, *lost)


def _slower(p95_ms: dict[str, float], arms: Sequence[str]) -> list[str]:
    """Guardrail: lists of a dearer arm take longer to make."""
    found = []
    for over, arm in pairwise(arms):
        slow, quick = p95_ms[arm], p95_ms[over]
        if slow > quick + max(SLOWER_MS, SLOWER_SHARE * quick):
            found.append(f"feeds of {arm} take longer than those of {over}: {slow:.1f} ms against {quick:.1f} ms (p95)")
    return found


def _creator_gini(shown: dict[str, int], creator_of: dict[str, str]) -> float:
    exposure = dict.fromkeys(creator_of.values(), 0)
    for item, count in shown.items():
        if item in creator_of:
            exposure[creator_of[item]] += count
    return gini(list(exposure.values()))


def _course(experiment: Experiment, observed: Observed, spent: dict[str, Spent]) -> dict[tuple[str, str], list[Point]]:
    """Judge again as of the end of each day, with the impressions that there were by then."""
    found: dict[tuple[str, str], list[Point]] = {}
    total = float(observed.sums["impressions"].sum())
    for day in np.unique(observed.day).tolist():
        shown = float(observed.sums["impressions"][observed.day <= day].sum())
        scaled = math.ceil(observed.impressions_all * shown / total) if total else 0
        part = {
            source: one._replace(pico=one.pico * scaled // max(1, observed.impressions_all))
            for source, one in spent.items()
        }
        for one in judge(experiment, observed.arms(experiment, day), part, scaled).comparisons:
            found.setdefault((one.arm, one.over), []).append(Point(day, one.net_benefit))
    return found


def _journal(data_dir: Path, feature: str, known: set[str]) -> tuple[int, int, int]:
    """Return what the known calls cost by the journal; how many of the feature's calls are not known, and their cost."""
    ours = lost = 0
    unknown: set[str] = set()
    with events_store.connect(data_dir, skip_damaged=True) as connection:
        rows = connection.execute(
            "SELECT call_id, sum(cost) FROM events WHERE feature = ? GROUP BY call_id", [feature]
        ).fetchall()
    for call_id, cost in rows:
        pico = 0 if cost is None else parse_pico(Decimal(cost))
        if call_id in known:
            ours += pico
        else:
            unknown.add(call_id)
            lost += pico
    return ours, len(unknown), lost
