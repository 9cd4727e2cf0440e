"""What a student sees of a text: how often it has which words, pairs of words and pieces of 2 to 5 letters.

Pieces of a whole batch are hashed at once by numpy, a text being an array of code points; no piece is ever a Python
string, which is what makes one text cost a tenth of a millisecond. Hashes fall into ``BUCKETS``; the vocabulary of a training
set are the buckets that enough of its texts use. So a student, unlike one with a list of words, keeps no text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

BUCKETS: Final = 1 << 18
CHARACTERS_MAX: Final = 4_096  # of a text; what comes after is not seen
_LONGEST: Final = 5  # letters of a piece
_END: Final = "\0" * (_LONGEST - 1)  # after every text: a piece that starts in it ends in it or here
_ROWS: Final = 2_048  # hashed at once: bounds the memory
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xD6E8FEB86659FD93)
_SHIFT: Final = np.uint64(64 - 18)
_HALF: Final = np.uint64(32)
_word = re.compile(r"\w+")

Ids = NDArray[np.int64]
Values = NDArray[np.float32]


class TfIdf:
    """Weights of a vocabulary. ``buckets`` (sorted, m of them) are its columns, ``weights`` (m) their rarity."""

    def __init__(self, buckets: NDArray[np.int32], weights: Values) -> None:
        self.buckets = buckets
        self.weights = weights
        self._columns = np.full(BUCKETS, -1, np.int32)
        self._columns[buckets] = np.arange(len(buckets), dtype=np.int32)

    def one(self, text: str) -> tuple[Ids, Values, float]:
        """Return the columns of one text, their values (of length 1 together), and the share of its n-grams that are known."""
        buckets, _ = _buckets([text])
        columns = self._columns[buckets]
        known, counts = _counted(columns[columns >= 0])
        values = _tf[np.minimum(counts, len(_tf) - 1)] * self.weights[known]
        length = np.sqrt(values @ values)
        share = np.count_nonzero(columns >= 0) / len(columns)
        return known, np.asarray(values / length if length else values, np.float32), share

    def __call__(self, texts: Sequence[str]) -> tuple[sparse.csr_matrix, Values]:
        """Return n × m float32, rows of length 1 (zeros: nothing of a text is known), and each one's share of known n-grams."""
        parts = [self._some(texts[start : start + _ROWS]) for start in range(0, max(1, len(texts)), _ROWS)]
        if len(parts) == 1:
            return parts[0]
        return sparse.vstack([part[0] for part in parts], "csr"), np.concatenate([part[1] for part in parts])

    def _some(self, texts: Sequence[str]) -> tuple[sparse.csr_matrix, Values]:
        buckets, rows = _buckets(texts)
        columns = self._columns[buckets]
        known = columns >= 0
        share = np.bincount(rows[known], minlength=len(texts)) / np.maximum(np.bincount(rows, minlength=len(texts)), 1)
        width = max(1, len(self.buckets))
        places, counts = _counted(rows[known] * width + columns[known])
        rows, columns = np.divmod(places, width)
        values = _tf[np.minimum(counts, len(_tf) - 1)] * self.weights[columns]
        length = np.sqrt(np.bincount(rows, values * values, len(texts))).astype(np.float32)
        values /= length[rows]
        ends = np.searchsorted(rows, np.arange(len(texts) + 1))
        found = sparse.csr_matrix((values, columns, ends), (len(texts), len(self.buckets)))
        return found, share.astype(np.float32)


def fit_tf_idf(texts: Sequence[str], *, at_least: int = 2, at_most: int = 60_000) -> TfIdf:
    """Return the vocabulary of the training texts: buckets that ``at_least`` so many texts use, the most used ones first."""
    used = np.zeros(BUCKETS, np.int64)
    for start in range(0, len(texts), _ROWS):
        buckets, rows = _buckets(texts[start : start + _ROWS])
        places, _ = _counted(rows * BUCKETS + buckets)
        used += np.bincount(places & (BUCKETS - 1), minlength=BUCKETS)
    kept = np.flatnonzero(used >= at_least)
    if len(kept) > at_most:
        kept = np.sort(kept[np.argsort(-used[kept], kind="stable")[:at_most]])
    weights = 1 + np.log((1 + len(texts)) / (1 + used[kept]))
    return TfIdf(kept.astype(np.int32), weights.astype(np.float32))


# How often -> weight: the second time says less than the first.
_tf: Final[Values] = np.zeros(256, np.float32)
_tf[1:] = 1 + np.log(np.arange(1, 256))


def _counted(values: NDArray[Any]) -> tuple[Ids, Ids]:
    """Return the different values, sorted, and how often each is there."""
    values = np.sort(values)
    firsts = np.flatnonzero(values[1:] != values[:-1])
    firsts = np.concatenate(([0], firsts + 1)) if len(values) else np.zeros(0, np.int64)
    return values[firsts].astype(np.int64), np.diff(firsts, append=len(values))


def _buckets(texts: Sequence[str]) -> tuple[Ids, Ids]:
    """Return the bucket and the row of each word, pair of words and piece."""
    # Closed in by spaces, so that the first letter of a word is seen to be one.
    plain = [f" {' '.join(text[:CHARACTERS_MAX].casefold().replace(_END[0], ' ').split())} " for text in texts]
    points = np.frombuffer((_END.join(plain) + _END).encode("utf-32-le", "surrogatepass"), np.uint32)
    starts = np.flatnonzero(points[1:] * points[:-1].astype(np.bool_))  # not the space that closes a text in
    pieces = np.empty((_LONGEST - 1, len(starts)), np.uint64)
    piece = points.astype(np.uint64)
    for letters in range(2, _LONGEST + 1):
        piece = piece[:-1] * _BASE + points[letters - 1 :]
        pieces[letters - 2] = piece[starts]

    words: list[int] = []
    word_counts = []
    for text in plain:
        of_text = [crc32(word.encode("utf-8", "surrogatepass")) for word in _word.findall(text)]
        words += of_text
        words += [first << 32 | second for first, second in pairwise(of_text)]
        word_counts.append(max(0, 2 * len(of_text) - 1))
    hashes = np.concatenate((pieces.ravel(), np.array(words, np.uint64) * _BASE))
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    buckets = (hashes >> _SHIFT).astype(np.int64)
    if len(plain) == 1:
        return buckets, np.zeros(len(buckets), np.int64)
    numbers = np.arange(len(plain))
    of_pieces = np.repeat(numbers, [len(text) - 1 for text in plain])
    return buckets, np.concatenate((*([of_pieces] * (_LONGEST - 1)), np.repeat(numbers, word_counts)))
