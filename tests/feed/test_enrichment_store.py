"""Enrichments on disk: versions, what they cost, and that nothing of a cost is lost or counted twice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from support.feed_side import T, item
from upeti.feed.enrichment import UNKNOWN_COST, Enrichment, Provenance, Safety, Source, version_of
from upeti.feed.enrichment_store import Call, EnrichmentStore, Tried
from upeti.feed.store import FeedStore

FILM = item("a", title="A film")


def version(
    name: str = "a", digest: str = FILM.digest, cost: str = "0.01", model: str = "m", at_ns: int = 5
) -> Enrichment:
    return Enrichment(
        name,
        version_of(digest, "p1", "labels", model),
        ("war", "漢字"),
        0.5,
        Safety.SAFE,
        (0.25, -1.0),
        Provenance("call 1", "paid", model, "p1"),
        cost,
        "USD",
        at_ns,
        Source.PAID,
        "labels",
        digest,
    )


@pytest.fixture
def enrichments(tmp_path: Path) -> EnrichmentStore:
    return EnrichmentStore(FeedStore(tmp_path), T)


def call(cost: str = "0.01", name: str = "call 1") -> Call:
    return Call(name, 5, "labels", "read", 1, cost, "USD")


def test_a_version_comes_back_as_it_was(enrichments: EnrichmentStore) -> None:
    newer = version(digest="other", at_ns=9)
    own = msgspec.structs.replace(version(model="own", at_ns=7), source=Source.STUDENT, quality=None, embedding=None)
    for one in (version(), newer, own):
        enrichments.record(None, [one])
    assert enrichments.versions("a") == [version(), own, newer]
    assert enrichments.latest() == {"a": {Source.PAID: newer, Source.STUDENT: own}}
    assert enrichments.latest(since_ns=8) == {"a": {Source.PAID: newer}}
    assert enrichments.count() == 3


def test_items_want_what_their_present_text_has_not(enrichments: EnrichmentStore) -> None:
    enrichments.record(call(), [version()])
    changed = item("a", title="Another text")
    assert enrichments.wanting([FILM, changed, item("b", title="x")], "p1", "labels") == [changed, item("b", title="x")]
    assert enrichments.wanting([FILM], "p2", "labels") == [FILM]
    assert enrichments.wanting([FILM], "p1", "student") == [FILM]
    assert enrichments.of_text(FILM.digest, "p1", "labels") == version()
    assert enrichments.of_text(FILM.digest, "p2", "labels") is None


def test_tenants_do_not_see_each_other(enrichments: EnrichmentStore, tmp_path: Path) -> None:
    enrichments.record(call(), [version()])
    other = EnrichmentStore(FeedStore(tmp_path), "other")
    assert other.count() == 0
    assert other.of_text(FILM.digest, "p1", "labels") is None
    assert other.calls() == []


def test_a_call_counts_once_and_its_cost_is_in_versions_and_tries(enrichments: EnrichmentStore) -> None:
    failed_one = Call("call 0", 1, "labels", "unreadable", 1, "0.003", "USD")
    enrichments.record(failed_one, [], [Tried("a", "labels", FILM.digest, 1, "0.003", "USD", "no JSON")])
    assert enrichments.tried("labels")["a"].cost == "0.003"
    assert enrichments.balance() == (3 * 10**9, 3 * 10**9)
    for _ in range(2):  # said again by a worker that did not know whether it had come through
        enrichments.record(call(), [version(cost="0.013")])
    assert enrichments.tried("labels") == {}
    assert enrichments.balance() == (13 * 10**9, 13 * 10**9)
    assert [one.call_id for one in enrichments.calls()] == ["call 0", "call 1"]


def test_what_is_spent_is_what_was_made_in_the_time_or_used(enrichments: EnrichmentStore) -> None:
    enrichments.record(None, [version("a", at_ns=5), version("b", at_ns=50), version("c", at_ns=500)])
    enrichments.record(None, [version("d", cost=UNKNOWN_COST, at_ns=60)])
    used = {("a", version("a").version)}
    found, earlier, currencies = enrichments.spent(used, 40, 100)
    assert found == {"enrichment_paid": (2 * 10**10, 3, 1)}
    assert earlier == (0, 0, 0)
    assert currencies == {"USD"}
    assert enrichments.spent(set(), 0, 1) == ({}, (0, 0, 0), set())
    assert enrichments.spent(set(), 400, 401) == ({}, (2 * 10**10, 3, 1), {"USD"})  # bought before, not shown
