"""What tests of the feed share."""

from __future__ import annotations

from pathlib import Path

from upeti.feed.items import Feedback, Item, checked_feedback, checked_item
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
