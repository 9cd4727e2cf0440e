"""Journals for tests: real segment files, written block by block with the shared format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from upeti.core.events import (
    JOURNAL_VERSION,
    AttemptOpened,
    AttemptSettled,
    CallRefused,
    CostCorrected,
    Outcome,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.blocks import GENESIS, encode_block, instance_dir, segment_path

DAY_NS = 86_400 * 10**9
START_NS = 1_793_491_200 * 10**9  # 2026-11-01T00:00:00Z


def opened(call: int, attempt: int = 0, **changes: Any) -> AttemptOpened:
    record = AttemptOpened(
        call=call,
        attempt=attempt,
        at_ns=START_NS + call * 10**9,
        call_id=f"call-{call:04d}",
        tenant="acme",
        project="shop",
        key="k1",
        feature="search",
        task="",
        route="fast",
        channel="openai",
        model="gpt-4.1-mini",
        wire="chat_completions",
        stream=False,
        budgets=("key:k1", "tenant:acme"),
        bound_pico=5_000_000,
    )
    return msgspec.structs.replace(record, **changes)


def settled(call: int, attempt: int = 0, **changes: Any) -> AttemptSettled:
    record = AttemptSettled(
        call=call,
        attempt=attempt,
        at_ns=START_NS + call * 10**9 + 10**8,
        outcome=Outcome.POSTED,
        ended="answered",
        status=200,
        meters={"input": 100, "output": 20},
        cost_pico=1_234_567,
        price_id="0123456789abcdef",
        first_byte_us=40_000,
        total_us=90_000,
        provider_request_id=f"chatcmpl-{call}",
    )
    return msgspec.structs.replace(record, **changes)


def refused(call: int, **changes: Any) -> CallRefused:
    record = CallRefused(
        call=call,
        at_ns=START_NS + call * 10**9,
        call_id=f"call-{call:04d}",
        tenant="acme",
        project="shop",
        key="k1",
        feature="search",
        task="",
        route="fast",
        code="budget_exceeded",
    )
    return msgspec.structs.replace(record, **changes)


def corrected(call: int, attempt: int = 0, **changes: Any) -> CostCorrected:
    record = CostCorrected(
        correction_id=f"correction-{call}-{attempt}",
        at_ns=START_NS + 3 * DAY_NS,
        reason="reconciled",
        reference="ab" * 32,
        attempt_id=f"call-{call:04d}-{attempt}",
        settled_ns=START_NS + call * 10**9 + 10**8,
        tenant="acme",
        project="shop",
        key="k1",
        feature="search",
        task="",
        route="fast",
        channel="openai",
        model="gpt-4.1-mini",
        wire="chat_completions",
        outcome=Outcome.POSTED,
        currency="USD",
        was="0.000001234567",
        now="0.000001",
        meters=None,
    )
    return msgspec.structs.replace(record, **changes)


class JournalFiles:
    """One instance's journal; every ``append`` is one block."""

    def __init__(self, data_dir: Path, instance: str = "w0-0001") -> None:
        self.instance = instance
        self.directory = instance_dir(data_dir, instance)
        self.directory.mkdir(parents=True)
        self.number = -1
        self.digest = GENESIS
        self.open: dict[tuple[int, int], AttemptOpened] = {}
        self.begin()

    @property
    def path(self) -> Path:
        return segment_path(self.directory, self.number)

    def begin(self, **changes: Any) -> None:
        self.number += 1
        first = SegmentOpened(JOURNAL_VERSION, self.instance, self.number, START_NS, tuple(self.open.values()))
        self.append(msgspec.structs.replace(first, **changes))

    def append(self, *records: Record) -> None:
        block, self.digest = encode_block(self.digest, list(records))
        with self.path.open("ab") as file:
            file.write(block)
        for record in records:
            if isinstance(record, AttemptOpened):
                self.open[record.call, record.attempt] = record
            elif isinstance(record, AttemptSettled):
                self.open.pop((record.call, record.attempt), None)

    def rotate(self) -> None:
        self.append(SegmentClosed(START_NS, False))
        self.begin()

    def close(self) -> None:
        self.append(SegmentClosed(START_NS, True))
