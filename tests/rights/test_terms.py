"""What is known of contracts: which one holds when, what is included, when something changes by date."""

from __future__ import annotations

import msgspec
from hypothesis import given

from support.terms_side import moments, origins, worlds
from upeti.rights.terms import Binding, Clause, Contract, Decision, Denial, Grant, Origin, Review, Terms, in_force

replace = msgspec.structs.replace
CLAUSE = Clause("k/1", "k", "P", "1", "Doc", "1", {"store": Decision.ALLOW}, quote="may keep")


def test_a_span_begins_at_its_first_moment_and_ends_before_its_last() -> None:
    assert [in_force(2, 4, at_ns) for at_ns in (1, 2, 3, 4)] == [False, True, True, False]
    assert in_force(2, 0, 10**30)


def test_the_contract_in_force_is_the_one_that_began_last() -> None:
    terms = Terms(
        bindings=(Binding("a", "c", "old", 10), Binding("b", "c", "new", 20, 30), Binding("x", "d", "else", 0))
    )
    found = {at_ns: terms.contract_of("c", at_ns) for at_ns in (9, 10, 19, 20, 29, 30)}
    assert found == {9: "", 10: "old", 19: "old", 20: "new", 29: "new", 30: "old"}
    assert terms.ended("c", 40) is None
    assert terms.contract_of("nobody", 20) == ""


def test_a_contract_that_ended_with_none_in_its_place_is_named() -> None:
    terms = Terms(bindings=(Binding("a", "c", "first", 0, 10), Binding("b", "c", "second", 5, 20)))
    assert terms.ended("c", 9) is None
    assert terms.ended("c", 15) is None
    ended = terms.ended("c", 20)
    assert ended is not None
    assert ended.contract == "second"
    assert terms.ended("never bound", 20) is None


def test_a_contract_takes_in_what_it_includes_once_whatever_circles_there_are() -> None:
    contracts = (
        Contract("host", "P", "h", "", "", includes=("policy", "licence")),
        Contract("policy", "P", "p", "", "", includes=("host",)),
        Contract("licence", "Q", "l", "", ""),
    )
    rows = tuple(replace(CLAUSE, id=f"{name}/1", contract=name) for name in ("licence", "host", "*", "other"))
    terms = Terms(contracts, rows)
    assert terms.closure("host") == ["host", "policy", "licence"]
    assert [one.id for one in terms.clauses_of("host", 0)] == ["host/1", "licence/1", "*/1"]
    assert terms.closure("nothing") == []


def test_a_review_is_of_one_text_and_the_newest_counts() -> None:
    first = Review("r1", "k/1", CLAUSE.digest, {"store": Decision.ALLOW}, "Ann", "read", 10)
    second = Review("r2", "k/1", CLAUSE.digest, {"store": Decision.ASK}, "Ben", "not sure", 20)
    terms = Terms(clauses=(CLAUSE,), reviews=(second, first))
    assert terms.review_of(CLAUSE, "store", 9) is None
    assert terms.review_of(CLAUSE, "store", 15) == first
    assert terms.review_of(CLAUSE, "store", 20) == second
    assert terms.review_of(CLAUSE, "embed", 20) is None
    other = replace(CLAUSE, quote="may not keep")
    assert terms.review_of(other, "store", 20) is None
    denied = replace(second, decisions={"store": Decision.DENY})
    assert Terms(reviews=(first, denied)).review_of(other, "store", 20) == denied


def test_what_a_reviewer_does_not_judge_does_not_ask_for_another_review() -> None:
    same = replace(CLAUSE, remark="a note", source="another copy", source_date="2027-01-01")
    assert same.digest == CLAUSE.digest
    for change in (
        {"quote": "x"},
        {"decisions": {"store": Decision.ASK}},
        {"duties": ("notice:A",)},
        {"until_ns": 5},
        {"unless_authorized": True},
        {"version": "2"},
        {"text_sha256": "0" * 64},
    ):
        assert replace(CLAUSE, **change).digest != CLAUSE.digest, change


def test_a_denial_for_a_tenant_holds_where_the_tenant_is_not_known_but_does_not_stop_a_channel() -> None:
    denial = Denial("d", "c", "store", "Ann", "no", 5, "acme")
    covers = {tenant: denial.covers(Origin("c", "k", 0, tenant), "store", 9) for tenant in ("", "acme", "beta")}
    assert covers == {"": True, "acme": True, "beta": False}
    serving = replace(denial, purpose="serve")
    assert not serving.covers(Origin("c", "k", 0), "serve", 9)


def test_a_grant_with_a_scope_does_not_fit_what_cannot_be_checked() -> None:
    grant = Grant("g", "c", "store", "P", "", "Ann", "yes", 0, tenant="acme", models=("m1",))
    assert grant.covers(Origin("c", "k", 0, "acme", "m1"), "store", 5)
    assert not grant.covers(Origin("c", "k", 0, "", "m1"), "store", 5)
    assert not grant.covers(Origin("c", "k", 0, "acme", ""), "store", 5)


@given(worlds(), moments)
def test_changes_are_in_order_and_later(terms: Terms, after_ns: int) -> None:
    found = terms.changes(after_ns)
    assert found == sorted(set(found))
    assert all(moment > after_ns for moment in found)


@given(worlds(), origins)
def test_what_is_captured_now_is_under_the_contract_in_force(terms: Terms, origin: Origin) -> None:
    now = terms.origin_now(origin.channel, origin.at_ns, origin.tenant)
    if now.contract:
        bound = terms.bound_at(now)
        assert bound is not None
        assert bound.contract == now.contract
