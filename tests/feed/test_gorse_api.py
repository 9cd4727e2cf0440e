"""Gorse's own Python client, as it is published, against this service: its paths, its fields, its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gorse import Gorse, GorseException

from support.feed_side import FeedServer, feed_server
from support.keeper_side import until
from upeti.feed.store import FeedStore

AT = "2026-11-01T08:30:00Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedServer]:
    with feed_server(tmp_path_factory.mktemp("gorse")) as running:
        yield running


@pytest.fixture
def gorse(server: FeedServer) -> Gorse:
    return Gorse(server.url, "key-of-acme", timeout=20)


def movie(name: str, **changes: object) -> dict[str, object]:
    item: dict[str, object] = {
        "ItemId": name,
        "IsHidden": False,
        "Categories": ["film"],
        "Timestamp": AT,
        "Labels": {"genre": ["crime"], "title": name.title()},
        "Comment": f"The film {name}",
    }
    return item | changes


def test_items(gorse: Gorse) -> None:
    assert gorse.insert_item(movie("heat")) == {"RowAffected": 1}
    assert gorse.get_item("heat") == movie("heat")
    assert gorse.update_item("heat", is_hidden=True, labels=["war"], comment="other") == {"RowAffected": 1}
    changed = gorse.get_item("heat")
    assert (changed["IsHidden"], changed["Labels"], changed["Comment"]) == (True, ["war"], "other")
    assert (changed["Categories"], changed["Timestamp"]) == (["film"], AT)
    gorse.insert_item(movie("ronin"))
    page, cursor = gorse.get_items(1)
    assert [one["ItemId"] for one in page] == ["heat"]
    page, cursor = gorse.get_items(10, cursor)
    assert ([one["ItemId"] for one in page], cursor) == (["ronin"], "")
    assert [one["ItemId"] for one in gorse.search_items("film RONIN")] == ["ronin"]
    assert gorse.delete_item("heat") == {"RowAffected": 1}
    with pytest.raises(GorseException) as raised:
        gorse.get_item("heat")
    assert raised.value.status_code == 404


def test_users(gorse: Gorse) -> None:
    user = {"UserId": "bob", "Labels": {"age": 24}, "Subscribe": [], "Comment": "a user", "Profiling": True}
    assert gorse.insert_user({"UserId": "bob", "Labels": {"age": 24}, "Comment": "a user"}) == {"RowAffected": 1}
    assert gorse.get_user("bob") == user
    assert gorse.insert_users([{"UserId": "ana"}, {"UserId": "cyd", "Labels": None}]) == {"RowAffected": 2}
    page, cursor = gorse.get_users(2)
    assert [one["UserId"] for one in page] == ["ana", "bob"]
    page, cursor = gorse.get_users(2, cursor)
    assert ([one["UserId"] for one in page], cursor) == (["cyd"], "")
    assert gorse.delete_user("bob") == {"RowAffected": 1}
    with pytest.raises(GorseException) as raised:
        gorse.get_user("bob")
    assert raised.value.status_code == 404


def test_feedback(gorse: Gorse) -> None:
    rows = [
        {"FeedbackType": "star", "UserId": "dan", "ItemId": name, "Value": 1.5, "Timestamp": AT, "Comment": ""}
        for name in ("f1", "f2", "f3")
    ]
    assert gorse.insert_feedbacks(rows) == {"RowAffected": 3}
    assert gorse.insert_feedback("star", "dan", "f1", AT, 9) == {"RowAffected": 0}
    assert gorse.list_feedbacks("star", "dan") == rows
    assert gorse.list_feedbacks("like", "dan") == []
    page, cursor = gorse.get_feedbacks(2)
    rest, _ = gorse.get_feedbacks(10, cursor)
    assert [one["ItemId"] for one in page + rest if one["UserId"] == "dan"] == ["f1", "f2", "f3"]
    assert gorse.delete_feedback("dan", "f1") == {"RowAffected": 1}
    assert gorse.list_feedbacks("star", "dan") == rows[1:]


def test_recommend(gorse: Gorse) -> None:
    for name in ("r1", "r2", "r3", "r4"):
        gorse.insert_item(movie(name, Categories=["recommended"]))
    gorse.insert_item(movie("hidden", IsHidden=True, Categories=["recommended"]))
    for user in ("u1", "u2", "u3"):
        gorse.insert_feedback("like", user, "r2", AT)
        gorse.insert_feedback("like", user, "hidden", AT)
    gorse.insert_feedback("like", "u1", "r3", AT)
    found = gorse.get_recommend("somebody-new", "recommended", n=3)
    assert [one.id for one in found][:2] == ["r2", "r3"]
    assert found[0].score > found[1].score
    assert "r2" not in [one.id for one in gorse.get_recommend("u2", "recommended", n=10)]
    assert [one.id for one in gorse.get_recommend("somebody-new", "recommended", n=1, offset=1)] == ["r3"]
    assert gorse.get_recommend("somebody-new", "no-such-category") == []


def test_what_is_written_back_is_not_recommended_again(gorse: Gorse) -> None:
    for name in ("w1", "w2"):
        gorse.insert_item(movie(name, Categories=["written"]))
    (first,) = gorse.get_recommend("reader", "written", n=1, write_back_type="read")
    (second,) = gorse.get_recommend("reader", "written", n=1, write_back_type="read")
    assert {first.id, second.id} == {"w1", "w2"}


def test_what_is_written_back_later_is_recommended_until_then(gorse: Gorse) -> None:
    gorse.insert_item(movie("later", Categories=["delayed"]))
    for delay in ("0h0m1s", "1h0m0s"):
        (found,) = gorse.get_recommend(delay, "delayed", n=1, write_back_type="read", write_back_delay=delay)
        assert found.id == "later"
        assert [one.id for one in gorse.get_recommend(delay, "delayed", n=1)] == ["later"]
    until(lambda: gorse.list_feedbacks("read", "0h0m1s"))
    assert gorse.get_recommend("0h0m1s", "delayed", n=1) == []
    assert gorse.list_feedbacks("read", "1h0m0s") == []
    for wrong in ("soon", "-1h", "25h0m0s", "1.5h"):
        with pytest.raises(GorseException) as raised:
            gorse.get_recommend("reader", write_back_type="read", write_back_delay=wrong)
        assert raised.value.status_code == 400


def test_a_stop_writes_early_what_was_put_off(tmp_path: Path) -> None:
    with feed_server(tmp_path) as server:
        gorse = Gorse(server.url, "key-of-acme", timeout=20)
        gorse.insert_item(movie("later"))
        gorse.get_recommend("ana", n=1, write_back_type="read", write_back_delay="1h0m0s")
    assert [one.item for one in FeedStore(tmp_path).feedback("acme")] == ["later"]


def test_users_are_looked_for_by_words(server: FeedServer, gorse: Gorse) -> None:
    gorse.insert_user({"UserId": "zoe", "Comment": "reads Much"})
    found = server.call("GET", "/api/users?q=much")[1]
    assert [one["UserId"] for one in found["Users"]] == ["zoe"]


def test_sessions_and_neighbours(gorse: Gorse) -> None:
    for name in ("s1", "s2"):
        gorse.insert_item(movie(name))
    found = gorse.session_recommend([{"FeedbackType": "like", "UserId": "x", "ItemId": "s1", "Timestamp": AT}], n=50)
    names = [one["Id"] for one in found]
    assert "s1" not in names
    assert "s2" in names
    assert gorse.get_neighbors("s1") == []  # nothing is trained yet
    with pytest.raises(GorseException) as raised:
        gorse.get_neighbors("nothing")
    assert raised.value.status_code == 404


def test_a_wrong_key_opens_nothing(server: FeedServer) -> None:
    for call in (lambda one: one.get_items(1), lambda one: one.get_recommend("u1"), lambda one: one.get_user("u1")):
        with pytest.raises(GorseException) as raised:
            call(Gorse(server.url, "guess", timeout=20))
        assert raised.value.status_code == 401


def test_the_lists_that_need_no_user(server: FeedServer, gorse: Gorse) -> None:
    gorse.insert_item(movie("old", Categories=["dated"], Timestamp="2020-01-01T00:00:00Z"))
    gorse.insert_item(movie("new", Categories=["dated"], Timestamp="2026-01-01T00:00:00Z"))
    gorse.insert_feedback("like", "u9", "old", AT)
    assert [one["Id"] for one in server.call("GET", "/api/latest/dated")[1]] == ["new", "old"]
    assert [one["Id"] for one in server.call("GET", "/api/popular/dated")[1]] == ["old"]
    for path in ("/api/health/live", "/api/health/ready"):
        status, health = server.call("GET", path, key="")
        assert (status, health["Ready"]) == (200, True)
