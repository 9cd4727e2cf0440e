from __future__ import annotations

import numpy as np
import pytest

from upeti.providers.minilm import DIMENSIONS, MiniLm


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm()


def test_like_texts_are_near_each_other(model: MiniLm) -> None:
    vectors = model.embed(["A cat sits on the mat.", "Stock markets fell.", "A kitten rests on a rug."])
    assert vectors.shape == (3, DIMENSIONS)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > 0.5 > vectors[0] @ vectors[1]


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(model: MiniLm) -> None:
    alone = model.embed(["A heist in Los Angeles."])[0]
    among = model.embed(["word " * 400, "A heist in Los Angeles.", ""])
    assert float(alone @ among[1]) > 0.97  # int8: what is in the batch moves the scale of activations a little
    assert not among[2].any()


def test_a_huge_text_takes_no_longer_than_a_long_one(model: MiniLm) -> None:
    assert np.isfinite(model.embed(["word " * 2_000_000])).all()
