"""A state with kept pairs of tasks and a journal of their calls, without anything running; and one with a replay behind it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.journal_files import JournalFiles, opened, settled
from upeti.control import pairs
from upeti.control.store import Store
from upeti.core.events import PairCaptured
from upeti.journal.bodies import Bodies, bodies_at

BANKING = Path(__file__).parents[2] / "examples" / "data" / "banking77.csv"
SYSTEM = "You sort messages to a bank. Answer with the name of one intent and nothing else."


def banking(many: int) -> list[tuple[str, str]]:
    """Return messages and what GPT-4 answered."""
    with BANKING.open(newline="") as file:
        return [(row["text"], row["gpt4"]) for row in csv.DictReader(file)][:many]


def request(text: str, system: str = SYSTEM, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": "intents", "messages": messages if system else messages[1:], **fields}


def answer(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


class TasksSide:
    """Keeps pairs, and writes the calls that they are of into a journal."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bodies: Bodies = bodies_at(store.data_dir, "")
        self._calls = JournalFiles(store.data_dir, "w0-tasks")
        self._count = 0

    def call(
        self,
        asked: Mapping[str, Any] | None = None,
        said: Mapping[str, Any] | None = None,
        *,
        task: str = "",
        cost_pico: int = 2_000_000,
        redactions: Mapping[str, int] | None = None,
        **changes: Any,
    ) -> str:
        """Journal a call; keep its pair when there is one. Return the id of the call."""
        self._count += 1
        tenant = changes.pop("tenant", "acme")
        named = {"tenant": tenant, "route": "intents", "channel": "sim", "model": "gpt-4", "feature": "desk", **changes}
        record = opened(self._count, task=task, **named)
        self._calls.append(record, settled(self._count, cost_pico=cost_pico))
        if asked is None or said is None:
            return record.call_id
        salt = pairs.salt_of(self.store, tenant)
        bodies = [json.dumps(one).encode() for one in (asked, said)]
        blank: dict[str, Any] = dict.fromkeys(PairCaptured.__struct_fields__, "")
        where = {"task": task, "wire": "chat_completions", "contract": "sim-terms", **named}
        digests = [self.bodies.put(salt, one) for one in bodies]
        kept = {"request_digest": digests[0], "answer_digest": digests[1]}
        sizes = {"request_bytes": len(bodies[0]), "answer_bytes": len(bodies[1]), "redactions": dict(redactions or {})}
        ids = {"pair_id": f"{record.call_id}-0", "call_id": record.call_id, "at_ns": record.at_ns}
        pairs.keep(self.store, [PairCaptured(**(blank | where | kept | sizes | ids))])
        return record.call_id

    def calls(self, rows: Sequence[tuple[str, str]], system: str = SYSTEM, **changes: Any) -> list[str]:
        return [self.call(request(text, system), answer(said), **changes) for text, said in rows]
