"""An auditor of rights that shares no code with the decision: every right written out as a vote, and the votes counted.

It reads the rows of terms themselves, with its own idea of time, scope and inclusion; where the two differ, one of them is
wrong. It also looks at data sets that were built: is every row one that may be there?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from upeti.rights.terms import Clause, Origin, Terms

_WORDS: Final = {
    "serve",
    "store",
    "evaluate",
    "classify_internal",
    "classify_distributed",
    "embed",
    "rerank",
    "task_generative",
    "general_model",
    "tune_at_provider",
    "resell",
}


def _within(begin: int, end: int, moment: int) -> bool:
    return moment >= begin and (end == 0 or moment < end)


def audited(terms: Terms, origin: Origin, purpose: str, moment: int) -> str:
    """Return "allow", "ask" or "deny"."""
    if purpose not in _WORDS:
        return "deny"
    for row in terms.denials:
        if (row.channel, row.purpose) != (origin.channel, purpose) or not _within(row.at_ns, row.lifted_ns, moment):
            continue
        if row.tenant == "" or row.tenant == origin.tenant or (origin.tenant == "" and purpose != "serve"):
            return "deny"
    mine = [row for row in terms.bindings if row.channel == origin.channel]
    if purpose == "serve":
        return _audited_serving(terms, origin, moment)
    bound = [
        row for row in mine if row.contract == origin.contract and _within(row.from_ns, row.until_ns, origin.at_ns)
    ]
    if not bound or origin.contract not in {row.id for row in terms.contracts}:
        return "deny"
    under = sorted(bound, key=lambda row: (row.from_ns, row.id))[-1]
    text = under.from_ns if under.order_form_sha256 else origin.at_ns
    votes = [_vote(terms, row, origin, purpose, moment) for row in _speaking(terms, origin.contract, purpose, text)]
    if votes:
        return "deny" if "deny" in votes else "ask" if "ask" in votes else "allow"
    parties = {row.party for row in terms.contracts if row.id == origin.contract}
    return "allow" if parties & _granting(terms, origin, purpose, moment) else "deny"


def _audited_serving(terms: Terms, origin: Origin, moment: int) -> str:
    if origin.channel not in terms.channels:
        return "deny"
    mine = [row for row in terms.bindings if row.channel == origin.channel]
    running = sorted((row.from_ns, row.id, row) for row in mine if _within(row.from_ns, row.until_ns, moment))
    if not running and [row for row in mine if 0 < row.until_ns <= moment]:
        return "deny"
    # A channel that was never bound is under the rules for every contract all the same.
    contract, text = "", moment
    if running:
        under = running[-1][2]
        contract, text = under.contract, under.from_ns if under.order_form_sha256 else moment
    now = Origin(origin.channel, contract, moment, origin.tenant, origin.model)
    votes = [_vote(terms, row, now, "serve", moment) for row in _speaking(terms, contract, "serve", text)]
    return "deny" if "deny" in votes else "allow"


def _speaking(terms: Terms, contract: str, purpose: str, text: int) -> list[Clause]:
    known = {row.id: row.includes for row in terms.contracts}
    parts, before = {contract} & set(known), set[str]()
    while parts != before:
        before = set(parts)
        parts |= {more for part in before for more in known[part] if more in known}
    wanted = parts | {"*"}
    return [
        row
        for row in terms.clauses
        if row.contract in wanted and purpose in row.decisions and _within(row.from_ns, row.until_ns, text)
    ]


def _vote(terms: Terms, clause: Clause, origin: Origin, purpose: str, moment: int) -> str:
    said = "ask" if clause.decisions[purpose] == "allow" else str(clause.decisions[purpose])
    final = False
    reviews = [
        row for row in terms.reviews if row.clause == clause.id and purpose in row.decisions and row.at_ns <= moment
    ]
    if reviews:
        newest = sorted(reviews, key=lambda row: (row.at_ns, row.id))[-1]
        if newest.digest == clause.digest or newest.decisions[purpose] == "deny":
            said, final = str(newest.decisions[purpose]), True
    may_lift = said == "ask" or (said == "deny" and clause.unless_authorized and not final)
    return "allow" if may_lift and clause.party in _granting(terms, origin, purpose, moment) else said


def _granting(terms: Terms, origin: Origin, purpose: str, moment: int) -> set[str]:
    """Parties that permit it in writing."""
    found = set()
    for row in terms.grants:
        scope = (row.tenant == "" or row.tenant == origin.tenant) and (row.models == () or origin.model in row.models)
        begun = max(row.at_ns, row.from_ns) <= moment and row.captured_from_ns <= origin.at_ns
        over = 0 < row.until_ns <= moment or 0 < row.revoked_ns <= moment
        if (row.channel, row.purpose) == (origin.channel, purpose) and scope and begun and not over:
            found.add(row.party)
    return found


class Complaint(msgspec.Struct, frozen=True):
    """A row of a data set that should not be there."""

    line: int  # of the file, from 1
    pair_id: str
    what: str


def audit_rows(
    terms: Terms,
    rows: Iterable[Mapping[str, Any]],
    pairs: Mapping[str, Mapping[str, Any]],
    consents: Iterable[Mapping[str, Any]],
    purpose: str,
    moment: int,
) -> list[Complaint]:
    """Return what is wrong with the rows of a data set's file.

    ``pairs`` and ``consents`` are what the state has, as plain tables: what a row says of itself is not believed.
    """
    standing = {(one["tenant"], word) for one in consents if not one["withdrawn_ns"] for word in one["purposes"]}
    complaints = []
    for line, row in enumerate(rows, 1):
        name = str(row.get("pair_id", ""))
        pair = pairs.get(name)
        if row.get("own") is True and not name:
            continue
        if pair is None:
            complaints.append(Complaint(line, name, "there is no such pair: it did not come from what was captured"))
            continue
        differing = [
            word for word in ("channel", "contract", "tenant", "model", "call_id") if row.get(word) != pair[word]
        ]
        if differing:
            complaints.append(Complaint(line, name, f"it says another {' and '.join(differing)} than the pair"))
        if pair["erased_ns"]:
            complaints.append(Complaint(line, name, "the pair was erased"))
        if (pair["tenant"], purpose) not in standing:
            complaints.append(Complaint(line, name, f"its tenant has no consent in force to {purpose}"))
        origin = Origin(pair["channel"], pair["contract"], pair["at_ns"], pair["tenant"], pair["model"])
        decision = audited(terms, origin, purpose, moment)
        if decision != "allow":
            complaints.append(Complaint(line, name, f"its contract says {decision} to {purpose}"))
    return complaints
