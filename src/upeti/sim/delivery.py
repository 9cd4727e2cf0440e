"""How an answer goes out: a list of steps, decided before the first byte. Pure.

Rules: the shell in ``provider`` only carries the steps out. Each write says what the provider bills once it
has been made, so an answer that is cut off, by the provider or by its client, is billed for what was made
of it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from upeti.sim.behaviours import Behaviour
from upeti.sim.http import LAST_CHUNK, chunk, head_bytes
from upeti.sim.values import Answer

SLOW_MS: Final = 200
DRIP_MS: Final = 20
PIECES: Final = 8
# Long enough for the reader to wake up between two pieces, so that it sees two reads.
PIECE_PAUSE_S: Final = 0.001

GARBAGE: Final = b"\x16\x03\x01\x02\x00 this is not HTTP \xff\xfe\r\n\r\n{}"
INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Write:
    data: bytes
    billed: dict[str, int] | None = None


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Hold:
    """Nothing more, until the other side goes away."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset."""


Step = Write | Pause | Hold | Reset


@dataclass
class Delivery:
    """``billed`` is what is owed so far; ``whole``: the steps end with the answer's own end."""

    status: int
    steps: list[Step] = field(default_factory=list)
    keeps_open: bool = True
    whole: bool = True
    billed: dict[str, int] | None = None


def delivery_of(answer: Answer, behaviour: Behaviour, random: Random) -> Delivery:
    """Return the steps that bring ``answer`` to its reader in the way that ``behaviour`` says."""
    delivery = Delivery(answer.status)
    steps = delivery.steps
    if answer.wait_s:
        steps.append(Pause(answer.wait_s))
    if "slow" in behaviour:
        steps.append(Pause(behaviour.number("slow", SLOW_MS) / 1000))
    if "never" in behaviour:
        return _fails(delivery, Hold())
    if "reset" in behaviour and "cut" not in behaviour:
        return _fails(delivery, Reset())
    if "garbage" in behaviour:
        return _fails(delivery, Write(GARBAGE))
    if "interim" in behaviour:
        steps.append(Write(INTERIM))
    if "drop" in behaviour or "close" in behaviour or "http10" in behaviour:
        delivery.keeps_open = False
    if answer.events is not None:
        _stream(delivery, answer, behaviour)
    else:
        _plain(delivery, answer, behaviour)
    if "split" in behaviour:
        delivery.steps = list(_split(delivery.steps, behaviour.number("split", PIECES), random))
    return delivery


def _fails(delivery: Delivery, step: Step) -> Delivery:
    delivery.steps.append(step)
    delivery.status, delivery.whole, delivery.keeps_open = 0, False, False
    return delivery


def _framing(behaviour: Behaviour, length: int | None) -> tuple[str, list[tuple[str, str]], bool]:
    """Return the HTTP version, the headers that say where the body ends, and whether it goes in chunks."""
    if "http10" in behaviour:
        return "1.0", [], False
    if "close" in behaviour:
        return "1.1", [("connection", "close")], False
    if length is not None and "chunked" not in behaviour:
        return "1.1", [("content-length", str(length))], False
    return "1.1", [("transfer-encoding", "chunked")], True


def _head(answer: Answer, behaviour: Behaviour, length: int | None) -> tuple[bytes, bool]:
    version, framing, chunked = _framing(behaviour, length)
    headers = [
        ("content-type", answer.content_type),
        ("x-request-id", "req_sim"),
        ("server", "sim"),
        *framing,
    ]
    if "gzip" in behaviour:
        headers.append(("content-encoding", "gzip"))
    if "spillover" in behaviour:
        headers.append(("x-ms-spillover-from-deployment", "provisioned-sim"))
    return head_bytes(answer.status, [*headers, *answer.headers], version=version), chunked


def _plain(delivery: Delivery, answer: Answer, behaviour: Behaviour) -> None:
    # mtime=0: the same answer gives the same bytes.
    body = gzip.compress(answer.body, mtime=0) if "gzip" in behaviour else answer.body
    head, chunked = _head(answer, behaviour, len(body))
    if chunked:
        middle = len(body) // 2
        body = b"".join(chunk(part) for part in (body[:middle], body[middle:]) if part) + LAST_CHUNK
    if "cutbody" in behaviour or "stall" in behaviour or "cut" in behaviour:
        # The whole answer was made, so it is billed whole.
        delivery.steps.append(Write(head + body[: len(body) // 2], answer.billed))
        delivery.whole = delivery.keeps_open = False
        if "stall" in behaviour:
            delivery.steps.append(Hold())
        elif "reset" in behaviour:
            delivery.steps.append(Reset())
        return
    delivery.steps.append(Write(head + body, answer.billed))


def _stream(delivery: Delivery, answer: Answer, behaviour: Behaviour) -> None:
    events = answer.events
    assert events is not None
    head, chunked = _head(answer, behaviour, None)
    pieces = list(_coded((event.data for event in events), behaviour))
    if chunked:
        pieces = [chunk(piece) for piece in pieces]
    writes = [Write(piece, event.billed) for piece, event in zip(pieces, events, strict=True)]
    stop = next((word for word in ("cut", "stall") if word in behaviour), None)
    if stop is not None:
        count = behaviour.number(stop, len(writes) // 2)
        writes = writes[:count]
        delivery.whole = delivery.keeps_open = False
    elif chunked:
        writes.append(Write(LAST_CHUNK, answer.billed))
    _paced(delivery, [Write(head), *writes], behaviour)
    if stop == "stall":
        delivery.steps.append(Hold())
    elif stop == "cut" and "reset" in behaviour:
        delivery.steps.append(Pause(PIECE_PAUSE_S))  # a reset discards what is still on its way
        delivery.steps.append(Reset())


def _paced(delivery: Delivery, writes: list[Write], behaviour: Behaviour) -> None:
    pause_ms = 0
    if "slow" in behaviour:
        pause_ms = behaviour.number("slow", SLOW_MS) // 10
    if "drip" in behaviour:
        pause_ms = behaviour.number("drip", DRIP_MS)
    if not pause_ms and "each" not in behaviour:
        billed = next((write.billed for write in reversed(writes) if write.billed), None)
        delivery.steps.append(Write(b"".join(write.data for write in writes), billed))
        return
    for index, write in enumerate(writes):
        if pause_ms and index > 1:
            delivery.steps.append(Pause(pause_ms / 1000))
        delivery.steps.append(write)


def _coded(events: Iterable[bytes], behaviour: Behaviour) -> Iterator[bytes]:
    """Each event in its own flushed piece of one gzip stream, or as it is."""
    if "gzip" not in behaviour:
        yield from events
        return
    coder = zlib.compressobj(wbits=31)
    held = b""
    for event in events:
        if held:
            yield held
        held = coder.compress(event) + coder.flush(zlib.Z_SYNC_FLUSH)
    yield held + coder.flush()


def _split(steps: list[Step], count: int, random: Random) -> Iterator[Step]:
    """Cut every write into up to ``count`` pieces at random bytes, with time to read between them."""
    for step in steps:
        if not isinstance(step, Write) or len(step.data) < 2:
            yield step
            continue
        cuts = sorted(random.sample(range(1, len(step.data)), min(count, len(step.data)) - 1))
        for start, end in zip([0, *cuts], [*cuts, len(step.data)], strict=True):
            yield Write(step.data[start:end], step.billed)
            yield Pause(PIECE_PAUSE_S)
