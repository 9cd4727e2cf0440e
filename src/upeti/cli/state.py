"""The state behind a configuration, for commands that change it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from upeti.cli.options import CONFIG_FILE, data_dir_of
from upeti.core.config import Config, State
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.control.store import Store
    from upeti.journal.bodies import Bodies
    from upeti.rights.terms import Terms


def state_of(config: Path | None) -> tuple[Path, str]:
    """Return the data directory that the configuration names, be it there or not, and the URL of the state.

    Only these settings are looked at: a key must be revoked also while somebody is editing the file. The URL is empty for
    SQLite, and may hold a password. Raises ``ConfigError``.
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
    base = path.absolute().parent
    try:
        state = msgspec.convert(values.get("state", {}), State)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: [state]: {error}; `upeti check` says more") from None
    if state.password is not None and state.password.startswith("file:"):
        place = (base / Path(state.password.removeprefix("file:")).expanduser()).resolve()
        state = msgspec.structs.replace(state, password=f"file:{place}")
    url = ""
    if state.url:
        from upeti.control.database import url_of

        url = url_of(state)
    return (base / Path(name).expanduser()).resolve(), url


def open_state(config: Path | None) -> Store:
    """Open the state, made where it is not there yet. Raises ``ConfigError``, ``StoreError``."""
    directory, url = state_of(config)
    from upeti.control.store import Store

    return Store(directory, url=url)


@contextmanager
def open_books(config: Path | None, data_dir: Path | None) -> Iterator[Store]:
    """Open the state for reading its books: that of ``data_dir``, in SQLite, or the one that ``config`` names.

    Raises ``ConfigError``, ``StoreError``.
    """
    if data_dir is None:
        store = open_state(config)
    else:
        from upeti.control.store import Store

        store = Store(data_dir_of(None, data_dir))
    try:
        yield store
    finally:
        store.close()


class Opened(NamedTuple):
    """What commands about rights, data sets and models work with."""

    store: Store
    terms: Terms
    bodies: Bodies


@contextmanager
def opened_rights(config: Path | None, *, terms: bool = True) -> Iterator[Opened]:
    """Open state, terms and bodies that the configuration names; without ``terms`` it may be in the middle of being edited.

    Raises ``ConfigError``, ``StoreError``.
    """
    from upeti.control import config_file
    from upeti.control.rights import terms_in_force
    from upeti.journal.bodies import bodies_at
    from upeti.rights.terms import Terms

    path = config or Path(CONFIG_FILE)
    store = open_state(config)
    try:
        if terms:
            settings = config_file.read(path).config
            yield Opened(store, terms_in_force(store, settings), bodies_at(store.data_dir, settings.capture.url))
        else:
            yield Opened(store, Terms(), bodies_at(store.data_dir, ""))
    finally:
        store.close()
