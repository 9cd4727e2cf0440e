"""What a caller is told when a purse does not reach, or nobody may or can take the call: what it is, since when, what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from upeti.core.amount import decimal_text
from upeti.core.errors import BudgetExceeded, Forbidden, Overloaded, RateExceeded
from upeti.money.budget_terms import RATE_UNITS, TOKENS
from upeti.money.window import iso_time

_ADD_ONE: Final = "add a candidate to the route that takes every call"

if TYPE_CHECKING:
    from upeti.gateway.holds import Purse
    from upeti.gateway.latch import Latch


def exceeded(purse: Purse, bound_pico: int, now_ns: int) -> BudgetExceeded:
    """Return the refusal of a call that can take up to ``bound_pico`` of what ``purse`` is a part of."""
    left, limit, bound = decimal_text(purse.left), decimal_text(purse.limit), decimal_text(bound_pico)
    # What does not fit into the whole limit will not fit into the next window's either.
    fits_later = purse.resets_ns and bound_pico <= purse.limit
    wait_s = max(1, -((now_ns - purse.resets_ns) // 10**9)) if fits_later else None
    what = f"{purse.name!r} has {left} of {limit} {purse.unit} left"
    if purse.unit in RATE_UNITS:
        need = f"; this call can take up to {bound}. Lower max_tokens" if purse.unit == TOKENS else ". Send fewer calls"
        again = f", try again in {wait_s} s" if fits_later else ""
        return RateExceeded(
            "rate_limit_exceeded",
            f"The rate limit {what} in this minute{need}{again}, or have the limit raised.",
            retry_after_s=wait_s,
        )
    lowered = "" if purse.left_elsewhere >= 0 else " More is spent or held than the limit: it was lowered."
    resets = f" until {iso_time(purse.resets_ns, purse.zone)}" if purse.resets_ns else ""
    return BudgetExceeded(
        "budget_exceeded",
        f"The budget {what}{resets}; this call can cost up to {bound}.{lowered} Lower max_tokens,"
        f"{' wait until then,' if fits_later else ''} or have the limit raised.",
        retry_after_s=wait_s,
    )


def latched(latch: Latch) -> Overloaded:
    """Return the refusal of a call whose every candidate is latched: of one of them, what, since when, why, what helps."""
    since = iso_time(latch.since_ns, "UTC")
    subject = latch.subject
    cure = (
        f"`upeti channels open {subject.channel}` opens it"
        if latch.by
        else ("it is probed and opens by itself when it works again, or add another candidate to the route")
    )
    return Overloaded(
        "channel_latched",
        f"Every candidate is out: {subject.words} is latched since {since}: {latch.why} (incident {latch.incident}). The "
        f"operator sees more with `upeti incidents show {latch.incident}`; {cure}.",
    )


def deferred(reason: str, latch: Latch | None) -> Overloaded:
    """Return the refusal of a call that own models left to the next candidate, when there is none."""
    return Overloaded(
        "student_deferred",
        f"The route's own model left this call to the next candidate ({reason}), and {_no_other(latch)}",
    )


def not_asked(model: str, latch: Latch | None) -> Overloaded:
    """Return the refusal of a call that would go to an own model only, when that is not asked."""
    return Overloaded(
        "student_not_asked",
        f"The own model {model} is not asked for this call: its stage gives it no share, or one that the call is not in; and "
        f"{_no_other(latch)}",
    )


def _no_other(latch: Latch | None) -> str:
    if latch is None:
        return f"the route has no other that can take it: {_ADD_ONE}."
    return (
        f"{latch.subject.words} is latched since {iso_time(latch.since_ns, 'UTC')} (incident {latch.incident}): wait, or "
        f"{_ADD_ONE}. The operator sees more with `upeti incidents show {latch.incident}`."
    )


def tenant_held(number: str, until_ns: int) -> Forbidden:
    """Return the refusal of a tenant's calls while it is under suspicion of an abuse block."""
    return Forbidden(
        "tenant_quarantined",
        f"This tenant's calls are held until {iso_time(until_ns, 'UTC')}: a provider blocked an account for what was sent "
        f"through it, after its content filters had refused calls of this tenant ({number}). Ask the operator, with this number.",
    )


def not_permitted(policy: str, channel: str, why: str) -> Forbidden:
    """Return the refusal of a call that no candidate may take."""
    return Forbidden(
        "no_permitted_candidate",
        f"The data policy {policy!r} lets this call go to none of the route's candidates: of the channel {channel!r}, {why}. "
        "Add a candidate that fits, or say more of the channel (region, retention_days).",
    )
