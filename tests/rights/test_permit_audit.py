"""An auditor that shares no code with the decision: every right written out as a vote, and the votes counted.

It reads the rows themselves, with its own idea of time, scope and inclusion; where the two differ, one of them is wrong.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings

from support.terms_side import any_origins, any_purposes, moments, worlds
from upeti.rights.permit import permit
from upeti.rights.terms import Clause, Origin, Terms

WORDS = ["serve", "store", "evaluate", "classify_internal", "classify_distributed", "embed", "rerank"]
WORDS += ["task_generative", "general_model", "tune_at_provider", "resell"]


def within(begin: int, end: int, moment: int) -> bool:
    return moment >= begin and (end == 0 or moment < end)


def audited(terms: Terms, origin: Origin, purpose: str, moment: int) -> str:
    if purpose not in WORDS:
        return "deny"
    for row in terms.denials:
        if (row.channel, row.purpose) != (origin.channel, purpose) or not within(row.at_ns, row.lifted_ns, moment):
            continue
        if row.tenant == "" or row.tenant == origin.tenant or (origin.tenant == "" and purpose != "serve"):
            return "deny"
    mine = [row for row in terms.bindings if row.channel == origin.channel]
    if purpose == "serve":
        return audited_serving(terms, origin, moment)
    bound = [row for row in mine if row.contract == origin.contract and within(row.from_ns, row.until_ns, origin.at_ns)]
    if not bound or origin.contract not in {row.id for row in terms.contracts}:
        return "deny"
    under = sorted(bound, key=lambda row: (row.from_ns, row.id))[-1]
    text = under.from_ns if under.order_form_sha256 else origin.at_ns
    votes = [vote(terms, row, origin, purpose, moment) for row in speaking(terms, origin.contract, purpose, text)]
    if votes:
        return "deny" if "deny" in votes else "ask" if "ask" in votes else "allow"
    parties = {row.party for row in terms.contracts if row.id == origin.contract}
    return "allow" if parties & granting(terms, origin, purpose, moment) else "deny"


def audited_serving(terms: Terms, origin: Origin, moment: int) -> str:
    if origin.channel not in terms.channels:
        return "deny"
    mine = [row for row in terms.bindings if row.channel == origin.channel]
    running = sorted((row.from_ns, row.id, row) for row in mine if within(row.from_ns, row.until_ns, moment))
    if not running and [row for row in mine if 0 < row.until_ns <= moment]:
        return "deny"
    # A channel that was never bound is under the rules for every contract all the same.
    contract, text = "", moment
    if running:
        under = running[-1][2]
        contract, text = under.contract, under.from_ns if under.order_form_sha256 else moment
    now = Origin(origin.channel, contract, moment, origin.tenant, origin.model)
    votes = [vote(terms, row, now, "serve", moment) for row in speaking(terms, contract, "serve", text)]
    return "deny" if "deny" in votes else "allow"


def speaking(terms: Terms, contract: str, purpose: str, text: int) -> list[Clause]:
    known = {row.id: row.includes for row in terms.contracts}
    parts, before = {contract} & set(known), set[str]()
    while parts != before:
        before = set(parts)
        parts |= {more for part in before for more in known[part] if more in known}
    wanted = parts | {"*"}
    return [
        row
        for row in terms.clauses
        if row.contract in wanted and purpose in row.decisions and within(row.from_ns, row.until_ns, text)
    ]


def vote(terms: Terms, clause: Clause, origin: Origin, purpose: str, moment: int) -> str:
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
    return "allow" if may_lift and clause.party in granting(terms, origin, purpose, moment) else said


def granting(terms: Terms, origin: Origin, purpose: str, moment: int) -> set[str]:
    """Parties that permit it in writing."""
    found = set()
    for row in terms.grants:
        scope = (row.tenant == "" or row.tenant == origin.tenant) and (row.models == () or origin.model in row.models)
        begun = max(row.at_ns, row.from_ns) <= moment and row.captured_from_ns <= origin.at_ns
        over = 0 < row.until_ns <= moment or 0 < row.revoked_ns <= moment
        if (row.channel, row.purpose) == (origin.channel, purpose) and scope and begun and not over:
            found.add(row.party)
    return found


@given(worlds(), any_origins, any_purposes, moments)
@settings(max_examples=300)
def test_the_auditor_comes_to_the_same_decision(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    assert permit(terms, origin, purpose, at_ns).decision == audited(terms, origin, purpose, at_ns)


def test_the_worlds_are_worth_auditing() -> None:
    """In worlds made for it, every decision comes up for every reason that there is: else properties hold of nothing."""
    from support import terms_side

    random = Random(7)
    seen: dict[str, int] = {}
    for _ in range(8000):
        clauses = tuple(terms_side._clause(random, number) for number in range(3))
        terms = Terms(
            terms_side._contracts(random, 0),
            clauses,
            tuple(terms_side._binding(random, number) for number in range(3)),
            tuple(terms_side.review_of(clause, random.randrange(9999)) for clause in clauses if random.random() < 0.6),
            tuple(terms_side._grant(random, number) for number in range(3)),
            tuple(terms_side._denial(random, number) for number in range(random.randrange(2))),
            frozenset(terms_side.CHANNELS),
        )
        origin, at_ns = terms_side._origin(random, 0), random.randrange(100)
        purpose = random.choice(terms_side.SOME_PURPOSES)
        decided = permit(terms, origin, purpose, at_ns)
        assert decided.decision == audited(terms, origin, purpose, at_ns)
        kind = f"{decided.decision}{' by a clause' if decided.clause else ''}{' by a grant' if decided.grant else ''}"
        seen[kind] = seen.get(kind, 0) + 1
    assert min(seen.values()) >= 80, seen
    assert set(seen) == {
        "deny",
        "allow",  # serving, by configuration
        "deny by a clause",
        "ask by a clause",
        "allow by a clause",
        "allow by a clause by a grant",
        "allow by a grant",
    }
