"""Jobs: calibration rows are never trained on, only the teacher's rows count, and what is missing is said with its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.job_side import INTENTS, line, lines, own_line, rows, source, train_job
from upeti.learning import job
from upeti.learning.answers import form_of_texts
from upeti.learning.calibration import decode
from upeti.learning.card import CARD_FILE
from upeti.learning.examples import in_calibration
from upeti.learning.job import Failed, Made, Measure, Measured, Result, run
from upeti.learning.student import load

NS = 10**9


@pytest.fixture(scope="module")
def made() -> Made:
    return ok(run(train_job(lines(rows()), name="intents@1")))


def ok(result: Result) -> Any:
    assert not isinstance(result, Failed), result.message
    return result


def test_a_student_comes_as_files_that_load(made: Made, tmp_path: Path) -> None:
    student = load(job.write_folder(made.files, tmp_path / "student"), digest=made.sha256)
    assert student.about.template == source().template.digest
    assert made.files[CARD_FILE].startswith(b"# intents@1")
    assert made.agreement > 0.7
    assert made.answers == len(INTENTS)


def test_rows_for_calibration_are_left_out_of_training_and_are_all_that_is_measured(made: Made) -> None:
    kept = [text for text, _ in rows() if in_calibration(text, b"intents")]
    assert (made.calibration_rows, made.rows) == (len(kept), len(rows()) - len(kept))
    measured = ok(run(Measure(source=source(), rows=lines(rows()), files=made.files)))
    found = decode(measured.rows)
    assert len(found) == len(kept)
    said = dict(rows())
    assert sorted(row.teacher for row in found) == sorted((said[text],) for text in kept)
    assert len(measured.confidences) == made.rows


def test_the_same_job_gives_the_same_student_and_other_calibration_rows_change_nothing(made: Made) -> None:
    wrong = [(text, "card_arrival" if in_calibration(text, b"intents") else said) for text, said in rows()]
    again = ok(run(train_job(lines(wrong), name="intents@1")))
    assert again.sha256 == made.sha256


def test_only_what_the_teacher_answered_when_somebody_asked_counts() -> None:
    some = rows()
    others = [line(number, text, "age_limit", model="gpt-5") for number, (text, _) in enumerate(some)]
    audits = [line(number, text, "age_limit", feature="audit") for number, (text, _) in enumerate(some[:30])]
    found = ok(run(train_job(b"".join([*others, *audits, lines(some)]), name="intents@1")))
    assert found.left_out == {job.NOT_OF_TEACHER: len(some), job.OF_UPETI: 30}
    assert found.sha256 == ok(run(train_job(lines(some), name="intents@1"))).sha256


def test_calls_of_times_when_a_student_answered_are_no_fair_sample(made: Made) -> None:
    some = rows()
    early = lines(some[:100], captured="2026-11-01T10:00:00Z")
    late = lines(some[100:], captured="2026-11-05T10:00:00Z")
    spans = ((1_793_750_400 * NS, 2 * 1_793_750_400 * NS),)  # from 4 November on
    asked = Measure(source=source(), rows=early + late, files=made.files, spans=spans)
    found = ok(run(asked))
    assert found.left_out[job.SPAN] == len(some) - 100
    assert len(decode(found.rows)) == sum(in_calibration(text, b"intents") for text, _ in some[:100])


def test_labels_of_ones_own_are_never_mixed_with_a_teachers_answers() -> None:
    data = lines(rows()) + b"".join(own_line(text, said) for text, said in rows())
    found = ok(run(train_job(data, own=True)))
    assert found.left_out == {job.NOT_OWN: len(rows())}


def test_auto_takes_the_level_that_could_answer_more() -> None:
    found = ok(run(train_job(lines(rows()), level="auto")))
    by_level = {one.level: one.coverage for one in found.levels}
    assert set(by_level) == {"l1", "l2"}
    assert by_level[found.level] >= max(by_level.values()) - 0.011


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "there is no row to learn from (there are no rows)"),
        (lines(rows()[:20]), "20 are needed and 500 are better: about"),
        (lines((text, "age_limit") for text, _ in rows()), "have the same answer (age_limit)"),
        (lines((text, f"Dear customer, {text}, and so on. " * 9) for text, _ in rows()), "they hardly ever come again"),
        (lines(rows(), model="gpt-5"), "somebody else than the teacher answered"),
        (lines(rows(), request={"messages": [{"role": "user", "content": "Hi"}]}), "not of the task's template"),
    ],
    ids=["none", "few", "one answer", "free text", "another teacher", "another template"],
)
def test_what_is_missing_is_said_with_its_cure(data: bytes, said: str) -> None:
    result = run(train_job(data))
    assert isinstance(result, Failed)
    assert said in result.message


def test_answers_of_another_form_are_said_to_be_so() -> None:
    form = form_of_texts(['{"intent": "age_limit"}', '{"intent": "card_arrival"}'] * 10)
    result = run(train_job(lines(rows()), source=source(form=form)))
    assert isinstance(result, Failed)
    assert "are not of the task's form (fields)" in result.message


def test_nothing_to_measure_is_no_failure(made: Made) -> None:
    found = ok(run(Measure(source=source(), rows=b"", files=made.files)))
    assert isinstance(found, Measured)
    assert decode(found.rows) == []
