"""Metrics of all workers as one: counters are summed, and stay when a worker has gone.

A worker reports totals since its start; the sum over workers, dead ones included, never falls while the
keeper lives. A gauge is what the living say now. The text is Prometheus' exposition format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from upeti.gateway.metrics import HELP

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_KEEPER_HELP: Final = {
    "upeti_keeper_workers": ("gauge", "Workers connected to the keeper."),
    "upeti_keeper_snapshot_version": ("gauge", "Version of the snapshot that workers serve from."),
    "upeti_keeper_configs_refused_total": ("counter", "Changed configurations that could not be taken."),
    "upeti_keeper_lease_asks_total": ("counter", "Asks for leases answered."),
    "upeti_keeper_lease_refusals_total": ("counter", "Asks for leases that were given nothing."),
    "upeti_keeper_recovered_attempts_total": ("counter", "Attempts of dead workers posted at their bound."),
}
_HISTOGRAM_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class Metrics:
    """The last report of each worker, and what those that ended had counted."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[str, float]] = {}
        self._ended: dict[str, float] = {}
        self.own: Callable[[], dict[str, float]] = dict

    def report(self, instance: str, values: dict[str, float]) -> None:
        """Take all samples of a worker: sample name, labels included → value."""
        self._reports[instance] = values

    def end(self, instance: str) -> None:
        """Keep what an ended worker had counted; its gauges are gone."""
        for name, value in self._reports.pop(instance, {}).items():
            if _kind(_family(name)) != "gauge":
                self._ended[name] = self._ended.get(name, 0) + value

    def text(self) -> str:
        """Return every sample in Prometheus' text format, family by family."""
        totals = dict(self._ended)
        for values in (*self._reports.values(), self.own()):
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
    return HELP.get(family) or _KEEPER_HELP.get(family) or ("", "")
