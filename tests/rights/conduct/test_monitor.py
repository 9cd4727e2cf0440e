"""Windows of tenants and clusters: what opens a case and what does not, over restarts, without a text being kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from support.conduct_side import body, question, small, task
from upeti.rights.conduct.monitor import DRIFT, PURPOSE, SIGNS, Call, Finding, Monitor, MonitorState, Surroundings

SALT = b"the salt of the tests"
HOUR_NS = 3600 * 10**9
WINDOW = 200
QUICK = small(WINDOW)


class Tenants:
    """A stream of calls, one a minute."""

    def __init__(self, seed: int = 1) -> None:
        self.dice = random.Random(seed)
        self.number = 0

    def call(self, text: str, *, tenant: str = "acme", key: str = "k1", system: str = "", **fields: Any) -> Call:
        self.number += 1
        request = body(text, system, **fields)
        return Call(f"req_{self.number}", self.number * 60 * 10**9, tenant, key, "", "chat_completions", request)

    def honest(self, calls: int, **options: Any) -> Iterator[Call]:
        for _ in range(calls):
            yield self.call(question(self.dice), **({"user": "u1"} | options))


def taken(monitor: Monitor, calls: Iterator[Call] | list[Call]) -> list[Finding]:
    return [finding for call in calls for finding in monitor.take(call)[1]]


def families(findings: list[Finding]) -> list[list[str]]:
    return [sorted(finding.families) for finding in findings]


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(QUICK, SALT)


def test_an_honest_tenant_is_left_alone_and_a_harvesting_one_found(monitor: Monitor) -> None:
    tenants = Tenants()
    assert families(taken(monitor, tenants.honest(6 * WINDOW))) == [[]] * 6
    dice = tenants.dice
    mixed = [tenants.call(task(dice) if dice.random() < 0.2 else question(dice)) for _ in range(WINDOW)]
    (finding,) = taken(monitor, mixed)
    assert (finding.unit, finding.tenants) == ("tenant:acme", ("acme",))
    evidence = finding.families[DRIFT]
    assert evidence["p"] <= QUICK.drift.p_max
    assert evidence["moved"]["lines"]["distance"] > 0.1
    assert len(evidence["call_digests"]) == 50
    assert (evidence["calls"], evidence["keys"]) == (WINDOW, 1)


def test_nothing_is_compared_before_there_is_a_past(monitor: Monitor) -> None:
    tenants = Tenants()
    assert families(taken(monitor, tenants.honest(WINDOW))) == [[]]
    assert monitor.state.units["tenant:acme"].ratios == []


def test_a_whole_harvest_shows_signs_and_contradicts_what_was_declared() -> None:
    about = Surroundings(purpose_of=lambda tenant: "customer_support")
    monitor = Monitor(QUICK, SALT, about=about)
    tenants = Tenants()
    calls = [tenants.call(task(tenants.dice), max_tokens=8000, n=4) for _ in range(WINDOW)]
    (finding,) = taken(monitor, calls)
    assert sorted(finding.families) == [PURPOSE, SIGNS]
    assert finding.families[PURPOSE]["declared"] == {"acme": "customer_support"}
    assert "generation" in finding.families[PURPOSE]["against"]["acme"]
    fired = {sign["name"] for sign in finding.families[SIGNS]["signs"] if sign["fires"]}
    assert fired >= {"no_end_users", "few_repeats", "reasoning", "generation", "choices", "long_output"}


def test_an_edited_template_is_not_even_drift(monitor: Monitor) -> None:
    tenants = Tenants()

    def prompts(template: str, system: str, calls: int) -> Iterator[Call]:
        for _ in range(calls):
            yield tenants.call(template.format(question(tenants.dice)), system=system, user="u1")

    first, second = (
        "Answer the customer.\n\nMessage: {}\n\nBe brief.",
        "You are the bank's assistant.\n- Be kind.\n- Be exact.\n\n{}\n\n---",
    )
    assert families(taken(monitor, prompts(first, "You help customers of a bank.", 4 * WINDOW))) == [[]] * 4
    after = families(taken(monitor, prompts(second, "You are the bank's assistant, version 2.", 4 * WINDOW)))
    assert after == [[]] * len(after)


def test_a_cluster_of_keys_that_each_stay_small_is_found(monitor: Monitor) -> None:
    """Fifty tenants with one key each: no tenant's own window is ever full."""
    tenants = Tenants()
    names = [(f"t{place}", f"k{place}") for place in range(50)]
    past = [call for tenant, key in names for call in tenants.honest(30, tenant=tenant, key=key)]
    assert taken(monitor, past) == []
    beginning = "You write data for our new model, as precisely as you can. "
    harvest = [
        tenants.call(task(tenants.dice), tenant=tenant, key=key, system=beginning, max_tokens=8000)
        for _ in range(6)
        for tenant, key in names
    ]
    findings = taken(monitor, harvest)
    assert len(findings) == 1
    assert findings[0].unit.startswith("template:")
    assert len(findings[0].tenants) == 50
    assert sorted(findings[0].families) == [DRIFT, SIGNS]
    fired = {sign["name"] for sign in findings[0].families[SIGNS]["signs"] if sign["fires"]}
    assert "many_keys" in fired


def test_honest_tenants_with_one_public_template_are_left_alone(monitor: Monitor) -> None:
    tenants = Tenants()
    system = "You are a helpful assistant. Answer the question with the context below."
    calls = [
        call
        for _ in range(6)
        for place in range(50)
        for call in tenants.honest(4, tenant=f"t{place}", key=f"k{place}", system=system)
    ]
    findings = taken(monitor, calls)
    assert {finding.unit.partition(":")[0] for finding in findings} == {"template"}
    assert families(findings) == [[]] * len(findings)


def test_companies_of_one_parent_are_one_unit_too() -> None:
    about = Surroundings(parent_of=lambda tenant: "holding" if tenant in ("a", "b") else tenant)
    monitor = Monitor(QUICK, SALT, about=about)
    tenants = Tenants()
    calls = [
        call for _ in range(WINDOW // 2) for tenant in "ab" for call in tenants.honest(1, tenant=tenant, key=tenant)
    ]
    assert [(finding.unit, finding.tenants) for finding in taken(monitor, calls)] == [("parent:holding", ("a", "b"))]


def test_what_was_found_becomes_the_past_when_the_case_is_closed() -> None:
    live = [False]
    monitor = Monitor(QUICK, SALT, about=Surroundings(has_case=lambda tenants: live[0]))
    tenants = Tenants()
    taken(monitor, tenants.honest(3 * WINDOW))

    def changed() -> list[list[str]]:
        calls = [
            tenants.call(f"{question(tenants.dice)}\n{question(tenants.dice)}\n" * 3, user="u1") for _ in range(WINDOW)
        ]
        return families(taken(monitor, calls))

    assert changed() == [[DRIFT]]
    live[0] = True
    assert changed() == [[DRIFT]]
    assert len(monitor.state.units["tenant:acme"].pending) == 2 * WINDOW
    live[0] = False
    for _ in range(4):
        found = changed()
    assert found == [[]]


def test_what_is_kept_survives_and_holds_no_text() -> None:
    first, tenants = Monitor(QUICK, SALT), Tenants()
    canary = "canary-5f1d9c the account of Siti Rahma"
    taken(first, tenants.honest(WINDOW + 50))
    taken(first, [tenants.call(canary, system=canary * 3, user="siti@example.com", key="k2") for _ in range(20)])
    kept = msgspec.msgpack.encode(first.state)
    for text in (canary, "canary", "Siti", "siti@example.com", "card", "Why"):
        assert text.encode() not in kept
    again = Monitor(QUICK, SALT, msgspec.msgpack.decode(kept, type=MonitorState))
    assert msgspec.msgpack.encode(again.state) == kept
    assert len(taken(again, tenants.honest(WINDOW - 70))) == 1


def test_calls_without_text_are_passed_over(monitor: Monitor) -> None:
    embed = Call("req_1", 1, "acme", "k1", "", "embeddings", b'{"input": "text"}')
    assert monitor.take(embed) == ([], [])
    assert monitor.take(msgspec.structs.replace(embed, wire="chat_completions", request=b"{")) == ([], [])
    assert monitor.state.units == {}
