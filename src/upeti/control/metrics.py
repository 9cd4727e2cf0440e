"""Metrics of all workers as one: counters are summed, and stay when a worker has gone.

A worker reports totals since its start; the sum over workers, dead ones included, never falls while the
keeper lives. A gauge is what the living say now. Workers bound the names that are without end (tenants, models); as workers
come and go these would add up, so here too only the first ``SERIES_MAX`` of a family are kept apart, and what comes
later is ``other``. Of budgets the fullest are told, of cases how many. The text is Prometheus' exposition format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from upeti.control.ledger import BudgetRow
from upeti.core.amount import PICO_PER_UNIT
from upeti.gateway.metrics import HELP, OTHER, label
from upeti.money.budget_terms import RATE_UNITS, name_of
from upeti.rights.conduct.case import State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_KEEPER_HELP: Final = {
    "upeti_keeper_workers": ("gauge", "Workers connected to the keeper."),
    "upeti_keeper_snapshot_version": ("gauge", "Version of the snapshot that workers serve from."),
    "upeti_keeper_configs_refused_total": ("counter", "Changed configurations that could not be taken."),
    "upeti_keeper_lease_asks_total": ("counter", "Asks for leases answered."),
    "upeti_keeper_lease_refusals_total": ("counter", "Asks for leases that were given nothing."),
    "upeti_keeper_recovered_attempts_total": ("counter", "Attempts of dead workers posted at their bound."),
    "upeti_keeper_series_folded": ("gauge", "Series of workers whose tenant and model are told as other."),
}
_STATE_HELP: Final = {
    "upeti_conduct_cases": ("gauge", "Cases of conduct that are not closed, by state."),
    "upeti_budget_limit": ("gauge", "Limit of a budget in its present window, in its unit. A float: for graphs."),
    "upeti_budget_spent": ("gauge", "Spent of it, as workers last said."),
    "upeti_budget_leased": ("gauge", "Leased to workers of it: they may spend it without asking."),
    "upeti_budget_spent_share": ("gauge", "Spent of it, as a share of 1."),
    "upeti_budgets_left_out": ("gauge", "Budgets that are less full than those that are told of here."),
}
SERIES_MAX: Final = 1_000  # of each family with names that have no end
BUDGETS_MAX: Final = 200
_FREE_LABELS: Final = re.compile(r'(tenant|model)="(?:[^"\\]|\\.)*"')
_HISTOGRAM_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class Metrics:
    """The last report of each worker, and what those that ended had counted."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[str, float]] = {}
        self._ended: dict[str, float] = {}
        self._apart: dict[str, set[str]] = {}  # family → its samples with free names that are kept apart
        self._folded: dict[str, int] = {}  # instance → series folded in its last report
        self.own: Callable[[], dict[str, float]] = dict

    def report(self, instance: str, values: dict[str, float]) -> None:
        """Take all samples of a worker: sample name, labels included → value."""
        self._reports[instance] = self._bounded(instance, values)

    def _bounded(self, instance: str, values: dict[str, float]) -> dict[str, float]:
        bounded: dict[str, float] = {}
        folded = 0
        for name, value in values.items():
            family, brace, labels = name.partition("{")
            if brace and labels.startswith("tenant="):
                apart = self._apart.setdefault(family, set())
                if name not in apart:
                    if len(apart) < SERIES_MAX:
                        apart.add(name)
                    else:
                        folded += 1
                        name = _FREE_LABELS.sub(rf'\1="{OTHER}"', name)
            bounded[name] = bounded.get(name, 0) + value
        self._folded[instance] = folded
        return bounded

    def end(self, instance: str) -> None:
        """Keep what an ended worker had counted; its gauges are gone."""
        self._folded.pop(instance, None)
        for name, value in self._reports.pop(instance, {}).items():
            if _kind(_family(name)) != "gauge":
                self._ended[name] = self._ended.get(name, 0) + value

    def gauges(self, family: str) -> dict[str, float]:
        """Return what the living say of a family with one label: its value → the sum over workers."""
        found: dict[str, float] = {}
        for values in self._reports.values():
            for name, value in values.items():
                if name.startswith(f"{family}{{"):
                    label_value = name.partition('="')[2].removesuffix('"}')
                    found[label_value] = found.get(label_value, 0) + value
        return found

    def text(self) -> str:
        """Return every sample in Prometheus' text format, family by family."""
        totals = dict(self._ended)
        count = sum(self._folded.values())
        folded: dict[str, float] = {"upeti_keeper_series_folded": count} if count else {}
        for values in (*self._reports.values(), self.own(), folded):
            for name, value in values.items():
                totals[name] = totals.get(name, 0) + value
        families: dict[str, list[str]] = {}
        for name in totals:  # within a family in the order of the reports: a histogram's buckets ascend
            families.setdefault(_family(name), []).append(name)
        return "".join(line for family in sorted(families) for line in _lines(family, families[family], totals))


def _lines(family: str, names: Iterable[str], totals: dict[str, float]) -> Iterable[str]:
    _, explanation = _help(family)
    if explanation:
        yield f"# HELP {family} {explanation}\n"
    yield f"# TYPE {family} {_kind(family)}\n"
    for name in names:
        value = totals[name]
        yield f"{name} {int(value) if float(value).is_integer() else value!r}\n"


def _family(sample: str) -> str:
    """Return the family of a sample: ``x_bucket{le="1"}`` belongs to ``x`` when that is a histogram."""
    name = sample.partition("{")[0]
    for suffix in _HISTOGRAM_SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and _help(base)[0] == "histogram":
            return base
    return name


def _kind(family: str) -> str:
    return _help(family)[0] or ("counter" if family.endswith("_total") else "gauge")


def _help(family: str) -> tuple[str, str]:
    return HELP.get(family) or _KEEPER_HELP.get(family) or _STATE_HELP.get(family) or ("", "")


def budget_samples(rows: Iterable[BudgetRow], now_ns: int) -> dict[str, float]:
    """Return how budgets of money stand in their present windows, the fullest first, at most ``BUDGETS_MAX``."""
    present = [row for row in rows if row.unit not in RATE_UNITS and (not row.ends_ns or row.ends_ns > now_ns)]
    present.sort(key=lambda row: row.spent_pico / row.limit_pico if row.limit_pico else 1.0, reverse=True)
    values: dict[str, float] = {}
    for row in present[:BUDGETS_MAX]:
        labels = f'budget="{label(name_of(row.id))}",unit="{row.unit}"'
        values[f"upeti_budget_limit{{{labels}}}"] = row.limit_pico / PICO_PER_UNIT
        values[f"upeti_budget_spent{{{labels}}}"] = row.spent_pico / PICO_PER_UNIT
        values[f"upeti_budget_leased{{{labels}}}"] = row.leased_pico / PICO_PER_UNIT
        if row.limit_pico:
            values[f"upeti_budget_spent_share{{{labels}}}"] = row.spent_pico / row.limit_pico
    if present:
        values["upeti_budgets_left_out"] = max(0, len(present) - BUDGETS_MAX)
    return values


def case_samples(states: Mapping[str, int]) -> dict[str, float]:
    """Return how many cases are in each state but closed; those without one too, so that a first case is a change."""
    return {
        f'upeti_conduct_cases{{state="{state}"}}': states.get(state, 0) for state in State if state is not State.CLOSED
    }
