"""`upeti reconcile`, as a person runs it: a journal and books on one side, a provider's file on the other."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from support.journal_files import JournalFiles, opened, settled
from upeti.cli.main import build
from upeti.control.books import Books
from upeti.control.posting import Poster
from upeti.control.store import Store
from upeti.core.events import Outcome
from upeti.journal.events_store import project_closed_segments
from upeti.journal.reader import corrections
from upeti.money.price import Price
from upeti.money.reconcile.calls import BilledCall, write_csv

FIXTURES = Path(__file__).parents[1] / "fixtures" / "reconcile"
DAY = datetime.date(2026, 11, 1)
MODEL = "gpt-4o-mini"
PRICE = Price("feedfacefeedface", "USD", 0, {"input": 150_000, "input_cached": 75_000, "output": 600_000})
CONFIG = """\
data_dir = "data"

[[channel]]
name = "openai"
kind = "openai_compatible"
account = "proj_demo"

[[channel]]
name = "azure"
kind = "azure"
base_url = "https://demo-openai.openai.azure.com"
account = "demo-openai"
"""


def post(folder: Path) -> None:
    """Post what is in the journals, as the keeper does."""
    store = Store(folder / "data")
    Books(store).keep_prices([PRICE], 1)
    project_closed_segments(folder / "data", sink=Poster(store, "here"))
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and its data: exact usage as OpenAI bills it, and two calls posted at bounds, one of them aborted."""
    (tmp_path / "upeti.toml").write_text(CONFIG)
    journal = JournalFiles(tmp_path / "data")
    for call, ended in ((1, "client_left"), (2, "lost")):
        attempt = opened(call, model=MODEL, bound_pico=250_000_000 if call == 1 else 750_000_000)
        guess = {"outcome": Outcome.ESTIMATED, "ended": ended, "meters": None, "cost_pico": attempt.bound_pico}
        journal.append(attempt, settled(call, **guess, price_id=""))
    for call, counts in ((3, (10, 0, 0)), (4, (18_990, 2_000, 7_900))):
        meters = dict(zip(PRICE.pico, counts, strict=True))
        cost_pico = sum(count * PRICE.pico[meter] for meter, count in meters.items())
        exact = settled(call, meters=meters, cost_pico=cost_pico, price_id=PRICE.id)
        journal.append(opened(call, model=MODEL, bound_pico=10**10), exact)
    journal.append(opened(5, channel="azure"), settled(5, meters=None, cost_pico=0))
    journal.close()
    post(tmp_path)
    return tmp_path


class Ran(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str | Path) -> Ran:
    """Run the command in this process: starting one takes longer than what it does."""
    with contextlib.chdir(folder):
        found = CliRunner().invoke(build("reconcile"), ["reconcile", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return Ran(found.exit_code, found.stdout, found.stderr)


def costs(folder: Path) -> Path:
    """The first page of the costs alone, as a whole report."""
    page = json.loads((FIXTURES / "openai_costs_page_1.json").read_text())
    (folder / "costs.json").write_text(json.dumps(page | {"has_more": False, "next_page": None}))
    return folder / "costs.json"


def test_every_difference_is_named(folder: Path) -> None:
    ran = run(folder, costs(folder), "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    (total,) = found["totals"]
    assert (total["theirs"], total["unexplained"]) == ("0.00795", "0")
    billed = 1_000 * 150_000 + 100 * 600_000  # of the two calls that were posted at 0.001
    amounts = {kind["kind"]: kind["amount"] for kind in total["kinds"]}
    assert amounts == {"aborted": "-0.0001975", "lost": "-0.0005925"}
    assert billed == 10**9 - 790_000_000
    assert found["equal_lines"] == 1, "cached input"
    assert found["notes"] == ["not in the report, so not compared: azure"]


def test_what_people_see(folder: Path) -> None:
    ran = run(folder, costs(folder), "--html", "page.html")
    assert ran.returncode == 0, ran.stderr
    for text in ("provider says", "0.00795", "aborted", "Run again with --correct", "gpt-4o-mini"):
        assert text in ran.stdout, text
    page = (folder / "page.html").read_text()
    assert "Every difference is named" in page
    assert "0.00795" in page


def test_csv_adds_up(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(folder, costs(folder), "--csv").stdout)))
    assert {row["meter"] for row in rows} == {"input", "output", "estimated"}
    for row in rows:
        parts = [row[name] for name in ("lost", "aborted", "unexplained")]
        assert sum(map(float, parts)) == pytest.approx(float(row["difference"]), abs=1e-15)


def test_corrections_are_written_once(folder: Path) -> None:
    report = costs(folder)
    ran = run(folder, report, "--correct", "--dry-run")
    assert "Would write 1 corrections: 0.001 estimated become 0.00021 USD." in ran.stdout
    assert list(corrections(folder / "data")) == []
    ran = run(folder, report, "--correct")
    assert "1 corrections: 0.001 estimated become 0.00021 USD." in ran.stdout
    (record,) = corrections(folder / "data")
    assert (record.was, record.now, record.tenant, record.attempt_id) == ("0.001", "0.00021", "acme", "")
    assert record.meters == {"input": 1_000, "output": 100}
    for _ in ("not posted yet", "posted"):
        found = json.loads(run(folder, report, "--correct", "--json").stdout)
        assert (found["totals"][0]["difference"], found["totals"][0]["kinds"], found["corrections"]) == ("0", [], [])
        post(folder)
    assert len(list(corrections(folder / "data"))) == 1


def test_a_report_by_call_corrects_each_call(folder: Path) -> None:
    billed = [
        BilledCall(day=DAY, attempt_id="call-0001-0", model=MODEL, meters={"input": 7}, cost_pico=1_050_000),
        BilledCall(day=DAY, provider_request_id="chatcmpl-2", model=MODEL, meters={"output": 1}, cost_pico=600_000),
        BilledCall(day=DAY, attempt_id="call-0003-0", model=MODEL, meters={"input": 10}, cost_pico=1_500_000),
        BilledCall(day=DAY, attempt_id="call-0004-0", model=MODEL, cost_pico=7_738_500_000),
        BilledCall(day=DAY, attempt_id="call-9999-0", model=MODEL, meters={"input": 1}, cost_pico=150_000),
    ]
    with (folder / "calls.csv").open("w", newline="") as file:
        write_csv(billed, file)
    ran = run(folder, "calls.csv", "--correct", "--json")
    assert ran.returncode == 0, ran.stderr
    (total,) = json.loads(ran.stdout)["totals"]
    amounts = {kind["kind"]: kind["amount"] for kind in total["kinds"]}
    assert amounts == {"aborted": "-0.00024895", "bypass": "0.00000015", "lost": "-0.0007494"}
    written = {record.attempt_id: (record.was, record.now, record.meters) for record in corrections(folder / "data")}
    assert written == {
        "call-0001-0": ("0.00025", "0.00000105", {"input": 7}),
        "call-0002-0": ("0.00075", "0.0000006", {"output": 1}),
    }
    again = json.loads(run(folder, "calls.csv", "--correct", "--json").stdout)
    assert again["corrections"] == [], "the events have the corrections"
    (total,) = again["totals"]
    assert total["difference"] == "0.00000015", "what is left was never ours"


def test_unexplained_is_exit_status_one(folder: Path) -> None:
    path = costs(folder)
    page = json.loads(path.read_text())
    for result in page["data"][0]["results"]:
        del result["quantity"], result["quantity_unit"]
    page["data"][0]["results"][0]["amount"]["value"] = 0.0045
    path.write_text(json.dumps(page))
    ran = run(folder, path)
    assert ran.returncode == 1, ran.stderr
    assert "unexplained" in ran.stdout
    assert run(folder, path, "--tolerance", "0.01").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none.json",), "cannot be read"),
        (("upeti.toml",), "not those of a report that is known"),
        ((FIXTURES / "anthropic_cost_report.json",), "name the channel with --channel"),
        ((FIXTURES / "azure_ea.csv", "--from", "2027-01-01"), "nothing for these days"),
        ((FIXTURES / "azure_ea.csv", "--account", "azure"), "write CHANNEL=ID"),
        ((FIXTURES / "azure_ea.csv", "--tolerance", "-1"), "zero or more"),
        ((FIXTURES / "azure_ea.csv", "--dry-run"), "goes with --correct"),
        ((FIXTURES / "azure_ea.csv", "--html", "no/where.html"), "cannot be written"),
    ],
)
def test_errors_are_exit_status_two(folder: Path, arguments: tuple[str | Path, ...], says: str) -> None:
    ran = run(folder, *arguments)
    assert ran.returncode == 2, ran.stdout
    assert says in " ".join(ran.stderr.replace("│", " ").split())


def test_an_account_that_is_no_channels_is_bypass(folder: Path) -> None:
    page = json.loads((FIXTURES / "openai_costs_page_2.json").read_text())
    (folder / "page.json").write_text(json.dumps(page))
    found = json.loads(run(folder, "page.json", "--json").stdout)
    why = {line["account"]: line["why"] for line in found["lines"]}
    assert why["proj_other"] == ["account proj_other belongs to no channel"]
    given = json.loads(run(folder, "page.json", "--json", "--account", "openai=proj_other").stdout)
    assert {line["channel"] for line in given["lines"]} == {"openai"}


def test_an_azure_export(folder: Path) -> None:
    found = json.loads(run(folder, FIXTURES / "azure_ea.csv", "--json").stdout)
    (total,) = found["totals"]
    assert {kind["kind"]: kind["amount"] for kind in total["kinds"]} == {
        "bypass": "5.7739",
        "capacity": "24",
        "adjustment": "-1.25",
        "unmapped": "0.123",
    }
    assert found["explained"]


def test_zones_tell_two_channels_of_one_resource_apart(folder: Path) -> None:
    config = folder / "upeti.toml"
    second = '[[channel]]\nname = "azure-eu"\nkind = "azure"\nbase_url = "https://x"\naccount = "demo-openai"\n'
    config.write_text(CONFIG + second + 'zone = "data_zone_eu"\n')
    found = json.loads(run(folder, FIXTURES / "azure_ea.csv", "--json").stdout)
    channels = {line["model"]: line["channel"] for line in found["lines"] if line["model"]}
    assert (channels["gpt-5.4-mini"], channels["gpt-5.5"]) == ("azure", "azure-eu")
    config.write_text(CONFIG + second)
    ran = run(folder, FIXTURES / "azure_ea.csv")
    assert (ran.returncode, "have the same account and zone" in ran.stderr) == (2, True)
