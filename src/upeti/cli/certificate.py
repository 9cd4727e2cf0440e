"""`upeti certificate`: what is promised of a student, and computing it again from the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from upeti.cli.options import ConfigOption, JsonOption, complaints
from upeti.cli.output import cell, console, plain, table
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.learning.certificate import Certificate, Measured

certificate_app = typer.Typer(
    help="Certificates of own models: what is promised, and computing it again.", no_args_is_help=True
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The signed certificate.")]
KeyOption = Annotated[
    Path | None, typer.Option(help="File with the signer's public key.", show_default="the keys of this installation")
]


@certificate_app.command("verify")
def verify_command(
    file: FileArgument,
    rows: Annotated[Path, typer.Option("--rows", help="The calibration rows (JSON lines) that it was made from.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compute everything that a certificate states again, from its rows alone; exit status 1 when something does not match.

    Needs nothing but the two files and the signer's public key. It cannot tell whether the rows were drawn fairly, nor whether
    the thresholds of a promise per answer were fixed before the rows were seen: that is the issuer's word.
    """
    from upeti.cli.state import state_of
    from upeti.control.signing import keys_in, public_keys
    from upeti.learning.calibration import RowsError, decode
    from upeti.learning.certificate import opened, verify
    from upeti.rights.envelope import SignatureError

    with complaints():
        data, row_data = _read(file), _read(rows)
        keys = keys_in(_read(key).decode(errors="replace")) if key is not None else public_keys(state_of(config)[0])
        certificate = None
        try:
            certificate = opened(data, keys)
        except SignatureError as error:
            wrong = [f"signature: {error}"]
        if certificate is not None:
            try:
                wrong = verify(certificate, decode(row_data))
            except RowsError as error:
                wrong = [f"rows: {error}"]
    if as_json:
        typer.echo(json.dumps({"sound": not wrong, "wrong": wrong}, indent=2))
    elif wrong:
        for one in wrong:
            typer.echo(f"upeti: {file}: {plain(one)}", err=True)
    elif certificate is not None:
        typer.echo(f"{file} is signed, and its {certificate.n:,} rows give all that it states.")
    if wrong:
        raise typer.Exit(1)


@certificate_app.command("show")
def show_command(file: FileArgument, as_json: JsonOption = False) -> None:
    """Print what a certificate promises, of what, and on which rows. It checks nothing: that is `verify`."""
    from upeti.learning.certificate import payload

    with complaints():
        certificate = _unchecked(_read(file))
    if as_json:
        typer.echo(msgspec.json.format(payload(certificate), indent=2).decode())
    else:
        _show(certificate)


def _show(certificate: Certificate) -> None:
    from upeti.learning.certificate import lapses_at, statement

    screen, facts = console(), certificate.facts
    screen.print(plain(statement(certificate)), markup=False, highlight=False)
    lines = [
        ("task", facts.task),
        ("student answers from confidence", f"{certificate.threshold:.6g}"),
        ("share of calls it answers", _interval(certificate.coverage)),
        ("agreement without a threshold", _interval(certificate.agreement)),
        ("teacher", f"{facts.teacher_model} at {facts.teacher_channel}, answering as {facts.teacher_version}"),
        ("student", facts.student_sha256),
        ("prompt template", facts.template_sha256),
        ("label set", facts.labels_sha256),
        ("rows", f"{certificate.n:,}, SHA-256 {certificate.rows_sha256}"),
        ("look", f"{certificate.look}, spends {certificate.delta_spent:.4g} of {certificate.delta:.4g}"),
        ("issued", f"{certificate.valid_from} by {certificate.issuer}"),
        ("lapses without audits", lapses_at(certificate).isoformat(timespec="seconds")),
    ]
    if certificate.stability is not None:
        same, n = certificate.stability.same, certificate.stability.n
        lines.insert(4, ("teacher agrees with itself", f"{same:,} of {n:,}"))
    shown = table([("what", False), ("value", False)])
    for what, value in lines:
        shown.add_row(what, cell(value))
    screen.print(shown)
    tests = table(
        [("threshold", True), ("served", True), ("limit", False), ("errors", True), ("rows", True), ("p", True)]
    )
    for step in certificate.steps:
        for counted in step.counted:
            tests.add_row(
                f"{step.threshold:.6g}",
                cell(step.served),
                cell(counted.limit),
                cell(counted.errors),
                cell(counted.n),
                f"{step.p_value:.3g}",
            )
    screen.print(tests)


def _interval(measured: Measured) -> str:
    return f"{measured.estimate:.1%} ({measured.low:.1%} to {measured.high:.1%})"


def _unchecked(data: bytes) -> Certificate:
    import base64
    import binascii

    from upeti.learning.certificate import CertificateError, parse
    from upeti.rights.envelope import Envelope

    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        content = base64.b64decode(envelope.payload, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
        raise CertificateError(f"this is no signed document (a DSSE envelope in JSON): {error}") from None
    return parse(envelope.payload_type, content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read ({error.strerror}); correct the path") from None
