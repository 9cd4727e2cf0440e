"""What the service promises, on a real port: nothing acknowledged is lost, nothing counts twice, tenants never meet."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.feed_side import FeedServer, click, feed_server
from support.keeper_side import until
from upeti.core.config import Feed
from upeti.feed.impressions import ImpressionLog
from upeti.feed.items import TEXT_BYTES_MAX, Item, checked_item
from upeti.feed.store import FeedStore
from upeti.journal.acts import read_acts

AT = "2026-11-01T08:30:00Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedServer]:
    with feed_server(tmp_path_factory.mktemp("service")) as running:
        yield running


def event(user: str, item: str, kind: str = "like", **changes: object) -> dict[str, object]:
    return {"FeedbackType": kind, "UserId": user, "ItemId": item, "Timestamp": AT} | changes


def put(server: FeedServer, *names: str, key: str = "key-of-acme", **changes: object) -> None:
    rows = [{"ItemId": name, "Labels": {"title": name}, "Timestamp": AT} | changes for name in names]
    assert server.call("POST", "/api/items", rows, key)[0] == 200


def feed_of(server: FeedServer, user: str, key: str = "key-of-acme", **query: object) -> list[str]:
    extra = "".join(f"&{name}={value}" for name, value in query.items())
    status, body = server.call("GET", f"/v1/feed?user={user}&n=200{extra}", key=key)
    assert status == 200, body
    return [one["item"] for one in body["items"]]


def test_an_acknowledged_event_is_in_the_next_feed(server: FeedServer) -> None:
    put(server, "n1", "n2")
    for n in range(20):
        name = f"fresh{n}"
        put(server, name)
        assert name in feed_of(server, "now")
        assert server.call("POST", "/api/feedback", [event("now", name)])[1] == {"RowAffected": 1}
        assert name not in feed_of(server, "now")


def test_many_clients_at_once_count_each_event_once(server: FeedServer) -> None:
    put(server, "m1")
    new: list[int] = []

    def client(number: int) -> None:
        for n in range(10):
            rows = [event(f"m{n}", "m1"), event(f"only{number}", f"m-item{n}"), event(f"m{n}", "m1")]
            new.append(server.call("POST", "/api/feedback", rows)[1]["RowAffected"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 10 + 60
    state = server.service.tenant("acme").feed.state
    assert state.counters.total(slice(None))[state.catalogue.place("m1")] == 10


def test_tenants_never_meet(server: FeedServer) -> None:
    put(server, "shared", "of-acme")
    put(server, "shared", "of-beta", key="key-of-beta", Comment="beta's own")
    server.call("POST", "/api/feedback", [event("ana", "shared")])
    server.call("POST", "/api/user", {"UserId": "ana", "Comment": "acme's ana"})
    assert set(feed_of(server, "ana", "key-of-beta")) == {"shared", "of-beta"}
    assert "of-beta" not in feed_of(server, "ana")
    assert server.call("GET", "/api/item/shared", key="key-of-beta")[1]["Comment"] == "beta's own"
    for path in (
        "/api/item/of-acme",
        "/api/user/ana",
        "/api/item/of-acme/neighbors",
        "/v1/explain?user=ana&item=of-acme",
    ):
        assert server.call("GET", path, key="key-of-beta")[0] == 404, path
    for path in ("/api/user/ana/feedback", "/api/item/shared/feedback", "/v1/impressions?user=ana&n=1000"):
        found = server.call("GET", path, key="key-of-beta")[1]
        assert found == [] or {row["user"] for row in found} == {"ana"}
        assert "of-acme" not in json.dumps(found)
    server.call("DELETE", "/api/user/ana", key="key-of-beta")
    server.call("DELETE", "/api/item/shared", key="key-of-beta")
    assert server.call("GET", "/api/user/ana")[0] == server.call("GET", "/api/item/shared")[0] == 200
    assert server.call("GET", "/api/user/ana/feedback")[1]
    assert server.call("GET", "/v1/status", key="key-of-beta")[1]["items"] == 2


def test_a_deleted_user_is_gone_everywhere(server: FeedServer) -> None:
    put(server, "d1", "d2")
    server.call("POST", "/api/user", {"UserId": "erasable", "Comment": "lives somewhere"})
    server.call("POST", "/api/feedback", [event("erasable", "d1"), event("stays", "d1")])
    feed_of(server, "erasable")
    feed_of(server, "stays")
    assert server.call("GET", "/v1/impressions?user=erasable")[1]
    assert server.call("DELETE", "/api/user/erasable")[1] == {"RowAffected": 1}
    assert server.call("GET", "/api/user/erasable")[0] == 404
    assert server.call("GET", "/api/user/erasable/feedback")[1] == []
    assert server.call("GET", "/v1/impressions?user=erasable")[1] == []
    assert server.call("GET", "/v1/impressions?user=stays")[1]
    state = server.service.tenant("acme").feed.state
    assert state.counters.total(slice(None))[state.catalogue.place("d1")] == 1
    left = b"".join(path.read_bytes() for path in server.service.data_dir.rglob("*") if path.is_file())
    assert b"erasable" not in left
    assert b"stays" in left
    assert any(one.kind == "feed.user_deleted" for one in read_acts(server.service.data_dir))
    assert server.call("DELETE", "/api/user/erasable")[1] == {"RowAffected": 0}
    assert "d1" in feed_of(server, "erasable")  # as anybody who was never heard of


def test_feedback_can_be_replaced_and_taken_back(server: FeedServer) -> None:
    put(server, "p1")
    total = lambda: server.service.tenant("acme").feed.state.counters.total(slice(None))  # noqa: E731
    place = lambda: server.service.tenant("acme").feed.state.catalogue.place("p1")  # noqa: E731
    server.call("POST", "/api/feedback", [event("pat", "p1", Value=2)])
    assert server.call("PUT", "/api/feedback", [event("pat", "p1", Value=7)])[1] == {"RowAffected": 1}
    assert server.call("GET", "/api/feedback/like/pat/p1")[1]["Value"] == 7
    assert total()[place()] == 1
    assert server.service.tenant("acme").feed.state.profiles.get("pat").values().tolist() == [7]
    assert server.call("DELETE", "/api/feedback/like/pat/p1")[1] == {"RowAffected": 1}
    assert total()[place()] == 0
    assert "p1" in feed_of(server, "pat")
    assert server.call("GET", "/api/feedback/like/pat/p1")[0] == 404


def test_a_deleted_item_takes_its_feedback_with_it(server: FeedServer) -> None:
    put(server, "x1", Categories=["gone"])
    server.call("POST", "/api/feedback", [event("xan", "x1")])
    assert server.call("DELETE", "/api/item/x1")[1] == {"RowAffected": 1}
    assert server.call("GET", "/api/user/xan/feedback")[1] == []
    assert feed_of(server, "anybody", category="gone") == []
    assert server.service.tenant("acme").feed.state.profiles.get("xan").positive_count == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("/api/feedback", b"not json", 400, "body"),
        ("/api/feedback", [{"FeedbackType": "like", "UserId": "u"}], 400, "ItemId"),
        ("/api/feedback", [{"FeedbackType": "like", "UserId": "u", "ItemId": 3}], 400, "ItemId"),
        ("/api/feedback", b'[{"FeedbackType":"like","UserId":"u","ItemId":"i","Value":NaN}]', 400, "body"),
        ("/api/feedback", b'[{"FeedbackType":"like","UserId":"u","ItemId":"i","Value":1e999}]', 400, "Value"),
        ("/api/feedback", [event("", "i")], 400, "UserId"),
        ("/api/feedback", [event("a/b", "i")], 400, "UserId"),
        ("/api/feedback", [event("u", "i", Timestamp="yesterday")], 400, "Timestamp"),
        ("/api/item", {"ItemId": "big", "Comment": "x" * (TEXT_BYTES_MAX + 1)}, 413, "shorten"),
        ("/api/item", {"ItemId": "big", "Labels": {"t": "x" * (TEXT_BYTES_MAX + 1)}}, 413, "shorten"),
        ("/api/item", {"ItemId": "bad", "Labels": 7}, 400, "Labels"),
        ("/api/items", [{"ItemId": "ok"}, {"ItemId": ""}], 400, "ItemId"),
        ("/api/user", b"[" * 100_000, 400, "body"),
        ("/v1/feed", {"user": "u", "n": 0}, 400, "n is"),
        ("/v1/feed", {"user": "u", "profiling": "maybe"}, 400, "profiling"),
        ("/v1/feed", {"user": "u", "colour": "red"}, 400, "colour"),
        ("/v1/feed", {"user": ""}, 400, "user"),
        ("/v1/impressions", [{"impression_id": "i", "user": "u", "item": "i"}], 400, "kind"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_name(
    server: FeedServer, path: str, body: object, status: int, names: str
) -> None:
    found, answer = server.call("POST", path, body)
    assert found == status
    assert names in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 400
    if path == "/api/items":
        assert server.call("GET", "/api/item/ok")[0] == 404  # all or none


def test_a_body_without_end_is_refused(server: FeedServer) -> None:
    status, answer = server.call("POST", "/api/feedback", b" " * (33 * 1024 * 1024))
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/feed?user=u&n=0", "/v1/feed?user=u&n=many", "/v1/feed", "/api/items?n=-1"])
def test_parameters_that_are_wrong_are_named(server: FeedServer, path: str) -> None:
    status, answer = server.call("GET", path)
    assert (status, answer["error"]["code"]) == (400, "bad_parameter")
    assert answer["error"]["param"] in ("n", "user")


def test_a_clock_that_is_ahead_counts_as_now(server: FeedServer) -> None:
    put(server, "c1")
    server.call("POST", "/api/feedback", [event("cleo", "c1", Timestamp="2199-01-01T00:00:00Z")])
    kept = server.call("GET", "/api/user/cleo/feedback")[1][0]["Timestamp"]
    assert kept < "2100"
    server.call("POST", "/api/feedback", [event("cleo", "c2", Timestamp="1970-01-02T00:00:00Z")])
    feed = server.service.tenant("acme").feed
    decayed = feed.state.counters.decayed(slice(None), server.service.clock_ns() / 1e9)
    assert all(math.isfinite(value) for value in decayed.ravel())
    assert decayed[feed.state.catalogue.place("c2")].max() < 1e-9  # so long ago that it says nothing of today


def test_unknown_users_and_items_are_defined(server: FeedServer) -> None:
    put(server, "k1")
    assert "k1" in feed_of(server, "was-never-seen")
    assert server.call("POST", "/api/feedback", [event("new-user", "new-item")])[1] == {"RowAffected": 1}
    assert "new-item" not in feed_of(server, "somebody")  # nobody said what it is
    put(server, "new-item")
    assert "new-item" in feed_of(server, "somebody")
    assert "new-item" not in feed_of(server, "new-user")


def test_a_feed_is_logged_before_it_leaves_and_what_came_of_it_is_taken(server: FeedServer) -> None:
    put(server, "l1", "l2")
    status, body = server.call(
        "POST", "/v1/feed", {"user": "lou", "n": 5, "context": {"surface": "home"}, "exclude": ["l2"]}
    )
    assert status == 200
    assert "l2" not in [one["item"] for one in body["items"]]
    logged = server.call("GET", "/v1/impressions?user=lou")[1]
    assert [row["impression_id"] for row in logged] == [one["impression_id"] for one in body["items"]]
    assert logged[0]["context"] == {"surface": "home"}
    first = body["items"][0]
    engaged = {"impression_id": first["impression_id"], "user": "lou", "item": first["item"], "kind": "click"}
    assert server.call("POST", "/v1/impressions", [engaged])[1] == {"new": 1}
    assert server.call("POST", "/v1/impressions", [engaged])[1] == {"new": 0}
    explained = server.call("GET", f"/v1/explain?user=lou&item={first['item']}")[1]
    assert explained["why_not"] == "the user has seen it"


def test_profiling_off_by_request_and_by_the_user_s_setting(server: FeedServer) -> None:
    put(server, "q1")
    assert server.call("GET", "/v1/feed?user=quin&profiling=off")[1]["profiling"] is False
    server.call("POST", "/api/user", {"UserId": "quin", "Profiling": False})
    body = server.call("GET", "/v1/feed?user=quin")[1]
    assert (body["profiling"], body["arm"]) == (False, "not_profiled")
    server.call("PATCH", "/api/user/quin", {"Profiling": True})
    assert server.call("GET", "/v1/feed?user=quin")[1]["profiling"] is True


def test_the_api_describes_itself(server: FeedServer) -> None:
    described = server.call("GET", "/openapi.json", key="")[1]
    assert {"/v1/feed", "/v1/impressions", "/v1/explain", "/api/recommend/{user_id}", "/api/feedback"} <= set(
        described["paths"]
    )


def test_what_another_process_writes_is_taken(tmp_path: Path) -> None:
    with feed_server(tmp_path) as server:
        put(server, "a")
        other = FeedStore(tmp_path)
        now_ns = time.time_ns()
        other.put_items("acme", [checked_item(Item("imported"), now_ns)])
        other.put_items("gamma", [checked_item(Item("of-a-new-tenant"), now_ns)])
        other.add_feedback("acme", [click("ana", "imported"), click("ana", "a")])
        until(lambda: "imported" not in feed_of(server, "ana") and "imported" in feed_of(server, "bo"))
        assert "a" not in feed_of(server, "ana")


def test_after_a_restart_everything_is_as_it_was(tmp_path: Path) -> None:
    settings = Feed(embed=True, refit_minutes=0, explore_share=0)
    with feed_server(tmp_path, settings) as server:
        put(server, "a", "b", "c")
        server.call("POST", "/api/feedback", [event(f"u{n}", "a") for n in range(5)] + [event("ana", "b")])
        server.call("POST", "/api/user", {"UserId": "quiet", "Profiling": False})
        catalogue = server.service.tenant("acme").feed.state.catalogue
        until(lambda: bool(catalogue.has_vector.all()), seconds=60)
        before = [feed_of(server, user) for user in ("ana", "u1", "new")]
    with feed_server(tmp_path, Feed(embed=False, refit_minutes=0, explore_share=0)) as server:
        assert [feed_of(server, user) for user in ("ana", "u1", "new")] == before
        assert server.service.tenant("acme").feed.state.catalogue.has_vector.all()  # from their file
        assert server.call("GET", "/v1/feed?user=quiet")[1]["profiling"] is False
        log = ImpressionLog(server.service.store.tenant_dir("acme"))
        assert {row.user for row in log.read()} == {"ana", "u1", "new", "quiet"}
