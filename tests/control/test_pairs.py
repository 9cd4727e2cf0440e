"""The table of pairs: a fold over journals; found by anything, page by page; erased for good."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete

from upeti.control import pairs
from upeti.control.retention import Retention
from upeti.control.store import Store, StoreError
from upeti.control.tables_capture import pairs as table
from upeti.control.tables_capture import tenant_salts
from upeti.core.config import Capture
from upeti.core.errors import ConfigError
from upeti.core.events import PairCaptured
from upeti.gateway.log import Log
from upeti.journal.acts import read_acts
from upeti.journal.blocks import captured_dir
from upeti.journal.bodies import Bodies, bodies_at
from upeti.journal.writer import SyncJournal

OpenStore = Callable[[], Store]
WHO = {"by": "legal", "why": "asked for"}
DAY_NS = 86_400 * 10**9


class Side:
    """A state with bodies and a journal, as the process that keeps has them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bodies: Bodies = bodies_at(store.data_dir, "")
        self._journal: SyncJournal | None = None
        self._count = 0

    def keep(
        self, tenant: str = "acme", *, user: str = "", asked: str = "", folded: bool = True, **changes: Any
    ) -> str:
        self._count += 1
        salt = pairs.salt_of(self.store, tenant)
        texts = [(asked or f"asked {self._count}").encode(), f"answered {self._count}".encode()]
        record = PairCaptured(
            pair_id=f"call_{self._count:04d}-0",
            at_ns=self._count * DAY_NS,
            call_id=f"call_{self._count:04d}",
            tenant=tenant,
            project="",
            key="k1",
            feature="search",
            task="topic",
            user_digest=pairs.user_digest(salt, user),
            route="m",
            channel="sim",
            model="m",
            wire="chat_completions",
            contract="sim-terms",
            clause="sim-terms/1",
            grant="",
            consent="con_1",
            redactions={"EMAIL": 1},
            request_digest=self.bodies.put(salt, texts[0]),
            answer_digest=self.bodies.put(salt, texts[1]),
            request_bytes=len(texts[0]),
            answer_bytes=len(texts[1]),
        )
        record = msgspec.structs.replace(record, **changes)
        if self._journal is None:
            self._journal = SyncJournal(captured_dir(self.store.data_dir), "capture-1", time.time_ns)
        self._journal.append([record])
        if folded:
            pairs.keep(self.store, [record])
        return record.pair_id

    def ids(self, **where: Any) -> list[str]:
        return [one.pair_id for one in pairs.find(self.store, **where)]

    def texts(self, pair_id: str) -> tuple[bytes, bytes] | None:
        (found,) = pairs.find(self.store, pair_id=pair_id, erased=None)
        return pairs.body(self.store, self.bodies, found)

    def bodies_there(self) -> set[str]:
        return {digest for digest, _ in self.bodies.kept()}

    def state(self) -> list[tuple[str, bool, str]]:
        return [(one.pair_id, one.erased_ns > 0, one.user_digest) for one in pairs.find(self.store, erased=None)]


@pytest.fixture
def side(open_store: OpenStore) -> Side:
    return Side(open_store())


def test_it_is_found_by_anything_that_is_known_of_it(side: Side) -> None:
    first = side.keep()
    other = {"task": "t2", "feature": "f2", "channel": "c2", "consent": "con_2", "grant": "gr_2", "clause": "cl/2"}
    second = side.keep("beta", contract="terms-2", **other)
    assert side.ids() == [first, second]
    for name, value in {**other, "tenant": "beta", "contract": "terms-2", "call_id": "call_0002"}.items():
        assert side.ids(**{name: value}) == [second], name
    assert side.ids(tenant="acme", task="t2") == []
    assert side.ids(from_ns=2 * DAY_NS) == [second]
    assert side.ids(until_ns=2 * DAY_NS) == [first]
    assert side.texts(first) == (b"asked 1", b"answered 1")
    (found,) = pairs.find(side.store, pair_id=first)
    assert found.redactions == {"EMAIL": 1}


def test_pages_leave_nothing_out_and_nothing_comes_twice(open_store: OpenStore) -> None:
    store = open_store()
    salt = pairs.salt_of(store, "acme")
    blank = dict.fromkeys(PairCaptured.__struct_fields__, "") | {"tenant": "acme", "redactions": {}}
    blank |= {"request_bytes": 1, "answer_bytes": 2, "user_digest": pairs.user_digest(salt, "u")}
    # Three moments only: pages end within one.
    rows = [blank | {"pair_id": f"p{number:05d}", "at_ns": 1 + number % 3} for number in range(1203)]
    records = [PairCaptured(**row) for row in rows]
    random.Random(4).shuffle(records)
    pairs.keep(store, records)
    pairs.keep(store, records[:700])  # again: nothing changes
    found = [(one.at_ns, one.pair_id) for one in pairs.find(store)]
    assert found == sorted((row["at_ns"], row["pair_id"]) for row in rows)
    assert pairs.counts(store) == [pairs.Count("acme", 1203, 0, 3609, 1)]
    erased = pairs.erase(store, bodies_at(store.data_dir, ""), tenant="acme", user="u", **WHO)
    assert len(erased.pairs) == len(set(erased.pairs)) == 1203
    parts = [msgspec.json.decode(one.detail)["pairs"] for one in read_acts(store.data_dir)]
    assert [len(part) for part in parts] == [500, 500, 203]
    assert pairs.counts(store) == [pairs.Count("acme", 0, 1203, 0, 0)]


def test_a_person_a_pair_a_tenant_are_erased(side: Side) -> None:
    rina, budi, theirs = side.keep(user="rina"), side.keep(user="budi"), side.keep("beta", user="rina")
    before = pairs.salt_of(side.store, "acme")
    erased = pairs.erase(side.store, side.bodies, tenant="acme", user="rina", **WHO)
    assert (erased.pairs, erased.bodies) == ([rina], 2)
    assert side.texts(rina) is None
    (gone,) = pairs.find(side.store, erased=True)
    assert (gone.pair_id, gone.user_digest) == (rina, "")
    assert pairs.erase(side.store, side.bodies, tenant="acme", user="rina", **WHO).pairs == []
    assert pairs.erase(side.store, side.bodies, pair_id=budi, **WHO).pairs == [budi]
    assert pairs.salt_of(side.store, "acme") == before
    assert pairs.erase(side.store, side.bodies, tenant="acme", **WHO).pairs == []
    assert pairs.salt_of(side.store, "acme") != before, "nothing can be tried out against what is in the journal"
    assert side.texts(theirs) is not None
    for one in read_acts(side.store.data_dir):
        assert "rina" not in f"{one.subject}{one.detail}"
        assert (one.kind, one.actor, one.reason) == (pairs.ERASED, "legal", "asked for")


def test_an_erasure_needs_a_name_a_reason_and_something_to_erase(side: Side) -> None:
    pair = side.keep()
    for wrong, what in (
        ({"tenant": "acme", "by": " ", "why": "x"}, "a name and a reason"),
        ({"tenant": "acme", "by": "legal", "why": ""}, "a name and a reason"),
        (WHO, "say what to erase"),
    ):
        with pytest.raises(ConfigError, match=what):
            pairs.erase(side.store, side.bodies, **wrong)
    with pytest.raises(StoreError, match="there is no pair `nope`"):
        pairs.erase(side.store, side.bodies, pair_id="nope", **WHO)
    assert side.texts(pair) is not None


def test_a_body_of_two_pairs_goes_with_the_last_of_them(side: Side) -> None:
    first, second, theirs = side.keep(asked="same"), side.keep(asked="same"), side.keep("beta", asked="same")
    assert pairs.erase(side.store, side.bodies, pair_id=first, **WHO).bodies == 1
    assert side.texts(second) is not None
    assert pairs.erase(side.store, side.bodies, pair_id=second, **WHO).bodies == 2
    assert side.texts(theirs) is not None


def test_an_erasure_that_was_broken_off_is_finished(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the act: the same again erases. Killed after the table: the sweep takes the bodies."""
    for broken in ("_mark_erased", "_unneeded"):
        pair = side.keep(user="rina")
        with monkeypatch.context() as patch:
            patch.setattr(pairs, broken, _killed)
            with pytest.raises(KeyboardInterrupt):
                pairs.erase(side.store, side.bodies, pair_id=pair, **WHO)
        assert len(side.bodies_there()) == 2
        if broken == "_mark_erased":
            assert side.ids() == [pair]
            assert pairs.erase(side.store, side.bodies, tenant="acme", user="rina", **WHO).pairs == [pair]
        else:
            assert side.ids() == []
            assert pairs.sweep(side.store, side.bodies, now_s=time.time()) == 0, (
                "it may belong to a pair that is written"
            )
            assert pairs.sweep(side.store, side.bodies, now_s=time.time() + 3700) == 2
        assert side.bodies_there() == set()


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_is_older_than_it_may_be_kept_is_erased_by_rule(side: Side) -> None:
    old, newer = side.keep(), side.keep()
    orphan = side.bodies.put(b"s" * 32, b"of a process that was killed")
    log = Log("test", time.time_ns)
    look = Retention(side.store, side.store.data_dir, lambda: Capture(retention_days=1), log).look
    assert look(2 * DAY_NS).pairs == []
    assert look(2 * DAY_NS + 1).pairs == [old]
    (record,) = read_acts(side.store.data_dir)
    assert (record.kind, record.actor) == (pairs.EXPIRED, pairs.RETENTION)
    assert side.ids() == [newer]
    assert orphan in side.bodies_there(), "its time, by the clock of files, has not come"
    now_s = time.time()
    assert pairs.sweep(side.store, side.bodies, now_s=now_s + 3700) == 1
    assert orphan not in side.bodies_there()
    assert side.texts(newer) is not None


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_the_fold_of_journals_and_acts(side: Side, seed: int) -> None:
    """After any sequence of keeping, losing, erasing and building anew, a table made from nothing is the same."""
    chance = random.Random(seed)
    kept: list[str] = []
    for _ in range(24):
        match chance.choice(("keep", "keep", "lose", "user", "pair", "expire", "rebuild")):
            case "keep":
                kept.append(side.keep(chance.choice(("acme", "beta")), user=chance.choice(("", "rina", "budi"))))
            case "lose":  # killed between the journal and the table
                kept.append(side.keep(user="budi", folded=False))
            case "user":
                pairs.erase(side.store, side.bodies, tenant="acme", user=chance.choice(("rina", "budi")), **WHO)
            case "pair" if there := side.ids():
                pairs.erase(side.store, side.bodies, pair_id=chance.choice(there), **WHO)
            case "expire":
                pairs.expire(side.store, side.bodies, before_ns=chance.randint(0, 3) * DAY_NS)
            case "rebuild":
                pairs.rebuild(side.store, side.store.data_dir, side.bodies)
    pairs.rebuild(side.store, side.store.data_dir, side.bodies)
    state = side.state()
    assert sorted(one for one, _, _ in state) == sorted(kept)
    for pair_id, erased, user in state:
        assert (side.texts(pair_id) is None) == erased
        assert not (erased and user)
    with side.store.writing() as connection:
        connection.execute(delete(table))
    assert pairs.rebuild(side.store, side.store.data_dir, side.bodies) == len(kept)
    assert side.state() == state
    assert pairs.rebuild(side.store, side.store.data_dir, side.bodies) == 0


def test_a_pair_without_its_bodies_is_built_as_erased(side: Side) -> None:
    first, second = side.keep(), side.keep()
    (found,) = pairs.find(side.store, pair_id=first)
    side.bodies.erase(found.answer_digest)
    with side.store.writing() as connection:
        connection.execute(delete(table))
    assert pairs.rebuild(side.store, side.store.data_dir, side.bodies) == 2
    assert side.ids() == [second]


def test_a_salt_is_made_once_whoever_asks(side: Side, open_store: OpenStore) -> None:
    assert pairs.salt_of(side.store, "acme") == pairs.salt_of(open_store(), "acme")
    assert pairs.salt_of(side.store, "acme") != pairs.salt_of(side.store, "beta")
    assert pairs.user_digest(b"a" * 32, "") == ""
    assert pairs.user_digest(b"a" * 32, "rina") != pairs.user_digest(b"b" * 32, "rina")
    with side.store.engine.connect() as connection:
        assert len(connection.execute(tenant_salts.select()).all()) == 2


def test_what_was_left_out_is_counted(side: Side) -> None:
    key = ("2026-11-27", "acme", "sim", "no_consent")
    pairs.note_left_out(side.store, {key: 2, ("2026-11-26", "beta", "sim", "no_answer"): 1})
    pairs.note_left_out(side.store, {key: 3})
    assert [tuple(one.values()) for one in pairs.left_out_counts(side.store)] == [
        ("2026-11-26", "beta", "sim", "no_answer", 1),
        (*key, 5),
    ]
