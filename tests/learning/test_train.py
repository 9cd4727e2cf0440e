"""Training is the same each time, says honestly how good it is, and takes every kind of answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from support.learning_side import CARD, banking, trained
from upeti.learning.answers import UNREADABLE, AnswerForm, Field
from upeti.learning.examples import Example
from upeti.learning.train import Report, TrainingError, train

FORM, ROWS = banking(labels=CARD)
CARD_WORDS = [("card" in row.text.lower(), "?" in row.text) for row in ROWS]


def test_the_same_rows_make_the_same_student() -> None:
    again = train(ROWS[:250], FORM, level="l1")
    first = trained()
    assert again.report == first.report
    assert again.student.about == first.student.about
    assert all((again.student.arrays[name] == array).all() for name, array in first.student.arrays.items())
    other = train(ROWS[:250], FORM, level="l1", seed=1)
    assert other.report != first.report


def test_what_the_report_says_is_about_what_comes_true() -> None:
    report = trained().report
    rest = ROWS[250:]
    predicted = trained().student.predict([row.text for row in rest])
    agrees = np.array([said == row.values for said, row in zip(predicted.answers, rest, strict=True)])
    assert abs(report.agreement - agrees.mean()) < 0.1
    assert abs(predicted.confidence.mean() - agrees.mean()) < 0.1, "confidence is a probability"
    assert [rows for rows, _ in report.curve] == [31, 62, 125, 188]
    assert report.curve[-1][1] > report.curve[0][1], "more rows help"
    assert sum(one.rows for one in report.answers) == report.rows == 250
    assert report.coverage(0) < report.coverage(0.05) < report.coverage(1) == 1
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_steps_are_told_in_order() -> None:
    told: list[tuple[int, int, str]] = []
    train(ROWS[:60], FORM, level="l1", progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(told[-1][1] + 1))
    assert told[-1][2] == "done"


def test_several_fields_are_learned_and_the_confidence_is_that_of_all() -> None:
    form = AnswerForm(kind="fields", fields=(Field("intent"), Field("card", text=False), Field("same")))
    rows = [
        Example(row.id, row.text, (row.values[0], "true" if card else "false", "x"))
        for row, (card, _) in zip(ROWS, CARD_WORDS, strict=True)
    ]
    student = train(rows[:250], form, level="l1").student
    predicted = student.predict([row.text for row in rows[250:]])
    one = trained().student.predict([row.text for row in rows[250:]])
    assert {len(values) for values in predicted.answers} == {3}
    assert np.mean([said[1] == row.values[1] for said, row in zip(predicted.answers, rows[250:], strict=True)]) > 0.9
    assert predicted.confidence.mean() < one.confidence.mean()


def test_tags_are_learned_each_by_itself() -> None:
    form = AnswerForm(kind="tags", fields=(Field("tags"),))
    rows = [
        Example(row.id, row.text, tuple(sorted(["card"] * card + ["question"] * question)))
        for row, (card, question) in zip(ROWS, CARD_WORDS, strict=True)
    ]
    student = train(rows[:250], form, level="l1").student
    said = student.predict([row.text for row in rows[250:]]).answers
    assert set(said) <= {(), ("card",), ("question",), ("card", "question")}
    assert np.mean([one == row.values for one, row in zip(said, rows[250:], strict=True)]) > 0.8


def test_an_answer_out_of_form_teaches_nothing() -> None:
    spoilt = [*ROWS[:100], *(Example(f"x{n}", f"nonsense {n}", UNREADABLE) for n in range(10))]
    report = train(spoilt, FORM, level="l1").report
    assert (report.rows, report.left_out) == (100, 10)
    assert not [one for one in report.answers if one.values == UNREADABLE]


def test_a_task_with_one_answer_is_learned() -> None:
    rows = [Example(row.id, row.text, ("yes",)) for row in ROWS[:40]]
    student = train(rows, FORM, level="l1").student
    assert set(student.predict([row.text for row in ROWS[40:60]]).answers) == {("yes",)}


def test_what_cannot_be_trained_says_why() -> None:
    with pytest.raises(TrainingError, match="3 rows with an answer are too few"):
        train(ROWS[:3], FORM, level="l1")
    with pytest.raises(TrainingError, match="level l3 is not made here"):
        train(ROWS, FORM, level="l3")
    rows = [Example(str(n), chr(0x4E00 + n) * 2, ("a",)) for n in range(30)]
    with pytest.raises(TrainingError, match="hardly an n-gram in common"):
        train(rows, FORM, level="l1")
    with pytest.raises(TrainingError, match="no row has a tag"):
        train([Example(str(n), f"text {n}", ()) for n in range(30)], AnswerForm(kind="tags", fields=()), level="l1")
