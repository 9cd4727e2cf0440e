"""What all tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.postgres import Postgres, running_postgres
from upeti.control.store import Store

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("upeti", deadline=None)
settings.load_profile("upeti")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for the session."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest) -> str:
    """What goes into ``[state] url``: a test that asks for it runs on SQLite and on PostgreSQL, each time on a new state."""
    return new_state(request)


def new_state(request: pytest.FixtureRequest) -> str:
    """Return the URL of a new state of the kind that the fixture's parameter names; empty for SQLite."""
    if request.param == "sqlite":
        return ""
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def open_store(tmp_path: Path, state_url: str) -> Iterator[Callable[[], Store]]:
    """Open the test's state, as often as it is called; on SQLite and on PostgreSQL."""
    opened: list[Store] = []

    def one() -> Store:
        opened.append(Store(tmp_path / "data", url=state_url))
        return opened[-1]

    yield one
    for store in opened:
        store.close()
