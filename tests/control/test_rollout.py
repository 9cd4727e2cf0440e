from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from support.lineage_side import terms
from support.rollout_side import BY, added, certified
from upeti.control import consents, models, rollout, students
from upeti.control.latches import all_incidents
from upeti.control.store import Store
from upeti.control.tables_students import students as table
from upeti.core.config_learning import Learning
from upeti.core.errors import ConfigError
from upeti.gateway.snapshot import ShareView
from upeti.journal.acts import read_acts
from upeti.learning.target import ClassLimit, Kind, Target
from upeti.rights.stage import Stage, StageError

OpenStore = Callable[[], Store]
DAY_NS = 86_400 * 10**9


def shares(store: Store) -> dict[str, ShareView]:
    return rollout.shares(students.all_students(store)).get("own", {})


def asked(store: Store) -> dict[str, int]:
    return {name: share.share_ppm for name, share in shares(store).items()}


def live(store: Store, folder: Path) -> students.Student:
    added(store, folder)
    certified(store)
    for _ in range(5):
        one = rollout.promote(store, "intents", **BY)
    return one


def test_a_student_is_let_in_step_by_step_and_taken_back_by_hand(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    one = added(store, tmp_path, sticky=True)
    assert (one.model.stage, shares(store)) == (Stage.REGISTERED, {})
    assert models.not_served(store) == {}
    rollout.promote(store, "intents", **BY)
    assert shares(store) == {"intents-1": ShareView(100_000, sticky=True, teacher="sim")}
    with pytest.raises(ConfigError, match=r"no certificate.*upeti students certify intents@1"):
        rollout.promote(store, "intents", **BY)
    certified(store)
    seen = []
    for _ in range(4):
        changes = store.changes()
        rollout.promote(store, "intents", **BY)
        assert store.changes() == changes + 1
        seen.append(asked(store)["intents-1"])
    assert seen == [10_000, 100_000, 500_000, 1_000_000]
    with pytest.raises(StageError, match="live cannot be promoted"):
        rollout.promote(store, "intents", **BY)
    assert rollout.demote(store, "intents", **BY).model.stage is Stage.CANARY_50
    back = rollout.roll_back(store, "intents", **BY)
    assert (back.model.stage, asked(store)) == (Stage.ROLLED_BACK, {})
    assert back.certificate is not None, "what was shown still stands"
    assert rollout.readmit(store, "intents", **BY).model.stage is Stage.SHADOW
    acts = [one for one in read_acts(store.data_dir) if one.subject == "intents@1"]
    assert [one.kind for one in acts][2:4] == ["students.certified", "models.promoted"]
    assert [one.kind for one in acts][-3:] == ["models.demoted", "models.rolled_back", "models.readmitted"]
    assert {one.actor for one in acts} == {BY["by"]}
    assert acts[-1].act_id == students.student(store, "intents").model.stage_act


def test_an_alarm_ends_the_certificate_and_makes_an_incident(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    one = live(store, tmp_path)
    back = rollout.alarm(store, one, "evidence of 23 against 5 %")
    assert (back.model.stage, back.certificate, asked(store)) == (Stage.ROLLED_BACK, None, {})
    (incident,) = all_incidents(store)
    assert (incident.scope, incident.channel, incident.detail) == ("student", "own", "intents@1")
    assert incident.why == "evidence of 23 against 5 %"
    assert rollout.alarm(store, one, "again").model.stage is Stage.ROLLED_BACK, "another node was first"
    assert len(all_incidents(store)) == 1
    with pytest.raises(ConfigError, match="certify"):
        rollout.readmit(store, "intents", **BY)
    certified(store)
    assert rollout.readmit(store, "intents", **BY).model.stage is Stage.SHADOW
    assert all_incidents(store)[0].recovered_by == BY["by"]
    assert len(students.certificates_of(store, "intents@1")) == 2


def test_a_right_that_is_gone_quarantines_from_any_stage_and_release_is_the_beginning(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store()
    live(store, tmp_path)
    consents.withdraw(store, "acme", by="legal", why="letter")
    (touched,) = models.quarantine_touched(store, terms(tmp_path), time.time_ns())
    assert (touched.id, asked(store)) == ("intents@1", {})
    assert models.not_served(store) == {"own": {"intents-1": touched.stage_act}}
    with pytest.raises(StageError, match="quarantined cannot be promoted"):
        rollout.promote(store, "intents", **BY)


def test_what_lapsed_goes_back_into_the_shadow_and_needs_a_new_certificate(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store()
    one = live(store, tmp_path)
    assert rollout.why_not_answering(one, Learning(), time.time_ns()) == ""
    assert "lapsed" in rollout.why_not_answering(one, Learning(), time.time_ns() + 8 * DAY_NS)
    back = rollout.lapse(store, one, "nothing audited for 7 days")
    assert (back.model.stage, back.certificate) == (Stage.SHADOW, None)
    assert "no certificate" in rollout.why_not_answering(back, Learning(), time.time_ns())
    certified(store)
    with store.changing() as connection:
        connection.execute(update(table).values(heard_ns=time.time_ns() - 8 * DAY_NS))
    with pytest.raises(ConfigError, match="has lapsed"):
        rollout.promote(store, "intents", **BY)


def test_one_version_is_asked_under_one_name(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    added(store, tmp_path, served_as="intents")
    added(store, tmp_path, version="2", served_as="intents", mark="!")
    rollout.promote(store, "intents@1", **BY)
    with pytest.raises(ConfigError, match="`intents@1` is shadow as intents: roll it back"):
        rollout.promote(store, "intents@2", **BY)
    rollout.roll_back(store, "intents@1", **BY)
    rollout.promote(store, "intents@2", **BY)
    assert list(shares(store)) == ["intents"]


def test_what_is_served_is_the_copy_with_what_was_certified(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    one = added(store, tmp_path)
    assert rollout.served([one], store.data_dir) == []
    (shadow,) = rollout.served([rollout.promote(store, "intents", **BY)], store.data_dir)
    assert (shadow.threshold, shadow.shadow, shadow.certificate) == (rollout.NEVER, True, "")
    held = certified(store)
    (shadow,) = rollout.served([held], store.data_dir)
    assert (shadow.threshold, shadow.shadow) == (0.5, True)
    (canary,) = rollout.served([rollout.promote(store, "intents", **BY)], store.data_dir)
    assert (canary.threshold, canary.shadow, canary.sha256) == (0.5, False, one.sha256)
    assert canary.lapses_ns == held.heard_ns + 7 * DAY_NS
    assert canary.only == ()
    classes = Target(Kind.CLASS, 0.05, (ClassLimit(("refund",), 0.05), ClassLimit(("fee",), 0.1)))
    (canary,) = rollout.served([certified(store, target=classes)], store.data_dir)
    assert canary.only == (("refund",), ("fee",))  # nothing was shown of other answers
    (tmp_path / "trained-intents-1" / "tiny.json").unlink()
    assert (Path(canary.folder) / "tiny.json").exists(), "it is a copy"
    assert Path(canary.folder).is_relative_to(store.data_dir)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": " "}, "--task"),
        ({"audit_share": 0.0}, "audit share"),
        ({"training_cost": "ten"}, "amount in USD"),
        ({"training_cost": "-1"}, "no negative"),
        ({"folder": Path("/nowhere")}, "cannot be copied"),
    ],
)
def test_what_is_no_student(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    store = Store(tmp_path / "data")
    with pytest.raises(ConfigError, match=said):
        added(store, tmp_path, **changes)
    assert students.all_students(store) == []
    store.close()


def test_a_model_that_is_no_student_answers_as_before(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store()
    added(store, tmp_path)
    plain = models.Wanted(
        name="vllm", version="1", purpose="classify_internal", datasets=("topics",), channel="vllm", model="mine"
    )
    models.register(store, terms(tmp_path), plain, **BY)
    assert (shares(store), models.not_served(store)) == ({}, {})
