"""Serve one call: the whole data path, in order.

One loop serves retry, failover, an empty budget and a missing price: each is a reason to go on to the next candidate.
After the first byte of an answer there is no other candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from upeti.core.errors import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    JournalError,
    Overloaded,
    UpstreamFailed,
)
from upeti.core.events import AttemptOpened, CallRefused
from upeti.gateway import relay
from upeti.gateway.auth import identify
from upeti.gateway.fiber import Fiber, Gate
from upeti.gateway.headers import request_headers
from upeti.gateway.holds import Attempt, Ended
from upeti.gateway.live import Cells, LiveCandidate, LiveChannel
from upeti.gateway.paths import target_of
from upeti.gateway.request import Call, Request
from upeti.gateway.routing import plan
from upeti.gateway.serving import ClientLeft, Failure, Serving, TimedOut
from upeti.gateway.upstream import UpstreamConnection, UpstreamError

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway
    from upeti.gateway.server import ClientConnection


_ENDED_BY_KIND = {"lost": Ended.LOST, "cut": Ended.CUT, "garbage": Ended.GARBAGE}


async def exchange(call: Call, client: ClientConnection, gateway: Gateway, fiber: Fiber) -> None:
    """Serve ``call``; every way out has answered the client, or closed its connection."""
    number, call_id = gateway.next_call()
    serving = Serving(call, client, gateway, fiber, number, call_id)
    anthropic = False
    try:
        serving.caller = caller = identify(call.headers, serving.view.keys, gateway.now_ns())
        target = target_of(call.method, call.url)
        anthropic = target.anthropic
        if target.suffix == "/models" and call.method == b"GET":
            client.send_json(200, relay.models_body(serving.view, caller), call_id)
            return
        serving.request = Request(call, target, caller, serving.view)
        await _serve(serving)
    except CallError as error:
        if hasattr(serving, "caller"):
            _note_refusal(serving, error)
        client.send_error(error, call_id, anthropic=anthropic)
    except JournalError as error:
        gateway.log.error("journal", str(error))
        client.send_error(
            Overloaded("journal_unavailable", "The gateway cannot record calls now."),
            call_id,
            anthropic=anthropic,
        )
    except ClientLeft:
        client.abort()


async def _serve(serving: Serving) -> None:
    gateway, request = serving.gateway, serving.request
    route = request.route
    serving.deadline_s = serving.call.received_s + route.deadline_s
    now_s = gateway.loop.time()
    left = [
        candidate
        for candidate in plan(route.candidates, lambda candidate: candidate.channel.breaker.usable(now_s), gateway.draw)
        if candidate.takes(request.target)
    ]
    if not left:
        raise BadRequest(
            "no_candidate",
            f"No candidate of the route {route.name!r} takes this API: /v1/messages goes to channels of kind anthropic, "
            "everything else to the others.",
        )
    worst: Failure | None = None
    pause_s = 0.1
    while left:
        again: list[LiveCandidate] = []
        for candidate in left:
            if serving.attempts >= route.view.attempts_max:
                again = []
                break
            failure = await _try(serving, candidate)
            if failure is None:
                return
            if worst is None or failure.rank >= worst.rank:
                worst = failure
            if failure.again:
                again.append(candidate)
        left = again
        if left:
            await _pause(serving, pause_s)
            pause_s *= 2
    assert worst is not None
    if worst.answer is not None:
        relay.give_back(worst.answer, serving)
    elif worst.error is not None:
        raise worst.error


async def _pause(serving: Serving, seconds: float) -> None:
    """Wait before the same candidates are tried again, half of the time at random so that clients do not march in step."""
    gateway = serving.gateway
    gate = Gate()
    serving.fiber.deadline = serving.deadline_s
    timer = gateway.loop.call_later(seconds * (0.5 + gateway.draw() / 2), gate.open)
    try:
        await gate
    except TimedOut:
        raise DeadlineExceeded("deadline_exceeded", "No candidate answered within the route's deadline_ms.") from None
    finally:
        timer.cancel()


async def _try(serving: Serving, candidate: LiveCandidate) -> Failure | None:
    """One attempt. Returns None when the client has its answer, else why not."""
    gateway, request, view, fiber = serving.gateway, serving.request, serving.view, serving.fiber
    model = candidate.model_for(request.model)
    now_ns = gateway.now_ns()
    cells = candidate.cells(model, now_ns)
    limited = bool(serving.caller.budgets)
    try:
        bound_pico = _bound(serving, candidate, cells, model, limited)
        fiber.deadline = serving.deadline_s
        purses = await gateway.holds.place(serving.caller.budgets, bound_pico) if limited else ()
    except TimedOut:
        return Failure(
            error=DeadlineExceeded("deadline_exceeded", "The keeper did not answer within the route's deadline_ms.")
        )
    except CallError as error:
        return Failure(error=error)
    number = serving.attempts
    serving.attempts += 1
    caller = serving.caller
    opened = AttemptOpened(
        serving.number,
        number,
        now_ns,
        serving.call_id,
        caller.tenant,
        caller.project,
        caller.key,
        request.feature,
        request.task,
        request.route.name,
        candidate.channel.name,
        model,
        request.target.wire.name,
        request.stream,
        caller.budgets,
        bound_pico,
        cells.price.currency if cells is not None else "USD",
        cells is not None,
    )
    price = cells.price if cells is not None else None
    with Attempt(opened, price, purses, gateway.open_attempts, gateway.journal.append, gateway.now_ns) as attempt:
        return await _dispatch(serving, candidate, attempt)


def _bound(serving: Serving, candidate: LiveCandidate, cells: Cells | None, model: str, limited: bool) -> int:
    """What to hold. Raises ``BadRequest`` for what may not be served without a bound."""
    request, view = serving.request, serving.view
    free = request.target.method in ("GET", "DELETE")  # no provider bills a look-up or a deletion
    if cells is None:
        if (limited or view.refuse_unpriced) and not free and request.target.wire.bounded:
            raise BadRequest(
                "price_unknown",
                f"The price book has no price for the model {model[:100]!r} on the channel {candidate.channel.name!r}. Add a row "
                'in money.price_files, or set money.unpriced = "record" (a key with a limit always needs a price).',
            )
        bound_pico = None
    else:
        bound_pico = request.bound_pico(cells, candidate, view)
    if bound_pico is None:
        if limited and not free:
            raise BadRequest(
                "cost_unbounded",
                "The cost of this call cannot be bounded, so a key with a limit may not make it: use a key without a limit, or "
                "set context_tokens on the candidate.",
            )
        return 0
    return bound_pico


async def _dispatch(serving: Serving, candidate: LiveCandidate, attempt: Attempt) -> Failure | None:
    gateway, fiber, client = serving.gateway, serving.fiber, serving.client
    channel = candidate.channel
    reply: UpstreamConnection | None = None
    try:
        await gateway.journal
        now_s = gateway.loop.time()
        channel.breaker.trying(now_s)
        fiber.deadline = min(now_s + serving.request.route.attempt_timeout_s, serving.deadline_s)
        reply = await channel.pool.take()
        if client.gone:
            raise ClientLeft
        attempt.sent = True
        reply.begin(_request_bytes(serving, candidate, attempt), gateway.limits.answer_bytes_max)
        whole = await reply.answered()
        return await relay.relay(serving, attempt, channel, reply, now_s, whole)
    except UpstreamError as error:
        return _failed(serving, attempt, channel, error)
    except TimedOut:
        channel.breaker.failed(gateway.loop.time())
        relay.settled(serving, attempt, Ended.TIMED_OUT)
        message = f"The channel {channel.name!r} did not answer in time."
        return Failure(error=DeadlineExceeded("upstream_timeout", message))
    except ClientLeft:
        relay.settled(serving, attempt, Ended.CLIENT_LEFT)
        raise
    finally:
        fiber.deadline = float("inf")
        if reply is not None:
            reply.release()


def _failed(serving: Serving, attempt: Attempt, channel: LiveChannel, error: UpstreamError) -> Failure:
    gateway = serving.gateway
    channel.breaker.failed(gateway.loop.time())
    relay.settled(serving, attempt, _ENDED_BY_KIND.get(error.kind, Ended.NOT_SENT))
    gateway.log.warning("attempt_failed", str(error), call=serving.call_id, channel=channel.name, kind=error.kind)
    return Failure(
        error=UpstreamFailed("upstream_failed", f"The channel {channel.name!r} failed: {error}."), again=True
    )


def _request_bytes(serving: Serving, candidate: LiveCandidate, attempt: Attempt) -> bytes:
    request = serving.request
    model_upstream = candidate.name_upstream(attempt.opened.model)
    body = request.body_for(candidate, model_upstream, serving.view)
    head = candidate.channel.head(request.target, model_upstream)
    return b"".join(
        (
            head,
            request_headers(serving.call.headers, candidate.channel.provider.headers),
            b"x-client-request-id: %b-%d\r\ncontent-length: %d\r\n\r\n"
            % (serving.call_id.encode(), attempt.opened.attempt, len(body)),
            body,
        )
    )


def _note_refusal(serving: Serving, error: CallError) -> None:
    """Journal the refusal of a known caller's call, and count it."""
    gateway, caller = serving.gateway, serving.caller
    request = getattr(serving, "request", None)
    gateway.metrics.refusals[error.code] = gateway.metrics.refusals.get(error.code, 0) + 1
    gateway.journal.append(
        CallRefused(
            serving.number,
            gateway.now_ns(),
            serving.call_id,
            caller.tenant,
            caller.project,
            caller.key,
            request.feature if request is not None else "",
            request.task if request is not None else "",
            request.route.name if request is not None else "",
            error.code,
        )
    )
