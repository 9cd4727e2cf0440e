"""Latches and incidents in the state: acts first, one incident for each latch, pauses that grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from upeti.control import latches
from upeti.control.latch_view import channels_shown, shown_incident
from upeti.control.latches import (
    PROBE,
    RULE,
    affected,
    all_incidents,
    all_latches,
    claim,
    due,
    incident_of,
    pause_ns,
    person_latched,
    person_opened,
    probed,
    signalled,
)
from upeti.control.store import Store
from upeti.core.errors import ConfigError, JournalError
from upeti.gateway.keeper_link import Latched
from upeti.gateway.latch import Latch, Scope, State, Subject
from upeti.journal.acts import read_acts

OpenStore = Callable[[], Store]
NOW = 1_790_000_000 * 10**9
S = 10**9
UP = Subject(Scope.CHANNEL, "up")
MODEL = Subject(Scope.MODEL, "up", "gpt-old")


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()


def word(subject: Subject = UP, incident: str = "inc_1") -> Latched:
    latch = Latch(
        subject, State.LATCHED, NOW, incident, "account_cut", "it is cut (status 401)", "", "messages", "claude"
    )
    return Latched(latch, "openai-account-deactivated", 401, "ab" * 32, '{"error":"cut"}')


def test_a_report_latches_once_and_is_an_act_and_an_incident(store: Store, tmp_path: Path) -> None:
    before = store.changes()
    shut = signalled(store, tmp_path, word(), NOW)
    assert shut == word().latch
    assert store.changes() == before + 1
    other = signalled(store, tmp_path, word(incident="inc_2"), NOW + 1)
    assert other is not None
    assert other.incident == "inc_1"  # the first one's
    assert store.changes() == before + 1
    (row,) = all_latches(store)
    assert (row.latch, row.probes, row.next_probe_ns) == (shut, 0, NOW + 1 * S)
    (incident,) = all_incidents(store)
    assert (incident.id, incident.signal, incident.status, incident.excerpt) == (
        "inc_1",
        "openai-account-deactivated",
        401,
        '{"error":"cut"}',
    )
    (act,) = read_acts(tmp_path)
    assert (act.actor, act.kind, act.subject) == (RULE, "latch.latched", "inc_1")
    assert msgspec.json.decode(act.detail) == {
        "scope": "channel",
        "channel": "up",
        "of": "",
        "meaning": "account_cut",
        "signal": "openai-account-deactivated",
        "status": 401,
    }


def test_pauses_grow_until_a_probe_is_answered(store: Store, tmp_path: Path) -> None:
    signalled(store, tmp_path, word(), NOW)
    assert due(store, NOW + 1 * S - 1) == []
    now_ns = NOW
    pauses = []
    for _ in range(11):
        (row,) = due(store, now_ns := all_latches(store)[0].next_probe_ns)
        assert claim(store, row, now_ns)
        assert not claim(store, row, now_ns)  # another node comes too late
        assert due(store, now_ns) == []
        assert not probed(store, tmp_path, UP, passed=False, what="401", now_ns=now_ns)
        pauses.append((all_latches(store)[0].next_probe_ns - now_ns) // S)
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    before = store.changes()
    assert probed(store, tmp_path, UP, passed=True, what="status 200", now_ns=now_ns)
    assert store.changes() == before + 1
    assert all_latches(store) == []
    incident = incident_of(store, "inc_1")
    assert (incident.probes, incident.recovered_ns, incident.recovered_by) == (12, now_ns, PROBE)
    assert [(act.actor, act.kind) for act in read_acts(tmp_path)] == [(RULE, "latch.latched"), (PROBE, "latch.opened")]
    assert not probed(store, tmp_path, UP, passed=True, what="", now_ns=now_ns)
    assert pause_ns(10_000) == 300 * S


def test_a_word_that_was_on_its_way_for_long_latches_nothing(store: Store, tmp_path: Path) -> None:
    signalled(store, tmp_path, word(), NOW)
    probed(store, tmp_path, UP, passed=True, what="status 200", now_ns=NOW)
    assert signalled(store, tmp_path, word(), NOW + 1) is None
    assert all_latches(store) == []
    assert signalled(store, tmp_path, word(incident="inc_2"), NOW + 2) is not None


def test_what_a_person_latched_only_a_person_opens(store: Store, tmp_path: Path) -> None:
    made = person_latched(store, tmp_path, "up", by="head of legal", why="contract under review", now_ns=NOW)
    assert (made.state, made.by, made.why) == (State.HELD, "head of legal", "head of legal: contract under review")
    assert due(store, NOW + 10**6 * S) == []
    assert not probed(store, tmp_path, UP, passed=True, what="status 200", now_ns=NOW)
    assert [row.state for row in all_latches(store)] == ["held"]
    assert person_opened(store, tmp_path, "up", by="head of legal", why="signed", now_ns=NOW + 1) == [UP]
    assert all_latches(store) == []
    assert incident_of(store, made.incident).recovered_by == "head of legal"
    assert [(act.actor, act.kind, act.reason) for act in read_acts(tmp_path)] == [
        ("head of legal", "latch.held", "contract under review"),
        ("head of legal", "latch.opened", "signed"),
    ]


def test_a_person_can_keep_what_a_rule_has_latched(store: Store, tmp_path: Path) -> None:
    signalled(store, tmp_path, word(), NOW)
    made = person_latched(store, tmp_path, "up", by="head of legal", why="we leave them", now_ns=NOW)
    assert made.incident == "inc_1"
    assert len(all_incidents(store)) == 1
    assert not probed(store, tmp_path, UP, passed=True, what="status 200", now_ns=NOW)
    assert due(store, NOW + 10**6 * S) == []


def test_one_model_is_opened_alone_or_with_its_channel(store: Store, tmp_path: Path) -> None:
    for subject, incident in ((UP, "inc_1"), (MODEL, "inc_2"), (Subject(Scope.KEY, "up", "k1"), "inc_3")):
        signalled(store, tmp_path, word(subject, incident), NOW)
    who = {"by": "head of legal", "why": "it is back", "now_ns": NOW}
    assert person_opened(store, tmp_path, "up", model="gpt-old", **who) == [MODEL]
    assert len(person_opened(store, tmp_path, "up", **who)) == 2
    with pytest.raises(ConfigError, match="the channel `up` is not latched"):
        person_opened(store, tmp_path, "up", **who)
    with pytest.raises(ConfigError, match="the model `gpt-old` of the channel `up`"):
        person_opened(store, tmp_path, "up", model="gpt-old", **who)


@pytest.mark.parametrize(("by", "why"), [("", "x"), ("rule:x", "x"), ("head of legal", " ")])
def test_a_decision_has_a_name_and_a_reason(store: Store, tmp_path: Path, by: str, why: str) -> None:
    with pytest.raises(ConfigError):
        person_latched(store, tmp_path, "up", by=by, why=why, now_ns=NOW)
    assert all_latches(store) == []


def test_nothing_is_latched_or_opened_that_cannot_be_recorded(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(latches, "record_acts", fails)
    with pytest.raises(JournalError):
        signalled(store, tmp_path, word(), NOW)
    assert all_latches(store) == all_incidents(store) == []


def test_calls_are_counted(store: Store, tmp_path: Path) -> None:
    signalled(store, tmp_path, word(), NOW)
    affected(store, {"inc_1": 3, "inc_unknown": 9})
    affected(store, {"inc_1": 4})
    assert incident_of(store, "inc_1").calls == 7
    with pytest.raises(ConfigError, match="there is no incident `inc_unknown`"):
        incident_of(store, "inc_unknown")


def test_what_people_see(store: Store, tmp_path: Path) -> None:
    signalled(store, tmp_path, word(MODEL, "inc_2"), NOW)
    person_latched(store, tmp_path, "down", by="head of legal", why="we leave", now_ns=NOW)
    kinds = {"up": "anthropic", "down": "azure", "idle": "openai_compatible"}
    shown = channels_shown(kinds, all_latches(store), {"up": 2.0, "down": 0.0})
    assert [(one.channel, one.model, one.state, one.breaker_open) for one in shown] == [
        ("up", None, "usable", True),
        ("up", "gpt-old", "latched", True),
        ("down", None, "held", False),
        ("idle", None, "usable", None),
    ]
    assert shown[1].next_probe == "2026-09-21T14:13:21+00:00"
    assert (shown[2].by, shown[2].next_probe) == ("head of legal", None)
    found = shown_incident(incident_of(store, "inc_2"))
    assert (found["channel"], found["of"], found["recovered"]) == ("up", "gpt-old", None)
