"""`upeti prices`: what it shows is what the book says, and what it writes is what a person chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.journal_files import DAY_NS, START_NS, JournalFiles, corrected, opened, settled
from upeti.cli.prices import prices_app
from upeti.control.books import Books
from upeti.control.store import Store
from upeti.core.events import Outcome
from upeti.journal.reader import corrections
from upeti.money.price import Price, cost_of
from upeti.money.price_book import PriceBook

CONFIG = """
data_dir = "."

[money]
price_files = ["own.toml"]

[[channel]]
name = "openai"
kind = "openai_compatible"
api_key = "env:NOT_SET"
prices = "own"

[[route]]
name = "fast"
candidate = [{ channel = "openai", model = "gpt-4.1-mini" }]
"""
OWN = """
part = "own"

[[price]]
models = ["gpt-4.1-mini"]
from = 2026-01-01
currency = "USD"
per_million = { input = "0.40", input_cached = "0.10", output = "1.60" }
per_call = "0.0001"
cliffs = [{ above_input_tokens = 1000, per_million = { input = "0.80", input_cached = "0.20", output = "3.20" } }]
source = "contract 17"
source_date = 2026-01-01
"""
CHEAPER = (
    OWN.replace("[[price]]", "")
    .replace('part = "own"', "[[price]]")
    .replace("0.40", "0.30")
    .replace("contract 17", "contract 17, as amended")
)


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(prices_app, [*arguments, "--config", str(folder / "upeti.toml")])


def said(folder: Path, *arguments: str) -> Any:
    result = run(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "upeti.toml").write_text(CONFIG)
    (tmp_path / "own.toml").write_text(OWN)
    return tmp_path


def price_of(folder: Path) -> Price:
    (row,) = PriceBook.of_file(folder / "own.toml").rows
    return row.price


# -- looking ----------------------------------------------------------------------------------------------------


def test_list_shows_what_is_in_force_on_a_day(folder: Path) -> None:
    (row,) = said(folder, "list", "--part", "own")
    assert (row["model"], row["tier"], row["from"], row["file"]) == (
        "gpt-4.1-mini",
        "",
        "2026-01-01",
        str(folder / "own.toml"),
    )
    assert row["per_million"] == {"input": "0.4", "input_cached": "0.1", "output": "1.6"}
    assert said(folder, "list", "--part", "own", "--as-of", "2025-12-31") == []
    tiers = {row["tier"] for row in said(folder, "list", "--part", "openai", "--model", "gpt-5.4")}
    assert tiers == {"", "batch", "flex", "priority"}
    (row,) = said(
        folder, "list", "--part", "azure", "--model", "gpt-5.4", "--tier", "standard", "--zone", "data_zone_apac"
    )
    assert row["per_million"]["input"] == "3"
    shown = run(folder, "list", "--part", "own").output
    assert "gpt-4.1-mini" in shown
    assert "cliff at 1,000" in shown


def test_show_finds_rows_by_model_and_by_the_id_of_a_bill(folder: Path) -> None:
    row_id = price_of(folder).id
    for name in (row_id, "gpt-4.1-mini"):
        shown = run(folder, "show", name, "--part", "own").output
        assert f"row {row_id}" in shown
        assert "contract 17, 2026-01-01" in shown
        assert "own.toml:4" in shown
        assert "above 1,000 input tokens" in shown
    refused = run(folder, "show", "gpt-of-next-year")
    assert refused.exit_code == 2
    assert "upeti prices list" in refused.output


def test_capacity_shows_what_is_rented_on_a_day(folder: Path) -> None:
    assert "Nothing is rented" in run(folder, "capacity").output
    rented = """
[[capacity]]
deployment = "chat-ptu"
units = 100
per_unit_hour = "1.00"
currency = "USD"
from = 2026-03-10T12:00:00Z
source = "reservation 4"
source_date = 2026-03-01
"""
    (folder / "own.toml").write_text(OWN + rented)
    (row,) = said(folder, "capacity", "--as-of", "2026-03-10")
    assert (row["cost"], row["seconds"], row["channel"]) == ("1200", 43_200, "own")
    assert "reservation 4" in run(folder, "capacity", "--as-of", "2026-03-11").output
    assert said(folder, "capacity", "--as-of", "2026-03-09") == []


# -- comparing --------------------------------------------------------------------------------------------------


def test_import_shows_every_disagreement_and_writes_only_what_was_chosen(folder: Path) -> None:
    (folder / "list.csv").write_text(
        "part,model,tier,zone,from,currency,meter,above_input_tokens,per_million,source,source_date\n"
        "own,gpt-4.1-mini,,,2026-03-01,USD,input,,0.50,list of March,2026-03-01\n"
        "own,gpt-4.1-mini,,,2026-03-01,USD,output,,1.60,list of March,2026-03-01\n"
        "own,gpt-4.1-mini,priority,,2026-03-01,USD,input,,1.00,list of March,2026-03-01\n"
        "own,gpt-4.1-mini,priority,,2026-03-01,USD,output,,3.00,list of March,2026-03-01\n"
    )
    compared = said(folder, "import", str(folder / "list.csv"))
    found = {(one["meter"], one["above_input_tokens"]): (one["book"], one["source"]) for one in compared["differences"]}
    assert found == {
        ("input", 0): ("0.4", "0.5"),
        ("input_cached", 0): ("0.1", None),
        ("input", 1000): ("0.8", None),
        ("input_cached", 1000): ("0.2", None),
        ("output", 1000): ("3.2", None),
        ("per_call", 0): ("0.0001", "0"),
    }
    assert [one["tier"] for one in compared["only_source"]] == ["priority"]
    assert {path.name for path in folder.iterdir()} == {"upeti.toml", "own.toml", "list.csv"}, "nothing was written"
    shown = run(folder, "import", str(folder / "list.csv")).output
    assert "1 prices differ, in 6 cells." in shown
    assert "1 prices only list.csv has: 1 own priority." in shown

    new = folder / "march.toml"
    result = run(folder, "import", str(folder / "list.csv"), "--write", str(new), "--remark", "accepted by finance")
    assert result.exit_code == 0, result.output
    book = PriceBook.load([folder / "own.toml", new])
    assert "accepted by finance" in new.read_text()
    day = book.rows[-1].effective
    standard, priority = (book.as_of(day, "own", "gpt-4.1-mini", tier) for tier in ("", "priority"))
    assert standard is not None
    assert standard.price.pico["input"] == 500_000
    assert standard.price.remark == f"Takes the place of row {price_of(folder).id} (contract 17)."
    assert priority is not None
    assert priority.price.pico["output"] == 3_000_000
    again = run(folder, "import", str(folder / "list.csv"), "--write", str(new))
    assert again.exit_code == 2
    assert "choose a new name" in again.output

    kept = folder / "kept.toml"
    options = ["--write", str(kept), "--take", "book", "--model", "gpt-4.1-mini", "--from", "2026-04-01"]
    assert run(folder, "import", str(folder / "list.csv"), *options).exit_code == 0
    (row,) = PriceBook.of_file(kept).rows
    assert (row.price.pico, row.effective.isoformat()) == (price_of(folder).pico, "2026-04-01")
    assert "list of March says otherwise" in row.price.remark
    unknown = run(folder, "import", str(folder / "list.csv"), "--write", str(folder / "x"), "--model", "gpt-none")
    assert unknown.exit_code == 2
    assert not (folder / "x").exists()


def test_import_from_a_price_file(folder: Path) -> None:
    (folder / "other.toml").write_text(OWN.replace("0.40", "0.45"))
    compared = said(folder, "import", str(folder / "other.toml"))
    assert [(one["meter"], one["book"], one["source"]) for one in compared["differences"]] == [("input", "0.4", "0.45")]
    refused = run(folder, "import", "nobody-prices")
    assert refused.exit_code == 2
    assert "genai-prices, azure-genai-prices" in refused.output


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("own,m,,,2026-03-01,USD,inputs,,1,s,2026-03-01", "list.csv:2: inputs is not a meter"),
        ("own,m,,,03/01/2026,USD,input,,1,s,2026-03-01", "list.csv:2: "),
        ("own,m,,,2026-03-01,USD,input,,,s,2026-03-01", "list.csv:2: per_million is empty"),
        ("own,m,,,2026-03-01,USD,input,,0.0000001,s,2026-03-01", "finer than"),
        ("own,m,,,2026-03-01,USD,input,,1,s,2026-03-01\n" * 2, "list.csv:3: input of m has a price already"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(folder: Path, line: str, says: str) -> None:
    head = "part,model,tier,zone,from,currency,meter,above_input_tokens,per_million,source,source_date\n"
    (folder / "list.csv").write_text(head + line)
    refused = run(folder, "import", str(folder / "list.csv"))
    assert refused.exit_code == 2
    assert says in refused.output


def test_diff_of_two_days_and_of_two_files(folder: Path) -> None:
    (folder / "own.toml").write_text(OWN + CHEAPER.replace("from = 2026-01-01", "from = 2026-06-01"))
    compared = said(folder, "diff", "2026-05-31", "2026-06-01")
    mine = [one for one in compared["differences"] if one["part"] == "own"]
    assert [(one["meter"], one["book"], one["source"]) for one in mine] == [("input", "0.4", "0.3")]
    assert not said(folder, "diff", "2026-06-01", "2026-06-01")["differences"]
    (folder / "other.toml").write_text(OWN.replace("1.60", "1.70"))
    compared = said(folder, "diff", str(folder / "own.toml"), str(folder / "other.toml"))
    assert {(one["meter"], one["book"], one["source"]) for one in compared["differences"]} == {
        ("input", "0.3", "0.4"),
        ("output", "1.6", "1.7"),
    }


# -- explaining -------------------------------------------------------------------------------------------------


def test_explain_says_which_cells_which_row_and_the_last_pico(folder: Path) -> None:
    price = price_of(folder)
    meters = {"input": 900, "input_cached": 200, "output": 7, "output_reasoning": 5}
    cost = cost_of(price, meters)
    assert cost == 900 * 800_000 + 200 * 200_000 + 12 * 3_200_000 + 10**8
    files = JournalFiles(folder)
    files.append(opened(1, bound_pico=10**10), settled(1, meters=meters, cost_pico=cost, price_id=price.id))
    files.append(opened(2, 1), settled(2, 1, outcome=Outcome.UNPRICED, cost_pico=0, price_id="", tier="scale"))
    (one,) = said(folder, "explain", "call-0001")
    assert one["cliff"] == 1
    assert {part["meter"]: (part["billed_as"], part["quantity"], part["per_unit"]) for part in one["parts"]} == {
        "input": ("input", 900, "0.0000008"),
        "input_cached": ("input_cached", 200, "0.0000002"),
        "output": ("output", 7, "0.0000032"),
        "output_reasoning": ("output", 5, "0.0000032"),
        "per_call": ("per_call", 1, "0.0001"),
    }
    assert one["sum"] == one["cost"] == one["owed"] == "0.0008984"
    assert (one["bound"], one["source"], one["source_date"]) == ("0.01", "contract 17", "2026-01-01")
    assert one["file"].endswith("own.toml:4")
    shown = run(folder, "explain", "call-0001-0").output
    for text in (
        "output_reasoning (billed as output)",
        "more than 1,000 input tokens",
        "cost  0.0008984 USD",
        "held  0.01",
    ):
        assert text in shown
    (two,) = said(folder, "explain", "call-0002-1")
    assert (two["cost"], two["price_id"], two["tier"]) == (None, "", "scale")
    assert "no row of the price book applied" in run(folder, "explain", "call-0002").output
    unknown = run(folder, "explain", "call-9999")
    assert unknown.exit_code == 2
    assert "upeti calls" in unknown.output


def test_explain_a_call_whose_file_is_gone_and_that_was_corrected(folder: Path) -> None:
    price = price_of(folder)
    store = Store(folder)
    Books(store).keep_prices([price], START_NS)
    store.close()
    cost = cost_of(price, {"input": 100, "output": 20})
    JournalFiles(folder).append(opened(1), settled(1, cost_pico=cost, price_id=price.id))
    files = JournalFiles(folder, "keeper-corrections-1")
    files.append(corrected(1, was="0.000172", now="0.0002"))
    (folder / "own.toml").write_text(OWN.replace("0.40", "0.41"))
    (one,) = said(folder, "explain", "call-0001")
    assert (one["file"], one["source"], one["sum"]) == (None, "contract 17", "0.000172")
    assert one["owed"] == "0.0002"
    assert [(each["was"], each["now"], each["reason"]) for each in one["corrections"]] == [
        ("0.000172", "0.0002", "reconciled")
    ]
    shown = run(folder, "explain", "call-0001").output
    assert "no price file states it any more" in shown
    assert "corrected (reconciled): 0.000172 → 0.0002 USD" in shown


# -- repricing --------------------------------------------------------------------------------------------------


def reprice(folder: Path, *options: str) -> Any:
    result = run(folder, "reprice", "--from", "2026-11-01", "--to", "2026-11-02", "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_reprice_corrects_what_differs_once(folder: Path) -> None:
    price = price_of(folder)
    small, large = {"input": 100, "output": 20}, {"input": 5_000, "output": 20}
    files = JournalFiles(folder)
    for call, meters in ((1, small), (2, large), (3, small)):
        cost = cost_of(price, meters)
        files.append(opened(call), settled(call, meters=meters, cost_pico=cost, price_id=price.id))
    files.append(opened(4), settled(4, outcome=Outcome.UNPRICED, cost_pico=0, price_id="", meters=small))
    files.append(opened(5), settled(5, outcome=Outcome.ESTIMATED, cost_pico=777, meters=None))
    files.append(opened(6), settled(6, meters=small, cost_pico=5, tier="flex"))
    files.append(opened(7, at_ns=START_NS + 5 * DAY_NS), settled(7, at_ns=START_NS + 5 * DAY_NS + 1, cost_pico=1))
    assert [change["outcome"] for change in reprice(folder, "--dry-run")] == ["posted", "unpriced"]
    assert not list(corrections(folder))

    (folder / "own.toml").write_text(OWN + CHEAPER)  # the same day, later in the file: refused
    assert run(folder, "reprice", "--from", "2026-11-01", "--to", "2026-11-02").exit_code == 2
    (folder / "own.toml").write_text(OWN.replace("0.40", "0.30"))
    cheaper = price_of(folder)
    changed = {(one["outcome"], one["tier"]): one for one in reprice(folder)}
    was = sum(cost_of(price, meters) or 0 for meters in (small, large, small))
    now = sum(cost_of(cheaper, meters) or 0 for meters in (small, large, small))
    posted = changed["posted", ""]
    assert (posted["was"], posted["now"]) == (f"{was / 10**12:.12f}".rstrip("0"), f"{now / 10**12:.12f}".rstrip("0"))
    assert posted["attempts"] == 3
    assert changed["unpriced", ""]["was"] == "0"
    assert changed["posted", "flex"]["why"] == "the book has no price"
    written = list(corrections(folder))
    assert {record.outcome for record in written} == {Outcome.POSTED, Outcome.UNPRICED}
    assert {record.reason for record in written} == {"repriced"}
    assert {record.price_id for record in written} == {cheaper.id}
    store = Store(folder)
    assert Books(store).price(cheaper.id) == cheaper, "usage and chargeback find what corrections name"
    store.close()

    assert [one["why"] for one in reprice(folder)] == ["the book has no price"], "nothing is left to correct"
    assert len(list(corrections(folder))) == 2
    (folder / "own.toml").write_text(OWN)
    reprice(folder)
    (folder / "own.toml").write_text(OWN.replace("0.40", "0.30"))
    reprice(folder)
    assert len(list(corrections(folder))) == 2 + 2 + 2, "there and back again are corrections of their own"


def test_reprice_leaves_alone_what_a_report_has_corrected(folder: Path) -> None:
    files = JournalFiles(folder)
    files.append(opened(1), settled(1, cost_pico=5), opened(2), settled(2, cost_pico=5))
    JournalFiles(folder, "keeper-corrections-1").append(corrected(1, was="0.000000000005", now="0.000000000007"))
    (change,) = reprice(folder)
    assert (change["attempts"], change["was"]) == (1, "0.000000000005")
    JournalFiles(folder, "keeper-corrections-2").append(
        corrected(3, attempt_id="", was="0", now="0.1", reason="reconciled", tier="")
    )
    (change,) = reprice(folder, "--dry-run")
    assert change["now"] is None
    assert "provider's report" in change["why"]
