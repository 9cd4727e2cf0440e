"""What is seen of a text does not depend on the texts beside it, and is what it says it is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from support.learning_side import banking
from upeti.learning.features import BUCKETS, CHARACTERS_MAX, TfIdf, fit_tf_idf

TEXTS = [row.text for row in banking()[1][:200]]
WHOLE = TfIdf(np.arange(BUCKETS, dtype=np.int32), np.ones(BUCKETS, np.float32))
FITTED = fit_tf_idf(TEXTS)
any_text = st.text(max_size=40) | st.text(st.characters(), max_size=20) | st.sampled_from(TEXTS)


@given(st.lists(any_text, min_size=1, max_size=6))
def test_a_text_alone_is_seen_as_in_a_batch(texts: list[str]) -> None:
    for tf_idf in (WHOLE, FITTED):
        together, shares = tf_idf(texts)
        assert together.shape == (len(texts), len(tf_idf.buckets))
        for row, text in enumerate(texts):
            columns, values, share = tf_idf.one(text)
            dense = np.zeros(len(tf_idf.buckets), np.float32)
            dense[columns] = values
            np.testing.assert_allclose(together[row].toarray()[0], dense, atol=1e-6)
            assert abs(share - shares[row]) < 1e-6
            length = float(np.linalg.norm(dense))
            assert abs(length - 1) < 1e-5 or not len(columns)


@given(any_text)
def test_case_and_spaces_are_no_difference(text: str) -> None:
    plain = " ".join(text.casefold().split())
    assert WHOLE.one(plain)[0].tolist() == WHOLE.one(f"  {text}\n")[0].tolist()


def test_words_their_order_and_their_letters_are_seen() -> None:
    def alike(one: str, other: str) -> float:
        rows, _ = WHOLE([one, other])
        return float((rows[0] @ rows[1].T).toarray()[0, 0])

    assert alike("my card is lost", "my card is lost") > 0.999
    assert 0.999 > alike("my card is lost", "is my card lost") > alike("my card is lost", "top up by cheque")
    assert alike("lost", "lsot") < alike("lost", "losst") < 1


def test_a_vocabulary_is_what_enough_texts_use() -> None:
    tf_idf = fit_tf_idf(["apple pie", "apple tart", "pear tart"])
    _, shares = tf_idf(["apple tart", "quince"])
    assert shares[0] > 0.8
    assert shares[1] < 0.2
    smaller = fit_tf_idf(TEXTS, at_most=500)
    assert len(smaller.buckets) == 500
    assert (np.diff(smaller.buckets) > 0).all()
    assert smaller.weights.mean() < FITTED.weights.mean(), "the rarest are left out"


def test_a_huge_text_costs_no_more_than_its_beginning() -> None:
    text = "a card " * CHARACTERS_MAX
    assert WHOLE.one(text)[0].tolist() == WHOLE.one(text[:CHARACTERS_MAX])[0].tolist()
    assert WHOLE([])[0].shape == (0, BUCKETS)
