"""A provider's answer on its way to the client: plain or streamed, settled before its last byte.

Bytes go on as they came. A plain answer is held until its record is written, so its head can say what it cost; a stream
passes on at once, all but its end.
"""

from __future__ import annotations

import zlib

import msgspec

from upeti.core.amount import decimal_text
from upeti.core.errors import CallError, DeadlineExceeded, UpstreamFailed
from upeti.core.events import Outcome
from upeti.core.meters import Meters
from upeti.gateway.headers import answer_headers, provider_request_id
from upeti.gateway.holds import Attempt, Ended
from upeti.gateway.live import LiveChannel, LiveView
from upeti.gateway.serving import Answer, Failure, Serving, TimedOut
from upeti.gateway.snapshot import Caller
from upeti.gateway.upstream import UpstreamConnection, UpstreamError
from upeti.wire.sse import EventStream, OpaqueStream
from upeti.wire.usage import usage_of_answer

_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NOT_THE_SAME_AGAIN = frozenset({429})  # the client's library waits and tries again; another candidate may answer now


async def relay(
    serving: Serving,
    attempt: Attempt,
    channel: LiveChannel,
    reply: UpstreamConnection,
    sent_s: float,
    whole: bool,
) -> Failure | None:
    """Pass the answer on. Returns a failure when another candidate may still answer."""
    status = reply.status
    if status >= 400:
        return await _refused(serving, attempt, channel, reply, sent_s)
    channel.breaker.succeeded()
    wire = serving.request.target.wire
    if (
        not whole
        or (serving.request.stream
        and not reply.headers.get(b"content-type", b"").startswith(b"application/json"))
    ):
        await _stream(serving, attempt, channel, reply, sent_s)
        return None
    body = reply.whole_body()
    meters = None
    usage = usage_of_answer(_inflated(body, reply.headers))
    if usage is not None:
        meters = wire.meters(usage)
    settled(serving, attempt, Ended.ANSWERED, meters, reply, sent_s)
    await serving.gateway.journal
    give_back(Answer(attempt, channel, status, reply.headers, body), serving)
    return None


def give_back(answer: Answer, serving: Serving) -> None:
    """Send a whole answer to the client."""
    serving.client.send_answer(
        answer.status,
        answer.headers.get(b"content-type", b""),
        _our_headers(serving, answer.attempt, answer.channel, answer.headers, settled=True),
        answer.body,
    )


async def _refused(
    serving: Serving, attempt: Attempt, channel: LiveChannel, reply: UpstreamConnection, sent_s: float
) -> Failure | None:
    """An error of the provider: settle it; give it back, or let the next candidate try."""
    status = reply.status
    body = await _whole(reply, serving.gateway.limits.answer_bytes_max)
    unsure = channel.provider.may_charge(status, error_code(body))
    settled(serving, attempt, Ended.REFUSED_UNSURE if unsure else Ended.REFUSED, None, reply, sent_s)
    await serving.gateway.journal
    answer = Answer(attempt, channel, status, reply.headers, body)
    if status not in _RETRYABLE:
        channel.breaker.succeeded()  # it answers: what it refuses is this call
        give_back(answer, serving)
        return None
    channel.breaker.failed(serving.gateway.loop.time())
    return Failure(answer=answer, again=status not in _NOT_THE_SAME_AGAIN)


async def _whole(reply: UpstreamConnection, bytes_max: int) -> bytes:
    """Return the body of an answer that is not JSON, up to a limit."""
    if reply.complete:
        return reply.whole_body()
    parts = []
    size = 0
    while data := await reply.read():
        parts.append(data)
        size += len(data)
        if size > bytes_max:
            break
    return b"".join(parts)


async def _stream(
    serving: Serving, attempt: Attempt, channel: LiveChannel, reply: UpstreamConnection, sent_s: float
) -> None:
    gateway, client, fiber, request = serving.gateway, serving.client, serving.fiber, serving.request
    headers = reply.headers
    readable = b"content-encoding" not in headers and headers.get(b"content-type", b"").startswith(b"text/event-stream")
    stream: EventStream = request.target.wire.stream(request.asks_usage_for_us) if readable else OpaqueStream()
    client.begin_stream(
        reply.status,
        headers.get(b"content-type", b""),
        _our_headers(serving, attempt, channel, headers, settled=False),
        reply,
        length=None if readable else _length(headers),
    )
    idle_s = request.route.stream_idle_s
    time = gateway.loop.time
    try:
        while True:
            fiber.deadline = time() + idle_s
            data = await reply.read()
            if not data:
                break
            data = stream.feed(data)
            if data:
                client.send_part(data)
    except (UpstreamError, TimedOut) as error:
        channel.breaker.failed(time())
        stream.finish()
        cut = isinstance(error, UpstreamError)
        settled(
            serving,
            attempt,
            Ended.CUT if cut else Ended.TIMED_OUT,
            stream.meters() if stream.exact else None,
            reply,
            sent_s,
        )
        await gateway.journal
        client.break_stream(_broken(cut), serving.call_id, anthropic=request.target.anthropic, events=readable)
        return
    rest = stream.finish()
    settled(serving, attempt, Ended.ANSWERED, stream.meters(), reply, sent_s)
    await gateway.journal
    client.end_stream(rest)


def _broken(cut: bool) -> CallError:
    if cut:
        return UpstreamFailed(
            "stream_cut", "The provider stopped within its answer. What came so far is not the whole answer."
        )
    return DeadlineExceeded(
        "stream_idle", "The provider fell silent within its answer. What came so far is not the whole answer."
    )


def _length(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(b"content-length", b"")
    return int(text) if text.isdigit() else None


def settled(
    serving: Serving,
    attempt: Attempt,
    ended: Ended,
    meters: Meters | None = None,
    reply: UpstreamConnection | None = None,
    sent_s: float = 0.0,
) -> None:
    """Settle an attempt, and count it."""
    now_s = serving.gateway.loop.time()
    first_byte_us = total_us = -1
    metrics = serving.gateway.metrics.channel(attempt.opened.channel)
    if reply is not None:
        first_byte_us = int((reply.first_byte_s - sent_s) * 1e6)
        total_us = int((now_s - sent_s) * 1e6)
        metrics.first_byte.add(reply.first_byte_s - sent_s)
        metrics.seconds.add(now_s - sent_s)
        attempt.settle(
            ended,
            meters,
            status=reply.status,
            first_byte_us=first_byte_us,
            total_us=total_us,
            provider_request_id=provider_request_id(reply.headers),
        )
    else:
        attempt.settle(ended, meters)
    outcome = str(attempt.outcome)
    metrics.outcomes[outcome] = metrics.outcomes.get(outcome, 0) + 1
    metrics.cost_pico += attempt.cost_pico
    if meters:
        tokens = metrics.tokens
        for name, quantity in meters.items():
            tokens[name] = tokens.get(name, 0) + quantity


def _our_headers(
    serving: Serving, attempt: Attempt, channel: LiveChannel, got: dict[bytes, bytes], *, settled: bool
) -> bytes:
    """The lines that say who answered, what it cost and what is left; for a stream, what it costs at most."""
    opened = attempt.opened
    known = attempt.outcome is not Outcome.UNPRICED if settled else attempt.price is not None
    cost = attempt.cost_pico if settled else opened.bound_pico
    name = "x-upeti-cost" if settled else "x-upeti-cost-max"
    text = f"x-request-id: {opened.call_id}\r\nx-upeti-served-by: {channel.name}/{opened.model}\r\n"
    text += f"{name}: {decimal_text(cost)}\r\n" if known else f"{name}: unknown\r\n"
    if attempt.purses:
        text += f"x-upeti-budget-left: {decimal_text(min([purse.left for purse in attempt.purses]))}\r\n"
    text += f"x-upeti-currency: {opened.currency}\r\n"
    theirs = provider_request_id(got)
    if theirs:
        text += f"x-upeti-provider-request-id: {theirs}\r\n"
    return text.encode("latin-1", "replace") + answer_headers(got)


def _inflated(body: bytes, headers: dict[bytes, bytes]) -> bytes:
    """The body as text, where a provider compressed it although it was asked not to; only to read the usage."""
    if headers.get(b"content-encoding") not in (b"gzip", b"deflate"):
        return body
    try:
        inflater = zlib.decompressobj(wbits=47)
        return inflater.decompress(body, 64 * 1024 * 1024)
    except zlib.error:
        return b""


def models_body(view: LiveView, caller: Caller) -> bytes:
    """The answer of ``GET /v1/models``: the routes this key may use."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"id": route.name, "object": "model", "created": route.view.created_s, "owned_by": "upeti"}
                for route in view.routes.values()
                if route.name != "*" and (not caller.routes or route.name in caller.routes)
            ],
        }
    )
