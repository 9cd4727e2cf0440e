"""`upeti init`: a configuration to begin with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from upeti.cli.options import CONFIG_FILE
from upeti.core.errors import ConfigError


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path(CONFIG_FILE),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration file.

    It works as it is: with a small language model on this machine.
    """
    text = (files("upeti.cli") / "example.toml").read_text(encoding="utf-8")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; name another file, or replace it with --force") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file in a directory of yours") from None
    where = "" if path == Path(CONFIG_FILE) else f" --config {path}"
    typer.echo(f"{path} is written. Next:\n  upeti keys create --tenant me{where}\n  upeti serve{where}")
