"""Every planted defect is found, and a sound journal has none. Journals are written by hand, byte by byte."""

from __future__ import annotations

import ast
import json
import struct
import zlib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from upeti.core.events import (
    AttemptOpened,
    AttemptRecovered,
    AttemptSettled,
    Outcome,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import GENESIS, encode_block
from upeti.sim import auditor
from upeti.sim.auditor import Finding, Received, audit

INPUT_PICO, OUTPUT_PICO = 2_500_000, 10_000_000
PRICES = {"gpt": {"input": INPUT_PICO, "output": OUTPUT_PICO}}
METERS = {"input": 100, "output": 20}
COST = 100 * INPUT_PICO + 20 * OUTPUT_PICO  # 450,000,000 pico = 0.00045
BOUND = 2 * COST


def opened(call: int = 1, attempt: int = 0, call_id: str = "", **change: Any) -> list[Any]:
    values = {"model": "gpt", "bound": BOUND, "priced": True, **change}
    call_id = call_id or f"c{call}"
    names = ["acme", "shop", "k1", "captions", "", "gpt", "openai", values["model"], "chat_completions"]
    return ["opened", call, attempt, 1, call_id, *names, False, ["b1"], values["bound"], "USD", values["priced"]]


def settled(call: int = 1, attempt: int = 0, **change: Any) -> list[Any]:
    values = {"outcome": "posted", "status": 200, "meters": METERS, "cost": COST, **change}
    return ["settled", call, attempt, 2, values["outcome"], "complete", *list(values.values())[1:], "p1", 5, 9, "r"]


def recovered(instance: str, of: list[Any], cost: int = BOUND) -> list[Any]:
    return ["recovered", instance, of, 3, cost]


class World:
    """A data directory, a provider's log and what clients got, put down by hand."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "provider.jsonl"
        self.log.write_text("")
        self.received: list[Received] = []
        self.digests: dict[str, bytes] = {}

    def segment(self, *records: list[Any], instance: str = "w0-a", number: int = 0, blocks: int = 1) -> Path:
        path = self.data_dir / "journal" / instance / f"{number:08d}.upj"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [["segment", 1, instance, number, 0, []], *records]
        data = b""
        step = -(-len(rows) // blocks)
        for at in range(0, len(rows), step):
            payload = msgspec.msgpack.encode(rows[at : at + step])
            digest = sha256(self.digests.get(instance, bytes(32)) + payload).digest()
            self.digests[instance] = digest
            data += struct.pack("<4sII32s", b"UPJ1", len(payload), zlib.crc32(payload), digest) + payload
        path.write_bytes(data)
        return path

    def saw(
        self, attempt_id: str | None = "c1-0", billed: dict[str, int] | None = METERS, *, served: bool = True
    ) -> None:
        common = {"client_request_id": attempt_id, "path": "/v1/chat/completions"}
        with self.log.open("a") as file:
            file.write(json.dumps({"event": "seen", **common}) + "\n")
            if served:
                file.write(json.dumps({"event": "served", "status": 200, "billed": billed, **common}) + "\n")

    def got(self, call_id: str = "c1", **change: Any) -> None:
        self.received.append(replace(Received(call_id, 200, cost="0.00045", usage=METERS), **change))

    def audit(self, **more: Any) -> list[Finding]:
        return audit(self.data_dir, [self.log], self.received, prices=PRICES, **more)

    def kinds(self, **more: Any) -> list[str]:
        return sorted(finding.kind for finding in self.audit(**more))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def sound(world: World) -> World:
    """One answered call, one failed over, one whose worker died and was recovered, one that was never sent."""
    died = opened(4)
    world.segment(
        opened(), settled(), opened(2), settled(2, status=500, meters={}, cost=0), opened(2, 1), settled(2, 1)
    )
    world.segment(opened(3), settled(3, outcome="voided", status=0, meters=None, cost=0), number=1)
    world.segment(died, instance="w1-b")
    world.segment(recovered("w1-b", died), instance="keeper-c")
    world.saw()
    world.saw("c2-0", None)
    world.saw("c2-1")
    world.saw("c4-0", {"input": 100, "output": 3})
    world.got()
    world.got("c2")
    return world


def test_it_shares_no_code_with_the_rest() -> None:
    tree = ast.parse(Path(auditor.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in imported for alias in node.names]
    names += [node.module or "" for node in imported if isinstance(node, ast.ImportFrom)]
    assert "msgspec" in names
    assert not [name for name in names if "upeti" in name]


def test_a_sound_world_has_no_findings(world: World) -> None:
    findings = sound(world).audit(
        limits_pico={"b1": 2 * COST + BOUND},
        bill={"c1-0": COST, "c2-0": 0, "c2-1": COST, "c3-0": 0, "c4-0": BOUND},
    )
    assert findings == []


def test_what_the_provider_saw_and_the_journal_has_not(world: World) -> None:
    sound(world).saw("c9-0")
    assert world.kinds() == ["not_in_journal"]


def test_an_answer_that_was_not_billed(world: World) -> None:
    sound(world).got("c3")
    assert [(f.kind, f.about) for f in world.audit() if f.kind == "not_billed"] == [("not_billed", "c3")]
    world.received = [Received("nowhere", 200)]
    assert world.kinds() == ["not_billed"]
    world.received = [Received("nowhere", 429), Received("other", 200, complete=False)]
    assert world.kinds() == []


def test_an_attempt_settled_twice(world: World) -> None:
    world.segment(opened(), settled(), settled())
    world.saw()
    assert "billed_twice" in world.kinds()


def test_an_attempt_settled_and_then_recovered(world: World) -> None:
    attempt = opened()
    world.segment(attempt, settled())
    world.segment(recovered("w0-a", attempt), instance="keeper-c")
    world.saw()
    assert "billed_twice" in world.kinds()


def test_two_attempts_of_one_call_posted_as_answered(world: World) -> None:
    world.segment(opened(), settled(), opened(1, 1), settled(1, 1))
    world.saw()
    world.saw("c1-1")
    world.got()
    assert world.kinds() == ["billed_twice"]


def test_one_id_in_two_workers(world: World) -> None:
    world.segment(opened(), settled())
    world.segment(opened(), settled(), instance="w1-b")
    world.saw()
    assert world.kinds() == ["billed_twice"]


def test_one_attempt_dispatched_twice(world: World) -> None:
    sound(world).saw("c2-0", None)
    assert world.kinds() == ["dispatched_twice"]


def test_a_cost_that_the_providers_usage_does_not_give(world: World) -> None:
    world.segment(opened(), settled(cost=COST - 1))
    world.saw()
    assert world.kinds() == ["cost_differs"]


def test_usage_that_is_not_the_providers(world: World) -> None:
    wrong = {"input": 100, "output": 21}
    world.segment(opened(), settled(meters=wrong, cost=COST + OUTPUT_PICO))
    world.saw()
    assert world.kinds() == ["cost_differs", "usage_differs"]


def test_an_attempt_left_open(world: World) -> None:
    world.segment(opened())
    world.saw()
    assert world.kinds() == ["never_settled"]


def test_a_cost_above_what_was_held(world: World) -> None:
    world.segment(opened(bound=COST - 1), settled())
    world.saw()
    assert world.kinds() == ["cost_above_bound"]


def test_an_estimate_below_what_the_provider_bills(world: World) -> None:
    attempt = opened(bound=COST - 1)
    world.segment(attempt)
    world.segment(recovered("w0-a", attempt, COST - 1), instance="keeper-c")
    world.saw()
    assert world.kinds() == ["estimated_below_bill"]


def test_voided_though_it_was_served(world: World) -> None:
    world.segment(opened(), settled(outcome="voided", meters=None, cost=0))
    world.saw()
    assert world.kinds() == ["voided_but_served"]


def test_posted_though_it_was_never_served(world: World) -> None:
    world.segment(opened(), settled())
    assert world.kinds() == ["billed_unserved"]


def test_a_void_that_costs(world: World) -> None:
    world.segment(opened(), settled(outcome="voided", status=0, meters=None, cost=5))
    assert world.kinds() == ["cost_of_nothing"]


def test_unpriced_though_there_is_a_price(world: World) -> None:
    world.segment(opened(bound=0, priced=False), settled(outcome="unpriced", cost=0))
    world.saw()
    assert world.kinds() == ["unpriced_though_priced"]
    world.segment(opened(bound=0, priced=False, model="new"), settled(outcome="unpriced", cost=0), instance="w0-a")
    world.digests.clear()
    world.segment(opened(bound=0, priced=False, model="new"), settled(outcome="unpriced", cost=0))
    assert world.kinds() == []


def test_records_without_an_opening(world: World) -> None:
    world.segment(settled(7))
    world.segment(recovered("w9-z", opened(8)), instance="keeper-c")
    assert world.kinds() == ["settled_unopened", "settled_unopened"]


def test_an_attempt_opened_twice(world: World) -> None:
    world.segment(opened(), opened(), settled())
    world.saw()
    assert world.kinds() == ["opened_twice"]


def test_what_clients_were_told(world: World) -> None:
    sound(world)
    world.received[0] = replace(world.received[0], cost="0.00046")
    assert world.kinds() == ["cost_header_differs"]
    world.received[0] = replace(world.received[0], cost=None, usage={"input": 100, "output": 19})
    assert world.kinds() == ["client_usage_differs"]
    world.received[0] = replace(world.received[0], usage=None)
    assert world.kinds() == []
    world.received.append(world.received[0])
    assert world.kinds() == ["id_reused"]


def test_a_request_without_an_id(world: World) -> None:
    sound(world).saw(None)
    assert world.kinds() == ["unnamed_request"]


def test_a_limit_overspent(world: World) -> None:
    assert sound(world).kinds(limits_pico={"b1": 2 * COST + BOUND - 1}) == ["overspent"]


def test_a_bill_that_differs(world: World) -> None:
    bill = {"c1-0": COST, "c2-0": 0, "c2-1": COST + 1, "c3-0": 0, "c7-0": 5}
    found = [(f.kind, f.about) for f in sound(world).audit(bill=bill)]
    assert found == [("bill_differs", "c2-1"), ("bill_differs", "c4-0"), ("bill_differs", "c7-0")]


def test_a_torn_tail_is_no_damage_where_it_ends_the_journal(world: World) -> None:
    path = world.segment(opened(), settled(), opened(2), blocks=4)
    whole = path.read_bytes()
    world.saw()
    path.write_bytes(whole[:-3])
    assert world.kinds() == []
    path.write_bytes(whole[: whole.rindex(b"UPJ1") + 10])
    assert world.kinds() == []
    world.segment(number=1)
    assert "journal_damaged" in world.kinds()


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("at", [0, 5, 9, 20, 60, 100, -1])
def test_a_changed_byte_is_damage(world: World, at: int, blocks: int) -> None:
    path = world.segment(opened(), settled(), opened(2), settled(2), blocks=blocks)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    assert "journal_damaged" in world.kinds()


def test_a_missing_segment_is_damage(world: World) -> None:
    world.segment(opened(), settled()).unlink()
    world.segment(opened(2), settled(2), number=1)
    world.saw("c2-0")
    assert "journal_damaged" in world.kinds()


def test_an_unknown_record_is_told(world: World) -> None:
    world.segment(["novel", 1])
    assert world.kinds() == ["journal_damaged"]


def test_a_provider_that_was_killed_is_not_held_against_the_journal(world: World) -> None:
    world.segment(opened(), settled())
    world.saw(served=False)
    with world.log.open("a") as file:
        file.write('{"event":"served","client_re')
    assert world.kinds() == []


def test_it_reads_what_the_real_records_encode_to(world: World) -> None:
    """The positions that it reads by hand are the ones that the records have today."""
    real = AttemptOpened(
        1, 0, 1, "c1", "acme", "shop", "k1", "captions", "", "gpt", "openai", "gpt", "chat_completions", False, ("b1",),
        BOUND,
    )  # fmt: skip
    left = AttemptOpened(**{**{f: getattr(real, f) for f in real.__struct_fields__}, "call": 2, "call_id": "c2"})
    end = AttemptSettled(1, 0, 2, Outcome.POSTED, "complete", 200, METERS, COST)
    worker, digest = encode_block(GENESIS, [SegmentOpened(1, "w0-a", 0, 0), real, left, end])
    second, _ = encode_block(digest, [SegmentOpened(1, "w0-a", 1, 0, (left,)), SegmentClosed(3, True)])
    keeper, _ = encode_block(GENESIS, [SegmentOpened(1, "keeper-c", 0, 0), AttemptRecovered("w0-a", left, 3, BOUND)])
    for name, data in (("w0-a/00000000", worker), ("w0-a/00000001", second), ("keeper-c/00000000", keeper)):
        path = world.data_dir / "journal" / f"{name}.upj"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    world.saw()
    world.saw("c2-0")
    world.got()
    assert world.audit(limits_pico={"b1": COST + BOUND}, bill={"c1-0": COST, "c2-0": BOUND}) == []
    assert world.kinds(limits_pico={"b1": COST + BOUND - 1}) == ["overspent"]


def test_the_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(world)
    clients, prices = tmp_path / "clients.jsonl", tmp_path / "prices.json"
    clients.write_text(json.dumps({"call_id": "c1", "status": 200, "usage": METERS, "cost": "0.00045"}) + "\n")
    prices.write_text(json.dumps({"openai/gpt": {"input": "0.0000025", "output": "0.00001"}}))
    arguments = ["--data-dir", str(world.data_dir), "--provider-log", str(world.log)]
    arguments += ["--client-log", str(clients), "--prices", str(prices)]
    assert auditor.main(arguments) == 0
    assert capsys.readouterr().out == ""
    world.saw("c9-0")
    assert auditor.main(arguments) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "not_in_journal"


def corrected(attempt_id: str = "c1-0", was: str = "0.0009", now: str = "0.00045", **change: Any) -> list[Any]:
    values = {"id": "k1", "at": 9, **change}
    names = ["acme", "shop", "k1", "captions", "", "gpt", "openai", "gpt", "chat_completions", "estimated", "USD"]
    return ["corrected", values["id"], values["at"], "reconciled", "", attempt_id, 2, *names, was, now, None]


def test_a_correction_changes_what_is_owed_and_counts_once(world: World) -> None:
    world.segment(opened(), settled(outcome="estimated", meters=None, cost=BOUND), instance="w0")
    world.segment(corrected(), instance="keeper-corrections-1")
    world.segment(corrected(at=10), instance="keeper-corrections-2")
    journal = auditor.read_journal(world.data_dir)
    (attempt,) = journal.attempts.values()
    assert (attempt.cost_pico, attempt.owed_pico, journal.findings) == (BOUND, COST, [])


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        ([corrected("c9-0")], "corrected_unknown"),
        ([corrected(was="0.0008")], "corrected_wrongly"),
        ([corrected(), corrected(id="k2", at=10)], "corrected_wrongly"),
        ([corrected(), corrected(now="0.0004")], "corrected_twice"),
    ],
)
def test_a_wrong_correction_is_found(world: World, records: list[list[Any]], kind: str) -> None:
    world.segment(opened(), settled(outcome="estimated", meters=None, cost=BOUND), instance="w0")
    world.segment(*records, instance="keeper-corrections-1")
    assert [finding.kind for finding in auditor.read_journal(world.data_dir).findings] == [kind]


def test_the_journals_of_several_nodes_are_one(world: World, tmp_path: Path) -> None:
    """What is settled on one node was opened there; a call id is one call over all of them."""
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    world.segment(opened(), settled(), instance="w0")
    other.segment(opened(2), settled(2), instance="w1")
    assert len(auditor.read_journal(world.data_dir, other.data_dir).attempts) == 2
    assert audit([world.data_dir, other.data_dir], limits_pico={"b1": 2 * COST}) == []
    assert [finding.kind for finding in audit([world.data_dir, other.data_dir], limits_pico={"b1": COST})] == [
        "overspent"
    ]
