"""`upeti concentration` over several months, many channels, and amounts beyond 64 bits."""

from __future__ import annotations

import csv
import datetime
import io
import json
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

from upeti.cli.concentration_show import _show_level
from upeti.cli.main import main
from upeti.control.books import Books
from upeti.control.posting import postings_of
from upeti.control.store import Store
from upeti.core.amount import decimal_text
from upeti.money.concentration import MEASURES, Flow
from upeti.money.concentration_report import make_report
from upeti.money.ledger import Batch, BatchKind
from upeti.money.parties import bands
from upeti.money.usage import UsageRow

MONTH_PICO = 322_000_000_000 * 10**12  # rupiah
CONFIG = """
data_dir = "data"

[[channel]]
name = "c00"
kind = "azure"
base_url = "https://one.openai.azure.com"

[[channel]]
name = "c01"
kind = "azure"
base_url = "https://two.openai.azure.com"

[[route]]
name = "only"
candidate = [{ channel = "c00" }, { channel = "c01" }]

[[route]]
name = "*"
candidate = [{ channel = "c00" }, { channel = "c02" }]
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def row(month: int, channel: int, cost_pico: int, route: str = "any", **changes: object) -> UsageRow:
    fields = {"outcome": "posted", "calls": 1, "attempts": 1, **changes}
    return UsageRow(
        day=datetime.date(2026, month, 7),
        tenant="t",
        route=route,
        channel=f"c{channel:02d}",
        model="m",
        currency="IDR",
        meters={"input": 5},
        cost_pico=cost_pico,
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty channels in three months; Azure, over two of them, grows to nine tenths."""
    directory = tmp_path_factory.mktemp("concentration")
    path = directory / "upeti.toml"
    path.write_text(CONFIG)
    books = Books(Store(directory / "data"))
    for month in (8, 9, 10):
        usage = [row(month, channel, MONTH_PICO // 1000) for channel in range(2, 30)]
        usage += [row(month, 0, MONTH_PICO // 1000 * 9 ** (month - 7), "only"), row(month, 1, MONTH_PICO + month)]
        usage += [row(month, 2, 0, outcome="unpriced"), row(month, 2, 10**12 + 1, outcome="estimated", unmetered=1)]
        batch = Batch(
            number=0, kind=BatchKind.USAGE, at_ns=month, period=f"2026-{month:02d}", postings=postings_of(usage)
        )
        books.append(batch, usage)
    return path


def test_the_trend(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("concentration", "--json", "--config", str(config)) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["month"] for one in report["trend"]] == report["months"] == ["2026-08", "2026-09", "2026-10"]
    hhi = [Fraction(one["hhi"]) for one in report["trend"]]
    assert hhi == sorted(hhi)
    assert {one["shares"][0]["name"] for one in report["trend"]} == {"Microsoft Corporation"}
    rows = Books(Store(config.parent / "data")).usage()
    total_pico = sum(one.cost_pico for one in rows)
    assert total_pico > 2**64
    assert report["levels"]["parent"]["spend"]["total"] == decimal_text(total_pico)
    assert sum(Fraction(one["total"]) for one in report["trend"]) == Fraction(decimal_text(total_pico))
    assert (report["unpriced"], report["estimated"]) == (3, "3.000000000003")
    stress = report["largest_leaves"]
    assert (stress["calls"], stress["calls_without_another_party"]) == (6, 3)


def test_people_see_the_largest_ones_and_the_rest_as_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("concentration", "--config", str(config), "--by", "channel", "--plot", str(config.parent / "p.svg")) == 0
    shown = capsys.readouterr().out
    assert "18 others" in shown
    assert "Suppliers, 2026-08 to 2026-10, IDR" in shown
    assert "3 attempts have no price" in shown
    assert "Nobody is known behind c02, c03" in shown
    assert "3 of its 6 calls (50.00 %) go through 1 of 2 routes that have no candidate of another party: only" in shown
    assert shown.count("2026-09 │") == 1
    assert "22 others together" in (config.parent / "p.svg").read_text()


def test_parties_of_ones_own_contracts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = config.parent / "own.toml"
    rows = [
        f'[[party]]\nchannel = "c{number:02d}"\nfrom = 2026-01-01\nparty = "P{number}"\nparent = "Holding"\n'
        'source = "contract"\nsource_date = 2026-01-02\n'
        for number in range(30)
    ]
    own.write_text("\n".join(rows))
    assert run("concentration", "--csv", "--config", str(config), "--parties", str(own), "--from", "2026-10-01") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    parents = [line for line in lines if line["level"] == "parent" and line["measure"] == "spend"]
    assert [(line["name"], line["share_percent"]) for line in parents] == [("Holding", "100.000000")]
    assert len({line["name"] for line in lines if line["level"] == "party"}) == 30
    october = [one for one in Books(Store(config.parent / "data")).usage() if one.day.month == 10]
    assert parents[0]["value"] == decimal_text(sum(one.cost_pico for one in october))


def test_another_currency_names_its_rate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("concentration", "--config", str(config), "--by", "parent", "--currency", "usd") == 0
    assert "16100 IDR = 1 USD from 2026-01-01" in capsys.readouterr().out


def test_customers_need_terms(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("concentration", "--config", str(config), "--side", "customers") == 2
    assert "name one as tenants_file in [money]" in capsys.readouterr().err


def test_the_same_sum_is_in_the_focus_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "focus.csv"
    assert run("focus", "export", "--output", str(path), "--config", str(config)) == 0
    capsys.readouterr()
    with path.open(newline="") as file:
        billed = sum(Fraction(line["BilledCost"]) for line in csv.DictReader(file))
    rows = Books(Store(config.parent / "data")).usage()
    assert billed == Fraction(sum(one.cost_pico for one in rows), 10**12)


def test_a_narrow_terminal_loses_no_name() -> None:
    names = ["PT Pasar", "Video Group"]
    flows = [
        Flow("2026-10", {"tenant": name, "parent": name}, dict.fromkeys(MEASURES["customers"], MONTH_PICO * count))
        for count, name in enumerate(names, 1)
    ]
    report = make_report("customers", "IDR", flows, ("parent",), bands=bands(), clauses=())
    for width, amounts in ((80, 1), (250, 2)):
        text = io.StringIO()
        _show_level(report, "parent", Console(file=text, width=width))
        assert all(name in text.getvalue() for name in names)
        assert text.getvalue().count("644000000000 ") == amounts  # of revenue, and of margin where there is room
        assert "…" not in text.getvalue()
