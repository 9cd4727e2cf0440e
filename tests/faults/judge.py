"""The last word on a world that has stopped: auditor, bill, verification and state must say the same."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from faults.scene import Scene
from upeti.sim.auditor import Attempt, Finding, Journal, Received, audit, read_journal
from upeti.sim.client import Got
from upeti.sim.limits import judge_moments
from upeti.sim.world import World, WorldError

# Refusals and failures that the scene asks for. A fault of ours would be "internal_error".
EXPECTED_CODES = frozenset(
    {
        "",
        "budget_exceeded",
        "budget_unavailable",
        "upstream_failed",
        "upstream_timeout",
        "stream_cut",
        "stream_idle",
        "deadline_exceeded",
        "invalid_api_key",
        # the providers' own
        "server_error",
        "rate_limit_exceeded",
        "invalid_request",
        "overloaded",
    }
)


def pico(text: str) -> int:
    scaled = Decimal(text) * 10**12
    assert scaled == int(scaled), text
    return int(scaled)


async def quiet(*nodes: World, seconds: float = 30.0) -> None:
    """Wait until nothing is open any more: calls have ended, and what the dead left is recovered."""
    try:
        await nodes[0].until(lambda: not open_attempts(*nodes), "the settlement of every attempt", seconds)
    except WorldError as error:
        raise WorldError(f"never settled: {open_attempts(*nodes)[:8]}; {error}") from None


def open_attempts(*nodes: World) -> list[Attempt]:
    journal = read_journal(*(node.data_dir for node in nodes))
    return [attempt for attempt in journal.attempts.values() if not attempt.settled]


class Verdict:
    """Everything that was found, and what it takes to say which call it is about."""

    def __init__(
        self,
        world: World,
        scene: Scene,
        gots: Sequence[Got],
        *,
        others: Sequence[World] = (),
        expected_in_log: Sequence[str] = (),
    ) -> None:
        """``others`` are the other nodes of the same state."""
        self.world = world
        self.nodes = [world, *others]
        self.scene = scene
        self.gots = gots
        # A child that is being started when the supervisor is killed says so.
        self.expected_in_log = ("ended before its child had started", *expected_in_log)
        self.calls: list[dict[str, Any]] = []
        self.bills: list[dict[str, Any]] = []
        self.journal = Journal()
        self.problems: list[str] = []

    async def reach(self) -> None:
        """Run the commands a user would, and compare. Raises ``AssertionError`` that names the calls."""
        for node in self.nodes:
            listed, billed, verified = await asyncio.gather(
                node.command("calls", "--json", "--limit", "0"),
                node.command("bill", "--by", "tenant,key", "--json"),
                node.command("journal", "verify", "--json"),
            )
            self.calls += json.loads(listed)
            self.bills.append(json.loads(billed))
            verification = json.loads(verified)
            if not verification["sound"] or any(one["open"] for one in verification["instances"]):
                self.problems.append(f"`upeti journal verify`: {verification}")
        self.journal = read_journal(*(node.data_dir for node in self.nodes))
        self._audit()
        self._compare_bill()
        self._compare_state()
        self._compare_tags()
        self._read_log()
        self.problems += [f"no end came of {got.ask}" for got in self.gots if got.cut == "late"]
        codes = Counter(got.error_code for got in self.gots)
        if unexpected := codes.keys() - EXPECTED_CODES:
            self.problems.append(f"error codes that nothing here asks for: {unexpected}")
        assert not self.problems, "\n".join([f"{len(self.problems)} problems", *self.problems[:8]])

    def _audit(self) -> None:
        received = [Received(**fields) for got in self.gots if (fields := got.received()) is not None]
        bill = {f"{row['call_id']}-{row['attempt']}": pico(row["cost"]) for row in self.calls}
        findings = audit(
            [node.data_dir for node in self.nodes],
            self.world.provider_logs(),
            received,
            prices=self.scene.prices(),
            limits_pico=self.scene.limits_pico(),
            bill=bill,
        )
        findings += judge_moments(self.journal, self.scene.limits_pico())
        self.problems += [self._explain(finding) for finding in findings]

    def _explain(self, finding: Finding) -> str:
        call_id = finding.about.rpartition("-")[0] or finding.about
        rows = [row for row in self.calls if row["call_id"] in (call_id, finding.about)]
        gots = [got for got in self.gots if got.call_id in (call_id, finding.about)]
        told = [f"{got.ask}\n    status {got.status} cut {got.cut!r} body …{got.body[-200:]!r}" for got in gots]
        lines = [f"{finding.kind} {finding.about}: {finding.detail}"]
        lines += [f"  journal: {row}" for row in rows] + [f"  client: {text}" for text in told]
        return "\n".join(lines)

    def _read_log(self) -> None:
        """Whoever is killed says nothing; errors and what a crash prints are faults."""
        for line in (line for node in self.nodes for line in node.log.read_text().splitlines()):
            fault = not line.startswith("{") or json.loads(line)["level"] == "error"
            if fault and not any(expected in line for expected in self.expected_in_log):
                self.problems.append(f"in the log: {line}")

    def _compare_bill(self) -> None:
        """The bill by key is the sum of the attempts' costs, each once."""
        sums: Counter[str] = Counter()
        for attempt in self.journal.attempts.values():
            sums[attempt.key] += attempt.cost_pico
        billed: Counter[str] = Counter()
        for line in (line for bill in self.bills for line in bill["lines"]):
            billed[line["key"]] += pico(line["cost"])
        if billed != sums:
            self.problems.append(f"the bill says {billed}, the journal {sums}")
        for bill in self.bills:
            if bill["pending"] or bill["damage"]:
                self.problems.append(f"the bill is not whole: {bill['pending']} {bill['damage']}")

    def _compare_state(self) -> None:
        """What the budgets have spent is what the journal posted on them, to the pico; nothing is leased."""
        spent: Counter[str] = Counter()
        for attempt in self.journal.attempts.values():
            for budget in attempt.budgets:
                spent[budget] += attempt.cost_pico
        for name, state in self.world.budgets().items():
            if state.spent_pico != spent[name] or state.leased_pico or state.spent_pico > state.limit_pico:
                self.problems.append(f"budget {name}: {state}; the journal posted {spent[name]}")
        if live := self.world.live_instances():
            self.problems.append(f"not closed in the state: {live}")

    def _compare_tags(self) -> None:
        """A tag is one call: the one whose id its client was told, if it was told any."""
        ids: dict[str, set[str]] = {}
        for row in self.calls:
            ids.setdefault(row["task"] or "", set()).add(row["call_id"])
        for got in self.gots:
            journaled = ids.get(got.ask.tag, set())
            if len(journaled) > 1 or (got.call_id and journaled - {got.call_id}):
                self.problems.append(f"tag {got.ask.tag}: client has {got.call_id}, journal has {journaled}")
            if got.answered and not journaled:
                self.problems.append(f"tag {got.ask.tag}: answered {got.status}, not in the journal; {got.headers}")

    def summary(self) -> str:
        outcomes = Counter(row["outcome"] for row in self.calls)
        ended = Counter(row["ended"] for row in self.calls)
        statuses = Counter(got.status if got.status else got.cut for got in self.gots)
        codes = Counter(got.error_code for got in self.gots if got.error_code)
        return (
            f"{len(self.gots)} calls, {sum(got.answered for got in self.gots)} answered whole; "
            f"{len(self.calls)} attempts\n  statuses {dict(statuses)}\n  codes {dict(codes)}\n"
            f"  outcomes {dict(outcomes)}\n  ended {dict(ended)}"
        )
