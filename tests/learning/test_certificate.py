"""Certificates: their rows always give them again, any other rows never; what they are bound to is noticed when it changes."""

from __future__ import annotations

import base64
import datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.certify_side import CLASSES, FACTS, LABELS, certificate_of, population, samples
from upeti.learning import certificate as certificates
from upeti.learning.bounds import spent
from upeti.learning.calibration import Row
from upeti.learning.certificate import (
    PAYLOAD_TYPE,
    Certificate,
    CertificateError,
    NotCertified,
    binds,
    issue,
    lapses_at,
    opened,
    parse,
    payload,
    statement,
    verify,
)
from upeti.learning.target import Kind, Target
from upeti.rights.envelope import SignatureError, seal

DAY = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
kinds = st.sampled_from(list(Kind))


def certified(rows: list[Row], kind: Kind, look: int = 1) -> Certificate:
    try:
        return certificate_of(rows, kind, look)
    except NotCertified:
        assume(False)
        raise


@settings(deadline=None)
@given(samples(), kinds, st.integers(1, 4))
def test_its_rows_always_give_it_again_also_after_a_way_through_json(rows: list[Row], kind: Kind, look: int) -> None:
    certificate = certified(rows, kind, look)
    again = parse(PAYLOAD_TYPE, payload(certificate))
    assert again == certificate
    assert payload(again) == payload(certificate)
    assert verify(again, list(reversed(rows))) == []
    assert certificate.delta_spent == spent(certificate.delta, look)


@settings(deadline=None)
@given(st.integers(0, 1000), kinds, st.data())
def test_any_flipped_row_is_noticed(seed: int, kind: Kind, data: st.DataObject) -> None:
    rows = population(seed, 400, wrong=0.05)
    certificate = certified(rows, kind)
    place = data.draw(st.integers(0, len(rows) - 1))
    row = rows[place]
    other = next(label for label in LABELS if label != row.teacher)
    for changed in (
        msgspec.structs.replace(row, student=other if row.agrees else row.teacher),
        msgspec.structs.replace(row, teacher=other),
        msgspec.structs.replace(row, in_scope=not row.in_scope),
        msgspec.structs.replace(row, confidence=row.confidence / 2),
        msgspec.structs.replace(row, id="renamed"),
    ):
        assert (
            "the rows are not those certified" in verify(certificate, [*rows[:place], changed, *rows[place + 1 :]])[0]
        )
    assert verify(certificate, rows[:-1])
    assert verify(certificate, [*rows, rows[0]])


@pytest.mark.parametrize("kind", list(Kind))
def test_any_changed_statement_is_named(kind: Kind) -> None:
    rows = population(5, 600, wrong=0.05)
    certificate = certificate_of(rows, kind)
    step = certificate.steps[0]
    one_less = (msgspec.structs.replace(step.counted[0], errors=step.counted[0].errors + 1), *step.counted[1:])
    for name, value, words in (
        ("threshold", certificate.threshold / 2 + 0.001, "threshold: the certificate says"),
        ("n", 601, "number of rows"),
        ("rows_sha256", "0" * 64, "the rows are not those certified"),
        ("coverage", certificates.Measured(1.0, 1.0, 1.0), "coverage"),
        ("agreement", certificates.Measured(1.0, 1.0, 1.0), "agreement"),
        ("delta_spent", 0.04, "may spend"),
        ("look", 2, "may spend"),
        ("steps", certificate.steps[1:], "number of thresholds tested"),
        ("steps", (msgspec.structs.replace(step, counted=one_less), *certificate.steps[1:]), "test 1, at threshold"),
    ):
        wrong = verify(msgspec.structs.replace(certificate, **{name: value}), rows)
        assert any(words in one for one in wrong), (name, wrong)
    harder = msgspec.structs.replace(certificate.facts, target=Target(Kind.SYSTEM, 0.001))
    assert verify(msgspec.structs.replace(certificate, facts=harder), rows)
    assert verify(
        msgspec.structs.replace(certificate, facts=msgspec.structs.replace(harder, target=Target(Kind.CLASS, 0.1))),
        rows,
    )


def test_what_is_not_shown_is_not_certified() -> None:
    with pytest.raises(NotCertified, match=r"not certified: system: 20 rows.*more calls would probably do") as caught:
        certificate_of(population(1, 20), Kind.SYSTEM)
    assert caught.value.outcome.needs


def test_a_change_of_anything_it_is_bound_to_voids_it() -> None:
    certificate = certificate_of(population(5, 600), Kind.SYSTEM)
    facts = certificate.facts
    assert binds(certificate, facts) == []
    for field in msgspec.structs.fields(facts):
        value = Target(Kind.SYSTEM, 0.2) if field.name == "target" else "another"
        wrong = binds(certificate, msgspec.structs.replace(facts, **{field.name: value}))
        assert len(wrong) == 1
        assert wrong[0].startswith(field.name.replace("_", " "))
    assert "now another" in binds(certificate, msgspec.structs.replace(facts, teacher_version="another"))[0]


def test_it_lapses_without_audits() -> None:
    certificate = certificate_of(population(5, 600), Kind.SYSTEM)
    month = datetime.timedelta(days=certificate.lapses_after_days)
    assert lapses_at(certificate) == DAY + month
    later = DAY + datetime.timedelta(days=7)
    assert lapses_at(certificate, later) == later + month
    assert lapses_at(certificate, DAY - month) == DAY + month


def test_only_who_signed_it_is_believed() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    certificate = certificate_of(population(5, 600), Kind.CLASS)
    envelope = seal(key, PAYLOAD_TYPE, payload(certificate))
    assert opened(envelope, [other.public_key(), key.public_key()]) == certificate
    with pytest.raises(SignatureError):
        opened(envelope, [other.public_key()])
    forged = msgspec.json.decode(envelope)
    forged["payload"] = base64.b64encode(payload(msgspec.structs.replace(certificate, threshold=0.0))).decode()
    with pytest.raises(SignatureError):
        opened(msgspec.json.encode(forged), [key.public_key()])
    with pytest.raises(CertificateError, match="signed as text/plain"):
        opened(seal(key, "text/plain", payload(certificate)), [key.public_key()])
    with pytest.raises(CertificateError, match="no certificate"):
        parse(PAYLOAD_TYPE, b'{"schema":"upeti.certificate/1"}')
    with pytest.raises(CertificateError, match="of form"):
        parse(PAYLOAD_TYPE, payload(msgspec.structs.replace(certificate, schema="upeti.certificate/9")))


def test_it_says_what_is_promised() -> None:
    rows = population(5, 600, wrong=0.05)
    assert "answered by the student and otherwise than by the teacher" in statement(certificate_of(rows, Kind.SYSTEM))
    assert "of the student's answers" in statement(certificate_of(rows, Kind.ANSWER))
    words = statement(certificate_of(rows, Kind.CLASS))
    assert "yes: 0.1; no: 0.2" in words
    assert "where the teacher answers none of these" in words


def test_looks_of_one_task_are_ever_stricter() -> None:
    rows = population(5, 600, wrong=0.05)
    thresholds = [certificate_of(rows, Kind.SYSTEM, look).threshold for look in (1, 2, 5, 20)]
    assert thresholds == sorted(thresholds)
    with pytest.raises(ValueError, match="from 1"):
        issue(FACTS, rows, issuer="x", valid_from=DAY, look=0)
    assert CLASSES.classes
