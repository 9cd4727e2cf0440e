"""`/v1/experiments` and `/v1/worth` of a running service: arms take effect in the next feed, and the log comes to a verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from support.feed_side import FeedServer, feed_server
from support.keeper_side import until
from upeti.journal.acts import read_acts

EXPERIMENT = {
    "name": "worth",
    "arms": [
        {"name": "free", "mask": ["popularity", "collaborative", "metadata"]},
        {"name": "paid", "mask": ["popularity", "collaborative", "metadata", "enrichment_student", "enrichment_paid"]},
    ],
    "event_value": "0.01",
    "users_planned": 100,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedServer]:
    with feed_server(tmp_path_factory.mktemp("lab")) as running:
        assert running.call("POST", "/v1/experiments", {**EXPERIMENT, "name": "ended"})[0] == 201
        assert running.call("POST", "/v1/experiments/ended/drop")[0] == 200
        yield running


def test_from_a_draft_to_a_verdict(server: FeedServer) -> None:
    items = [
        {"ItemId": f"i{n}", "Labels": {"title": f"Film {n}"}, "Timestamp": "2026-01-01T00:00:00Z"} for n in range(20)
    ]
    assert server.call("POST", "/api/items", items)[0] == 200
    status, made = server.call("POST", "/v1/experiments?reason=to+know", EXPERIMENT, X_Upeti_Actor="ana")
    assert (status, made["state"]) == (201, "draft")
    status, said = server.call("GET", "/v1/worth?experiment=worth")
    assert status == 409
    assert "not begun" in said["error"]["message"]
    status, made = server.call("POST", "/v1/experiments/worth/start", X_Upeti_Actor="ana")
    assert (status, made["state"]) == (200, "running")
    until(lambda: server.call("GET", "/v1/status")[1]["experiments"] == ["worth"], seconds=20, what="the experiment")
    arms = set()
    for user in range(30):
        shown = server.call("GET", f"/v1/feed?user=u{user}&n=5")[1]
        assert shown["experiment"] == "worth"
        arms.add(shown["arm"])
        first = shown["items"][0]
        event = {"impression_id": first["impression_id"], "kind": "like", "user": f"u{user}", "item": first["item"]}
        assert server.call("POST", "/v1/impressions", [event])[0] == 200
    assert arms == {"free", "paid"}
    status, found = server.call("GET", "/v1/worth?experiment=worth")
    assert status == 200
    assert found["verdict"] == "undecided"
    assert sum(arm["users"] for arm in found["arms"]) == 30
    assert sum(arm["impressions"] for arm in found["arms"]) == 150
    assert {arm["events_per_1000"] for arm in found["arms"]} == {200.0}
    with httpx.Client(headers={"X-API-Key": "key-of-acme"}, timeout=30) as client:
        page = client.get(f"{server.url}/v1/worth/page?experiment=worth")
    assert page.headers["content-type"].startswith("text/html")
    assert "Undecided" in page.text
    acts = [(one.actor, one.kind, one.reason) for one in read_acts(server.service.data_dir)]
    assert ("ana", "experiment.drafted", "to know") in acts
    assert [one["state"] for one in server.call("GET", "/v1/experiments")[1]] == ["stopped", "running"]
    assert server.call("POST", "/v1/experiments/worth/stop")[1]["stopped_ns"] <= time.time_ns()


def test_another_tenant_sees_none_of_it(server: FeedServer) -> None:
    assert server.call("GET", "/v1/experiments", key="key-of-beta") == (200, [])
    assert server.call("GET", "/v1/experiments/ended", key="key-of-beta")[0] == 404
    assert server.call("GET", "/v1/worth?experiment=ended", key="key-of-beta")[0] == 404
    assert server.call("GET", "/v1/experiments", key="nobody's")[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/experiments", {"name": "x"}, 400, "no experiment"),
        ("POST", "/v1/experiments", b"{", 400, "no experiment"),
        ("POST", "/v1/experiments", {**EXPERIMENT, "name": "x/../y"}, 400, "no experiment"),
        ("POST", "/v1/experiments", {**EXPERIMENT, "event_value": "0"}, 409, "over 0"),
        ("POST", "/v1/experiments/none/start", None, 404, "there is no experiment"),
        ("POST", "/v1/experiments/ended/explode", None, 404, "/start, /stop, /drop"),
        ("POST", "/v1/experiments/ended/start", None, 409, "cannot be started"),
        ("GET", "/v1/worth?experiment=none", None, 404, "there is no experiment"),
    ],
)
def test_mistakes(server: FeedServer, method: str, path: str, body: object, status: int, says: str) -> None:
    found, said = server.call(method, path, body)
    assert found == status
    assert says in said["error"]["message"]
