"""A student's way in and out, with real processes: gateway, keeper, students' process, and a teacher that a test speaks for."""

from __future__ import annotations

import json
import os
import signal
import time
from decimal import Decimal
from pathlib import Path

import pytest

from support.keeper_side import until
from support.owned_world import OwnedWorld, owned_world, right, said
from support.rollout_side import BY
from upeti.control import consents, rollout
from upeti.control.audit_journal import Drawn, Opened, Seen
from upeti.control.latches import all_incidents
from upeti.control.students_view import audited
from upeti.gateway import snapshot as snapshot_file
from upeti.gateway.snapshot import Snapshot
from upeti.rights.stage import Stage

QUICK = "\n".join(
    f'[[learning.step]]\nout_of = "{stage}"\naudits = {audits}\nhours = 0\nbound = false'
    for stage, audits in (("shadow", 2), ("canary_1", 0), ("canary_10", 2), ("canary_50", 3))
)
BY_HAND = 'promote = "by_hand"'


def snapshot(world: OwnedWorld) -> Snapshot:
    return snapshot_file.read(world.process.data_dir / "run" / "snapshot.msgpack")


def live(world: OwnedWorld, task: str = "intents") -> None:
    for _ in range(5):
        rollout.promote(world.store, task, **BY)
    until(lambda: world.ask(task=task)[0] == "own", seconds=20, what=f"the student of {task}")


def audits(world: OwnedWorld, task: str = "intents") -> list[Seen]:
    return [one for one in world.entries(task) if isinstance(one, Seen) and one.observation.audited is not None]


def test_by_rules_into_the_live_traffic_and_out_within_one_call_of_the_alarm(tmp_path: Path) -> None:
    with owned_world(tmp_path, "intents", learning=QUICK) as world:
        assert world.ask()[0] == "sim", "registered: it answers nothing"
        rollout.promote(world.store, "intents", **BY)
        seen: list[Stage] = []

        def went_on() -> bool:
            for number in range(20):
                assert world.ask(number)[0] in ("own", "sim")
            stage = world.student().model.stage
            if stage not in seen:
                seen.append(stage)
            return stage is Stage.LIVE

        until(went_on, seconds=90, what="the live stage")
        assert seen[-1] is Stage.LIVE
        until(lambda: snapshot(world).shares["own"]["intents-1"].share_ppm == 1_000_000, what="all calls")
        assert {world.ask(number)[0] for number in range(10)} == {"own"}
        assert world.ask(3, stream=False)[1] in ("card_lost", "refund", "balance")
        # Audits are calls of the gateway's, and those of the route's users alone are not to be seen by others.
        assert world.ask(task="audit:intents")[0] == "403"
        certificate = world.student().certificate
        assert certificate is not None
        assert audited(certificate).risks[0].errors == 0

        world.teacher.says(lambda body: said("other"))
        served = []

        def rang() -> bool:
            before = len(audits(world))
            served.append(world.ask(len(served))[0])
            until(
                lambda: len(audits(world)) > before or served[-1] != "own" or world.student().certificate is None,
                seconds=20,
                what="the audit of this call",
            )
            return served[-1] != "own"

        until(rang, seconds=90, what="the alarm")
        assert served[:-1] == ["own"] * (len(served) - 1)
        print(f"the alarm rang after {len(served) - 1} calls that the teacher answers otherwise")
        until(lambda: world.student().model.stage is Stage.ROLLED_BACK, seconds=10, what="the stage")
        until(lambda: "own" not in snapshot(world).shares, seconds=10, what="the snapshot")
        last = audits(world)[-1]
        assert last.call.startswith("req_"), "it is found among the gateway's calls"
        print(
            f"rolled back {(world.student().model.stage_ns - last.at_ns) / 1e9:.2f} s after the alarm was written down"
        )
        (incident,) = all_incidents(world.store)
        assert "audits gave the alarm" in incident.why
        assert {world.ask(number)[0] for number in range(5)} == {"sim"}
        _the_books_say_what_it_saved(world)


def _the_books_say_what_it_saved(world: OwnedWorld) -> None:
    """Every call of the teacher's costs the same here, so the estimate is the exact sum."""
    a_call = Decimal("0.000024")  # 20 tokens in at 1, 2 out at 2 USD for a million
    saved = world.process.command("students", "savings", "--json")
    assert saved.returncode == 0, saved.stderr
    (task,) = json.loads(saved.stdout)["tasks"]
    assert task["task"] == "intents"
    assert task["remarks"] == []
    assert min(task["answered"], task["audits"]) > 0
    would = Decimal(task["answered"]) * a_call
    assert [Decimal(task["teacher_would_have_cost"][name]) for name in ("estimate", "low", "high")] == [would] * 3
    assert Decimal(task["audits_cost"]) == task["audits"] * a_call
    assert Decimal(task["net"]["estimate"]) == would - task["audits"] * a_call
    bill = json.loads(world.process.command("bill", "--by", "feature", "--json").stdout)
    assert bill["own_models"] == [task]
    (line,) = [line for line in bill["lines"] if line["feature"] == "audit"]
    assert Decimal(line["cost"]) == Decimal(task["audits_cost"]), "audits are calls like any other"
    shown = world.process.command("bill")
    assert f"intents: own models answered {task['answered']} calls; the teacher would have cost" in shown.stdout
    for arguments, texts in (
        (("students", "show", "intents"), ("Evidence against the promise", "Risk and its upper bound", "alarm")),
        (("students", "savings"), ("Saved, by task", "intents")),
    ):
        page = world.folder / f"{arguments[1]}.html"
        made = world.process.command(*arguments, "--html", str(page))
        assert made.returncode == 0, made.stderr
        text = page.read_text()
        assert text.count("<svg") == (2 if "show" in arguments else 1)
        assert all(one in text for one in texts)


def test_a_kill_between_audit_and_journal_counts_nothing_twice(tmp_path: Path) -> None:
    with owned_world(tmp_path, "intents", learning=BY_HAND) as world:
        live(world)
        until(lambda: audits(world), seconds=20, what="an audit")
        held: list[str] = []

        def hold(body: dict[str, object]) -> bytes | None:
            held.append(right(body))
            return None

        world.teacher.says(hold)
        assert world.ask(5)[0] == "own"
        until(lambda: held, what="an audit that the teacher has not answered yet")
        pid = world.students_pid()
        os.kill(pid, signal.SIGKILL)
        world.teacher.says(lambda body: said(right(body)))
        assert world.ask(6)[0] == "sim"
        until(lambda: world.students_pid() != pid, seconds=30, what="the next process")
        until(lambda: world.ask(7)[0] == "own", seconds=20, what="the student again")
        before = len(audits(world))
        until(lambda: len(audits(world)) > before or before > 1, seconds=20, what="another audit")
        entries = world.entries()
        drawn = {one.id for one in entries if isinstance(one, Drawn)}
        counted = [one.id for one in audits(world)]
        assert len(counted) == len(set(counted)), "nothing twice"
        assert set(counted) < drawn, "what was drawn and not seen is known"
        numbers = [one.observation.number for one in entries if isinstance(one, Seen)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len([one for one in entries if isinstance(one, Opened)]) == 2
        certificate = lambda: world.student().certificate  # noqa: E731
        until(lambda: (held := certificate()) and audited(held).audits == len(audits(world)), what="the state")


@pytest.mark.slow
def test_two_students_and_a_right_that_is_gone(tmp_path: Path) -> None:
    with owned_world(tmp_path, "intents", "claims", learning=BY_HAND) as world:
        live(world)
        live(world, "claims")
        until(lambda: audits(world) and audits(world, "claims"), seconds=20, what="audits of both")
        rollout.roll_back(world.store, "claims", **BY)
        until(lambda: world.ask(task="claims")[0] == "sim", what="only the other one")
        assert world.ask()[0] == "own"
        consents.withdraw(world.store, "acme", by="legal", why="letter")
        began_ns = time.time_ns()
        until(lambda: world.ask()[0] == "sim", what="the quarantine")
        print(f"no call {(time.time_ns() - began_ns) / 1e9:.2f} s after the consent was withdrawn")
        assert world.student().model.stage is Stage.QUARANTINED
        assert world.student("claims").model.stage is Stage.QUARANTINED


@pytest.mark.slow
def test_a_journal_that_cannot_be_trusted_stops_its_student_with_the_cure(tmp_path: Path) -> None:
    with owned_world(tmp_path, "intents", learning=BY_HAND) as world:
        live(world)
        until(lambda: audits(world), seconds=20, what="an audit")
        path = world.process.data_dir / "audits" / "crt_intents@1_1.jsonl"
        pid = world.students_pid()
        os.kill(pid, signal.SIGKILL)
        data = bytearray(path.read_bytes())
        data[12] ^= 1
        path.write_bytes(bytes(data))
        until(lambda: world.students_pid() != pid, seconds=30, what="the next process")
        assert world.ask()[0] == "sim"
        status = json.loads((world.process.data_dir / "run" / "students-status.json").read_bytes())
        assert "restore it from a copy" in status["students"]["intents-1"]["why"]


def test_audits_wait_while_the_teacher_is_away(tmp_path: Path) -> None:
    with owned_world(tmp_path, "intents", learning=BY_HAND) as world:
        live(world)
        until(lambda: audits(world), seconds=20, what="an audit")
        world.teacher.says(lambda body: said("", 503))
        before = len(audits(world))
        assert world.ask(4)[0] == "own", "what is certified goes on being answered"
        time.sleep(1.0)
        assert len(audits(world)) == before
        world.teacher.says(lambda body: said(right(body)))
        until(lambda: len(audits(world)) > before, seconds=30, what="the audit that waited")
