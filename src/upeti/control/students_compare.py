"""Students side by side, from what is known of each already.

Rules: no calibration row is looked at. Who chooses among students by the rows that certify them makes the chosen one look better
than it is; so what is compared is cross-validation on training rows, signed certificates, and audits of live answers.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from upeti.control.signing import public_keys
from upeti.control.students import Student
from upeti.control.students_view import audited
from upeti.learning.certificate import CertificateError, opened
from upeti.learning.train import Report
from upeti.rights.envelope import SignatureError

_ALPHA = 0.05  # where nothing was promised yet


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a student. Shares are of all calls of the task; None: not known."""

    id: str
    task: str
    stage: str
    level: str | None
    kilobytes: int
    rows: int | None  # trained on
    agreement: float | None  # with the teacher, cross-validated on these
    could_answer: float | None  # cross-validated: with at most ``allowed`` of all calls answered otherwise
    allowed: float
    promise: str  # "": no certificate in force
    threshold: float | None
    answers: tuple[float, float, float] | None  # certified: estimate, low, high
    audits: int
    errors: int
    risk_high: float | None  # upper bound of the risk of the promise's worst limit now
    evidence: float | None


def known(data_dir: Path, one: Student) -> Known:
    """Return what is known of a student, whose folder is below ``data_dir``."""
    folder = data_dir / one.folder
    report = _report(folder)
    certificate = one.certificate
    seen = audited(certificate) if certificate is not None else None
    allowed = certificate.target.alpha if certificate is not None else _ALPHA
    worst = max(seen.risks, key=lambda risk: risk.high / risk.allowed) if seen is not None else None
    return Known(
        id=one.model.id,
        task=one.task,
        stage=str(one.model.stage),
        level=report.level if report is not None else None,
        kilobytes=sum(path.stat().st_size for path in folder.iterdir()) // 1024 if folder.is_dir() else 0,
        rows=report.rows if report is not None else None,
        agreement=report.agreement if report is not None else None,
        could_answer=report.coverage(allowed) if report is not None else None,
        allowed=allowed,
        promise=f"{certificate.target.kind} {certificate.target.alpha:.2%}" if certificate is not None else "",
        threshold=certificate.threshold if certificate is not None else None,
        answers=_answers(data_dir, certificate.statement) if certificate is not None else None,
        audits=seen.audits if seen is not None else 0,
        errors=worst.errors if worst is not None else 0,
        risk_high=worst.high if worst is not None else None,
        evidence=seen.evidence if seen is not None else None,
    )


def _report(folder: Path) -> Report | None:
    try:
        return msgspec.json.decode((folder / "report.json").read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # made otherwise: nothing is known of its training


def _answers(data_dir: Path, statement: bytes) -> tuple[float, float, float] | None:
    try:
        share = opened(statement, public_keys(data_dir)).coverage
    except (SignatureError, CertificateError):
        return None
    return share.estimate, share.low, share.high
