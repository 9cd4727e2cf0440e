from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from support.feed_side import NOW_NS, T, feed_server, item, populated
from support.keeper_side import until
from upeti.core.errors import UpetiError
from upeti.feed.evaluation import Event
from upeti.feed.gate import find_leaks
from upeti.feed.loading import load_state
from upeti.feed.models import ModelError, ModelStore
from upeti.feed.rank import TrainingSet, train_ranker
from upeti.feed.refit import builder, refit, rollback
from upeti.feed.replay import replay
from upeti.feed.store import FeedStore
from upeti.journal.acts import read_acts

DAY = 86_400 * 10**9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeedStore:
    return populated(tmp_path_factory.mktemp("refit"))


def test_a_ranker_goes_live_through_the_gate_and_can_be_taken_back(tmp_path: Path) -> None:
    store, data_dir = populated(tmp_path), tmp_path
    first = refit(store, data_dir, T, now_ns=NOW_NS, embed=False)
    assert first.is_live, first.reasons
    assert first.ndcg > first.ndcg_popular
    second = refit(store, data_dir, T, now_ns=NOW_NS + 10**9, embed=False)
    assert second.is_live, second.reasons
    assert second.ndcg == pytest.approx(second.ndcg_live)
    models = ModelStore(store.tenant_dir(T))
    assert models.current() == second.version
    assert rollback(store, data_dir, T, actor="head of content", reason="it looked odd", now_ns=NOW_NS) == first.version
    assert models.current() == first.version
    kinds = [one.kind for one in read_acts(data_dir)]
    assert kinds == ["feed.model_live", "feed.model_live", "feed.model_rolled_back"]
    for to in ("", "never"):
        with pytest.raises(UpetiError, match="no version"):
            rollback(store, data_dir, T, actor="head of content", reason="again", now_ns=NOW_NS, to=to)


def test_a_worse_ranker_does_not_go_live(store: FeedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = store.directory.parent
    models = ModelStore(store.tenant_dir(T))
    before = models.current() or refit(store, data_dir, T, now_ns=NOW_NS, embed=False).version

    def train_backwards(data: TrainingSet, masks: Sequence[frozenset[str]], *, version: str):  # type: ignore[no-untyped-def]
        wrong = TrainingSet()
        rows, labels, groups = data.arrays()
        at = 0
        for size in groups:
            wrong.add(rows[at : at + size], labels[at : at + size] == 0)
            at += size
        return train_ranker(wrong, masks, version=version)

    monkeypatch.setattr("upeti.feed.refit.train_ranker", train_backwards)
    done = refit(store, data_dir, T, now_ns=NOW_NS + 5 * 10**9, embed=False)
    assert not done.is_live
    assert done.reasons
    assert models.current() == before
    assert [one.kind for one in read_acts(data_dir)][-1] == "feed.model_refused"


def test_a_running_service_takes_a_new_ranker_and_goes_back(tmp_path: Path) -> None:
    store = populated(tmp_path)
    with feed_server(tmp_path) as server:
        assert server.call("GET", "/v1/feed?user=u001")[1]["model_version"] == "popularity"
        done = refit(store, tmp_path, T, now_ns=time.time_ns(), embed=False)
        assert done.is_live, done.reasons
        live = until(
            lambda: (body := server.call("GET", "/v1/feed?user=u001")[1])["model_version"] == done.version and body
        )
        assert {source for one in live["items"] for source in one["sources"]} & {"als", "neighbours"}
        directory = store.tenant_dir(T) / "models"
        (directory / "broken").mkdir()
        ModelStore(store.tenant_dir(T)).make_current("broken")
        time.sleep(1.5)
        assert server.call("GET", "/v1/feed?user=u001")[1]["model_version"] == done.version  # what served goes on
        near = server.call("GET", "/api/item/i010/neighbors?n=3")[1]
        assert len(near) == 3


def test_there_must_be_something_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(UpetiError, match="no feedback yet"):
        refit(FeedStore(tmp_path), tmp_path, T, now_ns=NOW_NS, embed=False)


def test_a_version_that_is_damaged_is_named(tmp_path: Path) -> None:
    models = ModelStore(tmp_path)
    state, _ = load_state(populated(tmp_path), T)
    models.save("1", state, None)
    (tmp_path / "models" / "1" / "models.npz").write_bytes(b"PK damaged")
    with pytest.raises(ModelError, match="rollback"):
        models.load("1", state.catalogue)
    with pytest.raises(ModelError, match="there is no version"):
        models.make_current("2")


def test_models_find_their_items_in_another_order(store: FeedStore) -> None:
    state, _ = load_state(store, T)
    models = ModelStore(store.tenant_dir(T))
    version = refit(store, store.directory.parent, T, now_ns=NOW_NS + 10 * 10**9, embed=False).version
    first, _, _ = models.load(version, state.catalogue)
    other, _ = load_state(store, "nobody")
    other.put_items(reversed(store.items(T)))
    other.put_items([item("came-later")])
    second, _, _ = models.load(version, other.catalogue)
    assert first.factors
    assert second.factors
    assert first.neighbours
    assert second.neighbours
    for name in ("i000", "i077"):
        mine, theirs = state.catalogue.place(name), other.catalogue.place(name)
        assert np.array_equal(first.factors.items[mine], second.factors.items[theirs])
        near = {
            state.catalogue.ids[place]
            for place in first.neighbours.places[mine][first.neighbours.similarities[mine] > 0]
        }
        assert near == {
            other.catalogue.ids[place]
            for place in second.neighbours.places[theirs][second.neighbours.similarities[theirs] > 0]
        }


Builder = Callable[[Sequence[Event]], Callable[[str, str, int], dict[str, float]]]


def events_of(store: FeedStore) -> list[Event]:
    rows = sorted(store.feedback(T), key=lambda one: one.at_ns)
    return [Event(one.user, one.item, one.at_ns, one.value) for one in rows][-300:]


def test_the_features_know_nothing_of_the_future(store: FeedStore) -> None:
    honest = builder(lambda: load_state(store, T, with_feedback=False)[0])
    assert find_leaks(honest, events_of(store), probes=10) == ()


def test_a_planted_feature_of_the_future_is_caught(store: FeedStore) -> None:
    honest = builder(lambda: load_state(store, T, with_feedback=False)[0])

    def leaking(events: Sequence[Event]) -> Callable[[str, str, int], dict[str, float]]:
        features = honest(events)
        in_all = {one.item: sum(other.item == one.item for other in events) for one in events}
        return lambda user, name, at_ns: features(user, name, at_ns) | {"count_all": float(in_all.get(name, 0))}

    leaks = find_leaks(leaking, events_of(store), probes=10)
    assert [leak.feature for leak in leaks] == ["count_all"]


def test_a_replay_ranks_a_day_by_what_was_known_before_it(store: FeedStore) -> None:
    feedback = sorted(store.feedback(T), key=lambda one: one.at_ns)
    last_day = feedback[-1].at_ns // DAY
    state, _ = load_state(store, T, with_feedback=False)
    whole = list(replay(state, feedback, last_day - 1))
    state, _ = load_state(store, T, with_feedback=False)
    cut = list(replay(state, [one for one in feedback if one.at_ns // DAY < last_day], last_day - 1))
    assert cut
    for with_future, without in zip(whole, cut, strict=False):
        assert with_future.user == without.user
        assert np.array_equal(with_future.places, without.places)
        assert np.array_equal(with_future.features, without.features, equal_nan=True)
