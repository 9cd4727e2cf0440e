"""What the sources say of items for a user: found for the places asked about, kept for the users who came last."""

from __future__ import annotations

import gc
from weakref import ref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from support.feed_side import NOW_NS, click, item
from upeti.feed import state as feed_state
from upeti.feed import vector_index
from upeti.feed.arrays import best_of
from upeti.feed.experiment import GROUPS
from upeti.feed.replay import EventLog, train_night
from upeti.feed.retrieval import retrieve
from upeti.feed.state import FeedState
from upeti.feed.user_scores import NEAR, Sparse, UserScores, first_of, user_scores

NOW_S = NOW_NS / 1e9
ALL = frozenset(GROUPS)


def learned(items: int = 300, users: int = 60) -> FeedState:
    draw = np.random.default_rng(3)
    state = FeedState()
    state.put_items(item(f"i{n}", title=f"T{n}") for n in range(items))
    vectors = draw.normal(size=(items, state.catalogue.vectors.shape[1])).astype(np.float32)
    state.catalogue.set_vectors(np.arange(items), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    events = [click(f"u{n % users}", f"i{int(draw.integers(items))}") for n in range(1500)]
    state.apply(events)
    log = EventLog()
    log.add(state, events)
    train_night(state, log, NOW_S)
    return state


@given(st.lists(st.integers(-3, 6).map(float), max_size=60), st.integers(1, 20))
def test_the_best_are_those_that_a_whole_sort_finds(scores: list[float], number: int) -> None:
    values = np.array(scores, np.float32)
    found = best_of(values, number)
    expected = sorted((score for score in scores if score > 0), reverse=True)[:number]
    assert sorted(values[found].tolist(), reverse=True) == expected
    assert found.tolist() == sorted(set(found.tolist()))


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 30))
def test_the_first_that_are_allowed_are_found_however_late_they_come(seed: int, least: int, number: int) -> None:
    order = np.random.default_rng(seed).permutation(1000)
    found = first_of(order, np.arange(1000) >= least, number)
    assert found.tolist() == [place for place in order.tolist() if place >= least][:number]


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 9)), st.lists(st.integers(0, 50)))
def test_a_sparse_value_is_the_one_of_its_place_and_zero_elsewhere(kept: dict[int, int], asked: list[int]) -> None:
    places = sorted(kept)
    values = Sparse(np.array(places, np.int64), np.array([kept[place] for place in places], np.float32))
    assert values.at(np.array(asked, np.int64)).tolist() == [kept.get(place, 0) for place in asked]


def test_scores_are_what_the_models_say_of_every_place() -> None:
    state = learned()
    profile = state.profiles.get("u1")
    scores = UserScores(state, profile, NOW_S)
    every = np.arange(len(state.catalogue))
    assert state.models.factors is not None
    assert state.models.neighbours is not None
    factors = state.models.factors
    assert np.allclose(scores.at("als", every), factors.items @ factors.user(profile.items()), atol=1e-5)
    near = np.zeros(len(every))
    for place in profile.items():
        np.add.at(near, state.models.neighbours.places[place], state.models.neighbours.similarities[place])
    found = scores.at("neighbours", every)
    assert found is not None
    assert np.allclose(found, near / len(profile.items()), atol=1e-5)


def test_a_filter_that_takes_most_leaves_the_best_of_the_rest() -> None:
    state = learned(items=900)
    scores = user_scores(state, state.profiles.get("u1"), NOW_S)
    every = np.ones(900, np.bool_)
    order = scores.nearest_content(every, 900)
    assert len(order) > 400
    worst = np.zeros(900, np.bool_)
    worst[order[-20:]] = True
    assert set(scores.nearest_content(worst, 10)) <= set(order[-20:])
    assert len(scores.nearest_content(worst, 10)) == 10
    assert len(scores.nearest_factors(~every, 10)) == 0


def test_somebody_unknown_has_no_scores_and_popularity_proposes() -> None:
    state = learned()
    nobody = state.profiles.get("nobody")
    scores = user_scores(state, nobody, NOW_S)
    assert all(scores.at(source, np.arange(3)) is None for source in ("als", *NEAR))
    found = retrieve(state, nobody, NOW_S, np.ones(len(state.catalogue), np.bool_), ALL)
    assert len(found.places) >= 150


def test_few_dimensions_find_what_all_find_and_know_of_new_vectors_at_once() -> None:
    draw = np.random.default_rng(5)
    state = FeedState()
    state.put_items(item(f"i{n}") for n in range(3000))
    kinds = draw.normal(size=(40, state.catalogue.vectors.shape[1]))  # texts have far fewer topics than dimensions
    vectors = (draw.dirichlet(np.full(40, 0.1), 3000) @ kinds + draw.normal(size=(3000, 384)) / 10).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    state.catalogue.set_vectors(np.arange(3000), vectors)
    direction = vectors[7]
    exact, _ = state.catalogue.nearest(direction, 60)
    state.index_vectors()
    found, cosines = state.catalogue.nearest(direction, 600)
    assert len(set(found[:60].tolist()) & set(exact.tolist())) >= 57
    assert np.allclose(cosines[:60], vectors[found[:60]] @ direction, atol=1e-5)
    state.put_items([item("late")])
    state.catalogue.set_vectors(np.array([3000]), direction[None, :])
    assert 3000 in state.catalogue.nearest(direction, 600)[0][:2]


def test_an_index_finds_what_comparing_all_finds() -> None:
    state = learned(items=900)
    every = np.ones(900, np.bool_)
    exact = UserScores(state, state.profiles.get("u1"), NOW_S)
    wanted = set(exact.nearest_factors(every, 50)), set(exact.nearest_content(every, 50))
    assert vector_index.make_index(state.catalogue.vectors, state.catalogue.has_vector) is None  # too few
    for name in ("index", "factors_index"):
        rows = state.catalogue.vectors if name == "index" else state.models.factors.items  # type: ignore[union-attr]
        setattr(state, name, vector_index.index_of(rows, np.arange(900), lists=8, looked_into=8))
    found = UserScores(state, state.profiles.get("u1"), NOW_S)
    assert set(found.nearest_factors(every, 50)) == wanted[0]
    assert set(found.nearest_content(every, 50)) == wanted[1]


def test_scores_are_kept_until_the_next_event_and_of_the_last_users_alone() -> None:
    state = learned(users=60)
    first = state.profiles.get("u0")
    kept = user_scores(state, first, NOW_S)
    assert user_scores(state, first, NOW_S) is kept
    state.apply([click("u0", "i7")])
    assert user_scores(state, first, NOW_S) is not kept
    for n in range(feed_state.SCORES_KEPT):
        state.apply([click(f"new{n}", "i1")])
        user_scores(state, state.profiles.get(f"new{n}"), NOW_S)
    assert first.scores is None


def test_a_user_who_is_deleted_is_kept_nowhere() -> None:
    state = learned()
    gone = ref(state.profiles.get("u0"))
    user_scores(state, state.profiles.get("u0"), NOW_S)
    state.profiles.drop("u0")
    gc.collect()
    assert gone() is None
