"""A tuned encoder is a student like the others: kept, loaded without PyTorch, refused when changed, no worse."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from support.job_side import lines, rows, train_job
from support.learning_side import CARD, banking
from support.torch_side import demand_torch
from upeti.core.errors import ConfigError
from upeti.learning.encoder import EncoderOptions, train_encoder
from upeti.learning.job import run
from upeti.learning.student import ENCODER_FILE, Student, StudentError, load
from upeti.learning.train import Trained, TrainingError, keep, train

FORM, ROWS = banking(labels=CARD)
TEXTS = [row.text for row in ROWS]
WITHOUT_TORCH = """
import sys
from pathlib import Path
from upeti.learning.student import load
sys.modules["torch"] = sys.modules["transformers"] = None
student = load(Path(sys.argv[1]))
found = student.predict(["My card has not come yet", "Where is my card?"])
print(len(found.answers), found.answers[0][0])
"""


@cache
def tuned() -> Trained:
    demand_torch()
    return train_encoder(ROWS[:200], FORM, options=EncoderOptions(epochs_max=4))


def agreement(student: Student) -> float:
    said = student.predict(TEXTS[200:]).answers
    return float(np.mean([one == row.values for one, row in zip(said, ROWS[200:], strict=True)]))


@pytest.mark.slow
def test_it_agrees_with_the_teacher_no_less_than_level_2() -> None:
    l2 = train(ROWS[:200], FORM, level="l2").student
    assert agreement(tuned().student) > agreement(l2) - 0.03
    predicted = tuned().student.predict(TEXTS[200:])
    right = np.array([one == row.values for one, row in zip(predicted.answers, ROWS[200:], strict=True)])
    assert predicted.confidence[right].mean() > predicted.confidence[~right].mean(), "surer where it is right"


@pytest.mark.slow
def test_the_folder_is_served_without_pytorch(tmp_path: Path) -> None:
    digest = keep(tuned(), tmp_path / "l3")
    loaded = load(tmp_path / "l3", digest=digest)
    before, after = tuned().student.predict(TEXTS[:40]), loaded.predict(TEXTS[:40])
    assert before.answers == after.answers
    assert (before.confidence == after.confidence).all()
    assert before.in_scope.all()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "l3")], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["2", loaded.predict(["My card has not come yet"]).answers[0][0]], done.stderr


@pytest.mark.slow
def test_what_is_unlike_the_training_texts_is_out_of_scope() -> None:
    far = ["Ein Gedicht über das Meer im Winter", "SELECT name FROM stars WHERE mass > 3", "zzz qqq xxx"]
    assert not tuned().student.predict(far).in_scope.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [ENCODER_FILE, "weights.safetensors", "student.json", "report.json"])
def test_a_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    keep(tuned(), tmp_path / "l3")
    data = bytearray((tmp_path / "l3" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "l3" / name).write_bytes(data)
    with pytest.raises(StudentError, match="changed"):
        load(tmp_path / "l3")


@pytest.mark.slow
def test_the_report_is_about_the_rows_held_out() -> None:
    report = tuned().report
    assert report.level == "l3"
    assert report.rows == len(report.confidence) == len(report.agrees) == sum(one.rows for one in report.answers) == 50
    assert len(report.curve) > 1
    about = tuned().student.about.trained
    assert report.agreement >= max(float(about["agreement_l2"]), float(about["agreement_tuned"])) - 0.05
    assert 1 <= float(about["epochs"]) <= 4


@pytest.mark.slow
def test_a_job_trains_it_with_card_and_plots() -> None:
    demand_torch()
    made = run(train_job(lines(rows()), level="l3"))
    assert made.level == "l3"
    assert {ENCODER_FILE, "card.md", "learning-curve.svg"} <= set(made.files)


def test_too_few_rows_are_refused() -> None:
    if find_spec("torch") is None:
        with pytest.raises(ConfigError, match="make setup-torch"):
            train_encoder(ROWS[:30], FORM)
    else:
        with pytest.raises(TrainingError, match="too few"):
            train_encoder(ROWS[:30], FORM)
