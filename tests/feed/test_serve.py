from __future__ import annotations

from random import Random

import numpy as np
import pytest

from support.feed_side import DAY_NS, HOUR_NS, NOW_NS, click, item
from upeti.core.config import Feed
from upeti.feed.enrichment import Enrichment, Provenance, Safety, Source
from upeti.feed.experiment import GROUPS, METADATA, POPULARITY, STUDENT, Arm, Experiment, State
from upeti.feed.features import COLUMNS
from upeti.feed.items import Item, checked_item
from upeti.feed.rank import ALL, TrainingSet, train_ranker
from upeti.feed.replay import EventLog, train_night
from upeti.feed.serve import FeedAnswer, FeedRequest, TenantFeed
from upeti.feed.state import FeedState

PLAIN = Feed(diversity=0, explore_share=0, per_creator_max=100)


def fed(settings: Feed = PLAIN, items: int = 30, users: int = 40) -> TenantFeed:
    """A feed of items 0 to N, of which item n was clicked by all users whose number it divides."""
    state = FeedState()
    state.put_items(
        [
            checked_item(
                Item(f"i{n:02}", ("even" if n % 2 == 0 else "odd",), {"title": f"Title {n}", "genre": [f"g{n % 3}"]},
                     at_ns=NOW_NS - (n + 1) * DAY_NS),
                NOW_NS,
            )
            for n in range(items)
        ]
    )  # fmt: skip
    state.apply(
        [
            click(f"u{user}", f"i{n:02}", NOW_NS - HOUR_NS * (1 + (user + n) % 40))
            for user in range(1, users)
            for n in range(1, items)
            if user % n == 0 and n != user
        ]
    )
    return TenantFeed(state, settings, Random(1))


def names(answer: FeedAnswer) -> list[str]:
    return [one.item for one in answer.entries]


def test_somebody_unknown_gets_what_is_popular() -> None:
    answer = fed().feed(FeedRequest("stranger", n=3), NOW_NS)
    assert names(answer)[0] == "i01"
    assert {one.reason.code for one in answer.entries} <= {"popular", "trending"}
    assert answer.model_version == "popularity"


def test_what_was_seen_is_not_shown_and_what_was_hidden_never_comes_back() -> None:
    feed = fed()
    seen = set(names(feed.feed(FeedRequest("u12", n=30), NOW_NS)))
    assert not seen & {"i01", "i02", "i03", "i04", "i06"}
    feed.state.apply([click("stranger", "i01", kind="hide")])
    for profiling in (None, False):
        assert "i01" not in names(feed.feed(FeedRequest("stranger", n=30, profiling=profiling), NOW_NS))


def test_an_event_is_in_the_next_feed() -> None:
    feed = fed()
    before = names(feed.feed(FeedRequest("stranger", n=30), NOW_NS))
    assert "i29" not in before[:3]
    feed.state.apply([click(f"n{n}", "i29", NOW_NS) for n in range(200)] + [click("stranger", "i01", NOW_NS)])
    after = names(feed.feed(FeedRequest("stranger", n=30), NOW_NS + 10**9))
    assert after[0] == "i29"
    assert "i01" not in after


def test_hidden_unpublished_excluded_and_undescribed_items_are_not_shown() -> None:
    feed = fed()
    feed.state.put_items([item("i01"), item("later", NOW_NS)])
    hidden = checked_item(Item("i02", is_hidden=True), NOW_NS)
    feed.state.put_items([hidden])
    feed.state.apply([click("bo", "nobody-described-it"), click("bo", "later")])
    shown = names(feed.feed(FeedRequest("stranger", n=30, exclude=("i03", "what?")), NOW_NS - HOUR_NS))
    assert not {"i02", "i03", "later", "nobody-described-it"} & set(shown)
    assert "later" in names(feed.feed(FeedRequest("stranger", n=31), NOW_NS + HOUR_NS))
    feed.state.catalogue.remove("i04")
    assert "i04" not in names(feed.feed(FeedRequest("stranger", n=31), NOW_NS + 2 * HOUR_NS))


def test_categories_and_pages() -> None:
    feed = fed()
    odd = names(feed.feed(FeedRequest("stranger", n=30, category="odd"), NOW_NS))
    assert odd
    assert all(int(name[1:]) % 2 for name in odd)
    first = names(feed.feed(FeedRequest("stranger", n=5), NOW_NS))
    second = names(feed.feed(FeedRequest("stranger", n=5, offset=5), NOW_NS))
    assert first + second == names(feed.feed(FeedRequest("stranger", n=10), NOW_NS))
    assert [one.rank for one in feed.feed(FeedRequest("stranger", n=2, offset=3), NOW_NS).entries] == [3, 4]


def test_without_profiling_everybody_gets_the_same_and_is_told_so() -> None:
    feed = trained(fed())
    lists = []
    for user in ("u12", "u30", "stranger"):
        answer = feed.feed(FeedRequest(user, n=30, profiling=False), NOW_NS)
        seen = feed.state.profiles.get(user).seen
        lists.append(names(answer))
        assert not answer.profiled
        assert answer.arm.mask == {POPULARITY, METADATA}
        assert {one.reason.code for one in answer.entries} == {"not_profiled"}
        for row in answer.impressions:
            assert not {"als", "neighbours", "user_count", "user_popularity", "words_lift", "content_mean"} & set(
                row.features
            )
        everything = [name for name in names(feed.feed(FeedRequest("x", n=30, profiling=False), NOW_NS))
                      if feed.state.catalogue.place(name) not in seen]  # fmt: skip
        assert everything == lists[-1]
    feed.state.profiles.of("u12").profiling = False
    assert not feed.feed(FeedRequest("u12", profiling=True), NOW_NS).profiled  # the user's own setting is the stronger


def trained(feed: TenantFeed) -> TenantFeed:
    """Give a feed nightly models and a ranker that was trained on noise: enough to run every path."""
    log = EventLog()
    state = feed.state
    for user, profile in state.profiles:
        log.add(state, [click(user, state.catalogue.ids[place]) for place in profile.items()])
    state.catalogue.set_vectors(
        np.arange(len(state.catalogue)), _unit(np.random.default_rng(3).normal(size=(len(state.catalogue), 384)))
    )
    train_night(state, log, NOW_NS / 1e9)
    data, draw = TrainingSet(), np.random.default_rng(0)
    for _ in range(60):
        rows = draw.normal(size=(20, len(COLUMNS))).astype(np.float32)
        data.add(rows, rows[:, COLUMNS["count_3d"]] > 1)
    feed.ranker = train_ranker(data, (ALL, frozenset({POPULARITY, METADATA})), version="v1", rounds=10)
    return feed


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_what_is_returned_is_what_is_logged() -> None:
    feed = trained(fed(Feed(explore_share=0.5)))
    explored = 0
    for n in range(40):
        answer = feed.feed(FeedRequest("u12", n=10, context={"surface": "home"}), NOW_NS + n)
        assert [(one.impression_id, one.item, one.rank, one.propensity) for one in answer.entries] == [
            (row.impression_id, row.item, row.rank, row.propensity) for row in answer.impressions
        ]
        for row in answer.impressions:
            assert (row.user, row.model_version, row.context) == ("u12", "v1", {"surface": "home"})
            assert 0 < row.propensity <= 1
            explored += row.sources == ("explore",)
            assert row.sources == ("explore",) or row.features
    assert 5 < explored < 35  # one place of ten, with a half


def test_reasons_name_what_the_user_chose() -> None:
    feed = trained(fed())
    answer = feed.feed(FeedRequest("u12", n=20), NOW_NS)
    about = {one.reason.about for one in answer.entries if one.reason.about}
    chosen = {feed.state.catalogue.ids[place] for place in feed.state.profiles.get("u12").items()}
    assert about
    assert about <= chosen
    named = next(one for one in answer.entries if one.reason.about)
    assert "Title" in named.reason.text


def test_an_arm_gets_no_candidate_and_no_feature_of_what_it_is_denied() -> None:
    feed = trained(fed())
    arms = (Arm("popular", frozenset({POPULARITY})), Arm("all", frozenset(GROUPS)))
    feed.experiments = (Experiment("e", arms, state=State.RUNNING),)
    seen = set()
    for n in range(1, 40):
        answer = feed.feed(FeedRequest(f"u{n}"), NOW_NS)
        seen.add(answer.arm.name)
        sources = {source for one in answer.entries for source in one.sources}
        assert all(row.experiment == "e" and row.arm == answer.arm.name for row in answer.impressions)
        if answer.arm.name == "popular":
            assert sources <= {"popular", "trending"}
    assert seen == {"popular", "all"}


def test_a_held_out_item_has_no_enrichment_for_anybody() -> None:
    feed = trained(fed())
    everything = (Arm("a", frozenset({POPULARITY})), Arm("b", frozenset(GROUPS)))
    feed.experiments = (Experiment("e", everything, item_holdout_share=0.5, state=State.RUNNING),)
    with_prior = without = 0
    for n in range(1, 40):
        for row in feed.feed(FeedRequest(f"u{n}"), NOW_NS).impressions:
            has = any(COLUMNS[name] in _enriched() for name in row.features)
            with_prior += has
            without += not has
    assert with_prior
    assert without


def _enriched() -> set[int]:
    return {COLUMNS[name] for name in ("content_mean", "content_max", "content_last", "content_prior")}


def labelled(name: str, safety: Safety) -> Enrichment:
    made_by = Provenance("req_1", "openai", "gpt", "p1")
    return Enrichment(name, "v1", ("calm",), 0.5, safety, None, made_by, "0.001", "USD", NOW_NS)


def test_safety_fails_closed() -> None:
    feed = fed(Feed(safe_only=True, explore_share=0.5))
    assert names(feed.feed(FeedRequest("stranger", n=30), NOW_NS)) == []
    for name, safety in (("i01", Safety.SAFE), ("i02", Safety.UNSAFE), ("i03", Safety.UNKNOWN)):
        feed.state.catalogue.set_enrichment({Source.PAID: labelled(name, safety)})
    assert names(feed.feed(FeedRequest("stranger", n=30), NOW_NS)) == ["i01"]
    feed.state.put_items([item("i01", title="Another text")])  # the label was given to another text
    assert names(feed.feed(FeedRequest("stranger", n=30), NOW_NS)) == []


def test_a_session_is_ranked_by_what_was_done_in_it() -> None:
    feed = trained(fed())
    answer = feed.feed(FeedRequest("x", n=5, session=("i02", "i04", "unknown")), NOW_NS)
    assert not {"i02", "i04"} & set(names(answer))
    assert "neighbours" in {source for one in answer.entries for source in one.sources}


def test_explaining_says_what_speaks_for_an_item_and_why_it_is_not_there() -> None:
    feed = trained(fed())
    found = feed.explain("u12", "i05", NOW_NS)
    assert found is not None
    assert (found["can_be_shown"], found["why_not"], found["model_version"]) == (True, "", "v1")
    assert set(found["weights"]) == set(GROUPS)
    assert found["features"]["count_3d"] == pytest.approx(found["features"]["count_3d"])
    assert feed.explain("u12", "i01", NOW_NS)["why_not"] == "the user has seen it"  # type: ignore[index]
    assert feed.explain("u12", "unknown", NOW_NS) is None
    feed.state.apply([click("u12", "i07", kind="hide"), click("bo", "nameless")])
    assert feed.explain("u12", "i07", NOW_NS)["why_not"] == "the user hid it"  # type: ignore[index]
    assert "describe" in feed.explain("u12", "nameless", NOW_NS)["why_not"]  # type: ignore[index]


@pytest.mark.parametrize("off_ns", [-400 * DAY_NS, -HOUR_NS, 400 * DAY_NS, 20_000 * DAY_NS])
def test_a_server_clock_that_jumps_gives_a_feed_all_the_same(off_ns: int) -> None:
    feed = trained(fed())
    feed.feed(FeedRequest("u6", 10), NOW_NS)
    answer = feed.feed(FeedRequest("u6", 10), NOW_NS + off_ns)
    assert all(np.isfinite(one.score) for one in answer.entries)
    assert all(np.isfinite(value) for row in answer.impressions for value in row.features.values())
    assert bool(answer.entries) == (off_ns > -DAY_NS)  # before they were published there is nothing to show
    assert names(feed.feed(FeedRequest("u6", 10), NOW_NS))


def test_a_vector_that_is_no_number_spoils_no_feed() -> None:
    feed = trained(fed())
    catalogue = feed.state.catalogue
    rows = np.full((3, catalogue.vectors.shape[1]), np.nan, np.float32)
    catalogue.set_vectors(np.arange(3), rows)
    assert not catalogue.has_vector[:3].any()
    answer = feed.feed(FeedRequest("u6", 30), NOW_NS)
    assert len(set(names(answer))) == len(answer.entries) > 10
    assert all(np.isfinite(one.score) for one in answer.entries)


def test_an_empty_tenant_has_an_empty_feed() -> None:
    assert TenantFeed(FeedState(), Feed()).feed(FeedRequest("u"), NOW_NS).entries == []


def test_content_is_used_by_the_groups_that_may() -> None:
    feed = trained(fed())
    feed.experiments = (
        Experiment("e", (Arm("s", frozenset({STUDENT})), Arm("m", frozenset({METADATA}))), state=State.RUNNING),
    )
    found = {
        feed.feed(FeedRequest(f"u{n}"), NOW_NS).arm.name: feed.feed(FeedRequest(f"u{n}"), NOW_NS) for n in range(1, 30)
    }
    assert {source for one in found["s"].entries for source in one.sources} <= {"content"}
