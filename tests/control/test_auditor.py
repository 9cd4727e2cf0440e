"""Audits in the students' process, beside a gateway whose every answer a test chooses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.keeper_side import until
from support.owned_world import said
from support.student_side import ScriptedStudent, http_answer, scripted_student
from support.tiny_students import FORM, TEMPLATE, messages
from upeti.control.audit_journal import Drawn, Lost, Opened, Seen, path_of, read
from upeti.control.auditor import Auditor
from upeti.gateway.log import Log
from upeti.learning.audit import Audited, Deferred
from upeti.learning.batching import Predicted
from upeti.learning.served import AuditTerms, Served
from upeti.learning.target import ClassLimit, Kind, Target

SYSTEM = Target(Kind.SYSTEM, 0.05)
BODY = json.dumps(
    {"model": "own-1", "messages": messages("refund please"), "stream": True, "stream_options": {}}
).encode()
SURE = Predicted(("refund",), 0.9, True)


def served_with(share: float = 1.0, target: Target = SYSTEM, certificate: str = "crt_1") -> Served:
    return Served(
        model="own-1",
        folder="",
        sha256="0" * 64,
        task="intents",
        template=TEMPLATE,
        threshold=0.5,
        certificate=certificate,
        audit=AuditTerms(target, 0.05, share, "audit:intents"),
    )


class Side:
    def __init__(self, data_dir: Path, gateway: ScriptedStudent) -> None:
        run = data_dir / "run"
        run.mkdir(parents=True, exist_ok=True)
        line = {"base_url": f"http://127.0.0.1:{gateway.port}", "secret": "k"}
        (run / "audit-line.json").write_text(json.dumps(line))
        self.data_dir = data_dir
        self.gateway = gateway
        self.stopped: list[tuple[str, str]] = []
        stop: Callable[[str, str], None] = lambda model, why: self.stopped.append((model, why))  # noqa: E731
        self.auditor = Auditor(data_dir, "n1", stop, lambda model: FORM, Log("test", time.time_ns))

    def entries(self, kind: type, certificate: str = "crt_1") -> list[Any]:
        return [one for one in read(path_of(self.data_dir, certificate))[0] if isinstance(one, kind)]

    def audits(self) -> list[Seen]:
        return [one for one in self.entries(Seen) if one.observation.audited is not None]

    async def wait(self, look: Callable[[], Any]) -> None:
        await asyncio.to_thread(until, look, seconds=20)


@asynccontextmanager
async def auditing(data_dir: Path, *served: Served) -> AsyncIterator[Side]:
    async with scripted_student() as gateway:
        gateway.answer = lambda body: said("refund")
        side = Side(data_dir, gateway)
        assert await side.auditor.take(served) == {}
        side.auditor.start()
        try:
            yield side
        finally:
            await side.auditor.end()


async def test_the_teacher_is_asked_the_same_whole_and_by_the_route_of_audits(tmp_path: Path) -> None:
    async with auditing(tmp_path, served_with()) as side:
        side.auditor.answered(served_with(), BODY, SURE)
        await side.wait(side.audits)
        (asked,) = side.gateway.asked
        assert asked == {"model": "audit:intents", "messages": messages("refund please")}
        (seen,) = side.audits()
        assert seen.observation.audited == Audited(("refund",), ("refund",))
        assert [one.id for one in side.entries(Drawn)] == [seen.id]


async def test_draws_follow_the_seed_and_the_share(tmp_path: Path) -> None:
    served = served_with(0.2)
    async with auditing(tmp_path, served) as side:
        for _ in range(1000):
            side.auditor.answered(served, BODY, SURE)
        drawn = [one.place for one in side.entries(Drawn)]
        assert 140 < len(drawn) < 260
        (opened,) = side.entries(Opened)
        from hashlib import blake2b

        words = [blake2b(f"{opened.seed}/{place}".encode(), digest_size=8).digest() for place in range(1, 1001)]
        assert drawn == [place for place, word in enumerate(words, 1) if int.from_bytes(word) < 0.2 * 2**64]
        await side.wait(lambda: len(side.audits()) == len(drawn))
        assert sum(one.answered for one in side.entries(Seen)) == 1000


async def test_deferred_calls_count_and_are_written_with_the_share_that_was_in_force(tmp_path: Path) -> None:
    served = served_with(0.5)
    async with auditing(tmp_path, served) as side:
        for _ in range(7):
            side.auditor.deferred(served, BODY)
        assert await side.auditor.take([served_with(0.1)]) == {}
        for _ in range(2):
            side.auditor.deferred(served, BODY)
    found = [(one.observation.share, one.observation.deferred) for one in side.entries(Seen)]
    assert found == [(0.5, (Deferred((), 7),)), (0.1, (Deferred((), 2),))]
    assert not side.gateway.asked, "the teacher answers them anyway"


async def test_for_promises_of_classes_deferred_calls_are_drawn_too_and_count_whole(tmp_path: Path) -> None:
    served = served_with(0.999, Target(Kind.CLASS, 0.05, (ClassLimit(("refund",), 0.05),)))
    async with auditing(tmp_path, served) as side:
        for _ in range(3):
            side.auditor.deferred(served, BODY)
        await side.wait(lambda: len(side.entries(Seen)) == 3)
        observations = [one.observation for one in side.entries(Seen)]
        assert {(one.share, one.deferred, one.audited) for one in observations} == {
            (1.0, (Deferred(("refund",), 1),), None)
        }
        assert sum(one.deferred for one in side.entries(Seen)) == 3


async def test_what_the_teacher_refuses_is_given_up_and_what_cannot_be_asked_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = json.dumps({"error": {"code": "content_filter", "message": "refund please"}}).encode()
    answers = [http_answer(400, "", secret), http_answer(429, "", b"{}"), said("other")]
    async with auditing(tmp_path, served_with()) as side:
        side.gateway.answer = lambda body: answers.pop(0)
        side.auditor.answered(served_with(), BODY, SURE)
        await side.wait(lambda: side.entries(Lost))
        (lost,) = side.entries(Lost)
        assert lost.why == "the teacher answered with the status 400"
        logged = capsys.readouterr().err
        assert "400 (content_filter)" in logged
        assert "refund please" not in logged + path_of(tmp_path, "crt_1").read_text()
        side.auditor.answered(served_with(), BODY, SURE)
        await side.wait(side.audits)
        assert side.audits()[0].observation.audited == Audited(("refund",), ("other",))


async def test_the_alarm_stops_the_student_and_still_does_in_the_next_process(tmp_path: Path) -> None:
    async with auditing(tmp_path, served_with()) as side:
        side.gateway.answer = lambda body: said("other")
        while not side.stopped:
            before = len(side.audits())
            side.auditor.answered(served_with(), BODY, SURE)
            await side.wait(lambda before=before: len(side.audits()) > before)
        ((model, why),) = side.stopped
        assert model == "own-1"
        assert f"{len(side.audits())} of {len(side.audits())} audited answers broke the limit `system`" in why
    async with auditing(tmp_path, served_with()) as side:
        side.auditor.stop_where_it_rang()
        assert [model for model, _ in side.stopped] == ["own-1"]
    async with auditing(tmp_path, served_with(certificate="crt_2")) as side:
        side.auditor.stop_where_it_rang()
        assert not side.stopped, "another certificate begins anew"


async def test_an_audit_of_an_earlier_certificate_counts_for_none(tmp_path: Path) -> None:
    async with auditing(tmp_path, served_with()) as side:
        side.gateway.answer = lambda body: None
        side.auditor.answered(served_with(), BODY, SURE)
        await side.wait(lambda: side.gateway.asked)
        assert await side.auditor.take([served_with(certificate="crt_2")]) == {}
        side.gateway.answer = lambda body: said("refund")
        side.gateway.cut()
        await asyncio.sleep(0.2)
        assert not side.audits()
        assert not side.entries(Seen, "crt_2")


@pytest.mark.parametrize("damage", [b"\x00", b"00000000 {}\n"])
async def test_a_journal_that_is_damaged_refuses_its_student_alone(tmp_path: Path, damage: bytes) -> None:
    path = path_of(tmp_path, "crt_1")
    path.parent.mkdir(parents=True)
    path.write_bytes(damage + b"\n")
    other = msgspec.structs.replace(served_with(certificate="crt_2"), model="own-2")
    async with scripted_student() as gateway:
        side = Side(tmp_path, gateway)
        refused = await side.auditor.take([served_with(), other])
        assert list(refused) == ["own-1"]
        assert "restore it from a copy" in refused["own-1"]
        await side.auditor.end()
