"""The words between a worker and the keeper.

Frames on a Unix socket (``data_dir/run/keeper.sock``): a little-endian u32 length, then one of these as
JSON, because MessagePack's integers end at 64 bits, which is 18.4 million units in pico: a month's budget
does not fit. The worker connects, says ``Hello``, and asks; the keeper answers and tells. A lease is a part
of a budget that one worker may hold from without asking; its truth is the keeper's store, and Σ leases +
spent ≤ limit holds at every moment. All amounts are pico units.
"""

from __future__ import annotations

import struct

import msgspec

from upeti.gateway.latch import Latch, Subject

FRAME_HEAD = struct.Struct("<I")
FRAME_BYTES_MAX = 16 * 1024 * 1024  # a metrics frame of a busy worker is a few KB; more is a broken peer


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """First word of a worker. ``instance`` names its journal and its leases.

    ``leases`` is, for a worker that connects again, budget → (left of its lease, holds included; posted
    since it started), as things stand now: a word may have been lost with the last connection, and the
    keeper takes back what it thinks is leased beyond that. Whoever fills it in must not send again what was
    to be returned before.
    """

    instance: str
    worker: int
    pid: int
    leases: dict[str, tuple[int, int]] = {}


class LeaseAsk(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """The worker needs ``need_pico`` more on a budget than its lease has left.

    ``posted_pico`` is all the worker has posted on the budget since it started: what the keeper may move from
    leased to spent.
    """

    budget: str
    need_pico: int
    posted_pico: int


class LeaseReturn(msgspec.Struct, frozen=True, array_like=True, tag="return"):
    """The worker gives back ``amount_pico`` of a lease (a recall's answer, or idle, or at the end).

    ``recalled``: it is the answer to a recall, and everything that is not held; without it, a report that crossed the
    recall would pass for its answer. ``overrun`` says, in words, what cost more than its bound: the budget is to be
    frozen.
    """

    budget: str
    amount_pico: int
    posted_pico: int
    recalled: bool = False
    overrun: str = ""


class Metrics(msgspec.Struct, frozen=True, array_like=True, tag="metrics"):
    """All counters of a worker since its start: (name, ((label, value), …)) → value; sent every second."""

    values: dict[str, float]  # key: 'name{label="value",…}', a Prometheus sample name


class MetricsAsk(msgspec.Struct, frozen=True, array_like=True, tag="metrics?"):
    """The worker was asked for /metrics and wants the text for all workers."""

    request: int


class Latched(msgspec.Struct, frozen=True, array_like=True, tag="latched"):
    """This worker has latched something; said again after each connection until a snapshot has it."""

    latch: Latch
    signal: str  # id of the row, "" when a probe decided
    status: int
    sha256: str  # of the body
    excerpt: str  # scrubbed


class Affected(msgspec.Struct, frozen=True, array_like=True, tag="affected"):
    """So many more calls met an incident: incident → calls."""

    calls: dict[str, int]


class Refusals(msgspec.Struct, frozen=True, array_like=True, tag="refusals"):
    """Calls that content filters refused since the last word: (channel, tenant, calls). The keeper says it to the others."""

    seen: list[tuple[str, str, int]]


class AbuseBlocked(msgspec.Struct, frozen=True, array_like=True, tag="abuse"):
    """A provider blocked a channel for what was sent through it, and this tenant is the suspect."""

    tenant: str
    channel: str
    incident: str
    refusals: int  # by content filters, on that channel, lately
    until_ns: int


class Probed(msgspec.Struct, frozen=True, array_like=True, tag="probed"):
    """Answer to ProbeAsk. ``verdict``: "sound", "cut", "unsure"; ``what`` is for people, scrubbed."""

    request: int
    verdict: str
    status: int  # 0: no answer
    what: str


class LeaseGrant(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """Answer to LeaseAsk: ``amount_pico`` is added to the worker's lease (0: there is no more).

    ``left_pico`` is what is neither spent nor leased to anyone after this grant, below zero when the limit was
    lowered; ``limit_pico`` the budget's limit.
    """

    budget: str
    amount_pico: int
    left_pico: int
    limit_pico: int


class LeaseRecall(msgspec.Struct, frozen=True, array_like=True, tag="recall"):
    """Another worker needs it: give back what is not held."""

    budget: str


class SnapshotReady(msgspec.Struct, frozen=True, array_like=True, tag="snapshot"):
    """There is a new snapshot file."""

    version: int


class MetricsText(msgspec.Struct, frozen=True, array_like=True, tag="metrics="):
    request: int
    text: str


class LatchShut(msgspec.Struct, frozen=True, array_like=True, tag="shut"):
    """A latch holds from now on: another worker's, another node's or a person's."""

    latch: Latch


class LatchOpened(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """It works again, or a person says so."""

    subject: Subject


class TenantHeld(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """A tenant is under suspicion of an abuse block; the snapshot that says so is on its way."""

    tenant: str
    number: str  # of the case, or of the incident until there is a case
    until_ns: int


class ProbeAsk(msgspec.Struct, frozen=True, array_like=True, tag="probe?"):
    """Send a request that is known to be good. ``wire`` and ``model`` are what has worked, "" when nobody knows."""

    request: int
    subject: Subject
    wire: str
    model: str


CutOffNews = Latched | Affected | Refusals | AbuseBlocked | Probed
CutOffOrder = LatchShut | LatchOpened | TenantHeld | ProbeAsk | Refusals
WorkerWord = Hello | LeaseAsk | LeaseReturn | Metrics | MetricsAsk | CutOffNews
KeeperWord = LeaseGrant | LeaseRecall | SnapshotReady | MetricsText | CutOffOrder

_encoder = msgspec.json.Encoder()
_worker_words: msgspec.json.Decoder[WorkerWord] = msgspec.json.Decoder(WorkerWord)
_keeper_words: msgspec.json.Decoder[KeeperWord] = msgspec.json.Decoder(KeeperWord)


def frame(word: WorkerWord | KeeperWord) -> bytes:
    payload = _encoder.encode(word)
    return FRAME_HEAD.pack(len(payload)) + payload


def decode_worker_word(payload: bytes) -> WorkerWord:
    return _worker_words.decode(payload)


def decode_keeper_word(payload: bytes) -> KeeperWord:
    return _keeper_words.decode(payload)


class FrameReader:
    """Bytes in, payloads out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ``ValueError`` for a frame longer than ``FRAME_BYTES_MAX``."""
        self._buffer += data
        payloads = []
        while len(self._buffer) >= FRAME_HEAD.size:
            (length,) = FRAME_HEAD.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"frame of {length} bytes")
            end = FRAME_HEAD.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(self._buffer[FRAME_HEAD.size : end]))
            del self._buffer[:end]
        return payloads
