from __future__ import annotations

from pathlib import Path

import numpy as np

from support.feed_side import NOW_NS, T, click, item
from upeti.feed.enrichment import Enrichment, Provenance, Safety, Source
from upeti.feed.enrichment_store import Call, EnrichmentStore
from upeti.feed.items import User, checked_user
from upeti.feed.loading import VectorCache, embed_missing, load_state, wanting_vectors
from upeti.feed.store import FeedStore
from upeti.providers.minilm import DIMENSIONS, MiniLm


def test_vectors_are_kept_by_text_also_when_two_items_have_one(tmp_path: Path) -> None:
    rows = np.eye(3, DIMENSIONS, dtype=np.float32)
    cache = VectorCache(tmp_path)
    digests = [character * 64 for character in "aab"]
    cache.put(digests, rows)
    cache.put(["c" * 64, "b" * 64], rows[:2])
    cache.save()
    found = VectorCache(tmp_path)
    for character, place in (("a", 0), ("b", 2), ("c", 0)):
        row = found.get(character * 64)
        assert row is not None
        assert int(row.argmax()) == place
    (tmp_path / "vectors.npz").write_bytes(b"damaged")
    assert VectorCache(tmp_path).get("a" * 64) is None  # derived: it is made again


def test_a_tenant_is_loaded_as_the_store_has_it(tmp_path: Path) -> None:
    store = FeedStore(tmp_path)
    store.put_items(T, [item("a", title="A film"), item("b", title="A film"), item("c")])
    store.put_users(T, [checked_user(User("quiet", profiling=False), NOW_NS)])
    store.add_feedback(T, [click("ana", "a"), click("ana", "b", kind="hide")])
    text = store.item(T, "a")
    assert text is not None
    made = Enrichment(
        "a", "v1", ("calm",), 0.7, Safety.SAFE, None, Provenance("req_1", "o", "m", "p1"), "0.01", "USD", NOW_NS,
        Source.PAID, "r", text.digest,
    )  # fmt: skip
    EnrichmentStore(store, T).record(Call("req_1", NOW_NS, "r", "answered", 1, "0.01", "USD"), [made])
    state, cache = load_state(store, T)
    profile = state.profiles.get("ana")
    assert (profile.positive_count, len(profile.seen), len(profile.unwanted)) == (1, 2, 1)
    assert not state.profiles.get("quiet").profiling
    place = state.catalogue.place("a")
    assert state.catalogue.quality(Source.PAID)[place] == np.float32(0.7)
    assert state.catalogue.enrichment_version(place) == "v1"
    assert len(wanting_vectors(state)) == 2  # `c` has nothing to embed
    assert embed_missing(state, cache, MiniLm()) == 2
    again, _ = load_state(store, T)
    assert len(wanting_vectors(again)) == 0
    assert np.allclose(again.catalogue.vectors[place], state.catalogue.vectors[place], atol=2e-3)
    assert np.allclose(again.catalogue.vectors[place], again.catalogue.vectors[again.catalogue.place("b")])
