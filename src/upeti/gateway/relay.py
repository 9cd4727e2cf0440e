"""A provider's answer on its way to the client: plain or streamed, settled before its last byte.

Bytes go on as they came. A plain answer is held until its record is written, so its head can say what it cost; a stream
passes on at once, all but its end.
"""

from __future__ import annotations

import zlib
from typing import Final

from upeti.core.amount import decimal_text
from upeti.core.errors import CallError, DeadlineExceeded, UpstreamFailed
from upeti.core.events import Outcome
from upeti.gateway.call import Call
from upeti.gateway.failure import Answer, TimedOut
from upeti.gateway.fiber import NEVER_S
from upeti.gateway.headers import SPILLOVER, answer_headers, provider_request_id
from upeti.gateway.holds import Attempt, Ended
from upeti.gateway.live import Lane
from upeti.gateway.upstream import UpstreamConnection, UpstreamError
from upeti.wire.error_body import error_code
from upeti.wire.scrub import without
from upeti.wire.sse import EventStream, OpaqueStream
from upeti.wire.tiers import STANDARD
from upeti.wire.usage import usage_of_answer

ENDED_BY_KIND: Final = {"lost": Ended.LOST, "cut": Ended.CUT, "garbage": Ended.GARBAGE}
# What an answer of status 200 holds when a content filter ended it; within a text the quotes would be escaped.
REFUSAL: Final = b'"content_filter"'
# Where a stream says that a filter ended it: near the end of a read, before no more than the usage and the end mark.
_REFUSAL_BYTES: Final = 2048
_INFLATED_MAX: Final = 64 * 1024 * 1024  # a body that grows beyond this is not read for its usage


def settle_whole(call: Call, lane: Lane, attempt: Attempt, reply: UpstreamConnection, sent_s: float) -> Answer:
    """Settle an attempt whose whole answer is there. The caller waits for the journal, then gives the answer back."""
    body, headers = reply.whole_body(), reply.headers
    usage = usage_of_answer(body if b"content-encoding" not in headers else _inflated(body, headers))
    request_id = provider_request_id(headers)
    meters = call.target.wire.meters(usage) if usage is not None else None
    tier = _tier(lane, headers, usage.tier if usage is not None else None)
    lane.channel.worked = lane
    if lane.channel.blocks_for_abuse and REFUSAL in body:
        note_refusal(call, lane)
    attempt.settle(Ended.ANSWERED, meters, reply, sent_s, request_id, tier)
    return Answer(attempt, lane, reply.status, headers, request_id, body)


async def refused(call: Call, lane: Lane, attempt: Attempt, reply: UpstreamConnection, sent_s: float) -> Answer:
    """An error of the provider: settle it and return it. What follows from it is decided by ``reaction``."""
    status, channel = reply.status, lane.channel
    body = await _whole(call, reply)
    call.fiber.deadline = NEVER_S
    request_id = provider_request_id(reply.headers)
    unsure = channel.provider.may_charge(status, error_code(body))
    attempt.settle(Ended.REFUSED_UNSURE if unsure else Ended.REFUSED, None, reply, sent_s, request_id)
    await call.gateway.journal
    return Answer(attempt, lane, status, reply.headers, request_id, body)


def give_back(call: Call, answer: Answer) -> None:
    """Send a whole answer to the client, as it came; out of an error the operator's own secrets are taken."""
    if answer.status >= 400:
        _hide_secrets(answer)
    ours = _settled_headers(call, answer.lane, answer.attempt, answer.request_id)
    content_type = answer.headers.get(b"content-type", b"")
    call.client.send_answer(answer.status, content_type, ours + answer_headers(answer.headers), answer.body)


def readable(answer: Answer) -> bytes:
    """Return the body as text, where a provider compressed it although it was asked not to."""
    return answer.body if b"content-encoding" not in answer.headers else _inflated(answer.body, answer.headers)


def note_refusal(call: Call, lane: Lane) -> None:
    """A content filter cut this answer off: counted, nothing else."""
    assert call.caller is not None
    call.gateway.cut_off.signs.refused(lane.channel.name, call.caller.tenant, call.gateway.loop.time())


def _hide_secrets(answer: Answer) -> None:
    """Providers echo keys in errors: the client may have known the gateway's address only."""
    text = readable(answer)
    cleaned = text
    for secret in answer.lane.channel.secrets:
        cleaned = without(cleaned, secret)
    if cleaned != text:
        answer.body = cleaned
        answer.headers = {name: value for name, value in answer.headers.items() if name != b"content-encoding"}


async def _whole(call: Call, reply: UpstreamConnection) -> bytes:
    """Return the body of an answer whose head is there, up to a limit."""
    if reply.complete:
        return reply.whole_body()
    gateway, fiber = call.gateway, call.fiber
    until_s = fiber.deadline
    parts = []
    size = 0
    while size <= gateway.limits.answer_bytes_max:
        fiber.deadline = min(until_s, gateway.loop.time() + call.way.stream_idle_s)
        data = await reply.read()
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)


async def stream(call: Call, lane: Lane, attempt: Attempt, reply: UpstreamConnection, sent_s: float) -> None:
    client, fiber, journal = call.client, call.fiber, call.gateway.journal
    headers = reply.headers
    request_id = provider_request_id(headers)
    content_type = headers.get(b"content-type", b"")
    readable = content_type.startswith(b"text/event-stream") and b"content-encoding" not in headers
    wire = call.target.wire
    events: EventStream = wire.stream(call.asks_usage_for_us) if readable else OpaqueStream()
    # Every chunk of a completion says its tier, perhaps all but the one with the usage.
    events.seek_tier = wire.asks_usage and call.tier is not None
    ours = _held_headers(call, lane, attempt, request_id) + answer_headers(headers)
    client.begin_stream(reply, content_type, ours, None if readable else _length(headers))
    idle_s = call.way.stream_idle_s
    time = call.gateway.loop.time
    looks_for_refusal = lane.channel.blocks_for_abuse
    kept = call.gateway.capture.recorder(call) if call.view.snapshot.capture is not None else None
    last = b""
    try:
        while True:
            if not client.paused:
                fiber.deadline = time() + idle_s
            data = await reply.read()
            if not data:
                break
            if looks_for_refusal and data.find(REFUSAL, -_REFUSAL_BYTES) >= 0:
                looks_for_refusal = False
                note_refusal(call, lane)
            data = events.feed(data)
            if kept is not None:
                kept.add(data)
            if reply.complete:
                last = data  # goes out with the end, in one write
            elif data:
                client.send_part(data)
    except (UpstreamError, TimedOut) as error:
        fiber.deadline = NEVER_S
        lane.channel.breaker.failed(time())
        events.finish()
        cut = isinstance(error, UpstreamError)
        meters = events.meters() if events.exact else None
        tier = _tier(lane, headers, events.tier())
        attempt.settle(Ended.CUT if cut else Ended.TIMED_OUT, meters, reply, sent_s, request_id, tier)
        await journal
        client.break_stream(_broken(cut), call.id, events=readable)
        return
    fiber.deadline = NEVER_S
    rest = last + events.finish()
    tier = _tier(lane, headers, events.tier())
    lane.channel.worked = lane
    attempt.settle(Ended.ANSWERED, events.meters(), reply, sent_s, request_id, tier)
    await journal
    client.end_stream(rest)
    if kept is not None:
        kept.add(rest[len(last) :])
        call.gateway.capture.take(call, lane, kept.whole(), reply.status)


def _tier(lane: Lane, headers: dict[bytes, bytes], reported: str | None) -> str | None:
    """The service tier that an answer was served at, None when it does not say.

    A provisioned deployment names a standard tier in its answers too; that it spilled over stands in the head.
    """
    if not lane.provisioned:
        return reported
    return (reported or STANDARD) if SPILLOVER in headers else None


def _broken(cut: bool) -> CallError:
    if cut:
        return UpstreamFailed(
            "stream_cut", "The provider stopped within its answer. What came so far is not all of it."
        )
    return DeadlineExceeded(
        "stream_idle", "The provider fell silent within its answer. What came so far is not all of it."
    )


def _length(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() else None


def _settled_headers(call: Call, lane: Lane, attempt: Attempt, request_id: str) -> bytes:
    """The lines of a plain answer that say who answered, what it cost and what is left."""
    known = attempt.outcome is not Outcome.UNPRICED
    return _our_headers(
        call, lane, attempt, request_id, "cost", decimal_text(attempt.cost_pico) if known else "unknown"
    )


def _held_headers(call: Call, lane: Lane, attempt: Attempt, request_id: str) -> bytes:
    """The same of a stream, whose cost is not known yet: what it costs at most."""
    known = attempt.opened.priced
    bound = decimal_text(attempt.opened.bound_pico) if known else "unknown"
    return _our_headers(call, lane, attempt, request_id, "cost-max", bound)


def _our_headers(call: Call, lane: Lane, attempt: Attempt, request_id: str, name: str, cost: str) -> bytes:
    purses = attempt.purses
    left = ""
    left_pico = -1
    for purse in purses:
        if not purse.soft:
            of_purse_pico = purse.lease - purse.held + purse.left_elsewhere
            if of_purse_pico < left_pico or left_pico < 0:
                left_pico = of_purse_pico if of_purse_pico > 0 else 0
    if left_pico >= 0:
        left = f"x-upeti-budget-left: {decimal_text(left_pico)}\r\n"
    theirs = f"x-upeti-provider-request-id: {request_id}\r\n" if request_id else ""
    return (
        f"x-request-id: {call.id}\r\nx-upeti-served-by: {lane.served_by}\r\n"
        f"x-upeti-{name}: {cost}\r\nx-upeti-currency: {lane.currency}\r\n{left}{theirs}"
    ).encode("latin-1", "replace")


def _inflated(body: bytes, headers: dict[bytes, bytes]) -> bytes:
    """The body as text, where a provider compressed it although it was asked not to; only to read the usage."""
    if headers[b"content-encoding"] not in (b"gzip", b"deflate"):
        return b""
    try:
        return zlib.decompressobj(wbits=47).decompress(body, _INFLATED_MAX)
    except zlib.error:
        return b""
