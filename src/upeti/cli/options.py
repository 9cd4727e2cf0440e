"""Options that several commands share, and what they mean.

A command that only reads finds the data directory without checking the whole configuration: a bill must come
out also while somebody is editing the file.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from upeti.core.config import Config
from upeti.core.errors import ConfigError, UpetiError

CONFIG_FILE = "upeti.toml"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="UPETI_CONFIG",
        help=f"Configuration file, which says where the data are; without it ./{CONFIG_FILE}.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory, in place of the one the configuration names.", show_default=False),
]
ByOption = Annotated[str, typer.Option("--by", help="Who decides: a person's name.")]
AnswerableOption = Annotated[str, typer.Option("--by", help="Who answers for it: a person's name.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why; it is journaled and shown.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; money as exact decimal strings.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV; money as exact decimals.")]
FirstDayOption = Annotated[
    datetime.datetime | None,
    typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.", show_default=False),
]
LastDayOption = Annotated[
    datetime.datetime | None,
    typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, UTC, included.", show_default=False),
]
TenantOption = Annotated[str | None, typer.Option(help="Only this tenant.", show_default=False)]
SkipDamagedOption = Annotated[
    bool,
    typer.Option(
        "--skip-damaged", help="Leave out what cannot be read of a damaged journal, and say so, in place of an error."
    ),
]


@contextmanager
def complaints() -> Iterator[None]:
    """Turn an error of ours into one line on stderr and exit status 2."""
    try:
        yield
    except UpetiError as error:
        typer.echo(f"upeti: {error}", err=True)
        raise typer.Exit(2) from error


def data_dir_of(config: Path | None, data_dir: Path | None) -> Path:
    """Return the data directory: ``data_dir`` itself, or what ``config`` says, relative to the file.

    Raises ``ConfigError`` when there is no such file or directory, or the file cannot be read.
    """
    if data_dir is not None:
        if not data_dir.is_dir():
            raise ConfigError(f"{data_dir} is not a directory; name the one that `upeti serve` writes to")
        return data_dir
    path, values = _read(config)
    found = path.parent / _text(path, values, "data_dir", Config().data_dir)
    if not found.is_dir():
        raise ConfigError(f"{path} names the data directory {found}, which is not there; has `upeti serve` run?")
    return found


def rates_file_of(config: Path | None) -> Path | None:
    """Return ``money.rates_file`` of the configuration, if there is one. Raises ``ConfigError``."""
    return _money_file_of(config, "rates_file")


def tenants_file_of(config: Path | None) -> Path | None:
    """Return ``money.tenants_file`` of the configuration, if there is one. Raises ``ConfigError``."""
    return _money_file_of(config, "tenants_file")


def _money_file_of(config: Path | None, setting: str) -> Path | None:
    if config is None and not Path(CONFIG_FILE).is_file():
        return None
    path, values = _read(config)
    money = values.get("money", {})
    name = _text(path, money if isinstance(money, dict) else {}, setting, "")
    return path.parent / name if name else None


class ChannelAccount(NamedTuple):
    """What a configuration says of whose account a channel is."""

    name: str
    kind: str
    base_url: str
    account: str
    zone: str


def accounts_of(config: Path | None) -> list[ChannelAccount]:
    """Return the channels that the configuration has now, with their accounts. Raises ``ConfigError``."""
    if config is None and not Path(CONFIG_FILE).is_file():
        return []
    _, values = _read(config)
    channels = [one for one in values.get("channel", []) if isinstance(one, dict)]
    return [ChannelAccount(*(str(one.get(name, "")) for name in ChannelAccount._fields)) for one in channels]


def price_files_of(config: Path | None) -> list[Path]:
    """Return ``money.price_files`` of the configuration, if there is one. Raises ``ConfigError``."""
    if config is None and not Path(CONFIG_FILE).is_file():
        return []
    path, values = _read(config)
    money = values.get("money", {})
    names = money.get("price_files", []) if isinstance(money, dict) else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{path}: price_files must be a list of files, such as ["prices.toml"]')
    return [path.parent / name for name in names]


def _read(config: Path | None) -> tuple[Path, dict[str, Any]]:
    path = config or Path(CONFIG_FILE)
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}; go to its directory, or name it with --config or UPETI_CONFIG, "
            "or name the data with --data-dir"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; `upeti check` says more") from error


def _text(path: Path, values: dict[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise ConfigError(f'{path}: {name} must be a text, such as {name} = "{default or "…"}"')
    return value


def values_of(config: Path | None) -> dict[str, Any]:
    """Return what the configuration says, unchecked; {} when none is named and there is none here."""
    if config is None and not Path(CONFIG_FILE).is_file():
        return {}
    return _read(config)[1]
