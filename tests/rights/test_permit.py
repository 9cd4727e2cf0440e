"""The decision: what nobody knows or reviewed is not allowed, nothing that forbids ever allows more, time is respected."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.terms_side import (
    any_origins,
    any_purposes,
    clauses,
    denials,
    grants,
    learning,
    moments,
    origins,
    purposes,
    review_of,
    worlds,
)
from upeti.rights.permit import PURPOSES, SERVE, Decision, Permit, permit, rulings, strictest
from upeti.rights.terms import Binding, Clause, Contract, Denial, Grant, Origin, Review, Terms

SEVERITY = {Decision.ALLOW: 0, Decision.ASK: 1, Decision.DENY: 2}
replace = msgspec.structs.replace

# Beyond those of the worlds, so that ids differ.
seeds = st.integers(1000, 1300)

permits = st.builds(
    Permit,
    st.sampled_from(list(Decision)),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["c1", "c2"]),
    duties=st.lists(st.sampled_from(["x", "y", "z"])).map(tuple),
    grant=st.sampled_from(["", "g1"]),
    why=st.sampled_from(["", "w"]),
)


def wider(new: Permit, old: Permit) -> bool:
    return SEVERITY[new.decision] < SEVERITY[old.decision]


# -- any input
# ----------------------------------------------------------------------------------------------------------------


@given(worlds(), any_origins, any_purposes, st.integers())
def test_every_question_has_one_answer_and_the_same_again(
    terms: Terms, origin: Origin, purpose: str, at_ns: int
) -> None:
    answer = permit(terms, origin, purpose, at_ns)
    assert answer == permit(terms, origin, purpose, at_ns)
    assert isinstance(answer.decision, Decision)
    assert (answer.purpose, answer.channel) == (purpose, origin.channel)
    assert answer.why
    assert list(answer.duties) == sorted(set(answer.duties))


@given(worlds(), any_origins, any_purposes, st.integers())
def test_the_order_of_what_is_known_changes_nothing(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    def turned(rows: Sequence[object]) -> tuple[object, ...]:
        return tuple(reversed(rows))

    fields = {name: turned(getattr(terms, name)) for name in ("clauses", "bindings", "reviews", "grants", "denials")}
    assert permit(replace(terms, **fields), origin, purpose, at_ns) == permit(terms, origin, purpose, at_ns)


# -- what is not known
# ----------------------------------------------------------------------------------------------------------------


@given(worlds(), any_origins, st.text(max_size=9).filter(lambda text: text not in PURPOSES), st.integers())
def test_an_unknown_purpose_is_denied(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    assert permit(terms, origin, purpose, at_ns).decision is Decision.DENY


@given(worlds(), origins, any_purposes, moments)
def test_an_unknown_channel_is_denied(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    assert permit(terms, replace(origin, channel="nobody"), purpose, at_ns).decision is Decision.DENY


@given(worlds(), origins, learning, moments, st.sampled_from(["", "*", "k9"]))
def test_an_unknown_contract_is_denied(terms: Terms, origin: Origin, purpose: str, at_ns: int, contract: str) -> None:
    stranger = Binding("b9", origin.channel, contract, 0)
    terms = replace(terms, bindings=(*terms.bindings, stranger))
    assert permit(terms, replace(origin, contract=contract), purpose, at_ns).decision is Decision.DENY


@given(worlds(), origins, learning, moments)
def test_without_a_clause_or_a_grant_everything_but_serving_is_denied(
    terms: Terms, origin: Origin, purpose: str, at_ns: int
) -> None:
    bare = replace(terms, clauses=(), grants=())
    assert permit(bare, origin, purpose, at_ns).decision is Decision.DENY


@given(worlds(), origins, learning, moments)
def test_a_channel_that_was_not_bound_to_the_contract_gets_nothing_from_it(
    terms: Terms, origin: Origin, purpose: str, at_ns: int
) -> None:
    others = tuple(one for one in terms.bindings if (one.channel, one.contract) != (origin.channel, origin.contract))
    assert permit(replace(terms, bindings=others), origin, purpose, at_ns).decision is Decision.DENY


@given(worlds(), origins, learning, moments)
def test_what_nobody_here_reviewed_or_granted_is_not_allowed(
    terms: Terms, origin: Origin, purpose: str, at_ns: int
) -> None:
    unread = replace(terms, reviews=(), grants=())
    assert permit(unread, origin, purpose, at_ns).decision is not Decision.ALLOW
    stale = replace(terms, reviews=tuple(replace(one, digest="of another text") for one in terms.reviews), grants=())
    assert permit(stale, origin, purpose, at_ns).decision is not Decision.ALLOW


# -- what forbids never allows more
# ----------------------------------------------------------------------------------------------------------------


@given(worlds(), clauses, origins, purposes, moments)
def test_another_clause_never_lifts_what_one_denies(
    terms: Terms, clause: Clause, origin: Origin, purpose: str, at_ns: int
) -> None:
    """A clause that speaks where none did may make a denial a question; where one denies, nothing else helps."""
    before = permit(terms, origin, purpose, at_ns)
    after = permit(replace(terms, clauses=(*terms.clauses, replace(clause, id="new"))), origin, purpose, at_ns)
    if before.clause or before.decision is Decision.ALLOW:
        assert not wider(after, before)
    assert not (after.allowed and not before.allowed)


@given(worlds(), clauses, origins, purposes, moments)
def test_a_clause_that_denies_never_widens(
    terms: Terms, clause: Clause, origin: Origin, purpose: str, at_ns: int
) -> None:
    denying = replace(clause, id="new", decisions=dict.fromkeys(clause.decisions, Decision.DENY))
    after = permit(replace(terms, clauses=(*terms.clauses, denying)), origin, purpose, at_ns)
    assert not wider(after, permit(terms, origin, purpose, at_ns))


@given(worlds(), denials, any_origins, any_purposes, moments)
def test_a_denial_of_ones_own_never_widens_and_always_wins(
    terms: Terms, denial: Denial, origin: Origin, purpose: str, at_ns: int
) -> None:
    after = permit(replace(terms, denials=(*terms.denials, denial)), origin, purpose, at_ns)
    assert not wider(after, permit(terms, origin, purpose, at_ns))
    if denial.covers(origin, purpose, at_ns):
        assert after.decision is Decision.DENY


@given(worlds(), st.data(), origins, purposes, moments)
def test_a_review_that_denies_never_widens(
    terms: Terms, data: st.DataObject, origin: Origin, purpose: str, at_ns: int
) -> None:
    review = review_of(data.draw(st.sampled_from(terms.clauses)), data.draw(seeds))
    denying = replace(review, decisions=dict.fromkeys(review.decisions, Decision.DENY))
    after = permit(replace(terms, reviews=(*terms.reviews, denying)), origin, purpose, at_ns)
    assert not wider(after, permit(terms, origin, purpose, at_ns))


@given(worlds(), st.data(), origins, purposes, moments)
def test_revoking_a_grant_or_taking_it_away_never_widens(
    terms: Terms, data: st.DataObject, origin: Origin, purpose: str, at_ns: int
) -> None:
    if not terms.grants:
        return
    before = permit(terms, origin, purpose, at_ns)
    gone = data.draw(st.sampled_from(terms.grants))
    others = tuple(one for one in terms.grants if one is not gone)
    revoked = replace(gone, revoked_ns=max(1, data.draw(moments)))
    for left in (others, (*others, revoked)) if not gone.revoked_ns else (others,):
        assert not wider(permit(replace(terms, grants=left), origin, purpose, at_ns), before)


@given(worlds(), grants, origins, purposes, moments)
def test_a_grant_widens_only_for_its_party_channel_and_purpose(
    terms: Terms, grant: Grant, origin: Origin, purpose: str, at_ns: int
) -> None:
    before = permit(terms, origin, purpose, at_ns)
    after = permit(replace(terms, grants=(*terms.grants, replace(grant, id="new"))), origin, purpose, at_ns)
    assert not wider(before, after)
    if wider(after, before):
        assert grant.covers(origin, purpose, at_ns)
        speaking = rulings(terms, origin, purpose, at_ns)
        lifted = [one for one in speaking if one.decision is not Decision.ALLOW and one.clause.party == grant.party]
        assert lifted or not speaking


@given(worlds(), origins, purposes, moments)
def test_what_is_allowed_has_no_clause_against_it(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    if purpose != SERVE and permit(terms, origin, purpose, at_ns).allowed:
        assert all(one.decision is Decision.ALLOW for one in rulings(terms, origin, purpose, at_ns))


# -- mixtures
# ----------------------------------------------------------------------------------------------------------------


def test_a_mixture_of_nothing_is_denied() -> None:
    assert strictest([]).decision is Decision.DENY


@given(st.lists(permits, min_size=1), st.randoms(use_true_random=False))
def test_a_mixture_takes_its_strictest_member_in_any_order(members: list[Permit], random: object) -> None:
    mixed = strictest(members)
    assert SEVERITY[mixed.decision] == max(SEVERITY[one.decision] for one in members)
    assert set(mixed.duties) == {duty for one in members for duty in one.duties}
    random.shuffle(members)  # type: ignore[attr-defined]
    assert strictest(members) == mixed
    assert strictest([mixed]) == mixed
    assert strictest([*members, mixed]) == mixed


@given(st.lists(permits, min_size=1), st.lists(permits, min_size=1))
def test_a_mixture_of_mixtures_is_the_mixture_of_all(left: list[Permit], right: list[Permit]) -> None:
    assert strictest([strictest(left), strictest(right)]) == strictest([*left, *right])


# -- time
# ----------------------------------------------------------------------------------------------------------------


@given(worlds(), origins, purposes, moments, st.data())
def test_what_is_said_later_does_not_change_what_was_decided(
    terms: Terms, origin: Origin, purpose: str, at_ns: int, data: st.DataObject
) -> None:
    later = st.integers(at_ns + 1, at_ns + 50)
    grant = replace(data.draw(grants), id="new", at_ns=data.draw(later))
    denial = replace(data.draw(denials), at_ns=data.draw(later), lifted_ns=0)
    more = replace(terms, grants=(*terms.grants, grant), denials=(*terms.denials, denial))
    if terms.clauses:
        review = review_of(data.draw(st.sampled_from(terms.clauses)), data.draw(seeds))
        more = replace(more, reviews=(*terms.reviews, replace(review, at_ns=data.draw(later))))
    standing = [one for one in terms.grants if not one.revoked_ns]
    if standing:
        revoked = data.draw(st.sampled_from(standing))
        others = [one for one in more.grants if one is not revoked]
        more = replace(more, grants=(*others, replace(revoked, revoked_ns=data.draw(later))))
    assert permit(more, origin, purpose, at_ns) == permit(terms, origin, purpose, at_ns)


@given(worlds(), origins, learning, moments)
def test_a_later_version_of_the_contract_changes_nothing_about_what_was_captured_before(
    terms: Terms, origin: Origin, purpose: str, at_ns: int
) -> None:
    later = origin.at_ns + 1
    newer = Contract("k1-new", "P", "k", "", "")
    clause = Clause("k1-new/1", "k1-new", "P", "", "", "", {purpose: Decision.DENY}, from_ns=later)
    moved = replace(
        terms,
        contracts=(*terms.contracts, newer),
        clauses=(*terms.clauses, clause, replace(clause, id="same/1", contract=origin.contract)),
        bindings=(*terms.bindings, Binding("b9", origin.channel, "k1-new", later)),
    )
    assert moved.contract_of(origin.channel, later) == "k1-new"
    assert permit(moved, origin, purpose, at_ns) == permit(terms, origin, purpose, at_ns)


@given(worlds(), origins, purposes, moments)
def test_between_two_dated_changes_a_decision_stays(terms: Terms, origin: Origin, purpose: str, at_ns: int) -> None:
    """`changes` names every moment at which a worker's view may need to be made again."""
    until_ns = next(iter(terms.changes(at_ns)), 200)
    if until_ns > at_ns + 1:
        last = permit(terms, origin, purpose, until_ns - 1)
        assert last == permit(terms, origin, purpose, at_ns)


# -- one story, in figures
# ----------------------------------------------------------------------------------------------------------------

CONTRACT = Contract("openai-1", "OpenAI", "openai", "Agreement", "1")
CLAUSE = Clause(
    "openai-1/3.3",
    "openai-1",
    "OpenAI",
    "3.3",
    "Agreement",
    "1",
    {"classify_internal": Decision.ALLOW, "general_model": Decision.DENY},
    quote="classifiers are fine",
    duties=("not_distributed",),
    unless_authorized=True,
)
STORY = Terms((CONTRACT,), (CLAUSE,), (Binding("b", "main", "openai-1", 10),), channels=frozenset({"main"}))
CAPTURED = Origin("main", "openai-1", 20, "acme", "gpt-5")
GRANT = Grant("g1", "main", "general_model", "OpenAI", "0" * 64, "Ann", "letter", 30, 30, 60, captured_from_ns=15)


def test_an_allowance_counts_from_its_review_on_for_all_that_was_captured_under_it() -> None:
    read = Review("r1", CLAUSE.id, CLAUSE.digest, {"classify_internal": Decision.ALLOW}, "Ann", "plain words", 50)
    terms = replace(STORY, reviews=(read,))
    assert permit(terms, CAPTURED, "classify_internal", 49).decision is Decision.ASK
    allowed = permit(terms, CAPTURED, "classify_internal", 50)
    assert allowed.allowed
    assert (allowed.clause, allowed.quote, allowed.duties) == (CLAUSE.id, CLAUSE.quote, ("not_distributed",))
    assert "Ann" in allowed.why
    changed = replace(terms, clauses=(replace(CLAUSE, quote="classifiers are not fine"),))
    assert permit(changed, CAPTURED, "classify_internal", 50).decision is Decision.ASK


def test_a_grant_holds_from_its_record_to_its_end_and_not_after_it_was_revoked() -> None:
    terms = replace(STORY, grants=(GRANT,))
    seen = {at_ns: permit(terms, CAPTURED, "general_model", at_ns).decision for at_ns in (29, 30, 59, 60)}
    assert seen == {29: Decision.DENY, 30: Decision.ALLOW, 59: Decision.ALLOW, 60: Decision.DENY}
    revoked = replace(terms, grants=(replace(GRANT, revoked_ns=40),))
    assert permit(revoked, CAPTURED, "general_model", 39).grant == "g1"
    assert permit(revoked, CAPTURED, "general_model", 40).decision is Decision.DENY


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "beta"},
        {"models": ("gpt-4",)},
        {"party": "Somebody else"},
        {"captured_from_ns": 21},
        {"channel": "other"},
        {"purpose": "classify_internal"},
    ],
)
def test_a_grant_of_another_scope_is_none(change: dict[str, object]) -> None:
    terms = replace(STORY, grants=(replace(GRANT, **change),))
    assert permit(terms, CAPTURED, "general_model", 45).decision is Decision.DENY


def test_a_grant_does_not_lift_what_a_person_here_denied() -> None:
    denied = Review("r1", CLAUSE.id, CLAUSE.digest, {"general_model": Decision.DENY}, "Ann", "no", 30)
    assert not permit(replace(STORY, grants=(GRANT,), reviews=(denied,)), CAPTURED, "general_model", 45).allowed
    own = Denial("d1", "main", "general_model", "Ann", "never", 30, lifted_ns=50)
    terms = replace(STORY, grants=(GRANT,), denials=(own,))
    assert not permit(terms, CAPTURED, "general_model", 45).allowed
    assert permit(terms, CAPTURED, "general_model", 50).allowed


def test_a_grant_of_the_host_does_not_lift_what_the_licence_of_the_weights_denies() -> None:
    licence = Contract("llama", "Meta", "llama", "Licence", "1")
    host = replace(CONTRACT, includes=("llama",))
    theirs = replace(CLAUSE, id="llama/1", contract="llama", party="Meta", duties=("name_prefix:Llama",))
    terms = replace(STORY, contracts=(host, licence), clauses=(CLAUSE, theirs), grants=(GRANT,))
    decided = permit(terms, CAPTURED, "general_model", 45)
    assert (decided.decision, decided.clause) == (Decision.DENY, "llama/1")
    both = replace(terms, grants=(GRANT, replace(GRANT, id="g2", party="Meta", duties=("notice:Built with Llama",))))
    decided = permit(both, CAPTURED, "general_model", 45)
    assert decided.allowed
    assert decided.duties == ("name_prefix:Llama", "not_distributed", "notice:Built with Llama")


def test_an_order_form_is_not_changed_by_later_updates() -> None:
    update = replace(CLAUSE, id="openai-1/new", decisions={"classify_internal": Decision.DENY}, from_ns=15)
    read = Review("r1", CLAUSE.id, CLAUSE.digest, {"classify_internal": Decision.ALLOW}, "Ann", "plain words", 50)
    terms = replace(STORY, clauses=(CLAUSE, update), reviews=(read,))
    assert permit(terms, CAPTURED, "classify_internal", 60).decision is Decision.DENY
    signed = replace(terms, bindings=(Binding("b", "main", "openai-1", 10, 0, "f" * 64),))
    assert permit(signed, CAPTURED, "classify_internal", 60).allowed


def test_serving_is_allowed_by_configuration_until_the_contract_ends() -> None:
    unbound = replace(STORY, bindings=())
    assert permit(unbound, Origin("main", "", 0), SERVE, 0).allowed
    ending = replace(STORY, bindings=(Binding("b", "main", "openai-1", 10, 40),))
    seen = {at_ns: permit(ending, Origin("main", "", at_ns), SERVE, at_ns).allowed for at_ns in (5, 10, 39, 40)}
    assert seen == {5: True, 10: True, 39: True, 40: False}
    renewed = replace(ending, bindings=(*ending.bindings, Binding("b2", "main", "openai-1", 45)))
    assert not permit(renewed, Origin("main", "", 44), SERVE, 44).allowed
    assert permit(renewed, Origin("main", "", 45), SERVE, 45).allowed


def test_serving_stops_by_a_clause_or_a_denial() -> None:
    now = Origin("main", "openai-1", 50)
    clause = replace(CLAUSE, id="openai-1/stop", decisions={SERVE: Decision.DENY}, from_ns=30)
    terms = replace(STORY, clauses=(CLAUSE, clause))
    assert permit(terms, now, SERVE, 29).allowed
    assert permit(terms, now, SERVE, 30).clause == "openai-1/stop"
    assert not permit(replace(STORY, denials=(Denial("d", "main", SERVE, "Ann", "stop", 5),)), now, SERVE, 50).allowed
    of_one_tenant = replace(STORY, denials=(Denial("d", "main", SERVE, "Ann", "stop", 5, "acme"),))
    assert permit(of_one_tenant, now, SERVE, 50).allowed
