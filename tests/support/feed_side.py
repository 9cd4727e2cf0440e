"""What tests of the feed share."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from support.keeper_side import until
from upeti.core.config import Feed
from upeti.feed.api import create_app
from upeti.feed.http import TenantOf, unknown_key
from upeti.feed.items import Feedback, Item, checked_feedback, checked_item
from upeti.feed.service import FeedService
from upeti.feed.store import FeedStore

NOW_NS = 1_790_000_000 * 10**9
HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
T = "acme"


def item(name: str, at_ns: int = NOW_NS - 30 * DAY_NS, **labels: object) -> Item:
    return checked_item(Item(name, labels=labels, at_ns=at_ns), NOW_NS)


def click(user: str, name: str, at_ns: int = NOW_NS - HOUR_NS, kind: str = "click", value: float = 1.0) -> Feedback:
    return checked_feedback(Feedback(kind, user, name, value, at_ns), NOW_NS)


def filled(directory: Path) -> FeedStore:
    """Return a store with three items and one click."""
    store = FeedStore(directory)
    store.put_items(T, [item("a", genre=["war"]), item("b", genre=["love"]), item("c")])
    store.add_feedback(T, [click("ana", "a")])
    return store


def populated(directory: Path, days: int = 12, users: int = 60) -> FeedStore:
    """A tenant in which people like what is popular, and each their own kind."""
    store = FeedStore(directory)
    draw = np.random.default_rng(2)
    store.put_items(
        T, [item(f"i{n:03}", NOW_NS - 400 * DAY_NS, title=f"Film {n}", genre=[f"g{n % 4}"]) for n in range(160)]
    )
    rows = []
    for day in range(days):
        for user in range(users):
            for _ in range(2):
                kind = user % 4
                fresh = int(draw.integers(0, 8)) * 4 + kind + 4 * day
                rows.append(
                    click(
                        f"u{user:03}", f"i{fresh % 160:03}", NOW_NS - (days - day) * DAY_NS + int(draw.integers(DAY_NS))
                    )
                )
    store.add_feedback(T, rows)
    return store


KEYS = {"key-of-acme": T, "key-of-beta": "beta"}


def tenant_of(digest: bytes) -> str:
    for key, tenant in KEYS.items():
        if sha256(key.encode()).digest() == digest:
            return tenant
    raise unknown_key()


class FeedServer:
    """A feed service on a real port, in a thread of this process."""

    def __init__(self, directory: Path, settings: Feed | None = None, keys: TenantOf = tenant_of) -> None:
        self.service = FeedService(directory, settings or Feed(embed=False, refit_minutes=0), say=lambda _text: None)
        self.said: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = create_app(self.service, keys)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self._client = httpx.Client(timeout=30, verify=False)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join(30)

    def call(self, method: str, path: str, body: object = None, key: str = "key-of-acme", **headers: str) -> Any:
        """Return (status, JSON)."""
        given = {"X-API-Key": key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        answer = self._client.request(method, self.url + path, content=content, headers=given)
        return answer.status_code, answer.json()


@contextmanager
def feed_server(directory: Path, settings: Feed | None = None, keys: TenantOf = tenant_of) -> Iterator[FeedServer]:
    server = FeedServer(directory, settings, keys)
    server.start()
    try:
        yield server
    finally:
        server.stop()
