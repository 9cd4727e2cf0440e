"""Two rankings in one list, and what an idea would have earned: served, logged, and told from the log."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from support.feed_side import DAY_NS, HOUR_NS, NOW_NS, T, click, feed_server, item
from support.keeper_side import until
from upeti.cli.main import main
from upeti.core.config import Feed
from upeti.core.errors import ConfigError
from upeti.feed.experiment import METADATA, POPULARITY, STUDENT, Arm, Experiment, State, check
from upeti.feed.impressions import Impression, ImpressionLog
from upeti.feed.items import Feedback
from upeti.feed.preferences import engaged_of, preferred, screened
from upeti.feed.serve import FeedRequest, TenantFeed
from upeti.feed.state import FeedState
from upeti.feed.store import FeedStore
from upeti.feed.worth_data import report

POPULAR = Arm("popular", frozenset({POPULARITY, METADATA}))
CONTENT = Arm("content", frozenset({STUDENT, METADATA}))
TASTE = Experiment(
    "taste", (POPULAR, CONTENT), interleaved=True, users_planned=100, state=State.RUNNING, started_ns=NOW_NS - DAY_NS
)


def row(name: str, user: str, shown: str, at_ns: int, arm: str = "", **changes: object) -> Impression:
    made = Impression(name, name, at_ns, user, shown, 0, ("popular",), arm, "taste" if arm else "", 0.5, 0.0)
    return msgspec.structs.replace(made, **changes)


def two_tastes() -> TenantFeed:
    """Items 0 to 19 are what everybody clicks; 20 to 39 nobody did, and their texts are what the users like."""
    state = FeedState()
    state.put_items(item(f"i{n:02}", title=f"T{n}") for n in range(40))
    vectors = np.zeros((40, state.catalogue.vectors.shape[1]), np.float32)
    vectors[:20, 0] = 1.0
    vectors[19:, 1] = 1.0
    state.catalogue.set_vectors(np.arange(40), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    state.apply([click(f"u{n}", f"i{n % 19:02}", NOW_NS - HOUR_NS) for n in range(300)])
    state.apply([click("ana", "i19")])
    return TenantFeed(state, Feed(diversity=0, explore_share=0), Random(1))


def test_a_list_is_drafted_from_both_arms_and_says_whose_pick_each_item_is() -> None:
    feed = two_tastes()
    feed.experiments = (TASTE,)
    answer = feed.feed(FeedRequest("ana", 10), NOW_NS)
    assert answer.arm.name == "interleaved"
    assert len({one.item for one in answer.entries}) == 10
    picked = {row.item: row.arm for row in answer.impressions}
    assert {row.experiment for row in answer.impressions} == {"taste"}
    assert sum(arm == "popular" for arm in picked.values()) == 5  # in turns
    for name, arm in picked.items():
        sources = next(one.sources for one in answer.entries if one.item == name)
        assert ("content" in sources) if arm == "content" else bool({"popular", "trending"} & set(sources))
    later = feed.feed(FeedRequest("ana", 5, offset=5), NOW_NS)
    assert [one.rank for one in later.entries] == [5, 6, 7, 8, 9]
    assert feed.feed(FeedRequest("ana", 10, profiling=False), NOW_NS).arm.name == "not_profiled"


def test_an_event_counts_for_the_last_impression_before_it_within_the_time() -> None:
    rows = [row("first", "ana", "a", 100), row("second", "ana", "a", 200), row("other", "ana", "b", 200)]

    def engaged(at_ns: int, kind: str = "like", item: str = "a") -> set[str]:
        return engaged_of(rows, [Feedback(kind, "ana", item, 1.0, at_ns)], (), 1)

    assert engaged(99) == set()
    assert engaged(150) == {"first"}
    assert engaged(250) == {"second"}
    assert engaged(200 + 10**9) == {"second"}
    assert engaged(201 + 10**9) == set()
    assert engaged(250, "hide") == set()
    assert engaged(250, item="c") == set()
    assert engaged_of(rows, [Feedback("like", "ana", "a", 1.0, 250)], ("buy",), 1) == set()


def interleaved_log(directory: Path, likes_content: float) -> list[Feedback]:
    draw = Random(3)
    log = ImpressionLog(directory)
    events = []
    for n in range(400):
        rows = [
            row(f"{n}-{arm}", f"u{n % 200}", f"{n}-{arm}", NOW_NS - HOUR_NS + n, arm) for arm in ("popular", "content")
        ]
        log.append(rows)
        liked = rows[int(draw.random() < likes_content)]
        events.append(Feedback("like", liked.user, liked.item, 1.0, liked.at_ns + 10**9))
    log.close()
    return events


def test_what_people_prefer_is_found_and_nothing_is_claimed_of_equals(tmp_path: Path) -> None:
    for name, likes, low, high in (("more", 0.7, 0.1, 1), ("less", 0.3, -1, -0.1)):
        events = interleaved_log(tmp_path / name, likes)
        found = preferred(TASTE, ImpressionLog(tmp_path / name), events, NOW_NS)
        assert low < found.preference.interval.estimate < high
        assert found.preference.interval.excludes_zero
        assert ("content to popular" in found.advice) == (likes > 0.5)
        assert (found.impressions, found.events) == (800, 400)
    same = preferred(TASTE, ImpressionLog(tmp_path / "same"), interleaved_log(tmp_path / "same", 0.5), NOW_NS)
    assert "neither is preferred" in same.advice


def test_an_experiment_is_one_or_the_other(tmp_path: Path) -> None:
    plain = msgspec.structs.replace(TASTE, interleaved=False)
    log = ImpressionLog(tmp_path)
    with pytest.raises(ConfigError, match="is not interleaved"):
        preferred(plain, log, [], NOW_NS)
    with pytest.raises(ConfigError, match="not begun"):
        preferred(msgspec.structs.replace(TASTE, started_ns=0), log, [], NOW_NS)
    with pytest.raises(ConfigError, match="not what it is worth"):
        report(TASTE, FeedStore(tmp_path), T, NOW_NS)
    with pytest.raises(ConfigError, match="interleave two arms"):
        check(msgspec.structs.replace(TASTE, item_holdout_share=0.1))


def test_a_screen_weighs_what_was_shown_by_what_the_idea_would_have_shown(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    draw = Random(4)
    rows, events, idea = [], [], {}
    for n in range(
        4000
    ):  # two items at even odds: a is liked in 10 %, b in 40 % of cases; the idea shows b four times of five
        shown = draw.choice("ab")
        rows.append(row(f"r{n}", f"u{n}", shown, NOW_NS + n))
        idea[f"r{n}"] = 0.8 if shown == "b" else 0.2
        if draw.random() < (0.4 if shown == "b" else 0.1):
            events.append(Feedback("like", f"u{n}", shown, 1.0, NOW_NS + n + 1))
    log.append(rows)
    found = {one.method: one for one in screened(idea, [TASTE], log, events)}
    assert set(found) == {"ips", "snips"}
    for one in found.values():
        assert one.is_trusted
        assert one.interval.low < 0.8 * 0.4 + 0.2 * 0.1 < one.interval.high
    for wrong, message in (
        ({"r0": 0.5, "r9999": 0.5, "r1": 0.1}, "1 of 3"),
        ({}, "2 or more"),
        ({"r0": 1.5, "r1": 0}, "in"),
    ):
        with pytest.raises(ConfigError, match=message):
            screened(wrong, [TASTE], log, events)
    mixed = ImpressionLog(tmp_path / "mixed")
    mixed.append([row(f"m{n}", "u", "a", NOW_NS + n, "popular") for n in range(3)])
    with pytest.raises(ConfigError, match="interleaved"):
        screened({"m0": 1.0, "m1": 1.0}, [TASTE], mixed, events)


def test_both_over_http_and_at_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "upeti.toml"
    config.write_text('data_dir = "."\n')
    given = ("--tenant", T, "--config", str(config))

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["feed", "experiment", *arguments, *given])
        assert not ended.value.code
        return capsys.readouterr().out

    arms = ("--arm", "popular=popularity", "--arm", "free=free")
    made = json.loads(said("create", "taste", *arms, "--interleaved", "--json"))
    assert made[0]["interleaved"] is True
    said("start", "taste")
    with feed_server(tmp_path, Feed(embed=False, refit_minutes=0, explore_share=0.5)) as server:
        server.call("POST", "/api/items", [{"ItemId": f"i{n}", "Timestamp": "2026-01-01T00:00:00Z"} for n in range(30)])
        until(lambda: server.call("GET", "/v1/status")[1]["experiments"] == ["taste"])
        first = server.call("GET", "/v1/feed?user=ana&n=6")[1]
        assert first["arm"] == "interleaved"
        likes = [
            {"impression_id": one["impression_id"], "user": "ana", "item": one["item"], "kind": "like"}
            for one in first["items"]
        ]
        server.call("POST", "/v1/impressions", likes)
        status, found = server.call("GET", "/v1/experiments/taste/preference")
        assert (status, found["impressions"], found["events"], found["users"]) == (200, 6, 6, 1)
        assert server.call("GET", "/v1/experiments/none/preference")[0] == 404
        told = json.loads(said("preference", "taste", "--json"))
        assert told == found
        assert "neither is preferred" in said("preference", "taste")
        assert server.call("GET", "/v1/worth?experiment=taste")[0] == 409
        said("stop", "taste")
        until(lambda: server.call("GET", "/v1/status")[1]["experiments"] == [])
        for n in range(8):
            server.call("GET", f"/v1/feed?user=b{n}&n=10")
        shown = [one for one in server.call("GET", "/v1/impressions?n=1000")[1] if one["experiment"] == ""]
        assert len(shown) == 80
        assert {one["spent_us"] > 0 for one in shown} == {True}
        idea = {one["impression_id"]: one["propensity"] for one in shown}  # what was done: it must come out as it was
        liked = [one for one in shown if one["rank"] < 2]
        server.call("POST", "/v1/impressions", [
            {"impression_id": one["impression_id"], "user": one["user"], "item": one["item"], "kind": "like"} for one in liked
        ])  # fmt: skip
        status, values = server.call("POST", "/v1/screen", {"probabilities": idea})
        assert status == 200
        assert [one["value"]["estimate"] for one in values] == [0.2, 0.2]
        assert [one["is_trusted"] for one in values] == [False, False]
        assert server.call("POST", "/v1/screen", {"probabilities": {"no": 1.0}})[0] == 409
        assert server.call("POST", "/v1/screen", {"wrong": 1})[0] == 400
        file = tmp_path / "idea.csv"
        file.write_text("impression_id,probability\n" + "".join(f"{name},{value}\n" for name, value in idea.items()))
        assert json.loads(said("screen", "--probabilities", str(file), "--json")) == values
        assert "too little to be trusted" in said("screen", "--probabilities", str(file))
