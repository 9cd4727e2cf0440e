"""From the store to memory: how a service, a refit and a report see one tenant alike."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from upeti.feed.enrichment_store import EnrichmentStore
from upeti.feed.state import FeedState
from upeti.feed.store import FeedStore
from upeti.providers.minilm import DIMENSIONS, MiniLm, Vectors

_FILE: Final = "vectors.npz"
_DIGEST_BYTES: Final = 64  # hex of SHA-256


class VectorCache:
    """Embeddings of texts by digest, in one file of a tenant. Derived: it may be deleted."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._row_of: dict[str, int] = {}
        self._rows: list[Vectors] = []
        self.unsaved = 0
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                digests, rows = arrays["digests"], arrays["rows"].astype(np.float32)
            self._row_of = {digest.decode(): number for number, digest in enumerate(digests)}
            self._rows = list(rows)
        except (OSError, ValueError, KeyError):
            pass  # made again, text by text

    def get(self, digest: str) -> Vectors | None:
        number = self._row_of.get(digest)
        return None if number is None else self._rows[number]

    def put(self, digests: list[str], rows: Vectors) -> None:
        for digest, row in zip(digests, rows, strict=True):
            if self._row_of.setdefault(digest, len(self._rows)) == len(self._rows):  # two items may have one text
                self._rows.append(row)
        self.unsaved += len(digests)

    def save(self) -> None:
        """Write all of it aside and rename it. Half precision: a cosine does not change by a thousandth."""
        if not self.unsaved:
            return
        partial = self._path.with_suffix(".partial.npz")
        rows = np.array(self._rows, np.float16).reshape(len(self._rows), DIMENSIONS)
        np.savez(partial, digests=np.array(list(self._row_of), f"S{_DIGEST_BYTES}"), rows=rows)
        partial.replace(self._path)
        self.unsaved = 0


def load_state(store: FeedStore, tenant: str, *, with_feedback: bool = True) -> tuple[FeedState, VectorCache]:
    """Return the state of a tenant without models, and its cache of vectors."""
    state = FeedState()
    state.put_items(store.items(tenant))
    cache = VectorCache(store.tenant_dir(tenant))
    give_vectors(state, cache, wanting_vectors(state))
    for versions in EnrichmentStore(store, tenant).latest().values():
        state.catalogue.set_enrichment(versions)
    for user in store.users(tenant):
        if not user.profiling:
            state.profiles.of(user.id).profiling = False
    if with_feedback:
        state.apply(store.feedback(tenant))
    return state, cache


def wanting_vectors(state: FeedState) -> NDArray[np.int64]:
    """Return the places of items that have a text and no vector."""
    return np.flatnonzero(state.catalogue.has_text & ~state.catalogue.has_vector)


def give_vectors(state: FeedState, cache: VectorCache, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give items the vectors that the cache has; return the places of the others."""
    found, rows, rest = [], [], []
    for place in places.tolist():
        item = state.catalogue.item(place)
        row = None if item is None else cache.get(item.digest)
        if row is None:
            rest.append(place)
        else:
            found.append(place)
            rows.append(row)
    if found:
        state.catalogue.set_vectors(np.array(found), np.array(rows, np.float32))
    return np.array(rest, np.int64)


def embed_missing(state: FeedState, cache: VectorCache, model: MiniLm | None = None) -> int:
    """Embed every text that has no vector; return how many."""
    places = give_vectors(state, cache, wanting_vectors(state))
    if not len(places):
        return 0
    items = [item for place in places.tolist() if (item := state.catalogue.item(place)) is not None]
    cache.put([item.digest for item in items], (model or MiniLm()).embed([item.text for item in items]))
    give_vectors(state, cache, places)
    cache.save()
    return len(items)
