"""What audit journals say goes into the state once, and stages follow from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.rollout_side import BY, TARGET, added, certified
from upeti.control import rollout, students
from upeti.control.audit_journal import AuditJournal, Seen, path_of, read
from upeti.control.audit_watch import AuditWatch, fold
from upeti.control.latches import all_incidents
from upeti.control.store import Store
from upeti.control.students_view import audited
from upeti.core.config_learning import Learning, LearningStep
from upeti.gateway.log import Log
from upeti.learning.audit import Audited, Deferred, Observation, State, begin, observe
from upeti.rights.stage import Stage

OpenStore = Callable[[], Store]
DAY_NS = 86_400 * 10**9
GOOD, BAD = Audited(("a",), ("a",)), Audited(("a",), ("b",))
QUICK = tuple(LearningStep(one, 5, 0.0, bound=False) for one in ("shadow", "canary_1", "canary_10", "canary_50"))


def watch_of(store: Store, told: list[str] | None = None, **settings: object) -> AuditWatch:
    learning = Learning(**({"promote": "by_hand"} | settings))  # type: ignore[arg-type]
    return AuditWatch(store, lambda: learning, lambda: None, Log("test", time.time_ns))


class Writer:
    """What a students' process would write."""

    def __init__(self, store: Store, certificate: str, node: str = "n1") -> None:
        self.journal = AuditJournal(path_of(store.data_dir, certificate))
        self.node = node

    def audits(self, *seen: Audited, at_ns: int | None = None) -> None:
        for one in seen:
            self.journal.number += 1
            observation = Observation(self.node, self.journal.number, 0.1, (Deferred((), 2),), one)
            self.journal.add(Seen(at_ns or time.time_ns(), observation, 10, 2, "aud", "req"), durable=False)


def live(store: Store, folder: Path) -> students.Student:
    added(store, folder)
    certified(store)
    for _ in range(5):
        one = rollout.promote(store, "intents", **BY)
    return one


def held(store: Store) -> students.Certificate:
    certificate = students.student(store, "intents").certificate
    assert certificate is not None
    return certificate


def test_observations_count_once_whoever_reads_them(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    one = live(store, tmp_path)
    assert one.certificate is not None
    writer = Writer(store, one.certificate.id)
    writer.audits(GOOD, GOOD, BAD)
    first, second = watch_of(store), watch_of(open_store())
    assert first.look() is False
    assert second.look() is False, "another keeper, or the same one again"
    found = audited(held(store))
    assert (found.audits, found.answered, found.deferred, found.risks[0].errors) == (3, 30, 6, 1)
    writer.audits(BAD)
    first.look()
    entries, _ = read(path_of(store.data_dir, one.certificate.id))
    state = begin(TARGET)
    for entry in entries:
        assert isinstance(entry, Seen)
        state = observe(state, TARGET, 0.05, entry.observation)
    import msgspec

    assert msgspec.convert(held(store).audits, State) == state
    assert audited(held(store)).audits == 4


def test_two_nodes_journals_are_one_evidence(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    live(store, tmp_path)
    for node in ("n1", "n2"):
        observations = [Observation(node, number, 0.1, (), GOOD) for number in (1, 2)]
        fold(store, held(store).id, [Seen(1, one, 1, 0) for one in observations])
    assert audited(held(store)).audits == 4
    assert set(held(store).counted) == {"n1", "n2"}


def test_the_alarm_rolls_back_with_an_incident_also_when_the_keeper_was_killed_in_between(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store()
    one = live(store, tmp_path)
    assert one.certificate is not None
    writer = Writer(store, one.certificate.id)
    writer.audits(*[GOOD] * 5, *[BAD] * 12)
    entries, _ = read(path_of(store.data_dir, one.certificate.id))
    fold(store, one.certificate.id, [entry for entry in entries if isinstance(entry, Seen)])  # and killed here
    assert watch_of(store).look() is True
    back = students.student(store, "intents")
    assert (back.model.stage, back.certificate) == (Stage.ROLLED_BACK, None)
    assert "audits gave the alarm: evidence of" in back.model.stage_why
    (incident,) = all_incidents(store)
    assert incident.why == back.model.stage_why
    assert watch_of(store).look() is False


def test_a_certificate_that_nobody_audits_lapses(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    one = live(store, tmp_path)
    assert one.certificate is not None
    watch = watch_of(store)
    assert watch.move(one.heard_ns + 7 * DAY_NS - 1) is False
    Writer(store, one.certificate.id).audits(GOOD, at_ns=one.heard_ns + 5 * DAY_NS)
    changes = store.changes()
    watch.look()
    assert store.changes() == changes + 1, "the students' process must know that it goes on"
    assert watch.move(one.heard_ns + 8 * DAY_NS) is False
    assert watch.move(one.heard_ns + 12 * DAY_NS) is True
    back = students.student(store, "intents")
    assert (back.model.stage, back.certificate) == (Stage.SHADOW, None)
    assert back.model.stage_why == "none of its answers was audited for 7 days"


def test_a_rule_promotes_step_by_step_once_audits_are_there(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    added(store, tmp_path)
    certified(store)
    rollout.promote(store, "intents", **BY)
    watch = watch_of(store, promote="by_rule", step=QUICK)
    writer = Writer(store, held(store).id)
    stages = []
    for _ in range(4):
        writer.audits(*[GOOD] * 4)
        assert watch.look() is False
        writer.audits(GOOD)
        assert watch.look() is True
        stages.append(students.student(store, "intents").model.stage)
    assert stages == [Stage.CANARY_1, Stage.CANARY_10, Stage.CANARY_50, Stage.LIVE]
    assert "5 answers audited in 0.0 h in this stage" in students.student(store, "intents").model.stage_why


@pytest.mark.parametrize(
    ("step", "good"), [(QUICK[2:3], True), ((LearningStep("canary_10", 5, 1.0, bound=False),), False)]
)
def test_a_rule_waits_for_its_hours(
    tmp_path: Path, open_store: OpenStore, step: tuple[LearningStep, ...], good: bool
) -> None:
    store = open_store()
    added(store, tmp_path)
    certified(store)
    for _ in range(3):
        rollout.promote(store, "intents", **BY)
    Writer(store, held(store).id).audits(*[GOOD] * 5)
    assert watch_of(store, promote="by_rule", step=step).look() is good


def test_a_rule_waits_for_the_bound(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    added(store, tmp_path)
    certified(store)
    for _ in range(3):
        rollout.promote(store, "intents", **BY)
    watch = watch_of(store, promote="by_rule", step=(LearningStep("canary_10", 5, 0.0),))
    writer = Writer(store, held(store).id)
    writer.audits(*[GOOD] * 30)
    assert watch.look() is False
    writer.audits(*[GOOD] * 150)
    assert watch.look() is True
    assert students.student(store, "intents").model.stage is Stage.CANARY_50


def test_a_damaged_journal_counts_no_more_and_stops_no_other(
    tmp_path: Path, open_store: OpenStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store()
    one = live(store, tmp_path)
    assert one.certificate is not None
    writer = Writer(store, one.certificate.id)
    writer.audits(GOOD)
    path = path_of(store.data_dir, one.certificate.id)
    watch = watch_of(store)
    watch.look()
    with path.open("ab") as file:
        file.write(b"00000000 {}\n")
    watch.look()
    assert "damaged at byte" in capsys.readouterr().err
    writer.audits(BAD)
    watch.look()
    assert audited(held(store)).audits == 1
    assert capsys.readouterr().err == "", "said once"
