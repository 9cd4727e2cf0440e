"""What audits have shown over time, read again from the journal of a certificate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from upeti.control.audit_journal import Seen, path_of, read
from upeti.control.students import Certificate
from upeti.learning.audit import begin, evidence, observe, present_risk
from upeti.learning.target import Kind, limits_of

_POINTS: Final = 600  # more cannot be told apart in a plot


class Point(msgspec.Struct, frozen=True):
    """What was known after an audit. Risks are of the limit with most evidence against it at the end."""

    at_ns: int
    audits: int
    evidence: float
    estimate: float | None
    high: float


class History(msgspec.Struct, frozen=True):
    """The audits of one certificate on this machine, and the limit that their risk is of."""

    points: tuple[Point, ...]
    limit: str
    allowed: float


def history(data_dir: Path, certificate: Certificate) -> History:
    """Return what audits have shown, of this data directory's journal. Raises ``AuditJournalError``."""
    limits = limits_of(certificate.target)
    path = path_of(data_dir, certificate.id)
    seen = [one for one in read(path)[0] if isinstance(one, Seen)] if path.exists() else []
    states = []
    state = begin(certificate.target)
    answered = deferred = 0
    for one in seen:
        state = observe(state, certificate.target, certificate.delta, one.observation)
        answered, deferred = answered + one.answered, deferred + one.deferred
        if one.observation.audited is not None:
            states.append((one.at_ns, state, answered / max(answered + deferred, 1)))
    worst = max(range(len(limits)), key=lambda place: state.bets[place].log_wealth)
    step = math.ceil(len(states) / _POINTS) if states else 1
    kept = [one for place, one in enumerate(states) if place % step == 0 or place == len(states) - 1]
    system = certificate.target.kind is Kind.SYSTEM
    points = []
    for at_ns, then, part in kept:
        risk = present_risk(then.bets[worst])
        share = part if system else 1.0
        estimate = None if math.isnan(risk.estimate) else risk.estimate * share
        audits = max(bets.all.n for bets in then.bets)
        points.append(Point(at_ns, audits, evidence(then), estimate, risk.high * share))
    return History(tuple(points), limits[worst].name, limits[worst].alpha)
