"""Tests of the data plane run on the event loop that a worker runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from upeti.sim.provider import SimProvider


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def provider() -> AsyncIterator[SimProvider]:
    async with SimProvider() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[SimProvider]:
    """A second provider."""
    async with SimProvider() as running:
        yield running
