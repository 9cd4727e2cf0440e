"""Own models as candidates: which calls they are asked, and what it means when one does not answer.

Rules: an own model is asked only for its share of the calls; a share of a million is all, and without one it is not in
the plan at all. Whether a call is in a share follows from its id, or from who calls where the share is sticky: it is the
same in every worker, and whoever is in a share is in every larger one. A deferral costs nothing, is no attempt of the
route's and no failure of the channel's. Whatever else an own model answers but an answer is its failure, never a
client's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from upeti.core.errors import UpstreamFailed
from upeti.core.meters import INPUT, OUTPUT
from upeti.gateway.call import Call
from upeti.gateway.failure import Failure
from upeti.gateway.faults import MILLION, chosen
from upeti.gateway.headers import DEFERRED
from upeti.gateway.holds import Attempt, Ended
from upeti.gateway.live import Lane
from upeti.gateway.upstream import UpstreamConnection
from upeti.wire.deferral import STATUS, Reason

_NOTHING: Final = {INPUT: 0, OUTPUT: 0}  # a bill names attempts whose tokens nobody knows; of a deferral it is known
_REASONS: Final = {reason.value.encode(): reason for reason in Reason}


class _Who(msgspec.Struct):
    safety_identifier: str | None = None
    user: str | None = None


_who = msgspec.json.Decoder(_Who)


def drawn(call: Call, lanes: Sequence[Lane]) -> Sequence[Lane]:
    """Return the candidates without the own models whose share this call is not in."""
    return [lane for lane in lanes if lane.share is None or _takes(call, lane)]


def _takes(call: Call, lane: Lane) -> bool:
    share = lane.share
    assert share is not None
    who = _caller_of(call) if share.sticky else call.id
    return share.share_ppm >= MILLION or chosen(lane.served_by, who, share.share_ppm)


def _caller_of(call: Call) -> str:
    """The end user that the body names, or else the key."""
    assert call.caller is not None
    try:
        named = _who.decode(call.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        named = _Who()
    return f"{call.caller.key}/{named.safety_identifier or named.user or ''}"


def not_answered(call: Call, lane: Lane, attempt: Attempt, reply: UpstreamConnection, sent_s: float) -> Failure:
    """Settle an attempt that an own model answered with an error: the next candidate is asked.

    Its record needs no wait: nothing is owed, and the next one's is written behind it.
    """
    channel = lane.channel
    said = reply.headers.get(DEFERRED)
    if reply.status == STATUS and said is not None:
        reason = _REASONS.get(said, Reason.OTHER)
        channel.breaker.succeeded()
        attempt.settle(Ended.DEFERRED, _NOTHING, reply, sent_s)
        call.gateway.metrics.deferred(channel.name, reason)
        return Failure(deferred=reason)
    channel.breaker.failed(call.gateway.loop.time())
    attempt.settle(Ended.REFUSED, None, reply, sent_s)
    what = f"answered with the status {reply.status}"
    call.gateway.log.warning("attempt_failed", f"{lane.served_by} {what}", call=call.id, channel=channel.name)
    return Failure(error=UpstreamFailed("upstream_failed", f"The own model {lane.served_by!r} {what}."))
