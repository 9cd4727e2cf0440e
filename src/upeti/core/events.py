"""What is written to the journal: the facts of which everything else is a fold.

Records are encoded as MessagePack arrays (`array_like`), so fields are only ever appended, each new one
with a default, and never renamed in meaning. Times are nanoseconds since 1970 UTC, money is pico units
of ``currency``. An attempt is named by ``(instance, call, attempt)``: the worker process that made it
(named in the segment's first record), that process's running call number, and the attempt's number
within the call.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

JOURNAL_VERSION = 1


class Outcome(StrEnum):
    """How the hold of an attempt was settled."""

    POSTED = "posted"  # at the exact cost of reported meters
    VOIDED = "voided"  # nothing was sent, nothing is owed
    ESTIMATED = "estimated"  # the end is unknown: posted at the bound, corrected when the provider reports
    UNPRICED = "unpriced"  # meters known or not, but no price in the book: owed an unknown amount


class SegmentOpened(msgspec.Struct, frozen=True, array_like=True, tag="segment"):
    """First record of every segment file."""

    version: int
    instance: str  # e.g. "w0-5f0c…": one process from start to end
    number: int  # of the segment, from 0
    at_ns: int
    carried: tuple[AttemptOpened, ...] = ()  # attempts opened in an earlier segment and not settled yet


class AttemptOpened(msgspec.Struct, frozen=True, array_like=True, tag="opened", gc=False):
    """Written before the attempt is dispatched."""

    call: int
    attempt: int
    at_ns: int
    call_id: str  # what the client sees as x-request-id
    tenant: str
    project: str
    key: str  # the key's public id, never the secret
    feature: str  # "" when the caller gave none
    task: str
    route: str  # the model name the client asked for
    channel: str
    model: str  # the model name sent upstream
    wire: str  # "chat_completions", "responses", …
    stream: bool
    budgets: tuple[str, ...]  # ids of the budgets the bound is held on
    bound_pico: int
    currency: str = "USD"
    # False: no price in the book, or nothing that bounds the cost; the bound is 0 and means nothing
    priced: bool = True


class AttemptSettled(msgspec.Struct, frozen=True, array_like=True, tag="settled", gc=False):
    """Written before the client gets the last byte."""

    call: int
    attempt: int
    at_ns: int
    outcome: Outcome
    ended: str  # a value of gateway.exchange.Ended: how the attempt ended
    status: int  # HTTP status of the provider, 0 when there was none
    meters: dict[str, int] | None  # None: unknown
    cost_pico: int
    price_id: str = ""  # which row of the price book, "" when none applied
    first_byte_us: int = -1  # from dispatch to the first byte of the answer, -1 when there was none
    total_us: int = -1  # from dispatch to the end of the answer
    provider_request_id: str = ""
    tier: str = ""  # service tier that was billed, "" for the standard one


class AttemptRecovered(msgspec.Struct, frozen=True, array_like=True, tag="recovered"):
    """Written by the keeper for an attempt whose worker died: posted at its bound, as estimated."""

    instance: str  # of the worker that died
    opened: AttemptOpened
    at_ns: int
    cost_pico: int


class CostCorrected(msgspec.Struct, frozen=True, array_like=True, tag="corrected"):
    """What earlier records say is owed was wrong: ``was`` is taken back and ``now`` is owed in its place.

    Nothing earlier is edited. Written by reconciliation and re-pricing, never by a worker. It stands for one attempt
    (``attempt_id``), or for all attempts that the other fields name (``attempt_id`` is "").
    """

    correction_id: str  # unique; the same correction made twice has the same one and counts once
    at_ns: int
    reason: str  # "reconciled" | "repriced" | "manual"
    reference: str  # SHA-256 of the provider's report or of the price book that it follows
    attempt_id: str
    settled_ns: int  # when what is corrected was settled: the day that it belongs to
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    route: str
    channel: str
    model: str
    wire: str
    outcome: Outcome  # that the corrected attempts were settled with; POSTED once they were corrected before
    currency: str
    was: str  # decimal text: a month's sum in rupiah does not fit 64 bits of pico
    now: str
    meters: dict[str, int] | None  # difference to what was reported before; None: none is known
    price_id: str = ""  # row that ``now`` follows, "" when the provider's report says it
    tier: str = ""


class CallRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """A known caller's call that was refused before any attempt."""

    call: int
    at_ns: int
    call_id: str
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    route: str
    code: str  # of the error, e.g. "budget_exceeded"


class ChannelSignalled(msgspec.Struct, frozen=True, array_like=True, tag="signalled"):
    """An error of a provider that is more than one call's: what it said, what it was taken to mean, what was done.

    The attempt that met it has its own records; this one moves no money.
    """

    call: int
    attempt: int
    at_ns: int
    call_id: str
    channel: str
    model: str
    status: int
    signal: str  # id of the row of providers/facts/signals.toml, "" when none knew it
    meaning: str
    reaction: str
    verdict: str  # of the known-good probe: "sound", "cut", "unsure"; "" when none was asked
    incident: str  # that it belongs to, "" when nothing was latched
    sha256: str  # of the body as it came
    excerpt: str  # of the body, scrubbed, at most 500 letters


class PairCaptured(msgspec.Struct, frozen=True, array_like=True, tag="pair"):
    """A question and its answer were kept. Written by the process that keeps them, in journals below ``captured/``.

    There is no text in it and no person: bodies are elsewhere, under digests that a secret of the tenant's went into, so
    that erasing them leaves the chain as it is.
    """

    pair_id: str  # call id and attempt
    at_ns: int
    call_id: str
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    user_digest: str  # of the end user whom the call named, "" when it named none
    route: str
    channel: str
    model: str
    wire: str
    contract: str  # id of the contract version in force
    clause: str  # that permits storing it
    grant: str
    consent: str  # id
    redactions: dict[str, int]  # kind → how many different values
    request_digest: str
    answer_digest: str
    request_bytes: int  # as stored, before compression
    answer_bytes: int


class ActDone(msgspec.Struct, frozen=True, array_like=True, tag="act"):
    """What somebody decided: a right granted or revoked, a clause reviewed, a latch opened, a case moved, a person erased.

    Acts have a journal of their own (``journal.acts``): they are few, each is on the disk before it takes effect, and one
    chain runs over all of a data directory, so that none can be left out unseen.
    """

    act_id: str  # unique
    at_ns: int
    actor: str  # who, as they named themselves; "rule:NAME" for a rule of the system's own
    kind: str  # such as "rights.granted": the folder's idea, and what happened to it
    subject: str  # the id of what it happened to
    reason: str
    detail: str = "{}"  # JSON: what else a reader needs; no prompt, answer or secret


class SegmentClosed(msgspec.Struct, frozen=True, array_like=True, tag="closed"):
    """Last record of a segment that was ended on purpose (rotation, graceful stop)."""

    at_ns: int
    final: bool  # True: the instance ended here


Record = (
    SegmentOpened
    | AttemptOpened
    | AttemptSettled
    | AttemptRecovered
    | CostCorrected
    | CallRefused
    | ChannelSignalled
    | PairCaptured
    | ActDone
    | SegmentClosed
)
