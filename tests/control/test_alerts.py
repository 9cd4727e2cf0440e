"""Alerts: once for each window and share, in the log and at a webhook that may be down, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from upeti.control import alerts
from upeti.control.alerts import SIGNATURE_HEADER, Watch, all_alerts
from upeti.control.ledger import Ask, Hello, Ledger, Return
from upeti.control.store import Store
from upeti.core import config
from upeti.gateway.log import Log
from upeti.money.budget_terms import BudgetTerms

NOW_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z
MONTH = BudgetTerms(name="m", limit="10", window="month", zone="Asia/Jakarta", tenant="acme")
WINDOW = "m@2026-11"
SECRET = "a-secret-of-the-tests"


class KeptLog(Log):
    def __init__(self) -> None:
        super().__init__("k", lambda: 0)
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def _write(self, level: str, event: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, event, fields | {"message": message}))


class Receiver:
    """A webhook on this machine that answers as it is told to."""

    def __init__(self) -> None:
        self.statuses: list[int] = []  # of the next answers; 200 when there are none
        self.heard: list[dict[str, Any]] = []
        self.unsigned = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                receiver.unsigned += self.headers.get(SIGNATURE_HEADER) != f"sha256={digest}"
                assert self.headers["content-type"] == "application/json"
                if status == 200:
                    receiver.heard.append(json.loads(body))
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def do_GET(self) -> None:  # a redirect that was followed
                raise AssertionError(self.path)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


class World:
    """A ledger with one budget, and a watch over it."""

    def __init__(self, store: Store, terms: BudgetTerms = MONTH, **settings: Any) -> None:
        self.store = store
        self.ledger = Ledger(store, now_ns=lambda: NOW_NS)
        self.ledger.set_terms({terms.root: terms})
        self.ledger.apply([Hello("w", 0, 1, "p", {})], {"w"})
        self.log = KeptLog()
        self.settings = config.Alerts(**settings)
        self.watch = self.new_watch()

    def new_watch(self) -> Watch:
        return Watch(self.store, self.ledger, self.log, lambda: self.settings)

    def spend(self, total: str, budget: str = WINDOW, **options: Any) -> None:
        pico = BudgetTerms(name="", limit=total).limit_pico
        self.ledger.apply([Ask("w", budget, 1, 0, final=True), Return("w", budget, 0, pico, **options)], {"w"})

    def look(self) -> list[str]:
        return [alert.id for alert in self.watch.look(NOW_NS)]

    def deliver(self) -> None:
        self.watch._not_before_s = 0.0  # as if the pause were over
        self.watch.deliver()


OpenStore = Callable[[], Store]


def test_each_share_is_told_of_once_in_each_window(open_store: OpenStore) -> None:
    world = World(open_store())
    assert world.look() == []
    world.spend("4.999999999999")
    assert world.look() == []
    world.spend("5")
    assert world.look() == [f"{WINDOW}/50"]
    world.spend("5.1")
    assert world.look() == []
    world.spend("10")  # two shares at once
    assert world.look() == [f"{WINDOW}/80", f"{WINDOW}/100"]
    # Another keeper on the same state, and this one started again, tell nobody again.
    assert World(open_store()).look() == []
    world.watch = world.new_watch()
    assert world.look() == []
    world.spend("9", "m@2026-12")
    assert world.look() == ["m@2026-12/50", "m@2026-12/80"]
    assert [(level, event) for level, event, _ in world.log.lines] == [("warning", "budget_share")] * 5
    assert world.log.lines[0][2] == {
        "message": "50 % of the budget m is spent: 5 of 10 USD",
        "budget": "m",
        "window": "2026-11",
        "spent": "5",
        "limit": "10",
        "share": 50,
    }


def test_a_lower_limit_may_make_a_share_pass(open_store: OpenStore) -> None:
    world = World(open_store())
    world.spend("3")
    assert world.look() == []
    changed = msgspec.structs.replace(MONTH, limit="6")
    world.ledger.set_terms({changed.root: changed})
    assert world.look() == [f"{WINDOW}/50"]


def test_rates_and_budgets_without_shares_are_quiet(open_store: OpenStore) -> None:
    world = World(open_store(), BudgetTerms(name="r", limit="1", unit="calls", window="minute", shares=()))
    world.spend("1", "r+calls@2026-11-23T23:40")
    assert world.look() == []


def test_a_frozen_budget_is_an_alarm_each_time_it_is_frozen(open_store: OpenStore) -> None:
    world = World(open_store())
    world.spend("1", overrun="call-0 cost 2, above its bound 1")
    assert world.look() == [f"{WINDOW}/frozen"]
    ((level, event, fields),) = world.log.lines
    assert (level, event) == ("error", "budget_frozen")
    assert "call-0 cost 2, above its bound 1; look at the price, then `upeti budget release m`" in fields["message"]
    world.spend("1", overrun="another")
    assert world.look() == []
    world.ledger.release("m")
    world.spend("1", overrun="call-1 cost 3, above its bound 1")
    assert world.look() == [f"{WINDOW}/frozen"]


def test_the_webhook_gets_each_alert_signed(
    open_store: OpenStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPETI_TEST_HOOK", SECRET)
    world = World(open_store(), webhook=receiver.url, secret="env:UPETI_TEST_HOOK")
    world.spend("8.5")
    world.look()
    world.deliver()
    world.deliver()
    assert [alert["id"] for alert in receiver.heard] == [f"{WINDOW}/50", f"{WINDOW}/80"]
    assert receiver.unsigned == 0
    assert receiver.heard[1] == {
        "id": f"{WINDOW}/80",
        "kind": "share",
        "budget": "m",
        "window": "2026-11",
        "share": 80,
        "spent": "8.5",
        "limit": "10",
        "unit": "USD",
        "mode": "hard",
        "tenant": "acme",
        "project": "",
        "key": "",
        "feature": "",
        "at": "2026-11-24T06:40:00+07:00",
        "resets_at": "2026-12-01T00:00:00+07:00",
        "reason": "",
    }
    assert all(row["delivered_ns"] > 0 for row in all_alerts(world.store))


@pytest.mark.parametrize("failure", [500, 404, 302])
def test_a_webhook_that_fails_is_tried_again_with_growing_pauses(
    open_store: OpenStore, receiver: Receiver, failure: int
) -> None:
    world = World(open_store(), webhook=receiver.url)
    receiver.statuses = [failure] * 3
    world.spend("8.5")
    world.look()
    for pause in ("1 s", "2 s", "4 s"):
        world.deliver()
        assert receiver.heard == []
        assert world.log.lines[-1][1] == "webhook_failed"
        assert pause in world.log.lines[-1][2]["message"]
        world.watch.deliver()  # too soon: nothing is sent
    world.deliver()
    assert [alert["share"] for alert in receiver.heard] == [50, 80]


def test_a_webhook_that_is_not_there_or_has_no_secret_keeps_alerts_waiting(
    open_store: OpenStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(open_store(), webhook="http://127.0.0.1:9/hook")
    world.spend("6")
    world.look()
    world.deliver()
    world.settings = config.Alerts(webhook="http://two..dots/hook")
    world.deliver()
    assert "codec" in world.log.lines[-1][2]["message"]
    monkeypatch.delenv("UPETI_TEST_HOOK", raising=False)
    world.settings = config.Alerts(webhook=receiver.url, secret="env:UPETI_TEST_HOOK")
    world.deliver()
    assert "UPETI_TEST_HOOK is not set" in world.log.lines[-1][2]["message"]
    assert [row["delivered_ns"] for row in all_alerts(world.store)] == [0]
    monkeypatch.setenv("UPETI_TEST_HOOK", SECRET)
    world.deliver()
    assert (len(receiver.heard), receiver.unsigned) == (1, 0)


def test_alerts_of_before_there_was_a_webhook_are_not_sent(open_store: OpenStore, receiver: Receiver) -> None:
    world = World(open_store())
    world.spend("6")
    world.look()
    world.settings = config.Alerts(webhook=receiver.url)
    world.spend("8")
    world.look()
    world.deliver()
    assert [alert["share"] for alert in receiver.heard] == [80]


def test_nothing_is_lost_while_the_state_cannot_be_read(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(open_store())
    world.look()
    world.spend("6")

    def broken(*_: Any) -> Any:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "budgets", broken)
        with pytest.raises(OSError, match="the disk is gone"):
            world.look()
    assert world.look() == [f"{WINDOW}/50"]


def test_an_alert_of_a_budget_that_is_gone_is_shown_all_the_same(open_store: OpenStore) -> None:
    world = World(open_store())
    world.spend("6")
    world.look()
    (row,) = all_alerts(world.store)
    assert alerts.alert_of(row, None).budget == "m"
