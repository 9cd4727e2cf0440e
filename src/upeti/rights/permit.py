"""The one decision: may an answer of this origin be used for this purpose?

Rules, in this order of strength: what is not known (purpose, channel, contract, clause) is denied; the operator's own
denial wins over everything; a clause that denies wins over one that allows; a clause that nobody reviewed allows nothing;
a written grant lifts what a clause of its own party asks, or denies "unless authorized". Serving is different in one
thing: who configures a channel with its key says that he may call it, so it is allowed unless something denies it. Pure
and total: any texts, any moment, an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from upeti.rights.terms import FOREVER_NS, Clause, Grant, Origin, Terms
from upeti.rights.terms import PURPOSES as PURPOSES
from upeti.rights.terms import SERVE as SERVE
from upeti.rights.terms import Decision as Decision

_SEVERITY: Final = {Decision.ALLOW: 0, Decision.ASK: 1, Decision.DENY: 2}


def severity(decision: Decision) -> int:
    """Return how strict a decision is: 0 allows."""
    return _SEVERITY[decision]


class Permit(msgspec.Struct, frozen=True):
    """A decision and what it rests on; texts are "" where there is none."""

    decision: Decision
    purpose: str
    channel: str
    contract: str = ""
    clause: str = ""
    quote: str = ""
    duties: tuple[str, ...] = ()  # "kind:value", sorted
    grant: str = ""
    why: str = ""  # and what would change it

    @property
    def allowed(self) -> bool:
        return self.decision is Decision.ALLOW


class Ruling(msgspec.Struct, frozen=True):
    """What one clause decides for a purpose, after reviews and grants."""

    decision: Decision
    clause: Clause
    why: str
    review: str = ""
    grant: str = ""
    duties: tuple[str, ...] = ()


def permit(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> Permit:
    """Decide whether an answer of ``origin`` may be used for ``purpose`` at ``at_ns``."""
    if purpose not in PURPOSES:
        return _denied(origin, purpose, f"`{purpose}` is no purpose; there are: {', '.join(sorted(PURPOSES))}")
    denials = [one for one in terms.denials if one.covers(origin, purpose, at_ns)]
    if denials:
        denial = min(denials, key=lambda one: (one.at_ns, one.id))
        why = f"{denial.by} denied it: {denial.why}; `upeti rights lift {denial.id}` takes that back"
        return _denied(origin, purpose, why)
    return _serving(terms, origin, at_ns) if purpose == SERVE else _use(terms, origin, purpose, at_ns)


def strictest(permits: Iterable[Permit]) -> Permit:
    """Return what holds for a mixture: the strictest member's decision, with the duties of all. Of nothing: denied."""
    members = list(permits)
    if not members:
        return Permit(Decision.DENY, "", "", why="there is nothing that could be permitted")
    worst = max(severity(one.decision) for one in members)
    # Whatever the order of the members, the same one speaks for them.
    first = min((one for one in members if severity(one.decision) == worst), key=_but_duties)
    duties = {duty for one in members for duty in one.duties}
    return msgspec.structs.replace(first, duties=tuple(sorted(duties)))


def purposes_until(terms: Terms, channel: str, at_ns: int) -> dict[str, int]:
    """Return what an answer that a channel gives at ``at_ns`` may be used for → when that ends by date alone.

    Of any tenant and model: what is granted to one alone is not in it.
    """
    moments = terms.changes(at_ns)
    found = {}
    for purpose in sorted(PURPOSES):
        if permit(terms, terms.origin_now(channel, at_ns), purpose, at_ns).allowed:
            ends = (
                moment
                for moment in moments
                if not permit(terms, terms.origin_now(channel, moment), purpose, moment).allowed
            )
            found[purpose] = next(ends, FOREVER_NS)
    return found


def rulings(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> list[Ruling]:
    """Return what each clause that speaks of ``purpose`` decides for what came from ``origin``."""
    grants = terms.grants_for(origin, purpose, at_ns)
    return [
        _ruling(terms, clause, purpose, at_ns, grants)
        for clause in terms.clauses_of(origin.contract, text_ns(terms, origin))
        if purpose in clause.decisions
    ]


def text_ns(terms: Terms, origin: Origin) -> int:
    """Return of when the text is that holds for an answer: of the capture, or of the signature of an order form."""
    binding = terms.bound_at(origin)
    signed = binding is not None and binding.order_form_sha256
    return binding.from_ns if binding is not None and signed else origin.at_ns


def _serving(terms: Terms, origin: Origin, at_ns: int) -> Permit:
    channel = origin.channel
    if channel not in terms.channels:
        return _denied(origin, SERVE, f"there is no channel `{channel}`: add a [[channel]] with that name")
    ended = terms.ended(channel, at_ns)
    if ended is not None:
        why = (
            f"its contract `{ended.contract}` has ended; `upeti rights bind {channel} CONTRACT` names the one in force"
        )
        return _denied(origin, SERVE, why)
    now = terms.origin_now(channel, at_ns, origin.tenant, origin.model)
    denied = [one for one in rulings(terms, now, SERVE, at_ns) if one.decision is Decision.DENY]
    if denied:
        return _of_ruling(now, SERVE, min(denied, key=_order), denied)
    why = "the channel is configured: who does that says that he may call it"
    return Permit(Decision.ALLOW, SERVE, channel, now.contract, why=why)


def _use(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> Permit:
    channel, contract = origin.channel, terms.contract(origin.contract)
    if contract is None:
        name = origin.contract
        what = f"no file of terms has the contract `{name}`" if name else "no contract was in force for the channel"
        why = f"{what}; `upeti rights bind {channel} CONTRACT --from DATE` says under which one its account is"
        return _denied(origin, purpose, why)
    if terms.bound_at(origin) is None:
        why = (
            f"the channel `{channel}` was not bound to `{contract.id}` then; `upeti rights bind` says since when it is"
        )
        return _denied(origin, purpose, why)
    found = rulings(terms, origin, purpose, at_ns)
    if found:
        return _of_ruling(origin, purpose, min(found, key=_order), found)
    grants = [one for one in terms.grants_for(origin, purpose, at_ns) if one.party == contract.party]
    if grants:
        grant = min(grants, key=lambda one: one.id)
        duties = tuple(sorted({duty for one in grants for duty in one.duties}))
        why = _granted(grant)
        return Permit(Decision.ALLOW, purpose, channel, contract.id, duties=duties, grant=grant.id, why=why)
    why = f"no clause of `{contract.id}` speaks of it; `upeti rights grant {channel} {purpose}` records a permission"
    return _denied(origin, purpose, why)


def _ruling(terms: Terms, clause: Clause, purpose: str, at_ns: int, grants: list[Grant]) -> Ruling:
    decision = clause.decisions[purpose]
    review = terms.review_of(clause, purpose, at_ns)
    if review is not None:
        decision = review.decisions[purpose]
        why = f"{review.by} reviewed it: {review.why}"
    elif decision is Decision.ALLOW:
        decision = Decision.ASK
        why = f"it reads as an allowance, which nobody has reviewed in these words; `upeti rights review {clause.id}` does"
    elif decision is Decision.ASK:
        why = f"it is open; `upeti rights review {clause.id}` decides, `upeti rights grant` records a permission"
    else:
        why = f"the clause denies it; `upeti rights review {clause.id}` is for a reading of your own"
        if clause.unless_authorized:
            why = f"the clause denies it unless {clause.party} permits; `upeti rights grant` records a permission"
    liftable = decision is Decision.ASK or (decision is Decision.DENY and clause.unless_authorized and review is None)
    of_party = [one for one in grants if one.party == clause.party] if liftable else []
    duties = {*clause.duties, *(duty for one in of_party for duty in one.duties)}
    grant = min(of_party, key=lambda one: one.id) if of_party else None
    if grant is not None:
        decision, why = Decision.ALLOW, _granted(grant)
    return Ruling(
        decision,
        clause,
        why,
        review=review.id if review is not None else "",
        grant=grant.id if grant is not None else "",
        duties=tuple(sorted(duties)),
    )


def _granted(grant: Grant) -> str:
    return f"{grant.party} permits it, recorded by {grant.by}: {grant.why}"


def _but_duties(one: Permit) -> tuple[str, ...]:
    return one.purpose, one.channel, one.contract, one.clause, one.quote, one.grant, one.why


def _order(ruling: Ruling) -> tuple[int, str]:
    return -severity(ruling.decision), ruling.clause.id


def _of_ruling(origin: Origin, purpose: str, ruling: Ruling, all_rulings: list[Ruling]) -> Permit:
    return Permit(
        ruling.decision,
        purpose,
        origin.channel,
        origin.contract,
        clause=ruling.clause.id,
        quote=ruling.clause.quote,
        duties=tuple(sorted({duty for one in all_rulings for duty in one.duties})),
        grant=ruling.grant,
        why=ruling.why,
    )


def _denied(origin: Origin, purpose: str, why: str) -> Permit:
    return Permit(Decision.DENY, purpose, origin.channel, origin.contract, why=why)
