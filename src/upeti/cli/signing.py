"""`upeti signing-key` and `upeti verify-signature`: the key that documents are signed with, and checking one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from upeti.cli.options import ConfigOption, JsonOption
from upeti.cli.state import state_of
from upeti.core.errors import ConfigError

signing_app = typer.Typer(help="The key that manifests and reports are signed with.", no_args_is_help=True)


@signing_app.command("show")
def show_command(config: ConfigOption = None) -> None:
    """Print the public keys, the newest last: give them to who checks what was signed here."""
    from upeti.control.signing import pem_of, public_keys

    keys = public_keys(state_of(config)[0])
    if not keys:
        raise ConfigError("nothing was signed here yet; `upeti signing-key rotate` makes a key now")
    typer.echo("".join(map(pem_of, keys)), nl=False)


@signing_app.command("rotate")
def rotate_command(config: ConfigOption = None) -> None:
    """Make a new key for what is signed from now on. What earlier keys signed can still be checked."""
    from upeti.control.signing import pem_of, rotate

    directory = state_of(config)[0]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    typer.echo(pem_of(rotate(directory)), nl=False)


def verify_signature(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The signed document (a DSSE envelope).")],
    key: Annotated[
        Path | None,
        typer.Option(help="File with the signer's public key.", show_default="the keys of this installation"),
    ] = None,
    payload: Annotated[bool, typer.Option("--payload", help="Print what was signed, and nothing else.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check who signed a document, and that it was not changed since.

    Needs nothing but the file and the key; exit status 1 when it does not fit.
    """
    from upeti.control.signing import keys_in, public_keys, verify
    from upeti.rights.envelope import SignatureError

    try:
        data = file.read_bytes()
        keys = keys_in(key.read_text()) if key is not None else public_keys(state_of(config)[0])
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read ({error.strerror}); correct the path") from None
    try:
        signed = verify(data, keys)
    except SignatureError as error:
        typer.echo(f"upeti: {file}: {error}", err=True)
        raise typer.Exit(1) from None
    if payload:
        sys.stdout.buffer.write(signed.payload)
    elif as_json:
        typer.echo(json.dumps({"sound": True, "type": signed.payload_type, "key": signed.key_id}))
    else:
        typer.echo(f"{file} is as it was signed, by the key {signed.key_id} ({signed.payload_type}).")
