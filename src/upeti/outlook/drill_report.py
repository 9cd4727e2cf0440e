"""The report of a drill, as it is signed: plain values, each figure with how it came about.

Rules: amounts are exact decimal texts by currency; shares are cut at the second decimal, so that what is not all never reads
as 100; what nobody measured is null and says why. What only people can say is left to be filled in, and named. Pure.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from upeti.core.amount import decimal_text
from upeti.outlook.drill import DIMENSIONS, Line, Money, Shadow, folded, percentile
from upeti.outlook.live_drill import Fate, Judged, Tally, recovery, time_line
from upeti.outlook.remaining import GAPS, Lack
from upeti.rights.permit import permit
from upeti.rights.terms import PURPOSE_MEANS, Terms

SCHEMA: Final = "upeti.drill/1"
PAYLOAD_TYPE: Final = "application/vnd.upeti.drill+json"
ROWS_MAX: Final = 200  # of each table: clients choose features
FEATURES_MAX: Final = 20
RECOVERED_PERCENT: Final = 99  # of calls that is told beside the median

QUALITY_UNKNOWN: Final = (
    "no certificate and no recorded comparison of the two is known here; test both on questions of your own"
)
SHADOW_METHOD: Final = (
    "Replay of the journal: each call that the channel answered in the window is given to the next candidate of its route "
    "that speaks the API, may serve, fits every data policy of the caller, is not latched now, had not failed for this call, and "
    "has a price where one is needed. Configuration, rights and latches are those of now.",
    "Cost after: the same meters at the next candidate's price in force at the time of the call; cached input counts as cached "
    "there too, although another provider's cache begins cold. Cost before and after are of the same calls.",
    "Budgets: hard ones are replayed in the order of time, with what other channels cost; a call that would pass one is lost.",
    "Time to recover is estimated from how long it took, in the same journal, from an attempt that failed to the next one.",
)
LIVE_METHOD: Final = (
    "For calls whose id is in the share, a fault stands in the channel's place: nothing is sent to the provider, everything "
    "else is the gateway's real path. The figures are read from the journal afterwards.",
    "In the drill is a call of the share that met the fault, or that the drill's own latch or breaker kept from the channel on a "
    "route that tries it first. Survived: another candidate answered, if only to refuse what was the client's own mistake.",
    "Cost before: the same meters at the price of the channel that was cut, for the calls that another candidate answered.",
    "Added time is from the first attempt that met the fault to the attempt that answered; percentiles by nearest rank.",
)


class Subject(msgspec.Struct, frozen=True):
    """What the report is about."""

    drill: str
    mode: str
    channel: str
    host: str
    provider: str  # contract party, as far as it is known
    parent: str
    by: str
    why: str
    from_ns: int
    until_ns: int
    made_ns: int
    node: str
    version: str  # of Upeti
    share_percent: str = "100"
    kind: str = ""
    signal: str = ""
    ended_by: str = ""
    ended_why: str = ""
    abort_below_percent: int = 0
    aborted: bool = False
    critical: Mapping[str, bool | None] = {}  # route → whether its function is critical
    functions: Mapping[str, str] = {}  # route → its function
    next_days: int = 365


def percent(part: int, whole: int) -> float | None:
    """Return a share of a whole, cut at the second decimal; None of nothing."""
    return math.floor(10_000 * part / whole) / 100 if whole else None


def money(sums: Money) -> dict[str, str]:
    return {currency: decimal_text(pico) for currency, pico in sorted(sums.items())}


def difference(line: Line) -> dict[str, str]:
    """Return after less before, by currency."""
    currencies = sorted({*line.before, *line.after})
    return {one: decimal_text(line.after.get(one, 0) - line.before.get(one, 0)) for one in currencies}


def values_of(line: Line) -> dict[str, Any]:
    return {
        "calls": line.calls,
        "survived": line.survived,
        "lost": line.lost,
        "survival_percent": percent(line.survived, line.calls),
        "spend": money(line.spend),
        "compared": line.compared,
        "before": money(line.before),
        "after": money(line.after),
        "difference": difference(line),
    }


# -- shadow ----------------------------------------------------------------------------------------------------------------


def shadow_report(subject: Subject, replay: Shadow, gaps_us: Sequence[int], rights: Rights) -> dict[str, Any]:
    """Return the report of a replay. ``gaps_us`` are measured times from a failed attempt to the next one."""
    total = replay.total
    seconds = max(1, (subject.until_ns - subject.from_ns) // 10**9)
    streams = replay.stream_us / 1e6 / seconds
    report = _head(subject, SHADOW_METHOD)
    report["result"] = values_of(total)
    report["by"] = {
        name: [{"name": label, **values_of(line)} for label, line in folded(replay.by[name], ROWS_MAX)]
        for name in DIMENSIONS
    }
    report["recovery"] = {
        "measured": len(gaps_us),
        "added_ms_p50": _ms(percentile(gaps_us, 50)),
        "added_ms_p99": _ms(percentile(gaps_us, RECOVERED_PERCENT)),
        "streams_under_way": round(streams, 2),
        "why": "from failed attempts of this journal that another one followed"
        if gaps_us
        else "no attempt of this journal failed and was followed by another; a live drill measures it",
    }
    report["cost"] = _cost(total, total.survived)
    report["quality"] = [
        {**_move(move), **values_of(line), "agreement": None, "why": QUALITY_UNKNOWN}
        for move, line in sorted(replay.moves.items(), key=lambda item: (-item[1].calls, item[0]))[:ROWS_MAX]
    ]
    report["rights"] = rights.changes(subject.channel, {channel for _, channel, _ in replay.moves}, subject.made_ns)
    losses = sorted(replay.losses.values(), key=lambda one: (-one.calls, one.route, one.model))
    report["no_alternative"] = [
        {
            **_lack(loss.route, loss.lack),
            "model": loss.model,
            "calls": loss.calls,
            "spend": money(loss.spend),
            "features": dict(sorted(loss.features.items(), key=lambda item: (-item[1], item[0]))[:FEATURES_MAX]),
        }
        for loss in losses[:ROWS_MAX]
    ]
    return _closed(subject, report, {move[1] for move in replay.moves})


def _move(move: tuple[str, str, str]) -> dict[str, str]:
    return {"model": move[0], "replacement_channel": move[1], "replacement_model": move[2]}


def _lack(route: str, lack: Lack) -> dict[str, Any]:
    return {
        "route": route,
        "reason": lack.gap.value,
        "means": GAPS[lack.gap][0],
        "candidate": lack.channel or None,
        "cure": lack.cure(route),
    }


# -- live ------------------------------------------------------------------------------------------------------------------


def live_report(
    subject: Subject,
    calls: list[Judged],
    outside: int,
    costs: Line,
    lacks: Mapping[str, Lack],
    rights: Rights,
) -> dict[str, Any]:
    """Return the report of a live drill. ``costs`` are of the survivors, ``lacks`` of routes without an alternative."""
    total = tally(calls)["all"][""]
    report = _head(subject, LIVE_METHOD)
    report["result"] = {**tally_values(total), "met_the_fault": sum(one.met for one in calls)}
    report["by"] = {
        name: [{"name": label, **tally_values(one)} for label, one in _first(lines)]
        for name, lines in tally(calls).items()
        if name != "all"
    }
    told: dict[str, int] = {}
    for one in calls:
        if one.fate is Fate.LOST:
            told[one.told] = told.get(one.told, 0) + 1
    report["told"] = dict(sorted(told.items(), key=lambda item: (-item[1], item[0])))
    report["outside_share_met"] = outside
    found = recovery(calls)
    report["recovery"] = {
        "measured": found.measured,
        "first_answer_ms": _ms(found.first_answer_us),
        "added_ms_p50": _ms(found.added_us_p50),
        "added_ms_p99": _ms(found.added_us_p99),
        "added_ms_max": _ms(found.added_us_max),
        "why": "" if found.measured else "no call met the fault and was answered",
    }
    line = time_line(calls, subject.from_ns, subject.until_ns)
    report["time_line"] = [
        {"from_s": one.from_s, "survived": one.survived, "lost": one.lost, "added_ms_p50": _ms(one.added_us_p50)}
        for one in line
    ]
    report["cost"] = _cost(costs, costs.survived)
    answered = {(one.answer.channel, one.answer.model) for one in calls if one.answer is not None}
    others = {channel for channel, _ in answered if channel != subject.channel}
    report["quality"] = [
        {"replacement_channel": channel, "replacement_model": model, "agreement": None, "why": QUALITY_UNKNOWN}
        for channel, model in sorted(answered)
        if channel != subject.channel
    ]
    report["rights"] = rights.changes(subject.channel, others, subject.made_ns)
    report["no_alternative"] = [_lack(route, lack) for route, lack in sorted(lacks.items())]
    return _closed(subject, report, others)


def tally(calls: Iterable[Judged]) -> dict[str, dict[str, Tally]]:
    """Return counts of all calls, and by feature, tenant and route."""
    found: dict[str, dict[str, Tally]] = {"all": {"": Tally()}, "feature": {}, "tenant": {}, "route": {}}
    for one in calls:
        found["all"][""].add(one.fate)
        for name in ("feature", "tenant", "route"):
            found[name].setdefault(getattr(one, name), Tally()).add(one.fate)
    return found


def tally_values(one: Tally) -> dict[str, Any]:
    return {
        "calls": one.calls,
        "survived": one.survived,
        "lost": one.lost,
        "left": one.left,
        "open": one.open,
        "survival_percent": percent(one.survived, one.survived + one.lost),
    }


def _first(lines: Mapping[str, Tally]) -> list[tuple[str, Tally]]:
    ordered = sorted(lines.items(), key=lambda item: (-item[1].calls, item[0]))
    kept = ordered[:ROWS_MAX]
    if len(ordered) > ROWS_MAX:
        rest = Tally()
        for _, one in ordered[ROWS_MAX:]:
            for field in rest.__struct_fields__:
                setattr(rest, field, getattr(rest, field) + getattr(one, field))
        kept.append((f"({len(ordered) - ROWS_MAX} others)", rest))
    return kept


# -- both ------------------------------------------------------------------------------------------------------------------


class Rights(msgspec.Struct, frozen=True):
    """What may be done with the answers of a channel."""

    terms: Terms

    def changes(self, channel: str, others: Iterable[str], at_ns: int) -> list[dict[str, Any]]:
        """Return every purpose's decision here and on each other channel, and whether it is another one there."""
        found = []
        for other in sorted(set(others)):
            for purpose in PURPOSE_MEANS:
                here, there = self._of(channel, purpose, at_ns), self._of(other, purpose, at_ns)
                changed = here["decision"] != there["decision"] or here["duties"] != there["duties"]
                found.append(
                    {"replacement": other, "purpose": purpose, "now": here, "after": there, "changed": changed}
                )
        return found

    def _of(self, channel: str, purpose: str, at_ns: int) -> dict[str, Any]:
        found = permit(self.terms, self.terms.origin_now(channel, at_ns), purpose, at_ns)
        return {
            "decision": found.decision.value,
            "contract": found.contract or None,
            "clause": found.clause or None,
            "duties": list(found.duties),
            "why": found.why,
        }


def _head(subject: Subject, method: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "drill": {
            "id": subject.drill,
            "mode": subject.mode,
            "channel": subject.channel,
            "host": subject.host,
            "provider": subject.provider or None,
            "parent": subject.parent or None,
            "kind": subject.kind or None,
            "signal": subject.signal or None,
            "share_percent": subject.share_percent,
            "from": time_text(subject.from_ns),
            "until": time_text(subject.until_ns),
            "by": subject.by,
            "why": subject.why or None,
            "ended_by": subject.ended_by or None,
            "ended_why": subject.ended_why or None,
            "aborted": subject.aborted,
            "abort_below_percent": subject.abort_below_percent if subject.mode == "live" else None,
        },
        "made": {"at": time_text(subject.made_ns), "node": subject.node, "upeti": subject.version},
        "method": list(method),
    }


def _closed(subject: Subject, report: dict[str, Any], others: Iterable[str]) -> dict[str, Any]:
    report["findings"] = findings(report)
    report["actions"] = sorted({one["cure"] for one in report["no_alternative"]})
    report["dora"] = dora(subject, report, sorted(set(others)))
    return report


def findings(report: Mapping[str, Any]) -> list[str]:
    """Return in sentences what the figures say."""
    drill, result = report["drill"], report["result"]
    if not result["calls"]:
        if drill["mode"] == "live":
            return ["No call of the share met the fault: the drill says nothing. Take a larger share, or more time."]
        return [f"The channel {drill['channel']} answered no call in the window: there was nothing to lose."]
    said = [f"{result['survived']} of {result['calls']} calls survived ({_percent_text(result['survival_percent'])})."]
    if drill["aborted"]:
        said.append(f"The drill was ended early: {drill['ended_why']}.")
    for one in report["no_alternative"]:
        count = f"{one['calls']} calls" if "calls" in one else "its calls"
        said.append(f"Route {one['route'] or '(no model)'}: {count} have no alternative: {one['means']}.")
    cost = report["cost"]
    for currency, amount in cost["difference"].items():
        said.append(f"The {cost['compared']} calls that can be compared cost {_signed(amount)} {currency} elsewhere.")
    if cost["unknown"]:
        said.append(f"The cost elsewhere of {cost['unknown']} calls is not known.")
    changed = [one for one in report["rights"] if one["changed"]]
    if changed:
        names = sorted({f"{one['purpose']} ({one['now']['decision']} → {one['after']['decision']})" for one in changed})
        said.append(f"Rights that change: {', '.join(names)}.")
    if report.get("outside_share_met"):
        said.append(
            f"{report['outside_share_met']} attempts outside the share met the fault: this is a fault of Upeti's."
        )
    return said


def dora(subject: Subject, report: Mapping[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """Return what Article 28(8) of Regulation (EU) 2022/2554 and the register of information ask for, as far as it is known.

    Column codes are those of Implementing Regulation (EU) 2024/2956 as corrected (OJ L, 2025/90725). ``value`` null and
    ``to_be_filled``: only people can say it.
    """
    made = datetime.datetime.fromtimestamp(subject.made_ns / 1e9, datetime.UTC).date()
    routes = sorted({one["name"] for one in report["by"]["route"]})
    functions = [
        {
            "route": route,
            "function": subject.functions.get(route) or None,
            "critical_or_important": subject.critical.get(route),
        }
        for route in routes
    ]
    survived = report["result"]["survival_percent"]

    def known(value: Any, column: str = "") -> dict[str, Any]:
        return {"value": value, "column": column or None, "to_be_filled": value is None}

    def fill(what: str, column: str = "") -> dict[str, Any]:
        return {"value": None, "column": column or None, "to_be_filled": True, "what": what}

    alternatives = None if not report["result"]["calls"] else "Yes" if others else "No"
    return {
        "articles": [
            "Regulation (EU) 2022/2554, Article 28(8): exit strategies, tested and reviewed",
            "Delegated Regulation (EU) 2024/1773, Article 10: exit plan for each arrangement, realistic, tested",
        ],
        "provider": known(subject.provider or None),
        "ultimate_parent": known(subject.parent or None),
        "service": known(f"generative models over the channel {subject.channel} ({subject.host})"),
        "contractual_arrangement": fill("reference number of the arrangement", "B_02.01.0010"),
        "functions": {
            **known(functions, "B_06.01.0050"),
            "to_be_filled": any(one["function"] is None for one in functions),
        },
        "date": known(made.isoformat()),
        "scope": known(
            f"{report['result']['calls']} calls, {report['drill']['share_percent']} % of those on the routes "
            f"{', '.join(routes[:FEATURES_MAX])}; "
            f"{report['drill']['from']} to {report['drill']['until']}"
        ),
        "scenario": known("the provider ends or interrupts the service without notice"),
        "method": known(
            "live, on a share of production calls" if subject.mode == "live" else "replay of production calls"
        ),
        "result": known(None if survived is None else f"{_percent_text(survived)} of the calls survived"),
        "findings": known(report["findings"]),
        "actions": {**known(report["actions"]), "owners": fill("who does each action, until when")},
        "recovery_time": known(report["recovery"]["added_ms_p99"]),
        "recovery_time_objective": fill("the function's objective, to compare with the recovery time", "B_06.01.0080"),
        "substitutability": fill("your assessment; alternatives and lost calls are in this report", "B_07.01.0050"),
        "last_audit": fill("date of the last audit of the provider", "B_07.01.0070"),
        "exit_plan": fill("whether an exit plan exists; `upeti exit-plan` has the register", "B_07.01.0080"),
        "reintegration": fill("whether the service can be taken back in-house", "B_07.01.0090"),
        "impact_of_discontinuing": fill("your assessment", "B_07.01.0100"),
        "alternatives_identified": known(alternatives, "B_07.01.0110"),
        "alternatives": known(list(others), "B_07.01.0120"),
        "conducted_by": known(subject.by),
        "responsible": fill("the person who is responsible for the function"),
        "approved": fill("who has approved this result, and when"),
        "next_test": {
            **fill("date of the next test"),
            "at_the_latest": (made + datetime.timedelta(days=subject.next_days)).isoformat(),
        },
    }


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lists of drills and the exit plan show of a report."""
    result, routes = report["result"], report["by"]["route"]
    return {
        "calls": result["calls"],
        "survived": result["survived"],
        "lost": result["lost"],
        "survival_percent": result["survival_percent"],
        "routes": {
            one["name"]: {name: one.get(name) for name in ("calls", "survived", "lost", "before", "after", "compared")}
            for one in routes
        },
        "window_hours": _hours(report["drill"]["from"], report["drill"]["until"]),
        "added_ms_p50": report["recovery"]["added_ms_p50"],
        "added_ms_p99": report["recovery"]["added_ms_p99"],
        "provider": report["drill"]["provider"],
    }


def time_text(at_ns: int) -> str:
    return datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hours(first: str, last: str) -> float:
    span = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(first)
    return round(span.total_seconds() / 3600, 4)


def _cost(line: Line, survived: int) -> dict[str, Any]:
    return {
        "spend": money(line.spend),
        "compared": line.compared,
        "unknown": survived - line.compared,
        "before": money(line.before),
        "after": money(line.after),
        "difference": difference(line),
    }


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _percent_text(value: float | None) -> str:
    return "?" if value is None else f"{value:g} %"


def _signed(amount: str) -> str:
    return f"{amount.removeprefix('-')} less" if amount.startswith("-") else f"{amount} more"
