"""After cut streams, clients that left and a worker that was killed: once reconciled, what is owed is what was billed."""

from __future__ import annotations

import datetime
import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from support.keeper_side import until
from support.upeti_process import CONFIG, KEY, UpetiProcess, upeti_process
from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.journal.events_store import connect
from upeti.money.price_book import PriceBook
from upeti.money.reconcile.calls import BilledCall
from upeti.sim.provider_bill import billed_calls, main

SERVED = {"event": "served", "at_ns": 1_793_491_200 * 10**9, "client_request_id": "a-0", "model": "m"}
PRICES = """\
part = "sim"

[[price]]
models = ["m"]
from = 2026-01-01
currency = "USD"
per_million = { input = "1", output = "2" }
source = "made up for the tests"
source_date = 2026-11-23
"""


def bill(tmp_path: Path, *lines: dict[str, object], tail: str = "") -> list[BilledCall]:
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    (tmp_path / "prices.toml").write_text(PRICES)
    return list(billed_calls(tmp_path / "log", PriceBook.of_file(tmp_path / "prices.toml")))


def test_what_was_served_is_billed(tmp_path: Path) -> None:
    twice = SERVED | {"billed": {"input": 3, "output": 4}}
    unbilled = SERVED | {"billed": None, "client_request_id": "b-0"}
    seen = {"event": "seen", "client_request_id": "c-0"}
    (call,) = bill(tmp_path, twice, seen, unbilled, twice, tail='{"event": "ser')
    assert (call.attempt_id, call.day, call.meters) == ("a-0", datetime.date(2026, 11, 1), {"input": 6, "output": 8})
    assert call.cost_pico == 6 * 10**6 + 8 * 2 * 10**6


def test_what_has_no_price_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="x has no price"):
        bill(tmp_path, SERVED | {"model": "x", "billed": {"input": 3}})


def start_stream(upeti: UpetiProcess, model: str) -> urllib.request.addinfourl:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(
        f"{upeti.gateway}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    opened: urllib.request.addinfourl = urllib.request.urlopen(request, timeout=20)
    return opened


def ends(upeti: UpetiProcess) -> list[str]:
    """Return how the estimated attempts ended."""
    with connect(upeti.data_dir) as events:
        found = events.execute("SELECT ended FROM events WHERE outcome = 'estimated' ORDER BY ended")
        return [row[0] for row in found.fetchall()]


@pytest.mark.slow
def test_reconciled_events_are_what_the_provider_billed(tmp_path: Path) -> None:
    config = CONFIG.replace("[gateway]\n", '[gateway]\nclient_left = "cancel"\n')
    with upeti_process(tmp_path, config) as upeti:
        upeti.start()
        assert upeti.call("m")[0] == 200
        start_stream(upeti, "m-cut").read()  # the provider stops within its answer
        left = start_stream(upeti, "m-drip-each-out50")
        left.read(1)
        left.close()
        until(lambda: "client_left" in ends(upeti), what="the settlement of the call that was left")
        killed = start_stream(upeti, "m-drip-each-out60")
        killed.read(1)
        os.kill(upeti.pids("gateway.worker")[0], signal.SIGKILL)
        until(lambda: len(ends(upeti)) == 3, what="three estimated attempts")
        assert ends(upeti) == ["client_left", "cut", "worker_died"]
        log = tmp_path / "provider.jsonl"
        until(lambda: log.read_text().count('"served"') == 4, what="the provider's last line")
        main(["--log", str(log), "--prices", str(tmp_path / "prices.toml"), "--output", str(tmp_path / "calls.csv")])
        first = upeti.command("reconcile", str(tmp_path / "calls.csv"), "--correct", "--json")
        assert first.returncode == 0, first.stderr + first.stdout
        found = json.loads(first.stdout)
        (total,) = found["totals"]
        assert {kind["kind"] for kind in total["kinds"]} == {"aborted", "lost"}
        assert found["written"] == 3
        again = json.loads(upeti.command("reconcile", str(tmp_path / "calls.csv"), "--correct", "--json").stdout)
        (total,) = again["totals"]
        assert (total["difference"], total["unexplained"], again["written"]) == ("0", "0", 0)
        with connect(upeti.data_dir) as events:
            (owed,) = events.execute("SELECT sum(cost) FROM events").fetchall()[0]
        billed = billed_calls(log, PriceBook.of_file(tmp_path / "prices.toml"))
        assert parse_pico(owed) == sum(call.cost_pico for call in billed), "to the last pico"
        upeti.stop()
