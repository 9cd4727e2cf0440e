"""The bill of a fake provider: its log, priced, as the report by call that `upeti reconcile` reads.

    python -m upeti.sim.provider_bill --log LOG --prices FILE --output calls.csv

Rules: what was served is billed once for each time it was served, at the price of the file that held when it was; what
was never served is not billed. A request is known by the id that the gateway sent with it. A line that a killed provider
did not finish is left out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from upeti.core.errors import ConfigError
from upeti.money.price import cost_of, price_at
from upeti.money.price_book import PriceBook
from upeti.money.reconcile.calls import BilledCall, write_csv


def billed_calls(log: Path, book: PriceBook) -> Iterator[BilledCall]:
    """Yield what the provider bills, in the order of its log; ``book`` has one part. Raises ``ConfigError``."""
    (part,) = book.parts()
    sums: dict[str, BilledCall] = {}
    for line in _lines(log.read_bytes().splitlines(keepends=True)):
        if line.get("event") != "served" or not line["billed"]:
            continue
        name, model, at_ns = str(line["client_request_id"] or ""), str(line["model"] or ""), int(line["at_ns"])
        price = price_at(book.prices(part, model), at_ns)
        cost_pico = cost_of(price, line["billed"]) if price is not None else None
        if price is None or cost_pico is None:
            raise ConfigError(f"{log}: {model} has no price in part {part} of the file: add a row for it")
        before = sums.get(name)
        meters = dict(line["billed"])
        if before is not None:
            cost_pico += before.cost_pico
            meters = {meter: meters.get(meter, 0) + before.meters.get(meter, 0) for meter in {*meters, *before.meters}}
        sums[name] = BilledCall(
            day=datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC).date(),
            attempt_id=name,
            model=model,
            meters=meters,
            cost_pico=cost_pico,
            currency=price.currency,
        )
    yield from sums.values()


def _lines(texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for text in texts:
        if text.endswith(b"\n"):
            yield json.loads(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m upeti.sim.provider_bill", description="What a fake provider bills."
    )
    parser.add_argument("--log", type=Path, required=True, help="what upeti.sim.provider wrote with --log")
    parser.add_argument("--prices", type=Path, required=True, help="price file with one part")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    found = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    with found.output.open("w", newline="", encoding="utf-8") as file:
        write_csv(billed_calls(found.log, PriceBook.of_file(found.prices)), file)


if __name__ == "__main__":
    main()
