"""Keepers and workers for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import new_state
from support.keeper_side import Connect, FakeWorker, KeeperProcess, running_keeper


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperProcess]:
    """One keeper for the tests that leave it as it was; each has a budget of its own. One on SQLite, one on PostgreSQL."""
    with running_keeper(tmp_path_factory.mktemp("shared"), state_url=new_state(request)) as running:
        yield running


@pytest.fixture
def keeper(tmp_path: Path, state_url: str) -> Iterator[KeeperProcess]:
    with running_keeper(tmp_path, state_url=state_url) as running:
        yield running


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect workers that leave at the end of the test."""
    workers: list[FakeWorker] = []

    async def one(keeper: KeeperProcess, budget: str, *, instance: str = "", **options: Any) -> FakeWorker:
        name = instance or f"w{len(workers)}-{os.urandom(4).hex()}"
        workers.append(await FakeWorker.connect(keeper.socket, name, budget=budget, **options))
        return workers[-1]

    yield one
    for worker in workers:
        try:
            await worker.close()
        except ConnectionError:
            pass
