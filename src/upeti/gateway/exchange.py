"""Serve one call: the whole data path, in order.

One loop serves retry, failover, a cut-off, an empty budget and a missing price: each is a reason to go on to the next
candidate. What a provider's error means is decided by ``reaction``.
After the first byte of an answer there is no other candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from upeti.core.errors import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    Forbidden,
    JournalError,
    Overloaded,
    UpstreamFailed,
)
from upeti.core.events import AttemptOpened, CallRefused
from upeti.gateway import rehearsal, relay, students
from upeti.gateway.auth import check_served
from upeti.gateway.call import Call
from upeti.gateway.failure import ClientLeft, Failure, TimedOut
from upeti.gateway.fiber import NEVER_S, Gate
from upeti.gateway.headers import request_headers
from upeti.gateway.holds import RECORDED_MAX, Attempt, Ended, Rates
from upeti.gateway.live import Lane, Tariff, no_right
from upeti.gateway.models import models_body
from upeti.gateway.paths import target_of
from upeti.gateway.purses import PurseSet
from upeti.gateway.reaction import react
from upeti.gateway.refusals import deferred, latched, not_asked
from upeti.gateway.routing import plan
from upeti.gateway.upstream import UpstreamConnection, UpstreamError

_BACK_OFF_S: Final = 0.1  # before the same candidates are tried again; doubled each time
# How long a call waits for a lease while the keeper is away: a keeper restarts within a second.
_KEEPER_WAIT_S: Final = 3.0
_NO_KEEPER: Final = "The call's budgets have no lease left here and the keeper does not answer: try again shortly."


async def exchange(call: Call) -> None:
    """Serve ``call``; every way out has answered the client, or closed its connection."""
    gateway = call.gateway
    try:
        target = target_of(call.method, call.url)
        if target.is_models:
            caller = call.view.caller(call.headers, gateway.now_ns())
            check_served(caller, call.view.snapshot)
            call.client.send_json(200, models_body(call.view, caller, target.model), call.id)
            return
        call.understand(target, gateway.now_ns())
        call.deadline_s = call.received_s + call.way.deadline_s
        lanes: Sequence[Lane] = call.way.lanes
        if call.way.shared:
            lanes = students.drawn(call, lanes)
        if call.view.rehearsed:
            lanes = rehearsal.left_of(call, lanes)
        if len(lanes) != 1:
            if not lanes:
                raise _nobody(call)
            now_s = gateway.loop.time()
            usable: Callable[[Lane], bool] = lambda lane: lane.channel.breaker.usable(now_s)  # noqa: E731 - the usual one
            if call.view.rehearsed:
                usable = lambda lane: rehearsal.breaker_of(call, lane).usable(now_s)  # noqa: E731
            lanes = plan(lanes, usable, gateway.draw)
        failure = await _attempt(call, lanes[0])
        if failure is not None:
            await _go_on(call, lanes, failure)
    except CallError as error:
        if call.caller is not None:
            _note_refusal(call, error)
        call.client.send_error(error, call.id)
    except JournalError as error:
        gateway.log.error("journal", str(error))
        call.client.send_error(Overloaded("journal_unavailable", "The gateway cannot record calls now."), call.id)
    except (ClientLeft, TimedOut):  # nobody to answer, or the worker stops and has waited long enough
        call.client.abort()


async def _go_on(call: Call, lanes: Sequence[Lane], failure: Failure) -> None:
    """The first candidate did not answer: try the others, then what may be tried again, while attempts are left."""
    attempts_max = call.way.route.attempts_max + bool(failure.deferred)  # a deferral is none of them
    insisted = await _insist(call, lanes[0], failure, attempts_max)
    if insisted is None:
        return
    failure = insisted
    again = [lanes[0]] if failure.again else []
    left = list(lanes[1:])
    pause_s = _BACK_OFF_S
    while True:
        for lane in left:
            if failure.final or call.attempts >= attempts_max or call.gateway.loop.time() >= call.deadline_s:
                break
            if not _still_permitted(call, lane):
                continue
            new = await _attempt(call, lane)
            new = await _insist(call, lane, new, attempts_max) if new is not None else None
            if new is None:
                return
            attempts_max += bool(new.deferred)
            if new.final or new.rank >= failure.rank:
                failure = new
            if new.again:
                again.append(lane)
        left, again = again, []
        if failure.final or not left or call.attempts >= attempts_max:
            break
        await _pause(call, pause_s)
        pause_s *= 2
    if failure.answer is not None:
        relay.give_back(call, failure.answer)
    elif failure.deferred:
        raise _deferred(call, failure.deferred)
    elif failure.error is not None:
        raise failure.error


async def _insist(call: Call, lane: Lane, failure: Failure, attempts_max: int) -> Failure | None:
    """Find out what a candidate's failure means, and try the same one once more where that helps.

    Returns None when the client has an answer.
    """
    told = await _judge(call, lane, failure)
    if told is None or told.soon_s is None or call.attempts >= attempts_max:
        return told
    if told.soon_s >= call.deadline_s - call.gateway.loop.time():
        return told
    await _wait(call, told.soon_s)
    if not _still_permitted(call, lane):
        return told
    new = await _attempt(call, lane)
    return await _judge(call, lane, new) if new is not None else None


async def _judge(call: Call, lane: Lane, failure: Failure) -> Failure | None:
    """Return what is to be done about a failure; None when it is an error of the client's, who has it now."""
    if failure.answer is None:
        return failure
    told = await react(call, lane, failure.answer)
    if told is None:
        relay.give_back(call, failure.answer)
    return told


def _still_permitted(call: Call, lane: Lane) -> bool:
    """Whether a candidate of the plan may still take the call: a latch, a hold, a right that ended, a new policy may have
    come since. Raises ``Forbidden`` when the call may go nowhere any more.
    """
    assert call.caller is not None
    view = call.gateway.view
    if view.rehearsed and rehearsal.bars(call, lane):
        return False
    feature = call.feature if call.feature in view.policy_features else ""
    try:
        way = view.way(call.caller, call.target, call.model, feature)
    except Forbidden:
        raise
    except CallError:
        return False
    return any(one.channel.name == lane.channel.name and one.model == lane.model for one in way.lanes)


def _nobody(call: Call) -> CallError:
    way = call.way
    if way.latch is not None:
        call.view.latches.met(way.latch)
    if way.lanes:  # own models, and the call is in the share of none
        return not_asked(way.lanes[0].served_by, way.latch)
    assert way.latch is not None
    return latched(way.latch)


def _deferred(call: Call, reason: str) -> CallError:
    latch = call.way.latch
    if latch is not None:
        call.view.latches.met(latch)
    return deferred(reason, latch)


async def _attempt(call: Call, lane: Lane) -> Failure | None:
    """Try one candidate. Returns None when the client has its answer, else why not."""
    gateway = call.gateway
    caller = call.caller
    assert caller is not None
    now_ns = gateway.now_ns()
    if now_ns >= lane.until_ns:
        lane.look_up_prices(now_ns)
        if now_ns >= lane.channel.serves_until_ns:
            return Failure(error=no_right("left for this call", lane.channel.name))
    tariff = lane.tariff(call.tier)
    currency = tariff.price.currency if tariff is not None else lane.currency
    found = call.view.purses.find(caller, call.feature, currency, now_ns, gateway.holds)
    purses = found.purses
    rates: Rates = ()
    try:
        bound = _bound(call, lane, tariff, found.limited)
        bound_pico = bound or 0
        if found.stopped:
            found.check(bound_pico, currency)
        if found.calls or found.tokens:
            rates = _rates(call, lane, found)
        if not gateway.holds.place(purses, bound_pico, rates):
            call.fiber.deadline = min(gateway.loop.time() + _KEEPER_WAIT_S, call.deadline_s)
            await gateway.holds.place_with_more(purses, bound_pico, rates)
            call.fiber.deadline = NEVER_S
            now_ns = gateway.now_ns()  # of when the money was held: an auditor counts from there
    except TimedOut:
        return Failure(error=Overloaded("budget_unavailable", _NO_KEEPER))
    except CallError as error:
        return Failure(error=error)
    number = call.attempts
    call.attempts = number + 1
    opened = AttemptOpened(
        call.number,
        number,
        now_ns,
        call.id,
        caller.tenant,
        caller.project,
        caller.key,
        call.feature,
        call.task,
        call.way.route.name,
        lane.channel.name,
        lane.model,
        call.target.wire.name,
        call.stream,
        found.budgets,
        bound_pico,
        currency,
        bound is not None,
    )
    breaker = lane.channel.breaker
    if breaker.is_open and rehearsal.rehearsal_of(call, lane) is None:
        breaker.trying(gateway.loop.time())  # before others are planned in this turn of the loop
    price = tariff.price if tariff is not None else None
    tier = lane.usual_tier(call.tier) if price is None else price.tier
    with Attempt(opened, price, purses, gateway, lane.prices_by_tier, tier, rates) as attempt:
        await gateway.journal
        return await _dispatch(call, lane, attempt)


def _bound(call: Call, lane: Lane, tariff: Tariff | None, limited: bool) -> int | None:
    """What to hold, None where nobody can say and no limit asks. Raises ``BadRequest`` where a bound is needed."""
    bound_pico = call.bound_pico(lane, tariff) if tariff is not None else None
    if bound_pico is not None:
        if bound_pico <= RECORDED_MAX:
            return bound_pico
    elif call.target.method in ("GET", "DELETE"):
        return None  # no provider bills a look-up or a deletion
    elif not limited and (tariff is not None or not _refused(call)):
        return None
    elif tariff is None:
        raise BadRequest(
            "price_unknown",
            f"The price book has no price for the model {lane.model[:100]!r} on the channel {lane.channel.name!r}"
            f"{_at_tier(call, lane)}. Add a row "
            'in money.price_files, or set money.unpriced = "record" (a key with a limit always needs a price).',
        )
    raise BadRequest(
        "cost_unbounded",
        "The cost of this call cannot be bounded, so a key with a limit may not make it: lower the output cap, leave out tools "
        "that the provider runs, use a key without a limit, or set context_tokens on the candidate.",
    )


def _at_tier(call: Call, lane: Lane) -> str:
    tier = lane.usual_tier(call.tier)
    return f" at the service tier {tier[:100]!r}" if tier else ""


def _rates(call: Call, lane: Lane, found: PurseSet) -> Rates:
    """What to hold on the rate limits. Raises ``BadRequest`` where tokens are limited and cannot be bounded."""
    tokens = 0
    if found.tokens and call.target.method not in ("GET", "DELETE"):
        bound = call.bound_tokens(lane)
        if bound is None:
            raise BadRequest(
                "tokens_unbounded",
                "The tokens of this call cannot be bounded, so a key with a limit of tokens a minute may not make it: leave "
                "out tools that the provider runs, use a key without one, or set context_tokens on the candidate.",
            )
        tokens = bound
    return found.rates(first=not call.attempts, tokens=tokens)


def _refused(call: Call) -> bool:
    """Whether the operator refuses what has no price. APIs that are only relayed are always recorded as unpriced."""
    return call.view.refuse_unpriced and call.target.wire.bounded


async def _dispatch(call: Call, lane: Lane, attempt: Attempt) -> Failure | None:
    gateway, fiber, channel = call.gateway, call.fiber, lane.channel
    reply: UpstreamConnection | None = None
    sent_s = gateway.loop.time()
    fiber.deadline = min(sent_s + lane.timeout_s, call.deadline_s)
    try:
        if channel.rehearsal is not None and (drill := rehearsal.rehearsal_of(call, lane)) is not None:
            met = await rehearsal.meet(call, lane, attempt, drill)
            if met is not None:
                return met
        reply = channel.pool.idle() or await channel.pool.connect()
        if call.client.gone:
            raise ClientLeft
        request = _request_bytes(call, lane, attempt)
        attempt.sent = True
        reply.begin(request, gateway.limits.answer_bytes_max, fiber.deadline, call.way.stream_idle_s)
        await reply
        if reply.status >= 400:
            if channel.provider.defers:
                return students.not_answered(call, lane, attempt, reply, sent_s)
            return Failure(answer=await relay.refused(call, lane, attempt, reply, sent_s))
        channel.breaker.succeeded()
        if not reply.complete or (call.stream and not reply.is_json):
            await relay.stream(call, lane, attempt, reply, sent_s)
        else:
            fiber.deadline = NEVER_S  # the provider is done; what is left to wait for is the disk
            answer = relay.settle_whole(call, lane, attempt, reply, sent_s)
            await gateway.journal
            relay.give_back(call, answer)
            if call.view.snapshot.capture is not None:
                gateway.capture.take(call, lane, answer.body, answer.status)
        return None
    except UpstreamError as error:
        channel.breaker.failed(gateway.loop.time())
        attempt.settle(relay.ENDED_BY_KIND.get(error.kind, Ended.NOT_SENT))
        gateway.log.warning("attempt_failed", str(error), call=call.id, channel=channel.name, kind=error.kind)
        return Failure(
            error=UpstreamFailed("upstream_failed", f"The channel {channel.name!r} failed: {error}."), again=True
        )
    except TimedOut:
        if attempt.outcome is not None:  # settled, and waiting for the disk: the worker stops
            raise
        channel.breaker.failed(gateway.loop.time())
        attempt.settle(Ended.TIMED_OUT)
        late = DeadlineExceeded("upstream_timeout", f"The channel {channel.name!r} did not answer in time.")
        return Failure(error=late)
    except ClientLeft:
        if attempt.outcome is None:
            attempt.settle(Ended.CLIENT_LEFT)
        raise
    finally:
        fiber.deadline = NEVER_S
        if reply is not None:
            reply.release()


def _request_bytes(call: Call, lane: Lane, attempt: Attempt) -> bytes:
    body = call.body_for(lane)
    channel = lane.channel
    return b"%b%bx-client-request-id: %b-%d\r\ncontent-length: %d\r\n\r\n%b" % (
        lane.head or channel.head_for(call.target, lane.model_upstream),
        request_headers(call.headers, channel.provider.headers),
        call.id.encode(),
        attempt.opened.attempt,
        len(body),
        body,
    )


async def _pause(call: Call, seconds: float) -> None:
    """Wait before the same candidates are tried again, in part at random so that calls do not march in step."""
    await _wait(call, seconds * (0.5 + call.gateway.draw() / 2))


async def _wait(call: Call, seconds: float) -> None:
    """Wait, at most until the call's deadline. Raises ``DeadlineExceeded``."""
    gateway = call.gateway
    gate = Gate()
    call.fiber.deadline = call.deadline_s
    timer = gateway.loop.call_later(seconds, gate.open)
    try:
        await gate
    except TimedOut:
        raise DeadlineExceeded("deadline_exceeded", "No candidate answered within the route's deadline_ms.") from None
    finally:
        call.fiber.deadline = NEVER_S
        timer.cancel()


def _note_refusal(call: Call, error: CallError) -> None:
    """Journal the refusal of a known caller's call, and count it."""
    gateway, caller = call.gateway, call.caller
    assert caller is not None
    gateway.metrics.refused(error.code)
    way = getattr(call, "way", None)
    gateway.journal.append(
        CallRefused(
            call.number,
            gateway.now_ns(),
            call.id,
            caller.tenant,
            caller.project,
            caller.key,
            call.feature,
            call.task,
            way.route.name if way is not None else "",
            error.code,
        )
    )
