"""`upeti secrets`: provider secrets, encrypted in the state."""

from __future__ import annotations

import getpass
import re
import sys
import time
from typing import Annotated

import typer

from upeti.cli.options import ConfigOption
from upeti.cli.state import open_state
from upeti.core.errors import ConfigError

# What `stored:NAME` takes.
_NAME = re.compile(r"[A-Za-z0-9_.-]+")

secrets_app = typer.Typer(help="Store provider secrets, encrypted.", no_args_is_help=True)


@secrets_app.command("set")
def set_command(
    name: Annotated[str, typer.Argument(help="Name, used in the configuration as `stored:NAME`.")],
    config: ConfigOption = None,
) -> None:
    """Store a secret, read from standard input or asked for without showing it.

    It is encrypted with AES-256-GCM under UPETI_MASTER_KEY, or under `master.key` in the data directory,
    which is made at first use: keep a copy of it elsewhere.
    """
    from upeti.control.seal import master_key_or_new, seal

    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is no name for a secret; use letters, digits and _ . -")
    store = open_state(config)
    key = master_key_or_new(store.data_dir)
    secret = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.read()
    secret = secret.strip()
    if not secret:
        raise ConfigError(f"nothing was given for {name}; pipe it in, such as `upeti secrets set {name} < FILE`")
    store.set_secret(name, seal(secret.encode(), key), time.time_ns())
    typer.echo(f'{name} is stored. Use it as: api_key = "stored:{name}"')


@secrets_app.command("list")
def list_command(config: ConfigOption = None) -> None:
    """List the names of the stored secrets."""
    for name in open_state(config).sealed_secrets():
        typer.echo(name)


@secrets_app.command("delete")
def delete_command(name: Annotated[str, typer.Argument(help="Its name.")], config: ConfigOption = None) -> None:
    """Delete a stored secret."""
    open_state(config).delete_secret(name)
    typer.echo(f"{name} is deleted.")
