"""Cases in the state: acts first, a named person for what hurts, clocks that end it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from upeti.control.case_effects import effects, notices_for, throttle_terms
from upeti.control.cases import (
    Case,
    Move,
    all_cases,
    bundle,
    case_of,
    decide,
    end_clocks,
    events_of,
    move,
    open_case,
    see,
)
from upeti.control.store import Store
from upeti.core.config import Conduct
from upeti.core.errors import ConfigError
from upeti.journal.acts import read_acts
from upeti.rights.conduct.case import DAY_NS, CaseError, Event, State

OpenStore = Callable[[], Store]
SETTINGS = Conduct(appeal_contact="appeals@example.com", appeal_days=7, throttle_days=14, throttle_calls_per_minute=30)
DRIFT = {"what": "prompts are unlike those before", "p": 0.0001}
SIGNS = {"what": "two signs of elicitation", "signs": ["max_output", "logprobs"]}
NOW = 1_790_000_000 * 10**9
TWO = {"drift": DRIFT, "elicitation": SIGNS}


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def suspended(store: Store, folder: Path, tenant: str = "acme") -> Case:
    case_id = open_case(store, folder, tenant, "conduct", DRIFT, family="drift", at_ns=NOW)
    return decide(
        store, folder, case_id, Event.SUSPEND, person="head of legal", why="it harvests", settings=SETTINGS, at_ns=NOW
    )


def test_a_window_with_one_family_opens_a_case_and_never_more(store: Store, tmp_path: Path) -> None:
    for look in range(5):
        case = see(store, tmp_path, ["acme"], {"drift": DRIFT}, SETTINGS, at_ns=NOW + look)
        assert case is not None
        assert (case.id, case.state, case.families) == ("C-000001", State.OPEN, ("drift",))
    assert [event.event for event in events_of(store, "C-000001")] == ["open", *["evidence"] * 4]
    assert effects(store).suspended == {}
    assert see(store, tmp_path, ["acme"], {}, SETTINGS, at_ns=NOW) is None


def test_two_families_warn_then_throttle_and_the_throttle_ends_by_itself(store: Store, tmp_path: Path) -> None:
    first = see(store, tmp_path, ["acme"], TWO, SETTINGS, at_ns=NOW)
    assert first is not None
    assert first.state is State.WARNED
    assert first.families == ("drift", "elicitation")
    second = see(store, tmp_path, ["acme"], TWO, SETTINGS, at_ns=NOW + 1)
    assert second is not None
    assert (second.state, second.until_ns) == (State.THROTTLED, NOW + 1 + 14 * DAY_NS)
    (terms,) = throttle_terms(effects(store), SETTINGS)
    assert (terms.tenant, terms.limit, terms.unit, terms.window) == ("acme", "30", "calls", "minute")
    third = see(store, tmp_path, ["acme"], TWO, SETTINGS, at_ns=NOW + 2)
    assert third is not None
    assert (third.state, third.until_ns) == (State.THROTTLED, NOW + 2 + 14 * DAY_NS)
    assert end_clocks(store, tmp_path, SETTINGS, third.until_ns - 1) == []
    (ended,) = end_clocks(store, tmp_path, SETTINGS, third.until_ns)
    assert (ended.state, ended.until_ns) == (State.WARNED, 0)
    assert throttle_terms(effects(store), SETTINGS) == []


def test_two_families_in_two_looks_of_one_each_do_nothing(store: Store, tmp_path: Path) -> None:
    see(store, tmp_path, ["acme"], {"drift": DRIFT}, SETTINGS, at_ns=NOW)
    case = see(store, tmp_path, ["acme"], {"elicitation": SIGNS}, SETTINGS, at_ns=NOW + 1)
    assert case is not None
    assert case.state is State.OPEN
    assert case.families == ("drift", "elicitation")


def test_a_case_over_several_tenants_is_left_to_persons(store: Store, tmp_path: Path) -> None:
    for look in range(3):
        case = see(store, tmp_path, ["b", "a"], TWO, SETTINGS, at_ns=NOW + look)
    assert case is not None
    assert (case.state, case.tenants) == (State.OPEN, ("a", "b"))
    decide(store, tmp_path, case.id, Event.THROTTLE, person="head of legal", why="one template", settings=SETTINGS)
    assert [terms.tenant for terms in throttle_terms(effects(store), SETTINGS)] == ["a", "b"]
    assert len({terms.root for terms in throttle_terms(effects(store), SETTINGS)}) == 2


def test_a_persons_throttle_has_no_end_and_no_rule_gives_it_one(store: Store, tmp_path: Path) -> None:
    case = see(store, tmp_path, ["acme"], TWO, SETTINGS, at_ns=NOW)
    assert case is not None
    decide(store, tmp_path, case.id, Event.THROTTLE, person="head of legal", why="agreed", settings=SETTINGS, at_ns=NOW)
    again = see(store, tmp_path, ["acme"], TWO, SETTINGS, at_ns=NOW + 1)
    assert again is not None
    assert (again.state, again.until_ns) == (State.THROTTLED, 0)


def test_a_suspension_names_a_person_and_the_evidence_it_stands_on(store: Store, tmp_path: Path) -> None:
    case_id = open_case(store, tmp_path, "acme", "conduct", DRIFT, family="drift", at_ns=NOW)
    with pytest.raises(CaseError, match="needs a person with a name"):
        move(store, tmp_path, case_id, Move(Event.SUSPEND, "a rule tries"))
    with pytest.raises(CaseError, match="no name of a person"):
        decide(store, tmp_path, case_id, Event.SUSPEND, person="rule:x", why="w", settings=SETTINGS)
    with pytest.raises(CaseError, match="needs a reason"):
        decide(store, tmp_path, case_id, Event.SUSPEND, person="head of legal", why=" ", settings=SETTINGS)
    with pytest.raises(ConfigError, match="nobody is suspended who cannot appeal"):
        decide(store, tmp_path, case_id, Event.SUSPEND, person="head of legal", why="w", settings=Conduct())
    assert case_of(store, case_id).state is State.OPEN
    case = decide(store, tmp_path, case_id, Event.SUSPEND, person="head of legal", why="it harvests", settings=SETTINGS)
    assert case.suspended_by == "head of legal"
    seen = events_of(store, case_id)
    assert case.bundle_sha256 == hashlib.sha256(bundle(case, seen[: case.bundle_events])).hexdigest()
    open_case(store, tmp_path, "acme", "conduct", SIGNS, family="elicitation")
    later = case_of(store, case_id)
    assert bundle(later, events_of(store, case_id)[: later.bundle_events]) == bundle(case, seen)
    last = [each for each in read_acts(tmp_path) if each.kind == "conduct.suspend"][-1]
    assert (last.actor, last.subject, last.reason) == ("head of legal", case_id, "it harvests")
    assert case.bundle_sha256 in last.detail


def test_what_a_suspended_tenant_is_told(store: Store, tmp_path: Path) -> None:
    case = suspended(store, tmp_path)
    made = effects(store)
    assert made.suspended == {"acme": case.id}
    notice = notices_for(made, SETTINGS)[case.id]
    assert notice == (
        "This tenant is suspended since 2026-09-21T14:13:20+00:00 (case C-000001). To appeal, write to "
        "appeals@example.com and name the case C-000001."
    )


def test_an_appeal_that_nobody_decides_lapses_and_the_tenant_is_served(store: Store, tmp_path: Path) -> None:
    case = suspended(store, tmp_path)
    appealed = decide(
        store,
        tmp_path,
        case.id,
        Event.APPEAL,
        person="deputy head of legal",
        why="they say no",
        settings=SETTINGS,
        at_ns=NOW,
    )
    assert (appealed.state, appealed.until_ns) == (State.APPEALED, NOW + 7 * DAY_NS)
    assert (appealed.suspended_ns, appealed.suspended_by) == (NOW, "head of legal")
    assert "decided by 2026-09-28" in notices_for(effects(store), SETTINGS)[case.id]
    assert end_clocks(store, tmp_path, SETTINGS, NOW + 7 * DAY_NS - 1) == []
    (lapsed,) = end_clocks(store, tmp_path, SETTINGS, NOW + 7 * DAY_NS)
    assert (lapsed.state, lapsed.suspended_ns) == (State.THROTTLED, 0)
    assert effects(store).suspended == {}
    assert lapsed.until_ns == NOW + 21 * DAY_NS
    assert [(each.kind, each.actor) for each in read_acts(tmp_path)][-1] == ("conduct.lapse", "rule:clock")


def test_an_appeal_is_upheld_by_another_person_only(store: Store, tmp_path: Path) -> None:
    case = suspended(store, tmp_path)
    decide(store, tmp_path, case.id, Event.APPEAL, person="head of legal", why="they say no", settings=SETTINGS)
    with pytest.raises(CaseError, match="by another person than head of legal"):
        decide(store, tmp_path, case.id, Event.UPHOLD, person="Head  of legal", why="still", settings=SETTINGS)
    upheld = decide(
        store, tmp_path, case.id, Event.UPHOLD, person="deputy head of legal", why="still", settings=SETTINGS
    )
    assert (upheld.state, upheld.until_ns, upheld.suspended_by) == (State.SUSPENDED, 0, "head of legal")
    decide(store, tmp_path, case.id, Event.CLOSE, person="head of legal", why="they have stopped", settings=SETTINGS)
    assert effects(store).suspended == {}
    assert all_cases(store, live=True) == []
    with pytest.raises(CaseError, match="open a new one"):
        decide(store, tmp_path, case.id, Event.WARN, person="head of legal", why="w", settings=SETTINGS)
    assert open_case(store, tmp_path, "acme", "conduct", DRIFT) == "C-000002"


def test_a_hold_by_rule_is_short_and_ends_by_itself(store: Store, tmp_path: Path) -> None:
    def hold(until_ns: int, state: str = "quarantined") -> str:
        evidence = {"what": "the provider blocked the account for abuse"}
        return open_case(store, tmp_path, "acme", "abuse_block", evidence, state=state, until_ns=until_ns, at_ns=NOW)

    for until_ns in (0, NOW, NOW + DAY_NS + 1):
        with pytest.raises(CaseError, match="ends by itself within a day"):
            hold(until_ns)
    with pytest.raises(CaseError, match="begins as open or quarantined"):
        hold(NOW + 1, "suspended")
    case_id = hold(NOW + 3600 * 10**9)
    case = case_of(store, case_id)
    assert (case.state, case.suspended_ns, case.suspended_by) == (State.QUARANTINED, NOW, "")
    made = effects(store)
    assert made.suspended == {"acme": case_id}
    assert "held since" in made.notices[case_id]
    assert hold(NOW + 3600 * 10**9) == case_id
    (ended,) = end_clocks(store, tmp_path, SETTINGS, NOW + 3600 * 10**9)
    assert (ended.state, ended.suspended_ns) == (State.OPEN, 0)
    assert effects(store).suspended == {}
    assert hold(NOW + 7200 * 10**9) == case_id
    assert case_of(store, case_id).state is State.QUARANTINED


def test_a_hold_does_not_undo_a_throttle(store: Store, tmp_path: Path) -> None:
    evidence = {"what": "the provider blocked the account for abuse"}
    first = open_case(store, tmp_path, "acme", "abuse_block", evidence, at_ns=NOW)
    decide(store, tmp_path, first, Event.THROTTLE, person="head of legal", why="again", settings=SETTINGS, at_ns=NOW)
    until_ns = NOW + 3600 * 10**9
    for _ in range(2):
        held = open_case(
            *(store, tmp_path, "acme", "abuse_block", evidence), state="quarantined", until_ns=until_ns, at_ns=NOW
        )
        assert held == "C-000002"
    assert [case.state for case in all_cases(store)] == [State.QUARANTINED, State.THROTTLED]
    end_clocks(store, tmp_path, SETTINGS, until_ns)
    assert [case.state for case in all_cases(store)] == [State.OPEN, State.THROTTLED]


def test_the_case_of_a_cluster_takes_new_tenants_until_somebody_decides(store: Store, tmp_path: Path) -> None:
    kind = "cluster:template:1"
    for tenants in (["a", "b"], ["b", "c"], ["a"]):
        see(store, tmp_path, tenants, {"drift": DRIFT}, SETTINGS, kind=kind, at_ns=NOW)
    (case,) = all_cases(store)
    assert case.tenants == ("a", "b", "c")
    decide(
        store, tmp_path, case.id, Event.SUSPEND, person="head of legal", why="one hand", settings=SETTINGS, at_ns=NOW
    )
    for tenants in (["a", "c"], ["c", "d"]):
        see(store, tmp_path, tenants, {"drift": DRIFT}, SETTINGS, kind=kind, at_ns=NOW)
    second, first = all_cases(store)
    assert (first.tenants, second.tenants, second.state) == (("a", "b", "c"), ("c", "d"), State.OPEN)
    assert sorted(effects(store).suspended) == ["a", "b", "c"]


def test_nobody_is_suspended_twice_on_the_same_evidence(store: Store, tmp_path: Path) -> None:
    case = suspended(store, tmp_path)
    decide(
        store, tmp_path, case.id, Event.REDUCE, person="head of legal", why="they asked", settings=SETTINGS, at_ns=NOW
    )
    with pytest.raises(CaseError, match="on the same evidence before"):
        decide(store, tmp_path, case.id, Event.SUSPEND, person="head of legal", why="after all", settings=SETTINGS)
    open_case(store, tmp_path, "acme", "conduct", SIGNS, family="signs", at_ns=NOW)
    again = decide(store, tmp_path, case.id, Event.SUSPEND, person="head of legal", why="new signs", settings=SETTINGS)
    assert again.bundle_sha256 != case.bundle_sha256


def test_nothing_changes_when_the_act_cannot_be_recorded(store: Store, tmp_path: Path) -> None:
    case_id = open_case(store, tmp_path, "acme", "conduct", DRIFT)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the journal of acts would be")
    with pytest.raises(Exception, match="acts cannot be recorded"):
        move(store, blocked, case_id, Move(Event.CLOSE, "done", "head of legal"))
    assert case_of(store, case_id).state is State.OPEN


def test_workers_are_told_of_every_move(store: Store, tmp_path: Path) -> None:
    before = store.changes()
    case = suspended(store, tmp_path)
    assert store.changes() > before + 1
    with pytest.raises(CaseError, match="there is no case `C-9`"):
        case_of(store, "C-9")
    assert case.kind == "conduct"
