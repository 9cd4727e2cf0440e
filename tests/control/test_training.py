"""A student is trained on what may be trained on, is registered with what it rests on, and says what stands against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.job_side import rows
from support.learn_side import BY, DENIED, LearnSide, learned, terms
from upeti.control import datasets, models, rollout, students
from upeti.control.training import Trained, Wanted, free_name, pairs_of, task_of, train
from upeti.core.errors import ConfigError
from upeti.learning.job import JobError
from upeti.learning.student import load
from upeti.rights.stage import Stage


def trained(side: LearnSide, **changes: Any) -> Trained:
    wanted = Wanted(**({"task": "intents", "channel": "own", "level": "l1"} | changes))
    return train(side.store, side.terms, side.bodies, wanted, **BY)


def test_a_student_is_registered_with_what_it_rests_on(tmp_path: Path) -> None:
    side = learned(tmp_path, 160)
    student, made, dataset = trained(side)
    assert (student.model.id, student.model.stage, student.place) == (
        "intents@1",
        Stage.REGISTERED,
        ("own", "intents"),
    )
    assert student.model.datasets == (dataset.id,) == ("intents@1",)
    assert student.teacher == ("sim", "gpt-4")
    kept = load(side.store.data_dir / student.folder, digest=student.sha256)
    assert kept.about.template == task_of(side.store, "intents").template_sha256
    assert made.rows + made.calibration_rows == dataset.rows == pairs_of(side.store, task_of(side.store, "intents"))

    rollout.promote(side.store, student.model.id, **BY)
    again = trained(side, dataset="intents@1")
    assert (again.student.model.id, again.student.place) == ("intents@2", ("own", "intents-next"))
    assert again.made.rows == made.rows
    assert len(datasets.all_datasets(side.store)) == 1
    side.terms = terms(tmp_path, DENIED)
    with pytest.raises(ConfigError, match=r"may not be trained for classify_internal: .* rows of intents@1 hang on"):
        trained(side, dataset="intents@1")


def test_a_new_version_is_served_under_a_name_that_is_free() -> None:
    def let_in(name: str, stage: Stage) -> Any:
        return models.Model("", "", "", "", False, "", "own", name, "", "", (), (), 0, "", stage, "", "", 0)

    shadow, live, retired = let_in("a", Stage.SHADOW), let_in("a-next", Stage.LIVE), let_in("a", Stage.RETIRED)
    assert free_name([], "a") == free_name([retired, live], "a") == "a"
    assert free_name([shadow, retired], "a") == "a-next"
    with pytest.raises(ConfigError, match="roll one back or retire it, or give --served-as"):
        free_name([shadow, live], "a")


def test_labels_of_ones_own_need_no_right_and_no_teacher(tmp_path: Path) -> None:
    side = LearnSide(tmp_path, DENIED)
    side.calls(rows()[:60])
    side.declare()
    with pytest.raises(ConfigError, match=r"clause sim-terms/1 \(deny\): “You must not train on what we answer.”"):
        trained(side)
    path = tmp_path / "labels.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",{said}\n' for text, said in rows()[:160] if '"' not in text))
    student, made, dataset = trained(side, labels=str(path))
    assert (dataset.id, student.model.datasets) == ("intents-own@1", ("intents-own@1",))
    assert datasets.manifest_of(dataset).own_rows == dataset.rows
    assert made.agreement > 0.6
    models.quarantine_touched(side.store, side.terms, 2 * 10**18)
    assert students.student(side.store, "intents").model.stage is Stage.REGISTERED


def test_what_is_missing_is_said_with_its_cure(tmp_path: Path) -> None:
    side = LearnSide(tmp_path)
    with pytest.raises(ConfigError, match="is no declared task: `upeti tasks list`"):
        trained(side)
    side.calls(rows()[:30])
    side.declare()
    with pytest.raises(JobError, match=r"20 are needed and 500 are better: about \d+ more calls"):
        trained(side)
    with pytest.raises(ConfigError, match="give --by and --why"):
        train(side.store, side.terms, side.bodies, Wanted(task="intents", channel="own"), by="", why="")
    assert students.all_students(side.store) == []
