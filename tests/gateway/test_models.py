"""Which models a key sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import candidate, channel, route, snapshot
from upeti.core.errors import NotFound
from upeti.gateway.live import LiveView, build
from upeti.gateway.models import models_body
from upeti.gateway.snapshot import Caller

EVERYTHING = Caller("k1", "acme", "")
ONE = Caller("k2", "acme", "", routes=frozenset({"fast"}))
ANY = Caller("k3", "acme", "", routes=frozenset({"*"}))


@pytest.fixture
def view(tmp_path: Path) -> Iterator[LiveView]:
    loop = asyncio.new_event_loop()
    routes = [route("fast", candidate("up"), created_s=5), route("slow", candidate("up")), route("*", candidate("up"))]

    def no_tokens(*arguments: Any) -> Any:
        raise AssertionError(arguments)

    yield build(snapshot([channel("up", 80)], routes), None, loop, tmp_path, no_tokens)
    loop.close()


@pytest.mark.parametrize(("caller", "names"), [(EVERYTHING, ["fast", "slow"]), (ONE, ["fast"]), (ANY, [])])
def test_the_list(view: LiveView, caller: Caller, names: list[str]) -> None:
    body = json.loads(models_body(view, caller, ""))
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == names


@pytest.mark.parametrize(
    ("caller", "name", "found"),
    [
        (EVERYTHING, "fast", True),
        (EVERYTHING, "anything", True),  # by the route for all names
        (EVERYTHING, "*", False),
        (ONE, "fast", True),
        (ONE, "slow", False),
        (ONE, "anything", False),
        (ANY, "anything", True),
        (ANY, "fast", False),
    ],
)
def test_one(view: LiveView, caller: Caller, name: str, found: bool) -> None:
    if found:
        created = 5 if name == "fast" else 0
        assert json.loads(models_body(view, caller, name)) == {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "upeti",
        }
        return
    with pytest.raises(NotFound) as caught:
        models_body(view, caller, name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
