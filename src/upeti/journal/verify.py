"""Checking a whole journal: is it what was written, and does what was written add up.

Checksums and chain are checked by reading; on top of that come the rules of an attempt's life: opened once,
settled once, by its worker or by a keeper, within its bound; and of a correction: made once, of an attempt that there
is, from what was owed on. *Damage* means that bytes or records are not
what a sound writer leaves; a *notice* (a torn tail, a cost above its bound) is worth knowing and no damage.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec

from upeti.core.amount import decimal_text, parse_pico
from upeti.core.errors import JournalError
from upeti.core.events import (
    JOURNAL_VERSION,
    ActDone,
    AttemptOpened,
    AttemptRecovered,
    AttemptSettled,
    CallRefused,
    ChannelSignalled,
    CostCorrected,
    Outcome,
    PairCaptured,
    Record,
    SegmentClosed,
    SegmentOpened,
)
from upeti.journal.acts import acts_dir
from upeti.journal.blocks import GENESIS, KEEPER_PREFIX, captured_dir, segment_number
from upeti.journal.reader import AttemptName, SegmentScan, instances, segments

Fact = (
    AttemptOpened
    | AttemptSettled
    | AttemptRecovered
    | CostCorrected
    | CallRefused
    | ChannelSignalled
    | PairCaptured
    | ActDone
)

FINDINGS_LISTED_MAX = 200  # of one kind; all are counted


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    kind: str  # e.g. "damaged", "missing segment", "settled twice", "above bound"
    damage: bool
    instance: str
    segment: int  # -1: of the instance as a whole
    message: str


class InstanceResult(msgspec.Struct):
    """What was read of one instance."""

    instance: str
    segments: int = 0
    blocks: int = 0
    bytes: int = 0
    opened: int = 0
    settled: int = 0
    recovered: int = 0  # attempts of this instance that a keeper settled
    corrected: int = 0
    refused: int = 0
    signalled: int = 0
    pairs: int = 0  # questions and answers that were kept
    acts: int = 0  # what people and rules decided
    open: int = 0  # neither settled nor recovered
    torn_bytes: int = 0
    ended: bool = False  # by a graceful stop
    digest: str = ""  # of its last block, in hex: note it elsewhere and nobody can rewrite the past


class Verification(msgspec.Struct):
    """The result: sound when no finding is damage."""

    instances: list[InstanceResult] = msgspec.field(default_factory=list)
    findings: list[Finding] = msgspec.field(default_factory=list)
    counts: dict[str, int] = msgspec.field(default_factory=dict)  # kind → findings, listed or not
    sound: bool = True

    def add(self, finding: Finding) -> None:
        count = self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        if count <= FINDINGS_LISTED_MAX:
            self.findings.append(finding)
        if finding.damage:
            self.sound = False


def verify(data_dir: Path) -> Verification:
    """Read and check the whole journal below ``data_dir``. Damage is never raised: it becomes a finding."""
    result = Verification()
    recovered: dict[str, list[tuple[str, AttemptRecovered]]] = {}  # instance → (keeper, record)
    # Keepers first: what a running keeper recovers is then already in its worker's journal when that is read,
    # and what it recovers later simply counts as open.
    directories = instances(data_dir)
    acts = acts_dir(data_dir)
    keepers = [path for path in directories if path.name.startswith(KEEPER_PREFIX)]
    workers = [path for path in directories if not path.name.startswith(KEEPER_PREFIX)]
    corrections = _Corrections(result)
    for directory in ([acts] if acts.is_dir() else []) + instances(captured_dir(data_dir)):
        _InstanceCheck(directory, result, corrections).run()
    for directory in keepers:
        check = _InstanceCheck(directory, result, corrections)
        check.run()
        for record in check.recoveries:
            recovered.setdefault(record.instance, []).append((directory.name, record))
    for directory in workers:
        check = _InstanceCheck(directory, result, corrections)
        check.run()
        check.check_recovered(recovered.pop(directory.name, []))
    for instance, records in recovered.items():
        for keeper, record in records:
            name = f"attempt {record.opened.call}-{record.opened.attempt}"
            message = f"{name} was recovered, but the journal of {instance} is not there: restore it from a copy"
            result.add(Finding("missing instance", True, keeper, -1, message))
    corrections.check()
    result.instances.sort(key=lambda one: one.instance)
    return result


class _Seen:
    """A set of attempts in four bytes per call: call numbers run, attempt numbers are few."""

    _CALLS = 65_536
    _BITS = 32

    def __init__(self) -> None:
        self._chunks: dict[int, array[int]] = {}
        self._others: set[AttemptName] = set()

    def has(self, call: int, attempt: int) -> bool:
        if not 0 <= attempt < self._BITS:
            return (call, attempt) in self._others
        chunk = self._chunks.get(call // self._CALLS)
        return chunk is not None and bool(chunk[call % self._CALLS] >> attempt & 1)

    def add(self, call: int, attempt: int) -> bool:
        """Return whether the attempt was there already."""
        known = self.has(call, attempt)
        if not 0 <= attempt < self._BITS:
            self._others.add((call, attempt))
        else:
            chunk = self._chunks.get(call // self._CALLS)
            if chunk is None:
                chunk = self._chunks[call // self._CALLS] = array("I", bytes(4 * self._CALLS))
            chunk[call % self._CALLS] |= 1 << attempt
        return known


class _Corrections:
    """The corrections of all journals, and what the attempts cost that they correct. Keepers are read first."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification
        self._ids: set[str] = set()
        self._of: dict[str, list[tuple[str, CostCorrected]]] = {}  # attempt id → (instance, record)
        self._owed_pico: dict[str, int] = {}  # by attempt id, as settled

    def add(self, instance: str, segment: int, record: CostCorrected) -> None:
        if record.correction_id in self._ids:
            why = f"correction {record.correction_id} is in the journal twice, and counts twice: restore a copy"
            self._verification.add(Finding("corrected twice", True, instance, segment, why))
        self._ids.add(record.correction_id)
        if record.attempt_id:
            self._of.setdefault(record.attempt_id, []).append((instance, record))

    def settled(self, call_id: str, attempt: int, cost_pico: int) -> None:
        if self._of and (name := f"{call_id}-{attempt}") in self._of:
            self._owed_pico[name] = cost_pico

    def check(self) -> None:
        for attempt_id, records in self._of.items():
            records.sort(key=lambda one: one[1].at_ns)
            owed_pico = self._owed_pico.get(attempt_id)
            if owed_pico is None:
                why = f"attempt {attempt_id} is in no journal here; its own is on another node, or was removed"
                self._verification.add(Finding("corrects nothing", False, records[0][0], -1, why))
                continue
            for instance, record in records:
                if parse_pico(record.was) != owed_pico:
                    why = (
                        f"correction {record.correction_id} takes back {record.was} {record.currency} for attempt "
                        f"{attempt_id}, but {decimal_text(owed_pico)} was owed: correct it with another"
                    )
                    self._verification.add(Finding("was differs", False, instance, -1, why))
                owed_pico = parse_pico(record.now)


class _InstanceCheck:
    """Goes through one instance's segments in order."""

    def __init__(self, directory: Path, verification: Verification, corrections: _Corrections) -> None:
        self._corrections = corrections
        self.recoveries: list[AttemptRecovered] = []  # that this instance wrote
        self._directory = directory
        self._verification = verification
        self._result = InstanceResult(directory.name)
        verification.instances.append(self._result)
        self._open: dict[AttemptName, AttemptOpened] = {}
        self._opened = _Seen()
        self._settled = _Seen()
        self._segment = -1
        self._whole = False  # every segment was readable

    def run(self) -> None:
        digest = GENESIS
        try:
            paths = segments(self._directory)
        except JournalError as error:
            self._find("foreign file", str(error))
            return
        closed = None
        for place, path in enumerate(paths):
            self._segment = segment_number(path)
            if self._segment != place:
                self._find("missing segment", f"segment {place} is missing: restore it from a copy")
                return
            scan = SegmentScan(path, digest)
            try:
                closed = self._read(scan, last=path is paths[-1])
            except JournalError as error:
                self._find("damaged", str(error))
                return
            digest = scan.digest
        self._whole = True
        self._result.digest = digest.hex()
        self._result.open = len(self._open)
        self._check_end(closed)

    def check_recovered(self, recovered: list[tuple[str, AttemptRecovered]]) -> None:
        """Check that what keepers recovered was open, once, and take it out of what counts as open."""
        seen: set[AttemptName] = set()
        for keeper, record in recovered:
            call, attempt = key = record.opened.call, record.opened.attempt
            name = f"attempt {call}-{attempt}, recovered in {keeper},"
            opened = self._open.pop(key, None)
            if key in seen:
                self._find("recovered twice", f"{name} was recovered before")
            elif self._settled.has(call, attempt):
                self._find("settled and recovered", f"{name} had been settled by its worker")
            elif opened is None and self._whole:
                self._find("never opened", f"{name} had not been opened")
            elif opened is not None and opened != record.opened:
                self._find("recovered differs", f"{name} had been opened as something else")
            if record.cost_pico > record.opened.bound_pico:
                self._find("above bound", self._above(name, record.cost_pico, record.opened), damage=False)
            self._corrections.settled(record.opened.call_id, attempt, record.cost_pico)
            seen.add(key)
        self._result.recovered = len(seen)
        self._result.open = len(self._open)

    def _check_end(self, closed: SegmentClosed | None) -> None:
        if closed is None:
            return
        self._result.ended = closed.final
        if not closed.final:
            why = "another segment was to follow: the process was killed right then, or the file is gone"
            self._find("no next segment", why, damage=False)
        elif self._open:
            self._find("open at the end", f"ended with {len(self._open)} attempts open", damage=False)

    def _read(self, scan: SegmentScan, *, last: bool) -> SegmentClosed | None:
        self._result.segments += 1
        closed: SegmentClosed | None = None
        first = True
        for records in scan:
            self._result.blocks += 1
            for record in records:
                if closed is not None:
                    self._find("after the end", "records follow the segment's last one")
                if first or isinstance(record, SegmentOpened):
                    self._begin(record, expected=first)
                    first = False
                elif isinstance(record, SegmentClosed):
                    closed = record
                else:
                    self._take(record)
        self._result.bytes += scan.end
        self._result.torn_bytes += scan.torn_bytes
        self._check_tail(scan, last=last)
        if not last and (closed is None or closed.final):
            self._find("not closed", "a later segment follows, but this one does not end with saying so")
        return closed

    def _check_tail(self, scan: SegmentScan, *, last: bool) -> None:
        if scan.tail_damage:
            self._find("damaged", scan.tail_damage)
        elif scan.torn_bytes:
            where = f"{scan.torn_bytes} bytes of an incomplete block at byte {scan.end}"
            if last:
                why = "the process was killed within a write, or is writing"
                self._find("torn tail", f"{where}: {why}", damage=False)
            else:
                self._find("damaged", f"{where}, and a later segment follows: restore the file from a copy")

    def _begin(self, record: Record, *, expected: bool) -> None:
        if not expected or not isinstance(record, SegmentOpened):
            self._find("no beginning", "a segment must begin with one SegmentOpened record and have no other")
            return
        if record.version > JOURNAL_VERSION:
            cure = "verify it with that version of Upeti"
            self._find("newer version", f"written as version {record.version}: {cure}")
        if record.instance != self._directory.name or record.number != self._segment:
            where = f"segment {record.number} of {record.instance}"
            self._find("wrong place", f"this is {where}: put the file back to where it was")
        if {(one.call, one.attempt): one for one in record.carried} != self._open:
            self._find("carried differs", "the attempts carried over are not those that were open")

    def _take(self, record: Fact) -> None:
        if isinstance(record, AttemptOpened):
            self._result.opened += 1
            if self._opened.add(record.call, record.attempt):
                self._find("opened twice", f"attempt {record.call}-{record.attempt} was opened before")
            self._open[record.call, record.attempt] = record
        elif isinstance(record, AttemptSettled):
            self._result.settled += 1
            self._settle(record)
        elif isinstance(record, AttemptRecovered):
            self.recoveries.append(record)
        elif isinstance(record, CostCorrected):
            self._result.corrected += 1
            self._corrections.add(self._directory.name, self._segment, record)
        elif isinstance(record, PairCaptured):
            self._result.pairs += 1
        elif isinstance(record, ActDone):
            self._result.acts += 1
        elif isinstance(record, ChannelSignalled):
            self._result.signalled += 1
        else:
            self._result.refused += 1

    def _settle(self, record: AttemptSettled) -> None:
        name = f"attempt {record.call}-{record.attempt}"
        opened = self._open.pop((record.call, record.attempt), None)
        if self._settled.add(record.call, record.attempt):
            self._find("settled twice", f"{name} was settled before")
        elif opened is None:
            # On a full disk the opening is not written, the attempt not made, and its hold is voided.
            owed = record.outcome is not Outcome.VOIDED
            self._find("never opened", f"{name} was settled without having been opened", damage=owed)
        elif opened.priced and record.cost_pico > opened.bound_pico:
            self._find("above bound", self._above(name, record.cost_pico, opened), damage=False)
        if opened is not None:
            self._corrections.settled(opened.call_id, record.attempt, record.cost_pico)
        if record.cost_pico and record.outcome in (Outcome.VOIDED, Outcome.UNPRICED):
            self._find("cost of nothing", f"{name} is {record.outcome} and yet costs {decimal_text(record.cost_pico)}")

    @staticmethod
    def _above(name: str, cost_pico: int, opened: AttemptOpened) -> str:
        cost, bound = decimal_text(cost_pico), decimal_text(opened.bound_pico)
        return f"{name} ({opened.call_id}) cost {cost} {opened.currency}, its bound was {bound}"

    def _find(self, kind: str, message: str, *, damage: bool = True) -> None:
        self._verification.add(Finding(kind, damage, self._directory.name, self._segment, message))
