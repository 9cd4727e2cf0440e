"""The items of one tenant in memory: ids become places, what the ranker needs of them becomes arrays.

Rules: a place is given once and never to another item, so models that were trained before an item came stay usable. An
item that feedback names and nobody described has a place and is never shown. A hidden item, an item not yet published and,
where safety is asked for, one that no label calls safe are never shown either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from upeti.feed.arrays import Growing, best_of
from upeti.feed.enrichment import Enrichment, Source, is_safe
from upeti.feed.items import Item, words_of
from upeti.providers.minilm import DIMENSIONS

WORDS_MAX: Final = 32  # of one item: genres, tags, actors; more would dilute what the others say
NO_WORD: Final = 0
REDUCED: Final = 64  # dimensions that hold nearly all of what embeddings of one catalogue differ in
_EXACT: Final = 256  # of the nearest
_REDUCED_FROM: Final = 2_000  # vectors; fewer are compared whole in no time
_YEAR: Final = "year"
_NO_CREATOR: Final = -1

Places = NDArray[np.int64]


class Catalogue:
    """Items by place."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._place_of: dict[str, int] = {}
        self._word_of: dict[str, int] = {"": NO_WORD}
        self._creator_of: dict[str, int] = {}
        self._category_of: dict[str, set[int]] = {}
        self._items: dict[int, Item] = {}
        self._shown = Growing((), np.bool_)
        self._safe = Growing((), np.bool_)
        self._at_s = Growing((), np.float64)
        self._year = Growing((), np.float32, fill=np.nan)
        self._creator = Growing((), np.int32, fill=_NO_CREATOR)
        self._words = Growing((WORDS_MAX,), np.int32)
        self._tags = {source: Growing((WORDS_MAX,), np.int32) for source in Source}
        self._quality = {source: Growing((), np.float32, fill=np.nan) for source in Source}
        self._enrichment: dict[int, str] = {}
        self._vectors = Growing((DIMENSIONS,), np.float32)
        self._has_vector = Growing((), np.bool_)
        self._reduced = Growing((REDUCED,), np.float32)
        self._basis: NDArray[np.float32] | None = None
        self._has_text = Growing((), np.bool_)
        self._columns = (
            self._shown, self._safe, self._at_s, self._year, self._creator, self._words, self._vectors, self._has_vector,
            self._has_text, self._reduced,
            *self._tags.values(), *self._quality.values(),
        )  # fmt: skip
        self.version = 0  # raised with every change, so that what was computed from it can be kept

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, item: str) -> int:
        """Return the place of an item, given to it now if it has none."""
        found = self._place_of.get(item)
        if found is not None:
            return found
        place = self._place_of[item] = len(self.ids)
        self.ids.append(item)
        for column in self._columns:
            column.resize(len(self.ids))
        return place

    def find(self, item: str) -> int | None:
        return self._place_of.get(item)

    def item(self, place: int) -> Item | None:
        """Return what was said of the item; None when feedback alone named it."""
        return self._items.get(place)

    def put(self, items: Iterable[Item]) -> None:
        """Take items in place of what had their ids. A text that changed loses its vector."""
        for item in items:
            place = self.place(item.id)
            before = self._items.get(place)
            if before is not None:
                for category in before.categories:
                    self._category_of[category].discard(place)
                if before.digest != item.digest:  # what a model said of it was said of another text
                    self._has_vector.values[place] = self._safe.values[place] = False
            self._items[place] = item
            for category in item.categories:
                self._category_of.setdefault(category, set()).add(place)
            self._shown.values[place] = not item.is_hidden
            self._has_text.values[place] = bool(item.text.strip())
            self._at_s.values[place] = item.at_ns / 1e9
            self._year.values[place] = _year(item)
            self._creator.values[place] = self._code(item.creator)
            self._fill_words(self._words, place, words_of(item.labels))
            self.version += 1

    def remove(self, item: str) -> None:
        """Forget what was said of an item; its place stays taken."""
        place = self._place_of.get(item)
        if place is not None and place in self._items:
            for category in self._items.pop(place).categories:
                self._category_of[category].discard(place)
            self._shown.values[place] = self._safe.values[place] = self._has_vector.values[place] = False
            self._has_text.values[place] = False
            self.version += 1

    def set_vectors(self, places: Places, vectors: NDArray[np.float32]) -> None:
        """Give items their embeddings; a row of zeros says that the text had nothing to embed, as one with NaN does."""
        usable = np.asarray(np.isfinite(vectors).all(1) & vectors.any(1))
        self._vectors.values[places] = np.where(usable[:, None], vectors, np.float32(0))
        self._has_vector.values[places] = usable
        if self._basis is not None:
            self._reduced.values[places] = self._vectors.values[places] @ self._basis
        self.version += 1

    def set_enrichment(self, versions: Mapping[Source, Enrichment]) -> None:
        """Note what models understood of an item: the newest version of each source, all of one item.

        It is safe when every source that looked at its present text says so, and one did.
        """
        found = {source: one for source, one in versions.items() if self._is_of_present_text(one)}
        if not versions:
            return
        place = self.place(next(iter(versions.values())).item)
        for source in Source:
            one = found.get(source)
            self._fill_words(
                self._tags[source], place, sorted({f"tag:{tag}".lower() for tag in one.tags} if one else ())
            )
            self._quality[source].values[place] = np.nan if one is None or one.quality is None else one.quality
        self._safe.values[place] = bool(found) and all(is_safe(one) for one in found.values())
        self._enrichment[place] = ",".join(one.version for _, one in sorted(found.items()))
        for source in (Source.PAID, Source.STUDENT):  # the one's own comes last and stays
            one = found.get(source)
            if one is not None and one.embedding is not None and len(one.embedding) == DIMENSIONS:
                self.set_vectors(np.array([place]), np.array([one.embedding], np.float32))
        self.version += 1

    def _is_of_present_text(self, one: Enrichment) -> bool:
        place = self.find(one.item)
        item = None if place is None else self._items.get(place)
        return item is not None and one.digest in ("", item.digest)

    def enrichment_version(self, place: int) -> str:
        return self._enrichment.get(place, "")

    def places_of_category(self, category: str) -> Places:
        return np.fromiter(self._category_of.get(category, ()), np.int64)

    def can_be_shown(self, now_s: float, *, safe_only: bool = False) -> NDArray[np.bool_]:
        """Return for every place whether it may be shown at all."""
        shown = self._shown.values & (self._at_s.values <= now_s)
        return shown & self._safe.values if safe_only else shown

    @property
    def word_count(self) -> int:
        return len(self._word_of)

    @property
    def words(self) -> NDArray[np.int32]:
        """Items × `WORDS_MAX`: codes of the words in the labels, `NO_WORD` where there are fewer."""
        return self._words.values

    def tags(self, source: Source) -> NDArray[np.int32]:
        """As ``words``, of the tags that a model gave."""
        return self._tags[source].values

    @property
    def at_s(self) -> NDArray[np.float64]:
        return self._at_s.values

    @property
    def year(self) -> NDArray[np.float32]:
        return self._year.values

    @property
    def creator(self) -> NDArray[np.int32]:
        """Codes of creators; below 0 where nobody says who made it."""
        return self._creator.values

    def quality(self, source: Source) -> NDArray[np.float32]:
        """From 0 to 1; NaN where no model has said."""
        return self._quality[source].values

    @property
    def vectors(self) -> NDArray[np.float32]:
        return self._vectors.values

    def reduce(self) -> None:
        """Choose the dimensions for ``nearest``, from the vectors that there are (principal components, uncentred)."""
        known = self.vectors[self.has_vector]
        self._basis = None
        if len(known) >= _REDUCED_FROM:
            basis = np.linalg.eigh(known.T @ known)[1][:, -REDUCED:]
            self._basis = np.ascontiguousarray(basis, np.float32)
            self._reduced.values[:] = self.vectors @ self._basis

    def nearest(self, direction: NDArray[np.float32], number: int) -> tuple[Places, NDArray[np.float32]]:
        """Return about the ``number`` items nearest to a vector, nearest first, and their cosines.

        All are looked at in few dimensions, the nearest of them in all: a sixth of the memory is read.
        """
        if self._basis is None:
            return _best(self.vectors @ direction, number)
        places, cosines = _best(self._reduced.values @ (direction @ self._basis), number)
        cosines[:_EXACT] = self.vectors[places[:_EXACT]] @ direction
        order = np.argsort(-cosines[:_EXACT], kind="stable")
        places[:_EXACT], cosines[:_EXACT] = places[:_EXACT][order], cosines[:_EXACT][order]
        return places, cosines

    @property
    def has_vector(self) -> NDArray[np.bool_]:
        return self._has_vector.values

    @property
    def has_text(self) -> NDArray[np.bool_]:
        return self._has_text.values

    def _code(self, creator: str) -> int:
        return self._creator_of.setdefault(creator, len(self._creator_of)) if creator else _NO_CREATOR

    def _fill_words(self, column: Growing, place: int, words: list[str]) -> None:
        codes = [self._word_of.setdefault(word, len(self._word_of)) for word in words[:WORDS_MAX]]
        column.values[place, : len(codes)] = codes
        column.values[place, len(codes) :] = NO_WORD


def _best(scores: NDArray[np.float32], number: int) -> tuple[Places, NDArray[np.float32]]:
    places = best_of(scores, number)
    places = places[np.argsort(-scores[places], kind="stable")]
    return places, scores[places]


def _year(item: Item) -> float:
    year = item.labels.get(_YEAR) if isinstance(item.labels, Mapping) else None
    try:
        return float(year) if year is not None else np.nan
    except (TypeError, ValueError):
        return np.nan
