from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert

from support.feed_side import NOW_NS, T, click, filled, item
from upeti.feed import tables
from upeti.feed.items import User, checked_user
from upeti.feed.store import FeedStore, FeedStoreError


@pytest.fixture
def store(tmp_path: Path, state_url: str) -> FeedStore:
    return FeedStore(tmp_path, url=state_url)


def test_feedback_counts_once(store: FeedStore) -> None:
    assert store.add_feedback(T, [click("ana", "a"), click("ana", "a"), click("ana", "b")]) == 2
    assert store.add_feedback(T, [click("ana", "a", kind="like"), click("ana", "a")]) == 1
    assert [(one.item, one.kind) for one in store.feedback(T)] == [("a", "click"), ("b", "click"), ("a", "like")]


def test_feedback_that_is_replaced_has_a_new_place_in_the_log(store: FeedStore) -> None:
    store.add_feedback(T, [click("ana", "a", value=1), click("bo", "a", value=2)])
    last = store.feedback(T)[-1].sequence
    assert store.add_feedback(T, [click("ana", "a", value=5), click("ana", "a", value=7)], replace=True) == 1
    assert [(one.user, one.value) for one in store.feedback(T, after=last)] == [("ana", 7)]
    assert len(store.feedback(T)) == 2


def test_tenants_never_see_each_other(store: FeedStore) -> None:
    for tenant in ("acme", "beta"):
        store.put_items(tenant, [item("a", title=tenant)])
        store.put_users(tenant, [checked_user(User("ana", comment=tenant), NOW_NS)])
        store.add_feedback(tenant, [click("ana", "a")])
    assert store.tenants() == ["acme", "beta"]
    assert store.delete_user("acme", "ana")
    assert store.delete_item("acme", "a")
    assert (store.items("acme"), store.users("acme"), store.feedback("acme")) == ([], [], [])
    assert [one.labels for one in store.items("beta")] == [{"title": "beta"}]
    assert store.user("beta", "ana")
    assert len(store.feedback("beta")) == 1
    assert store.tenant_dir("a/b").parent == store.tenant_dir("beta").parent


def test_items_are_put_in_place_of_what_has_their_id_and_read_in_pages(store: FeedStore) -> None:
    store.put_items(T, [item("b", title="old"), item("a"), item("b", title="new")])
    assert [(one.id, one.labels) for one in store.items(T)] == [("a", {}), ("b", {"title": "new"})]
    assert [one.id for one in store.items(T, limit=1)] == ["a"]
    assert [one.id for one in store.items(T, after="a")] == ["b"]
    assert [one.id for one in store.changed_items(T, NOW_NS)] == ["a", "b"]
    assert store.changed_items(T, NOW_NS + 1) == []


def test_a_deleted_user_is_nowhere_in_the_files(tmp_path: Path) -> None:
    store = FeedStore(tmp_path)
    store.put_users(T, [checked_user(User("forget-me", comment="lives in Jakarta"), NOW_NS)])
    store.add_feedback(T, [click("forget-me", "a"), click("stays", "a")])
    assert store.delete_user(T, "forget-me")
    assert not store.delete_user(T, "forget-me")
    left = b"".join(path.read_bytes() for path in store.directory.glob("feed.sqlite3*"))
    assert b"forget-me" not in left
    assert b"Jakarta" not in left
    assert b"stays" in left


def test_writers_of_one_log_take_turns(store: FeedStore) -> None:
    def write(name: str) -> None:
        for number in range(20):
            store.add_feedback(T, [click(name, f"i{number}")])

    threads = [threading.Thread(target=write, args=(f"u{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.sequence for one in store.feedback(T)}) == 80


def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with store.writing() as connection:
        connection.execute(insert(tables.schema).values(version=tables.SCHEMA + 1))
    with pytest.raises(FeedStoreError, match="upgrade"):
        FeedStore(tmp_path)


def test_the_file_is_the_owner_s_alone(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for path in store.directory.glob("feed.sqlite3*"):
        assert path.stat().st_mode & 0o077 == 0
    assert sqlite3.connect(store.directory / "feed.sqlite3").execute("PRAGMA journal_mode").fetchone() == ("wal",)
