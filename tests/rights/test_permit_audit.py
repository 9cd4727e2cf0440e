"""The decision and an auditor that shares no code with it come to the same, in any world of terms."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings

from support.terms_side import any_origins, any_purposes, moments, worlds
from upeti.rights.permit import permit
from upeti.rights.terms import Origin, Terms
from upeti.sim.rights_auditor import audited


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
        terms = terms_side.a_world(random)
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
