"""The cycle goes as far as it goes, says why it stopped, and does nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from support.job_side import INTENTS, rows
from support.learn_side import BY, DENIED, LearnSide, learned
from upeti.control import learn_runs, rollout, students
from upeti.control.certifying import next_look, spans_of, unfair_spans
from upeti.control.learn_cycle import run
from upeti.control.learn_runs import Ended, Ran
from upeti.control.signing import public_keys
from upeti.control.training import Wanted, measured_for
from upeti.core.errors import ConfigError
from upeti.journal.acts import act, read_acts
from upeti.learning import calibration, certificate
from upeti.learning.target import Kind
from upeti.rights.stage import Stage

HOUR_NS = 3600 * 10**9
LENIENT = {"alpha": 0.2, "delta": 0.2}


def ran(side: LearnSide, **changes: Any) -> Ran:
    given = {"task": "intents", "channel": "own", "level": "l1"}
    options = {name: changes.pop(name) for name in ("capturing", "again_after_hours") if name in changes}
    return run(side.store, side.terms, side.bodies, Wanted(**(given | changes)), **BY, **options)


def test_from_kept_calls_to_the_shadow_and_then_nothing_is_new(tmp_path: Path) -> None:
    side = learned(tmp_path, 300, **LENIENT)
    first = ran(side)
    assert first.outcome is Ended.SHADOW, first
    student = students.student(side.store, first.model)
    assert (student.model.stage, student.model.id) == (Stage.SHADOW, "intents@1")
    assert student.certificate is not None
    assert student.certificate.id == first.certificate

    # A third party computes the certificate again from its rows.
    folder = side.store.data_dir / "certificates"
    held = certificate.opened((folder / f"{first.certificate}.json").read_bytes(), public_keys(side.store.data_dir))
    kept = calibration.decode((folder / f"{first.certificate}.rows.jsonl").read_bytes())
    assert certificate.verify(held, kept) == []
    assert held.facts.student_sha256 == student.sha256
    assert held.facts.template_sha256 == student.template.digest
    assert (held.n, held.look) == (len(kept), 1)

    again = ran(side)
    assert again.outcome is Ended.NOTHING_NEW
    assert "intents@1 is shadow; the next version is trained in 168 hours" in again.why
    old = ran(side, again_after_hours=0)
    assert (old.outcome, old.steps) == (Ended.NOTHING_NEW, ())
    assert old.why.startswith("no call was kept since the last run, which ended: intents@1 is in the shadow")
    assert [one.id for one in learn_runs.all_runs(side.store, "intents")] == [first.id]
    kinds = [one.kind for one in read_acts(side.store.data_dir)][-5:]
    assert kinds == [
        "datasets.built",
        "models.registered",
        "students.certified",
        "models.promoted",
        "learning.ran",
    ]

    # Taken back: the next version is trained as soon as there are calls, whatever its age.
    rollout.roll_back(side.store, "intents", **BY)
    assert [one.task for one in learn_runs.due(side.store, 8_000, 2 * 10**18)] == ["intents"]
    assert "no call was kept since the last run" in ran(side).why
    side.calls(rows()[300:])
    second = ran(side)
    assert (second.model, second.outcome) == ("intents@2", Ended.SHADOW)
    assert next_look(side.store, "intents") == 3


def test_what_is_missing_is_counted_and_costs_no_look(tmp_path: Path) -> None:
    side = learned(tmp_path, 60)
    few = ran(side, capturing=False)
    assert few.outcome is Ended.NEEDS_CALLS
    assert few.why.startswith("needs ")
    assert "more calls: 60 are kept, and a certificate at 95.00% can begin with" in few.why
    assert few.why.endswith("`[capture] enabled` is false: nothing more is kept")
    assert next_look(side.store, "intents") == 1
    assert learn_runs.all_runs(side.store) == []


def test_a_promise_that_is_not_shown_is_no_certificate(tmp_path: Path) -> None:
    side = LearnSide(tmp_path)
    side.calls([(text, INTENTS[crc32(text.encode()) % 2]) for text, _ in rows()])  # nothing in a text tells its answer
    side.declare(target=Kind.ANSWER, alpha=0.05, delta=0.2)
    first = ran(side)
    assert first.outcome in (Ended.NEEDS_CALLS, Ended.NOT_CERTIFIED), first
    assert "a certificate at 95.00% is not reached" in first.why or "more calls" in first.why
    assert first.certificate == ""
    assert students.student(side.store, "intents").model.stage is Stage.REGISTERED
    assert next_look(side.store, "intents") == 2
    again = ran(side)
    assert again.outcome is Ended.NOTHING_NEW
    side.calls([("Where is my new card, please?", "card_arrival")])
    if first.outcome is Ended.NEEDS_CALLS:
        waits = ran(side)
        assert (waits.outcome, waits.steps) == (Ended.NEEDS_CALLS, ())


def test_without_a_right_nothing_is_trained(tmp_path: Path) -> None:
    side = LearnSide(tmp_path, DENIED)
    side.calls(rows())
    side.declare(**LENIENT)
    found = ran(side)
    assert found.outcome is Ended.NOT_PERMITTED
    assert "clause sim-terms/1 (deny): “You must not train on what we answer.”" in found.why
    assert students.all_students(side.store) == []
    # Labels of one's own need none: what the teacher said is only compared with.
    path = tmp_path / "labels.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",{said}\n' for text, said in rows() if '"' not in text))
    own = ran(side, labels=str(path), labels_owner="head of support")
    assert own.outcome is Ended.SHADOW, own
    assert students.student(side.store, own.model).model.datasets == ("intents-own@1",)
    assert measured_for(side.store, students.student(side.store, own.model)) == "evaluate"


def test_calls_count_only_while_no_student_answered_and_since_the_last_alarm() -> None:
    def moved(at: int, event: str, stage: Stage, who: str = "a@1") -> Any:
        return act(at * HOUR_NS, "x", f"models.{event}", who, "y", stage=stage)

    hours = [
        (round(start / HOUR_NS), round(end / HOUR_NS))
        for start, end in spans_of(
            [
                moved(1, "promoted", Stage.SHADOW),
                moved(2, "promoted", Stage.CANARY_1),
                moved(3, "promoted", Stage.CANARY_10),
                moved(4, "rolled_back", Stage.ROLLED_BACK),
                moved(5, "readmitted", Stage.SHADOW),
                moved(6, "promoted", Stage.CANARY_1, "a@2"),
            ]
        )
    ]
    assert hours == [(2, 4), (6, round((2**63 - 1) / HOUR_NS))]
    alarm = [moved(2, "promoted", Stage.CANARY_1), moved(7, "alarm", Stage.ROLLED_BACK)]
    assert [(start // HOUR_NS, end // HOUR_NS) for start, end in spans_of(alarm)] == [(1, 7), (0, 7)]
    assert spans_of([]) == ()


def test_a_schedule_is_an_act_and_says_what_is_due(tmp_path: Path) -> None:
    side = LearnSide(tmp_path)
    side.calls(rows()[:40])
    task = side.declare()
    now = task.declared_ns
    assert learn_runs.due(side.store, 0, now + 1_000 * HOUR_NS) == []
    assert [one.task for one in learn_runs.due(side.store, 24, now + 25 * HOUR_NS)] == ["intents"]
    assert learn_runs.due(side.store, 24, now + 23 * HOUR_NS) == []
    made = learn_runs.schedule(side.store, "intents", 48 * 3600, **BY)
    assert learn_runs.due(side.store, 24, made.since_ns + 47 * HOUR_NS) == []
    assert learn_runs.due(side.store, 0, made.since_ns + 49 * HOUR_NS) == [made]
    learn_runs.unschedule(side.store, "intents", **BY)
    assert learn_runs.all_schedules(side.store) == []
    with pytest.raises(ConfigError, match="has no schedule: `upeti learn status`"):
        learn_runs.unschedule(side.store, "intents", **BY)
    with pytest.raises(ConfigError, match="every hour at most: --every 1h, or 7d"):
        learn_runs.schedule(side.store, "intents", 60, **BY)
    with pytest.raises(ConfigError, match="`others` is no declared task"):
        learn_runs.schedule(side.store, "others", 7200, **BY)
    kinds = [one.kind for one in read_acts(side.store.data_dir) if one.kind.startswith("learning")]
    assert kinds == ["learning.scheduled", "learning.unscheduled"]
    assert unfair_spans(side.store, "intents") == ()
