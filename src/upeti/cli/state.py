"""The state behind a configuration, for commands that change it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from upeti.cli.options import CONFIG_FILE
from upeti.core.config import Config
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.store import Store


def state_dir(config: Path | None) -> Path:
    """Return the data directory that the configuration names, be it there or not.

    Only that setting is looked at: a key must be revoked also while somebody is editing the file. Raises
    ``ConfigError``.
    """
    path = config or Path(CONFIG_FILE)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}; `upeti init` makes one, or name yours with --config") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; `upeti check` says more") from None
    name = values.get("data_dir", Config().data_dir)
    if not isinstance(name, str):
        raise ConfigError(f'{path}: data_dir is no text; write data_dir = "{Config().data_dir}"')
    return (path.absolute().parent / Path(name).expanduser()).resolve()


def open_state(config: Path | None) -> Store:
    """Open the state, made where it is not there yet. Raises ``ConfigError``."""
    directory = state_dir(config)
    from upeti.control.store import Store

    return Store(directory)
