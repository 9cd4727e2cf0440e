"""An independent auditor: journal against what the provider saw and what clients received.

    python -m upeti.sim.auditor --data-dir DIR --provider-log LOG [--client-log LOG] [--prices FILE]

Rules: it shares no code with the rest of Upeti, not even this package: it reads the journal's bytes by the
written format alone and counts money on its own, so that a mistake there is not repeated here. It is run
when everything has stopped and what was open has been recovered. No findings means: every call that a
client got an answer to is billed once, at the provider's own figures; nothing that the provider saw is
missing; nothing cost more than was held for it. A provider log is what ``upeti.sim.provider`` writes; a
client log has one JSON object a line with the fields of ``Received``.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

BLOCK = struct.Struct("<4sII32s")
PICO = 10**12
FALLBACKS = {"output_reasoning": "output", "input_cached": "input"}

Prices = Mapping[str, Mapping[str, int]]  # "channel/model" or "model" → meter → pico units a unit


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``about`` names the call, attempt or file."""

    kind: str
    about: str
    detail: str


@dataclass(frozen=True)
class Received:
    """What a client got. ``complete``: it has the whole answer. ``cost`` is the header's text, if there was one."""

    call_id: str
    status: int
    complete: bool = True
    usage: Mapping[str, int] | None = None  # disjoint meters
    cost: str | None = None


@dataclass
class Attempt:
    """One attempt as the journal has it."""

    instance: str
    call: int
    number: int
    call_id: str = ""
    channel: str = ""
    model: str = ""
    budgets: tuple[str, ...] = ()
    bound_pico: int = 0
    priced: bool = True
    key: str = ""
    feature: str = ""
    route: str = ""
    opened_ns: int = 0
    settled: list[dict[str, Any]] = field(default_factory=list)
    corrected: list[tuple[int, int]] = field(default_factory=list)  # (was, now), in the order of the records

    @property
    def id(self) -> str:
        """What the provider is told: the call's id and the attempt's number."""
        return f"{self.call_id}-{self.number}"

    @property
    def cost_pico(self) -> int:
        return sum(each["cost_pico"] for each in self.settled)

    @property
    def owed_pico(self) -> int:
        """The cost with what corrections made of it."""
        return self.cost_pico + sum(now - was for was, now in self.corrected)

    @property
    def outcome(self) -> str:
        return self.settled[0]["outcome"] if self.settled else ""


@dataclass
class Provided:
    """One attempt as the provider saw it."""

    seen: int = 0
    served: list[dict[str, Any]] = field(default_factory=list)
    path: str = ""

    @property
    def billed(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for each in self.served:
            total.update(each["billed"] or {})
        return {name: count for name, count in total.items() if count}


@dataclass(frozen=True)
class Refusal:
    """A call that was refused before any attempt."""

    at_ns: int
    call_id: str
    key: str
    feature: str
    route: str
    code: str


@dataclass
class Journal:
    """The fold of all segments."""

    attempts: dict[tuple[str, int, int], Attempt] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    corrections: dict[str, list[Any]] = field(default_factory=dict)  # id → record, once
    findings: list[Finding] = field(default_factory=list)

    def by_id(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts.values():
            found[attempt.id].append(attempt)
        return found

    def by_call(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts.values():
            found[attempt.call_id].append(attempt)
        return found


# -- reading ---------------------------------------------------------------------------------------------------


def read_journal(*data_dirs: Path) -> Journal:
    """Read every segment of every instance of one or more nodes; what is damaged becomes a finding."""
    journal = Journal()
    late: list[tuple[str, list[Any]]] = []  # recovered records may stand in an instance that is read first
    directories = [path for data_dir in data_dirs for path in (data_dir / "journal").glob("*") if path.is_dir()]
    for directory in sorted(directories, key=lambda path: path.name):
        digest = bytes(32)
        files = sorted(directory.glob("*.upj"))
        for index, path in enumerate(files):
            if path.name != f"{index:08d}.upj":
                journal.findings.append(Finding("journal_damaged", str(path), f"segment {index} is missing"))
            blocks, digest, problem = _read_segment(path.read_bytes(), digest, last=index == len(files) - 1)
            if problem:
                journal.findings.append(Finding("journal_damaged", str(path), problem))
            for record in (record for block in blocks for record in block):
                _take(journal, late, directory.name, record)
    for instance, record in late:
        _settle(journal, instance, record)
    _correct(journal)
    return journal


def _read_segment(data: bytes, digest: bytes, *, last: bool) -> tuple[list[list[Any]], bytes, str]:
    """Return the blocks' records, the last digest, and what is wrong. An unfinished last block is not wrong."""
    blocks: list[list[Any]] = []
    at = 0
    while at < len(data):
        rest = len(data) - at
        length = BLOCK.unpack_from(data, at)[1] if rest >= BLOCK.size else rest
        if rest < BLOCK.size + length:
            torn = last and not _holds_block(data, at)
            return blocks, digest, "" if torn else f"byte {at}: a block is cut off within the chain"
        magic, length, crc, told = BLOCK.unpack_from(data, at)
        payload = data[at + BLOCK.size : at + BLOCK.size + length]
        chained = sha256(digest + payload).digest()
        if magic != b"UPJ1" or zlib.crc32(payload) != crc or chained != told:
            return blocks, digest, f"byte {at}: magic, checksum or chain does not fit"
        blocks.append(msgspec.msgpack.decode(payload))
        digest = chained
        at += BLOCK.size + length
    return blocks, digest, ""


def _holds_block(data: bytes, at: int) -> bool:
    """Tell a damaged length from a write that was cut off: behind the latter there is nothing sound."""
    if len(data) - at >= BLOCK.size and zlib.crc32(data[at + BLOCK.size :]) == BLOCK.unpack_from(data, at)[2]:
        return True
    following = data.find(b"UPJ1", at + 1)
    while following >= 0:
        if len(data) - following >= BLOCK.size:
            _, length, crc, _ = BLOCK.unpack_from(data, following)
            payload = data[following + BLOCK.size : following + BLOCK.size + length]
            if len(payload) == length and zlib.crc32(payload) == crc:
                return True
        following = data.find(b"UPJ1", following + 1)
    return False


def _take(journal: Journal, late: list[tuple[str, list[Any]]], instance: str, record: list[Any]) -> None:
    tag = record[0]
    if tag == "opened":
        attempt = _opened(instance, record)
        key = (instance, attempt.call, attempt.number)
        if key in journal.attempts:
            journal.findings.append(Finding("opened_twice", attempt.id, f"in {instance}"))
        journal.attempts[key] = attempt
    elif tag == "segment":
        for carried in record[5] if len(record) > 5 else ():
            attempt = _opened(instance, carried)
            if (instance, attempt.call, attempt.number) not in journal.attempts:
                journal.findings.append(Finding("carried_unopened", attempt.id, f"in {instance}"))
    elif tag in ("settled", "recovered"):
        late.append((instance, record))
    elif tag == "refused":
        journal.refusals.append(Refusal(record[2], record[3], *record[6:8], *record[9:11]))
    elif tag == "corrected":
        before = journal.corrections.setdefault(record[1], record)
        if before[3:] != record[3:]:
            journal.findings.append(Finding("corrected_twice", record[1], "two corrections carry this id"))
    elif tag not in ("closed", "signalled"):  # signals move no money
        journal.findings.append(Finding("journal_damaged", instance, f"a record of unknown kind {tag!r}"))


def _opened(instance: str, record: list[Any]) -> Attempt:
    priced = record[18] if len(record) > 18 else True
    return Attempt(
        instance,
        record[1],
        record[2],
        record[4],
        record[11],
        record[12],
        tuple(record[15]),
        record[16],
        priced,
        record[7],
        record[8],
        record[10],
        record[3],
    )


def _settle(journal: Journal, instance: str, record: list[Any]) -> None:
    if record[0] == "recovered":
        opened = record[2]
        key = (record[1], opened[1], opened[2])
        end = {"outcome": "estimated", "status": 0, "meters": None, "cost_pico": record[4], "by": "keeper"}
        end["at_ns"] = record[3]
    else:
        key = (instance, record[1], record[2])
        end = {"outcome": record[4], "status": record[6], "meters": record[7], "cost_pico": record[8], "by": "worker"}
        end["at_ns"] = record[3]
    attempt = journal.attempts.get(key)
    if attempt is None:
        name = "/".join(str(part) for part in key)
        journal.findings.append(Finding("settled_unopened", name, f"by {end['by']}"))
    else:
        attempt.settled.append(end)


def _correct(journal: Journal) -> None:
    """Attach corrections to the attempts that they name; each says what was owed before it."""
    attempts = journal.by_id()
    for record in sorted(journal.corrections.values(), key=lambda record: int(record[2])):
        if not record[5]:
            continue  # of many attempts at once
        named = attempts.get(record[5], [])
        if len(named) != 1:
            journal.findings.append(Finding("corrected_unknown", record[5], f"by {record[1]}"))
            continue
        was, now = _pico(record[18]), _pico(record[19])
        if was != named[0].owed_pico:
            detail = f"it says that {was} pico was owed; {named[0].owed_pico} was"
            journal.findings.append(Finding("corrected_wrongly", record[5], detail))
        named[0].corrected.append((was, now))


def read_provider_logs(paths: Iterable[Path]) -> dict[str, Provided]:
    """Return attempt id → what the provider saw. Requests that carry no id are under ``""``."""
    found: dict[str, Provided] = defaultdict(Provided)
    for line in _json_lines(paths):
        if line["event"] == "seen":
            provided = found[line["client_request_id"] or ""]
            provided.seen += 1
            provided.path = line["path"]
        elif line["event"] == "served":
            found[line["client_request_id"] or ""].served.append(line)
    return dict(found)


def read_client_logs(paths: Iterable[Path]) -> list[Received]:
    return [Received(**line) for line in _json_lines(paths)]


def _json_lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # the writer was killed within the last one
                yield json.loads(line)


def read_prices(path: Path) -> Prices:
    """Read ``{"model": {"input": "0.0000025", …}}``: decimal strings in the currency's main unit."""
    table = json.loads(path.read_text())
    return {model: {meter: _pico(text) for meter, text in cells.items()} for model, cells in table.items()}


def _pico(text: str) -> int:
    scaled = Decimal(text) * PICO
    if scaled != int(scaled):
        raise ValueError(f"{text} has more than twelve decimals")
    return int(scaled)


# -- judging ---------------------------------------------------------------------------------------------------


def audit(
    data_dir: Path | Sequence[Path],
    provider_logs: Sequence[Path] = (),
    received: Sequence[Received] = (),
    *,
    prices: Prices | None = None,
    limits_pico: Mapping[str, int] | None = None,
    bill: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Return what is wrong; nothing is when the list is empty.

    ``data_dir`` is that of one node, or those of all nodes that share a state.
    ``limits_pico`` is budget id → what may be spent on it in all; ``bill`` is attempt id → cost in pico units as
    the bill has it. What is not given is not compared.
    """
    journal = read_journal(*([data_dir] if isinstance(data_dir, Path) else data_dir))
    findings = list(journal.findings)
    provided = read_provider_logs(provider_logs)
    for attempt in journal.attempts.values():
        findings += _judge_attempt(attempt)
        if provider_logs:
            findings += _judge_against_provider(attempt, provided.get(attempt.id), prices)
    findings += _judge_provided(provided, journal.by_id())
    findings += _judge_received(received, journal.by_call(), provided)
    if limits_pico is not None:
        findings += _judge_limits(journal, limits_pico)
    if bill is not None:
        findings += _judge_bill(journal, bill)
    return findings


def _judge_attempt(attempt: Attempt) -> Iterator[Finding]:
    if not attempt.settled:
        yield Finding("never_settled", attempt.id, f"opened in {attempt.instance}, neither settled nor recovered")
    if len(attempt.settled) > 1:
        how = ", ".join(f"{each['outcome']} by {each['by']}" for each in attempt.settled)
        yield Finding("billed_twice", attempt.id, how)
    if attempt.priced and attempt.cost_pico > attempt.bound_pico:
        yield Finding("cost_above_bound", attempt.id, f"{attempt.cost_pico} pico, held {attempt.bound_pico}")
    for each in attempt.settled:
        if each["outcome"] in ("voided", "unpriced") and each["cost_pico"]:
            yield Finding("cost_of_nothing", attempt.id, f"{each['outcome']} with {each['cost_pico']} pico")


def _judge_against_provider(attempt: Attempt, provided: Provided | None, prices: Prices | None) -> Iterator[Finding]:
    if provided is None or not provided.seen:
        if attempt.outcome == "posted" and attempt.cost_pico:
            yield Finding("billed_unserved", attempt.id, "posted with a cost, but the provider never saw it")
        return
    if len(provided.served) < provided.seen:
        return  # the provider was killed before it could say what it bills
    billed = provided.billed
    if attempt.outcome == "voided" and billed:
        yield Finding("voided_but_served", attempt.id, f"the provider bills {billed}")
    if attempt.outcome == "posted":
        meters = {name: count for name, count in (attempt.settled[0]["meters"] or {}).items() if count}
        if meters != billed:
            yield Finding("usage_differs", attempt.id, f"journal {meters}, provider {billed}")
    cells = cells_of(attempt, prices)
    if cells is None:
        return
    owed = cost_of(cells, billed)
    if attempt.outcome == "unpriced" and owed is not None:
        yield Finding("unpriced_though_priced", attempt.id, f"{attempt.channel}/{attempt.model} has a price")
    elif owed is None:
        return
    elif attempt.outcome == "posted" and attempt.cost_pico != owed:
        yield Finding("cost_differs", attempt.id, f"journal {attempt.cost_pico} pico, provider's usage gives {owed}")
    elif attempt.outcome == "estimated" and attempt.cost_pico < owed:
        yield Finding("estimated_below_bill", attempt.id, f"journal {attempt.cost_pico} pico, provider bills {owed}")


def cells_of(attempt: Attempt, prices: Prices | None) -> Mapping[str, int] | None:
    if prices is None:
        return None
    return prices.get(f"{attempt.channel}/{attempt.model}", prices.get(attempt.model))


def cost_of(cells: Mapping[str, int], meters: Mapping[str, int]) -> int | None:
    """Return what ``meters`` cost, or None when a meter has no price."""
    total = 0
    for name, count in meters.items():
        price = cells.get(name, cells.get(FALLBACKS.get(name, "")))
        if price is None:
            return None
        total += price * count
    return total


def _judge_provided(provided: Mapping[str, Provided], journal: Mapping[str, list[Attempt]]) -> Iterator[Finding]:
    for attempt_id, seen in provided.items():
        if not attempt_id:
            yield Finding("unnamed_request", seen.path, f"{seen.seen} requests carried no attempt's id")
            continue
        attempts = journal.get(attempt_id, [])
        if not attempts:
            yield Finding("not_in_journal", attempt_id, f"the provider saw it at {seen.path}")
        if len(attempts) > 1:
            yield Finding("billed_twice", attempt_id, f"{len(attempts)} attempts carry this id")
        if seen.seen > 1:
            yield Finding("dispatched_twice", attempt_id, f"the provider saw it {seen.seen} times")


def _judge_received(
    received: Sequence[Received], calls: Mapping[str, list[Attempt]], provided: Mapping[str, Provided]
) -> Iterator[Finding]:
    for call_id, count in Counter(each.call_id for each in received).items():
        if count > 1:
            yield Finding("id_reused", call_id, f"{count} calls of clients carry this id")
    for each in received:
        attempts = calls.get(each.call_id, [])
        if each.complete and 200 <= each.status < 300:
            billing = [a for a in attempts if a.outcome in ("posted", "estimated", "unpriced")]
            if not billing:
                have = ", ".join(a.outcome or "open" for a in attempts) or "nothing"
                yield Finding("not_billed", each.call_id, f"answered {each.status}; the journal has {have}")
            answered = [a for a in billing if a.outcome == "posted" and 200 <= a.settled[0]["status"] < 300]
            if len(answered) > 1:
                yield Finding("billed_twice", each.call_id, f"{len(answered)} attempts are posted as answered")
        yield from _judge_figures(each, attempts, provided)


def _judge_figures(each: Received, attempts: Sequence[Attempt], provided: Mapping[str, Provided]) -> Iterator[Finding]:
    """Compare what the client was told with the attempt that answered: the last one; for an error, any of them."""
    if not attempts:
        return
    answered = max(attempts, key=lambda attempt: attempt.number)
    costs = {attempt.cost_pico for attempt in (attempts if each.status >= 400 else [answered])}
    if each.cost is not None and _pico(each.cost) not in costs:
        yield Finding("cost_header_differs", each.call_id, f"client {each.cost}, journal {answered.cost_pico} pico")
    seen = provided.get(answered.id)
    if each.usage is not None and seen is not None and seen.served:
        shown = {name: count for name, count in each.usage.items() if count}
        if shown != seen.billed:
            yield Finding("client_usage_differs", each.call_id, f"client {shown}, provider {seen.billed}")


def _judge_limits(journal: Journal, limits_pico: Mapping[str, int]) -> Iterator[Finding]:
    spent: Counter[str] = Counter()
    for attempt in journal.attempts.values():
        for budget in attempt.budgets:
            spent[budget] += attempt.cost_pico
    for budget, limit in limits_pico.items():
        if spent[budget] > limit:
            yield Finding("overspent", budget, f"{spent[budget]} pico of {limit}")


def _judge_bill(journal: Journal, bill: Mapping[str, int]) -> Iterator[Finding]:
    costs = {attempt.id: attempt.cost_pico for attempt in journal.attempts.values() if attempt.settled}
    for attempt_id in sorted(costs.keys() | bill.keys()):
        if costs.get(attempt_id) != bill.get(attempt_id):
            detail = f"journal {costs.get(attempt_id)} pico, bill {bill.get(attempt_id)}"
            yield Finding("bill_differs", attempt_id, detail)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m upeti.sim.auditor", description="Audit a journal.")
    parser.add_argument("--data-dir", type=Path, action="append", required=True, help="once for each node")
    parser.add_argument("--provider-log", type=Path, action="append", default=[])
    parser.add_argument("--client-log", type=Path, action="append", default=[])
    parser.add_argument("--prices", type=Path)
    found = parser.parse_args(arguments)
    findings = audit(
        found.data_dir,
        found.provider_log,
        read_client_logs(found.client_log),
        prices=read_prices(found.prices) if found.prices else None,
    )
    for finding in findings:
        print(json.dumps({"kind": finding.kind, "about": finding.about, "detail": finding.detail}))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
