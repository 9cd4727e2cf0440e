"""The month of the story, from calls to papers: 8.3 billion calls of one app, a quarter of its reseller's line.

Run it with the Python that Upeti is installed in; it needs no network and no account:

    python examples/story_month.py --directory story

The month is simulated, and its books say so. All that follows is what a user types: the month is closed, the app's
invoice is issued, the reports on concentration and savings and the FOCUS file are written. At the end the sums of all
of them are compared, to the last digit.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

MONTH = "2026-10"
APP = "short-video"


class Story:
    """Runs commands in one directory and keeps what they cost in time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = ("--config", str(directory / "upeti.toml"))

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def upeti(self, *arguments: str, shown: bool = False) -> str:
        """Run one command as a user would; return what it prints."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "upeti.cli.main", *arguments]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        line = " ".join(word.replace(str(self.directory), "story") for word in arguments)
        print(f"{time.perf_counter() - began:6.1f} s  upeti {line}", flush=True)
        if ran.returncode:
            sys.exit(f"this command ended with status {ran.returncode}")
        if shown:
            print(ran.stdout)
        return ran.stdout

    def values(self, *arguments: str) -> Any:
        return json.loads(self.upeti(*arguments, *self.config, "--json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("story"), help="a new directory")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--samples", default="200000", help="calls that are drawn and priced")
    options = parser.parse_args()
    began = time.perf_counter()
    story = Story(options.directory.absolute())
    wholes = ("--denominators", story.file("denominators.toml"))

    simulated = ["simulate", "month", str(story.directory), "--seed", options.seed, "--samples", options.samples]
    month = json.loads(story.upeti(*simulated, "--json"))
    story.upeti("ledger", "close", MONTH, *story.config)
    number = story.values("invoice", "issue", APP, MONTH)["number"]
    invoice = story.values("invoice", "show", number)
    story.upeti("invoice", "export", number, story.file("invoice.pdf"), *story.config)
    story.upeti("ledger", "verify", *story.config, shown=True)

    report = ("concentration", "--side", "customers", *wholes, "--currency", "IDR")
    story.upeti(*report, "--plot", story.file("customers.svg"), *story.config, shown=True)
    customers = story.values(*report)
    suppliers = story.values("concentration", *wholes, "--plot", story.file("suppliers.svg"))
    savings = story.values("savings")
    story.upeti("focus", "export", "--output", story.file("focus.csv"), *story.config)
    detail = ("--dataset", "invoice-detail", "--output", story.file("focus-invoice.csv"))
    story.upeti("focus", "export", *detail, *story.config)
    for name in ("focus.csv", "focus-invoice.csv"):
        story.upeti("focus", "check", story.file(name))
    balance = story.values("ledger", "balance")

    compare(story, month, invoice, customers, suppliers, savings, balance)
    tell(story, month, invoice, customers)
    memory_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"All of it took {time.perf_counter() - began:.0f} s; no command used more than {memory_mb} MB.")


def compare(story: Story, month: Any, invoice: Any, customers: Any, suppliers: Any, savings: Any, balance: Any) -> None:
    """Stop unless every paper has the same sums, exactly."""
    cost = sum(Fraction(tenant["cost"]) for tenant in month["tenants"].values())
    accounts = {line["account"]: Fraction(line["balance"]) for line in balance["lines"] if line["currency"] == "USD"}
    billed = sum(billed_by_category(story.file("focus.csv")).values())
    same("cost: books, ledger, suppliers, FOCUS", cost, accounts["model_cost"], total(suppliers, "spend"), billed)
    bounds = [Fraction(one["could_at_most"]) for one in savings["findings"] if one["kind"] == "bounds"]
    same("posted at a bound: savings, ledger", sum(bounds), -accounts["provider_estimated"])

    priced = sum(Fraction(line["priced"]) for line in invoice["lines"])
    rate = Fraction(customers["rates"][0]["rate"])
    tenants = {one["name"]: one for one in customers["levels"]["tenant"]["revenue"]["shares"]}
    same("revenue of the app: customers, lines of its invoice", Fraction(tenants[APP]["value"]), priced * rate)
    lines = sum(Fraction(line["amount"]["billing"]) for line in invoice["lines"])
    net = Fraction(invoice["totals"]["net"]["billing"])
    invoiced = billed_by_category(story.file("focus-invoice.csv"))
    same("net: invoice, its lines, rounded once, FOCUS", net, lines, round(priced * rate), invoiced["Usage"])
    due = Fraction(invoice["totals"]["total"]["billing"])
    same("total with tax: invoice, ledger, FOCUS", due, receivable(balance), sum(invoiced.values()))
    used = sum(tenant["calls"] for tenant in month["tenants"].values())
    calls = sum(one["value"] for one in customers["levels"]["tenant"]["calls"]["shares"])
    same("attempts that were sent: customers, suppliers", calls, total(suppliers, "calls"))
    print(f"equal  {'calls, each counted once':<56} {used:,}")


def billed_by_category(path: str) -> dict[str, Fraction]:
    sums: dict[str, Fraction] = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            sums[row["ChargeCategory"]] = sums.get(row["ChargeCategory"], Fraction(0)) + Fraction(row["BilledCost"])
    return sums


def receivable(balance: Any) -> Fraction:
    lines = [line for line in balance["lines"] if (line["account"], line["currency"]) == ("receivable", "IDR")]
    return sum((Fraction(line["balance"]) for line in lines), Fraction(0))


def total(report: Any, measure: str) -> Fraction:
    return Fraction(report["levels"]["channel"][measure]["total"])


def same(what: str, *values: Fraction | int) -> None:
    if len(set(values)) != 1:
        sys.exit(f"{what} differ: {', '.join(str(value) for value in values)}")
    amount = values[0]
    whole, part = divmod(round(amount * 100), 100)
    print(f"equal  {what:<56} {whole:,}" + (f".{part:02d}" if part else ""))


def tell(story: Story, month: Any, invoice: Any, customers: Any) -> None:
    app = month["tenants"][APP]
    share = next(one for one in customers["levels"]["tenant"]["revenue"]["shares"] if one["name"] == APP)
    print(
        f"\n{APP}: {app['calls']:,} calls in {MONTH}, {app['peak_per_second']:,} a second at most, "
        f"{app['average_per_second']:,} on average.\n"
        f"Invoice {invoice['number']}: net {Fraction(invoice['totals']['net']['billing']).numerator:,} IDR, "
        f"{float(share['share_percent']):.2f} % of the line.\n"
        f"Files in {story.directory}: invoice.pdf, customers.svg, suppliers.svg, focus.csv, focus-invoice.csv, the books in data."
    )


if __name__ == "__main__":
    main()
