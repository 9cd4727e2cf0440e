"""Gold labels for disagreements only: blind, safe before the last label, true as often as said."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.learning import gold
from upeti.learning.gold import Counts, GoldError, Pair, Right

DELTA, MARGIN = 0.1, 0.02
words = st.text(max_size=6)
pairs_lists = st.lists(
    st.builds(Pair, st.text(min_size=1, max_size=6), st.tuples(words), st.tuples(words), words),
    max_size=30,
    unique_by=lambda pair: pair.id,
)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    n = draw(st.integers(1, 250))
    losses = draw(st.integers(0, n))
    wins = draw(st.integers(0, n - losses))
    return Counts(n, wins, losses, draw(st.integers(0, n - losses - wins)))


@settings(deadline=None)
@given(pairs_lists, st.data())
def test_labels_come_back_as_they_were_put_down(pairs: list[Pair], data: st.DataObject) -> None:
    lines = list(csv.DictReader(io.StringIO(gold.questions(pairs), newline="")))
    assert len(lines) == sum(pair.student != pair.teacher for pair in pairs)
    given_labels = data.draw(
        st.lists(st.sampled_from(["1", "2", "neither", ""]), min_size=len(lines), max_size=len(lines))
    )
    out = io.StringIO()
    writer = csv.DictWriter(out, gold.COLUMNS)
    writer.writeheader()
    for line, label in zip(lines, given_labels, strict=True):
        writer.writerow({**line, "right": label})
    labels = gold.labels_in(out.getvalue(), pairs)
    asked = gold.to_ask(pairs)
    for pair, line, label in zip(asked, lines, given_labels, strict=True):
        if not label:
            assert pair.id not in labels
        elif label == "neither":
            assert labels[pair.id] is Right.NEITHER
        else:
            chosen = pair.student if labels[pair.id] is Right.STUDENT else pair.teacher
            shown = line[f"answer_{label}"]
            assert shown in (chosen[0], "'" + chosen[0])
    counted = gold.counted(pairs, labels)
    assert counted.n == len(pairs)
    assert counted.unknown == given_labels.count("")


def test_who_labels_does_not_see_whose_answer_is_whose() -> None:
    pairs = [Pair(str(i), ("s",), ("t",), "=HYPERLINK()") for i in range(1000)]
    lines = list(csv.DictReader(io.StringIO(gold.questions(pairs), newline="")))
    assert 420 < sum(line["answer_1"] == "s" for line in lines) < 580
    assert all(line["text"].startswith("'=") for line in lines)
    assert [line["row"] for line in lines] != sorted(line["row"] for line in lines)


def test_a_file_that_was_not_written_for_this_is_refused() -> None:
    pairs = [Pair("a", ("s",), ("t",)), Pair("b", ("s",), ("s",))]
    for text, words in (
        ("", "line 1"),
        ("row,gold\n", "line 1"),
        ("row,right\nb,1\n", "line 2: row 'b' is none"),
        ("row,right\na,3\n", "write 1 or 2"),
        ("row,right\na," + "1" * 200_000, "no CSV"),
        ("row,right\na,1\na,1\n", "line 3.*twice"),
    ):
        with pytest.raises(GoldError, match=words):
            gold.labels_in(text, pairs)
    with pytest.raises(GoldError, match="twice"):
        gold.counted([pairs[0], pairs[0]], {})


def test_known_right_answers_are_labels() -> None:
    pairs = [Pair(str(i), ("s",), ("t",)) for i in range(3)] + [Pair("same", ("s",), ("s",))]
    labels = gold.labels_of(pairs, {"0": ("s",), "1": ("t",), "2": ("u",), "same": ("s",)})
    assert labels == {"0": Right.STUDENT, "1": Right.TEACHER, "2": Right.NEITHER}


@settings(deadline=None, max_examples=40)
@given(counts(), st.booleans())
def test_a_win_helps_a_loss_harms_and_what_is_unknown_counts_as_lost(found: Counts, anytime: bool) -> None:
    now = gold.verdict(found, MARGIN, DELTA, anytime=anytime)
    assert now.difference.low <= now.difference.estimate <= now.difference.high
    assert now.non_inferior == (now.difference.low >= -MARGIN) or abs(now.difference.low + MARGIN) < 2e-4
    if found.unknown:
        known = found._replace(unknown=found.unknown - 1)
        win = gold.verdict(known._replace(wins=found.wins + 1), MARGIN, DELTA, anytime=anytime)
        loss = gold.verdict(known._replace(losses=found.losses + 1), MARGIN, DELTA, anytime=anytime)
        assert win.difference.low >= now.difference.low - 2e-4
        assert loss.difference.low == pytest.approx(now.difference.low, abs=2e-4)
        assert loss.difference.high <= now.difference.high + 2e-4


def test_looking_after_every_portion_is_false_as_rarely_as_said() -> None:
    """The student is worse by exactly the margin: at no look may it pass for non-inferior."""
    rng = np.random.default_rng(1)
    shown = 0
    for _ in range(200):
        drawn = rng.random(3000)
        wins, losses = np.cumsum(drawn < 0.03), np.cumsum(drawn > 1 - 0.05)
        shown += any(
            gold.shown_at_any_look(Counts(n, int(wins[n - 1]), int(losses[n - 1])), -MARGIN, DELTA)
            for n in range(150, 3001, 150)
        )
    assert shown <= 200 * DELTA + 3 * math.sqrt(200 * DELTA * (1 - DELTA))


def test_one_look_is_false_as_rarely_as_said() -> None:
    rng = np.random.default_rng(3)
    for wins, losses in ((0.03, 0.05), (0.0, 0.02), (0.2, 0.22)):
        drawn = rng.random((400, 300))
        shown = sum(
            gold.shown_at_one_look(Counts(300, int((row < wins).sum()), int((row > 1 - losses).sum())), -MARGIN, DELTA)
            for row in drawn
        )
        assert shown <= 400 * DELTA + 3 * math.sqrt(400 * DELTA * (1 - DELTA))


def test_the_p_value_is_that_of_all_outcomes_added_up() -> None:
    n, wins, losses, difference = 12, 3, 4, -0.25
    found = gold.one_look_p_value(Counts(n, wins, losses), difference, 1e-9)

    def summed(share: float) -> float:
        plus, minus = (share + difference) / 2, (share - difference) / 2
        return sum(
            math.comb(n, a) * math.comb(n - a, b) * plus**a * minus**b * max(0.0, 1 - share) ** (n - a - b)
            for a in range(n + 1)
            for b in range(n + 1 - a)
            if a - b >= wins - losses
        )

    assert found == pytest.approx(max(summed(share) for share in np.linspace(0.25, 1, 400)), abs=2e-3)


def test_a_student_as_good_as_the_teacher_is_shown_to_be_so() -> None:
    rng = np.random.default_rng(2)
    shown = 0
    for _ in range(100):
        drawn = rng.random(4000)
        wins, losses = int((drawn < 0.04).sum()), int((drawn > 0.96).sum())
        shown += gold.shown_at_one_look(Counts(4000, wins, losses), -MARGIN, DELTA)
    assert shown > 85
