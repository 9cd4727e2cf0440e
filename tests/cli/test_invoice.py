"""`upeti invoice` and its files, as they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.invoice_side import EXAMPLES, PERIOD, close, post, row
from upeti.cli.main import main
from upeti.control.store import Store

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `upeti` in a directory with the example's tenants, a closed month and its usage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("tenants.toml", "rates.toml"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    (tmp_path / "upeti.toml").write_text('[money]\ntenants_file = "tenants.toml"\nrates_file = "rates.toml"\n')
    store = Store(tmp_path / "upeti-data")
    post(
        store, row("warung"), row("orchard"), row("feed"), row("orchard", outcome="unpriced", price_id="", cost_pico=0)
    )
    close(store)
    store.close()

    def one(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert (ended.value.code or 0) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return one


def test_a_draft_is_shown_with_its_doubts_and_keeps_nothing(run: Run) -> None:
    text = run("invoice", "draft", "warung", PERIOD)
    assert "draft, not issued: PT Warung Contoh Sejahtera (warung), 2026-10" in text
    assert "VAT (PPN) 12 % of 7,379,167" in text
    assert "tax id-ppn: to be checked. Regulation of the Minister of Finance PMK 131/2024" in text
    assert "not billed: 10 attempts, search, gpt-4.1: no price in the book" in run(
        "invoice", "draft", "orchard", PERIOD
    )
    assert "Nothing was issued yet" in run("invoice", "list")


def test_an_issued_invoice_is_printed_byte_for_byte_as_it_is_kept(run: Run, tmp_path: Path) -> None:
    assert "UPT-2026-000001  invoice  orchard 2026-10  4.14 USD  issued, 626 JPY open" in run(
        "invoice", "issue", "orchard", PERIOD
    )
    shown = run("invoice", "show", "UPT-2026-000001", "--json")
    run("invoice", "export", "UPT-2026-000001", "kept.json")
    assert (tmp_path / "kept.json").read_bytes() == shown.encode()
    assert run("invoice", "show", "UPT-2026-000001", "--json") == shown
    (listed,) = json.loads(run("invoice", "list", "--json"))
    assert (listed["number"], listed["total"], listed["state"], listed["open"]) == (
        "UPT-2026-000001",
        "4.14",
        "issued",
        "626",
    )


@pytest.mark.parametrize(
    ("ending", "begins"),
    [
        ("html", b"<!doctype html>"),
        ("pdf", b"%PDF-"),
        ("csv", b"number,document,tenant"),
        ("parquet", b"PAR1"),
        ("json", b"{"),
    ],
)
def test_the_files_ending_says_what_is_written(run: Run, tmp_path: Path, ending: str, begins: bytes) -> None:
    run("invoice", "draft", "orchard", PERIOD, "--output", f"draft.{ending}")
    assert (tmp_path / f"draft.{ending}").read_bytes().lstrip().startswith(begins)


def test_an_ending_that_says_nothing_is_refused(run: Run) -> None:
    assert "the ending says no format; name a file with .json, .html" in run(
        "invoice", "draft", "orchard", PERIOD, "--output", "draft.doc", status=2
    )


def test_a_showback_is_json_by_feature(run: Run) -> None:
    found = json.loads(run("invoice", "draft", "feed", PERIOD, "--json"))
    assert found["internal"] is True
    assert [(one["name"], one["amount"]["billing"]) for one in found["features"]] == [("search", "3.6")]


def test_paying_correcting_crediting(run: Run) -> None:
    run("invoice", "issue", "orchard", PERIOD)
    paid = run("invoice", "pay", "UPT-2026-000001", "600", "--reference", "bank 1", "--day", "2026-11-20")
    assert "partly_paid, 26 JPY open" in paid
    assert "already; each has its own" in run(
        "invoice", "pay", "UPT-2026-000001", "1", "--reference", "bank 1", status=2
    )
    assert "Nothing came after UPT-2026-000001." in run("invoice", "correct", "UPT-2026-000001", "--reason", "report")
    assert "credit_note  orchard 2026-10  -4.14 USD" in run("invoice", "credit", "UPT-2026-000001", "--reason", "wrong")
    assert "refers to UPT-2026-000001: wrong" in run("invoice", "show", "UPT-2026-000002")
    assert "credited" in run("invoice", "list", "--tenant", "orchard", "--month", PERIOD)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("issue", "orchard", "2026-11"), "2026-11 is not closed: `upeti ledger close 2026-11`"),
        (("issue", "orchard", "Oct"), "Oct is no month; write it like 2026-10"),
        (("issue", "kios", PERIOD), "there is no tenant `kios`"),
        (("show", "UPT-2026-000009"), "there is no invoice UPT-2026-000009; `upeti invoice list` shows them"),
    ],
)
def test_errors_name_the_cure(run: Run, words: tuple[str, ...], message: str) -> None:
    assert message in run("invoice", *words, status=2)


def test_without_a_tenants_file_the_cure_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "upeti.toml").write_text("")
    assert "name one as tenants_file in [money]" in run("invoice", "draft", "orchard", PERIOD, status=2)
    assert "name one as tenants_file in [money]" in run("tenant", "list", status=2)
