"""Students as people and programs see them: stage, certificate, what audits show, why one does not answer."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from upeti.control.rollout import audits_of, lapses_ns, why_not_answering
from upeti.control.students import Certificate, Student
from upeti.core.config_learning import Learning
from upeti.learning.audit import State, evidence, present_risk
from upeti.learning.target import Kind, limits_of
from upeti.money.window import iso_time


class Risk(msgspec.Struct, frozen=True):
    """What audits show of one limit now. Shares of the calls that the limit is about."""

    limit: str
    allowed: float
    audits: int
    errors: int
    estimate: float | None  # of the last 250 to 500 audits
    high: float  # upper bound, 95 %, at every moment together


class Audited(msgspec.Struct, frozen=True):
    """What all audits under a certificate show."""

    audits: int
    answered: int
    deferred: int
    evidence: float  # an e-value: `alarm_at` or more rings
    alarm_at: float
    risks: tuple[Risk, ...]


def audited(certificate: Certificate) -> Audited:
    """Return what the audits under a certificate show."""
    state = msgspec.convert(certificate.audits, State)
    answered = sum(one.get("answered", 0) for one in certificate.counted.values())
    deferred = sum(one.get("deferred", 0) for one in certificate.counted.values())
    # A promise over all calls: those that were deferred are right.
    system = certificate.target.kind is Kind.SYSTEM
    part = answered / (answered + deferred) if system and answered + deferred else 1.0
    risks = []
    for bets, limit in zip(state.bets, limits_of(certificate.target), strict=True):
        risk = present_risk(bets)
        estimate = None if math.isnan(risk.estimate) else risk.estimate * part
        risks.append(Risk(limit.name, limit.alpha, bets.all.n, bets.all.errors, estimate, risk.high * part))
    audits = max((bets.all.n for bets in state.bets), default=0)
    return Audited(audits, answered, deferred, evidence(state), 1 / certificate.delta, tuple(risks))


def shown(one: Student, learning: Learning, now_ns: int) -> dict[str, Any]:
    """Return a student for people."""
    certificate = one.certificate
    found: dict[str, Any] = {
        "id": one.model.id,
        "task": one.task,
        "stage": str(one.model.stage),
        "stage_since": iso_time(one.model.stage_ns, "UTC"),
        "stage_why": one.model.stage_why,
        "stage_act": one.model.stage_act,
        "served_at": f"{one.model.channel}/{one.model.model}",
        "teacher": f"{one.teacher.channel}/{one.teacher.model}",
        "why_not_answering": why_not_answering(one, learning, now_ns) or None,
        "sticky": one.sticky,
        "audit_share": one.audit_share,
        "sha256": one.sha256,
        "folder": one.folder,
        "template_sha256": one.template.digest,
        "training_cost": one.training_cost,
        "datasets": list(one.model.datasets),
        "certificate": None,
    }
    if certificate is not None:
        found["certificate"] = {
            "id": certificate.id,
            "made": iso_time(certificate.made_ns, "UTC"),
            "by": certificate.made_by,
            "target": msgspec.to_builtins(certificate.target),
            "delta": certificate.delta,
            "threshold": certificate.threshold,
            **certificate.facts,
            "lapses": iso_time(lapses_ns(one), "UTC"),
            "audited_in_stage": audits_of(one) - one.audited_in_stage,
            "audits": msgspec.to_builtins(audited(certificate)),
        }
    return found
