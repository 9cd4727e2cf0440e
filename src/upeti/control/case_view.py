"""Cases as people and programs are shown them: times as ISO 8601, the bundle that a suspension stands on, a plot of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from upeti.control.cases import Case, CaseEvent, bundle, case_of, events_of
from upeti.control.store import Store
from upeti.core.errors import ConfigError
from upeti.money.window import iso_time


def shown_case(case: Case) -> dict[str, Any]:
    """Return a case for JSON."""
    return {
        "id": case.id,
        "tenants": list(case.tenants),
        "kind": case.kind,
        "state": str(case.state),
        "families": list(case.families),
        "opened": _time(case.opened_ns),
        "changed": _time(case.changed_ns),
        "until": _time(case.until_ns),
        "suspended": _time(case.suspended_ns),
        "suspended_by": case.suspended_by,
        "bundle_sha256": case.bundle_sha256,
    }


def shown_event(event: CaseEvent) -> dict[str, Any]:
    """Return what happened for JSON, without the evidence itself."""
    family = (event.evidence or {}).get("family", "")
    return {
        "number": event.number,
        "at": _time(event.at_ns),
        "event": event.event,
        "state": str(event.state),
        "actor": event.actor,
        "reason": event.reason,
        "act": event.act,
        "family": family,
    }


def shown_whole(store: Store, case_id: str) -> dict[str, Any]:
    """Return a case and what happened in it. Raises ``CaseError``."""
    return {**shown_case(case_of(store, case_id)), "events": list(map(shown_event, events_of(store, case_id)))}


def bundle_of(store: Store, case_id: str) -> tuple[bytes, str]:
    """Return the evidence of a case and its SHA-256: for a suspended one, exactly what the suspension stands on.

    Raises ``CaseError``.
    """
    case = case_of(store, case_id)
    events = events_of(store, case_id)
    stands_on = events[: case.bundle_events] if case.suspended_by else events
    text = bundle(case, stands_on)
    return text, hashlib.sha256(text).hexdigest()


def write_bundle(text: bytes, directory: Path) -> list[Path]:
    """Write a bundle, and a plot of the newest drift in it where matplotlib is installed; return the files.

    Raises ``ConfigError`` when they cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = [directory / "bundle.json"]
        written[0].write_bytes(text)
        drifts = [one for one in msgspec.json.decode(text)["evidence"] if "moved" in one]
        if drifts and _plot(drifts[-1], directory / "drift.svg"):
            written.append(directory / "drift.svg")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}); name a directory of yours") from None
    return written


def _plot(drift: dict[str, Any], path: Path) -> bool:
    """Draw how far each shape number moved, and its values before and now."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    moved: dict[str, Any] = drift["moved"]
    names = sorted(moved, key=lambda name: float(moved[name]["distance"]))
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "upeti",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        figure, (far, values) = pyplot.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
        far.barh(names, [moved[name]["distance"] for name in names], color="#0072B2")
        far.set_xlabel("share of calls that would have to change")
        far.set_title(f"Window against the past: p = {drift['p']:.1g}", fontsize=10)
        pairs: Sequence[tuple[str, tuple[float, float]]] = [
            (f"{name} {value}", (shares[0], shares[1]))
            for name in names
            for value, shares in reversed(moved[name]["values"].items())
        ]
        places = range(len(pairs))
        values.plot([shares[0] for _, shares in pairs], places, "o", color="#6B6B6B", label="past")
        values.plot([shares[1] for _, shares in pairs], places, "s", color="#D55E00", label="window")
        values.set_yticks(list(places), [name for name, _ in pairs], fontsize=7)
        values.set_xlabel("share of calls with this value")
        values.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
    return True


def _time(at_ns: int) -> str | None:
    return iso_time(at_ns, "UTC") if at_ns else None
