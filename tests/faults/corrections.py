"""What a provider's report says about estimated attempts, as corrections in the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from upeti.control.corrections import write_corrections
from upeti.core.amount import decimal_text
from upeti.core.events import AttemptOpened, AttemptRecovered, AttemptSettled, CostCorrected, Outcome
from upeti.journal.reader import Follower, instances
from upeti.sim.world import World


def correct_from_provider(data_dir: Path, owed_pico: Mapping[tuple[str, int, int], int]) -> int:
    """Write a correction for each attempt of one node that cost another sum than the provider bills; return how many."""
    records = []
    for (instance, call, number), opened, settled_ns, outcome, cost_pico in _settled(data_dir):
        now_pico = owed_pico[instance, call, number]
        if now_pico != cost_pico:
            attempt_id = f"{opened.call_id}-{opened.attempt}"
            records.append(
                CostCorrected(
                    correction_id=f"sim-{attempt_id}",
                    at_ns=settled_ns,
                    reason="reconciled",
                    reference="0" * 64,
                    attempt_id=attempt_id,
                    settled_ns=settled_ns,
                    tenant=opened.tenant,
                    project=opened.project,
                    key=opened.key,
                    feature=opened.feature,
                    task=opened.task,
                    route=opened.route,
                    channel=opened.channel,
                    model=opened.model,
                    wire=opened.wire,
                    outcome=outcome,
                    currency=opened.currency,
                    was=decimal_text(cost_pico),
                    now=decimal_text(now_pico),
                    meters=None,
                )
            )
    return write_corrections(data_dir, records)


def _settled(data_dir: Path) -> Iterator[tuple[tuple[str, int, int], AttemptOpened, int, Outcome, int]]:
    """Yield each attempt's name, how it was opened, when and how it was settled, and its cost."""
    opened: dict[tuple[str, int, int], AttemptOpened] = {}
    ends: list[tuple[tuple[str, int, int], int, Outcome, int]] = []
    for directory in instances(data_dir):
        for record in (record for block in Follower(directory).read() for record in block):
            match record:
                case AttemptOpened():
                    opened[directory.name, record.call, record.attempt] = record
                case AttemptSettled():
                    name = (directory.name, record.call, record.attempt)
                    ends.append((name, record.at_ns, record.outcome, record.cost_pico))
                case AttemptRecovered():
                    name = (record.instance, record.opened.call, record.opened.attempt)
                    ends.append((name, record.at_ns, Outcome.ESTIMATED, record.cost_pico))
    for name, at_ns, outcome, cost_pico in ends:
        yield name, opened[name], at_ns, outcome, cost_pico


async def pico_of_bill(node: World) -> int:
    """Return what a node's bill comes to."""
    bill = json.loads(await node.command("bill", "--json"))
    return sum(int(Decimal(line["cost"]) * 10**12) for line in bill["lines"])
