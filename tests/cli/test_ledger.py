from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.journal_files import START_NS, JournalFiles, opened, settled
from support.keeper_side import until
from support.upeti_process import in_background, upeti_process
from upeti.cli.ledger import ledger_app
from upeti.control.places import STATE_FILE, Places
from upeti.core.events import Outcome


def run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(ledger_app, [*arguments, "--data-dir", str(data_dir)])


def run_json(data_dir: Path, *arguments: str) -> Any:
    result = run(data_dir, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1, cost_pico=1_000_000_000_001))
    files.append(opened(2, tenant="globex", currency="IDR"))
    files.append(settled(2, cost_pico=5, outcome=Outcome.ESTIMATED, meters=None))
    files.close()
    assert run_json(tmp_path, "post") == {"segments": 1}
    return tmp_path


def test_the_trial_balance_is_zero_in_every_currency(data_dir: Path) -> None:
    made = run_json(data_dir, "balance", "--by", "account,tenant")
    assert made["totals"] == {"IDR": "0", "USD": "0"}
    assert [tuple(line.values()) for line in made["lines"]] == [
        ("IDR", "model_cost", "globex", "0.000000000005"),
        ("IDR", "provider_estimated", "globex", "-0.000000000005"),
        ("USD", "model_cost", "acme", "1.000000000001"),
        ("USD", "provider_payable", "acme", "-1.000000000001"),
    ]
    text = run(data_dir, "balance").stdout
    assert "USD: debits and credits are equal." in text
    assert "1.000000000001" in text
    with sqlite3.connect(data_dir / STATE_FILE) as connection:
        connection.execute("UPDATE postings SET amount_pico = '6' WHERE amount_pico = '5'")
    broken = run(data_dir, "balance")
    assert broken.exit_code == 1
    assert "IDR: debits and credits differ by 0.000000000001." in broken.stdout


def test_balances_by_something_else_are_refused(data_dir: Path) -> None:
    result = run(data_dir, "balance", "--by", "colour")
    assert result.exit_code == 2
    assert "account, tenant, channel" in result.output


def test_postings_name_what_they_stand_for(data_dir: Path) -> None:
    rows = run_json(data_dir, "postings", "--account", "model_cost")
    assert [(row["stands_for"], row["amount"], row["day"]) for row in rows] == [
        ("w0-0001/0", "1.000000000001", "2026-11-01"),
        ("w0-0001/0", "0.000000000005", "2026-11-01"),
    ]
    assert len(run_json(data_dir, "postings", "--limit", "1")) == 1
    assert run_json(data_dir, "postings", "--from", "2026-11-02") == []
    read = list(csv.DictReader(io.StringIO(run(data_dir, "postings", "--csv", "--tenant", "globex").stdout)))
    assert [row["account"] for row in read] == ["model_cost", "provider_estimated"]


def test_verify_says_what_was_checked_and_what_is_wrong(data_dir: Path) -> None:
    made = run_json(data_dir, "verify")
    assert (made["sound"], made["batches"], made["segments"], made["findings"]) == (True, 1, 1, [])
    assert "The books are sound." in run(data_dir, "verify").stdout
    with sqlite3.connect(data_dir / STATE_FILE) as connection:
        connection.execute("UPDATE usage_days SET attempts = 2 WHERE tenant = 'acme'")
    result = run(data_dir, "verify")
    assert result.exit_code == 1
    assert "usage differs" in result.stdout
    assert "The books are damaged." in result.stdout


def test_a_month_is_closed_or_refused_with_the_reason(data_dir: Path) -> None:
    assert run_json(data_dir, "periods") == [{"period": "2026-11", "batches": 1, "closed_at": None}]
    refused = run(data_dir, "close", "2100-01")
    assert refused.exit_code == 2
    assert "is not over" in refused.output
    made = run_json(data_dir, "close", "2020-01")
    assert made["batch"] == 2
    assert [row["period"] for row in run_json(data_dir, "periods") if row["closed_at"]] == ["2020-01"]


def test_beside_a_keeper_only_what_is_closed_is_posted(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path, "keeper-now")
    files.append(opened(1, at_ns=START_NS), settled(1))
    places = Places(tmp_path)
    places.make()
    places.lock("keeper")
    assert run_json(tmp_path, "post") == {"segments": 0}
    files.close()
    assert run_json(tmp_path, "post") == {"segments": 1}


def test_from_real_calls_to_sound_books(tmp_path: Path) -> None:
    """A gateway whose worker is killed within a call: what it left is posted at its bound, and everything adds up."""
    with upeti_process(tmp_path) as upeti:
        upeti.start()
        for _ in range(3):
            assert upeti.call()[0] == 200

        def cut_off() -> None:
            with suppress(OSError):
                upeti.call("m-slow30000")

        in_background(cut_off)
        until(
            lambda: b"m-slow" in b"".join(path.read_bytes() for path in upeti.data_dir.rglob("w*/*.upj")),
            what="the call",
        )
        for pid in upeti.pids("gateway.worker"):
            os.kill(pid, signal.SIGKILL)
        until(lambda: any(upeti.data_dir.glob("journal/keeper-*/*.upj")), what="the recovery")
        upeti.stop()

    def say(*arguments: str) -> Any:
        ran = upeti.command(*arguments, "--json")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)

    say("ledger", "post")
    audit = say("ledger", "verify")
    assert (audit["sound"], audit["unchecked"]) == (True, {})
    (billed,) = say("bill", "--by", "tenant")["lines"]
    (charged,) = say("chargeback", "--by", "tenant")["lines"]
    assert {name: charged[name] for name in ("cost", "attempts", "estimated")} == {
        name: billed[name] for name in ("cost", "attempts", "estimated")
    }
    assert charged["attempts"] == 4
    assert charged["estimated"] != "0"
    lines = {line["account"]: line["balance"] for line in say("ledger", "balance")["lines"]}
    assert lines["model_cost"] == charged["cost"]
    assert lines["provider_estimated"] == f"-{charged['estimated']}"
