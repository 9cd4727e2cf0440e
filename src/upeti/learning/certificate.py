"""A certificate: what is promised of a student, on which rows, bound to what; and everything of it computed again.

Rules: a certificate is a value that is never changed. It is bound to the student, the prompt template, the teacher, the label
set and the target: where one differs, it says nothing. What it states is computed from its rows alone, so whoever has the rows
computes it again, without the student and without this installation. Signing is the business of ``control.signing``. Pure.

Its probability is that of its look: all looks of a task together spend delta (``bounds.spent``), so that with probability
1 − delta *none* of the certificates of a task is wrong on the day of its rows, however many there will be.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from upeti.core.errors import UpetiError
from upeti.learning.bounds import spent
from upeti.learning.calibration import Row, RowsError, digest
from upeti.learning.target import Kind, Rate, Target, TargetError
from upeti.learning.threshold import Outcome, Path, Step, certify
from upeti.rights.envelope import unseal

SCHEMA: Final = "upeti.certificate/1"
PAYLOAD_TYPE: Final = "application/vnd.upeti.certificate+json"
LAPSES_AFTER_DAYS: Final = 7  # without an audit; `[learning] lapse_days` says otherwise

_CLOSE: Final = 1e-9  # floating-point functions of two machines may differ in the last digits; counts may not


class CertificateError(UpetiError):
    """A document is no certificate. The message says why."""


class NotCertified(UpetiError):
    """The rows do not show the target. ``outcome`` says what is lacking."""

    def __init__(self, outcome: Outcome) -> None:
        more = "" if outcome.needs is None else f"; about {outcome.needs:,} more calls would probably do"
        super().__init__(f"not certified: {outcome.reason}{more}")
        self.outcome = outcome


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a certificate is bound to."""

    task: str
    student_sha256: str
    template_sha256: str
    labels_sha256: str  # of the label set
    teacher_channel: str
    teacher_model: str  # as it was asked for
    teacher_version: str  # as it answered
    target: Target


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share with its interval."""

    estimate: float
    low: float
    high: float


class Stability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often the teacher, asked the same again, answered the same. Reported beside the student; no promise uses it."""

    same: int
    n: int


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A promise that was shown. Times are UTC, ISO 8601."""

    schema: str = SCHEMA
    issuer: str
    facts: Facts
    delta: Rate  # all certificates of the task together are wrong with at most this probability
    look: Annotated[int, Meta(ge=1)]  # which one of them this is
    delta_spent: Rate  # what this look spends of it
    path: Path | None  # the thresholds that were fixed beforehand; None where every threshold may be tried
    threshold: float
    coverage: Measured
    agreement: Measured
    n: int
    rows_sha256: str
    steps: tuple[Step, ...]
    valid_from: str
    lapses_after_days: Annotated[int, Meta(ge=1)]  # without one audit
    stability: Stability | None = None


def issue(
    facts: Facts,
    rows: Sequence[Row],
    *,
    issuer: str,
    valid_from: datetime.datetime,
    delta: float = 0.05,
    look: int = 1,
    path: Path | None = None,
    lapses_after_days: int = LAPSES_AFTER_DAYS,
    stability: Stability | None = None,
) -> Certificate:
    """Return the certificate that ``rows`` give. Raises ``NotCertified``, ``TargetError``, ``RowsError``.

    ``path`` is needed for a target of kind *answer*. ``look`` counts all attempts of the task, those that failed too.
    """
    rows_sha256 = digest(rows)
    delta_spent = spent(delta, look)
    outcome = certify(rows, facts.target, delta_spent, path)
    if outcome.threshold is None:
        raise NotCertified(outcome)
    return Certificate(
        issuer=issuer,
        facts=facts,
        delta=delta,
        look=look,
        delta_spent=delta_spent,
        path=path,
        threshold=outcome.threshold,
        coverage=Measured(*outcome.coverage),
        agreement=Measured(*outcome.agreement),
        n=outcome.n,
        rows_sha256=rows_sha256,
        steps=outcome.steps,
        valid_from=valid_from.astimezone(datetime.UTC).isoformat(timespec="seconds"),
        lapses_after_days=lapses_after_days,
        stability=stability,
    )


def payload(certificate: Certificate) -> bytes:
    """Return the canonical JSON of a certificate, which is what gets signed."""
    return msgspec.json.encode(certificate, order="sorted")


def parse(payload_type: str, data: bytes) -> Certificate:
    """Return the certificate in a signed payload. Raises ``CertificateError``."""
    if payload_type != PAYLOAD_TYPE:
        raise CertificateError(f"this is signed as {payload_type}, not as a certificate ({PAYLOAD_TYPE})")
    try:
        found = msgspec.json.decode(data, type=Certificate)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CertificateError(f"this is no certificate: {error}") from None
    if found.schema != SCHEMA:
        raise CertificateError(f"this certificate is of form {found.schema}; this Upeti reads {SCHEMA}")
    return found


def opened(envelope: bytes, keys: list[Ed25519PublicKey]) -> Certificate:
    """Return a certificate that one of ``keys`` signed. Raises ``SignatureError``, ``CertificateError``."""
    signed = unseal(envelope, keys)
    return parse(signed.payload_type, signed.payload)


def verify(certificate: Certificate, rows: Sequence[Row]) -> list[str]:
    """Compute everything again from ``rows`` alone and return what does not match, in words; empty: all of it does."""
    try:
        found = digest(rows)
    except RowsError as error:
        return [str(error)]
    wrong = []
    if found != certificate.rows_sha256:
        wrong.append(f"the rows are not those certified: their SHA-256 is {found}, not {certificate.rows_sha256}")
    due = spent(certificate.delta, certificate.look)
    if not _close(due, certificate.delta_spent):
        wrong.append(
            f"look {certificate.look} of delta {certificate.delta} may spend {due:.6g}, not {certificate.delta_spent:.6g}"
        )
    try:
        outcome = certify(rows, certificate.facts.target, certificate.delta_spent, certificate.path)
    except TargetError as error:
        return [*wrong, f"the target says nothing definite: {error}"]
    pairs: list[tuple[str, Any, Any]] = [
        ("number of rows", certificate.n, outcome.n),
        ("threshold", certificate.threshold, outcome.threshold),
        ("coverage", certificate.coverage, Measured(*outcome.coverage)),
        ("agreement", certificate.agreement, Measured(*outcome.agreement)),
        ("number of thresholds tested", len(certificate.steps), len(outcome.steps)),
    ]
    for number, (said, again) in enumerate(zip(certificate.steps, outcome.steps, strict=False), 1):
        pairs.append((f"test {number}, at threshold {said.threshold}", said, again))
    for name, said, again in pairs:
        if not _same(said, again):
            wrong.append(f"{name}: the certificate says {_words(said)}, the rows give {_words(again)}")
    if outcome.threshold is None:
        wrong.append(f"the rows do not show the target: {outcome.reason}")
    return wrong


def binds(certificate: Certificate, facts: Facts) -> list[str]:
    """Return what differs between what was certified and what there is now; empty: the certificate speaks of this."""
    wrong = []
    for field in msgspec.structs.fields(Facts):
        certified, now = getattr(certificate.facts, field.name), getattr(facts, field.name)
        if certified != now:
            wrong.append(f"{field.name.replace('_', ' ')}: certified for {_words(certified)}, now {_words(now)}")
    return wrong


def lapses_at(certificate: Certificate, last_audit: datetime.datetime | None = None) -> datetime.datetime:
    """Return when the certificate lapses if there is no audit from now on."""
    start = datetime.datetime.fromisoformat(certificate.valid_from)
    latest = start if last_audit is None else max(start, last_audit)
    return latest + datetime.timedelta(days=certificate.lapses_after_days)


def statement(certificate: Certificate) -> str:
    """Return what is promised, as one sentence."""
    target = certificate.facts.target
    allowed = f"{target.alpha:.4g}"
    if target.kind is Kind.SYSTEM:
        promise = (
            f"of all calls, a share of at most {allowed} is answered by the student and otherwise than by the teacher"
        )
    elif target.kind is Kind.ANSWER:
        promise = f"of the student's answers, a share of at most {allowed} is other than the teacher's"
    else:
        each = "; ".join(f"{', '.join(one.label)}: {one.alpha:.4g}" for one in target.classes)
        promise = (
            f"of the calls with each of these answers of the teacher, at most this share is answered by the student and "
            f"otherwise: {each}; and of all calls, a share of at most {allowed} is answered by the student where the teacher "
            "answers none of these"
        )
    return (
        f"On calls like those of its rows, {promise}. This is false with probability at most {certificate.delta_spent:.4g}, "
        f"and any certificate of the task with at most {certificate.delta:.4g}."
    )


def _same(said: object, again: object) -> bool:
    """Compare builtin values of two structs: counts and texts exactly, floats up to their last digits."""
    one, other = msgspec.to_builtins(said), msgspec.to_builtins(again)
    return _alike(one, other)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return _close(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-300)


def _words(value: object) -> str:
    if isinstance(value, Measured):
        return f"{value.estimate:.6g} ({value.low:.6g} to {value.high:.6g})"
    if isinstance(value, Step):
        counts = ", ".join(f"{one.limit} {one.errors} of {one.n}" for one in value.counted)
        return f"{value.served} served, {counts}, p = {value.p_value:.6g} at {value.level:.6g}"
    if isinstance(value, Target):
        return msgspec.json.encode(value).decode()
    return "none" if value is None else str(value)
