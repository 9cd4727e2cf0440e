"""`upeti simulate`: data to try things out with, marked as what they are."""

from __future__ import annotations

import datetime
import json
import resource
import time
from collections.abc import Iterable
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from upeti.cli.options import JsonOption, complaints
from upeti.core.amount import decimal_text
from upeti.core.errors import ConfigError

if TYPE_CHECKING:
    from upeti.core.config import Config
    from upeti.money.usage import UsageRow
    from upeti.sim.month import Lane

simulate_app = typer.Typer(help="Make data to try things out with.", no_args_is_help=True)

_STORY: Final = ("upeti.toml", "tenants.toml", "denominators.toml", "mix.toml")
_DAY_NS: Final = 86_400 * 10**9


@simulate_app.command("month")
def month_command(
    directory: Annotated[Path, typer.Argument(help="A new directory: configuration, tenants and books go into it.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same month.")] = 1,
    month: Annotated[str, typer.Option(help="Which month; its prices hold.")] = "2026-10",
    samples: Annotated[
        int, typer.Option(min=1_000, help="Calls that are drawn and priced; each stands for many.")
    ] = 200_000,
    as_json: JsonOption = False,
) -> None:
    """Make a month of 8.3 billion calls of one app, and of the other tenants of its reseller, and put it into books.

    Calls are counted in full, priced on a sample by the price book, and posted with the reference "simulation, seed N".
    There is no journal behind them, and `upeti ledger verify` says so.
    """
    with complaints():
        values = _month(directory, seed, month, samples)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for name, one in values["tenants"].items():
        typer.echo(
            f"{name:<16} {one['calls']:>15,} calls  {one['peak_per_second']:>7,}/s at most  "
            f"{one['average_per_second']:>6,}/s on average  cost {Decimal(one['cost']):>15,.0f} {one['currency']}"
        )
    typer.echo(
        f"{values['rows']:,} rows of usage in {values['batches']} batches, from {values['drawn']:,} calls drawn and priced; "
        f"{values['seconds']} s, {values['memory_mb']} MB.\nNext: upeti concentration --config {directory / 'upeti.toml'}"
    )


@simulate_app.command("replay")
def replay_command(
    file: Annotated[Path, typer.Argument(help="Recorded answers: CSV with a head, or JSON lines.")],
    answers: Annotated[
        list[str],
        typer.Option(
            "--answers", help="MODEL=FIELD: the field with that model's answers; once for each model or snapshot."
        ),
    ],
    text: Annotated[str, typer.Option(help="The field with the text that was asked about.")] = "text",
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="How the user's message holds it, such as 'Intent of: {text}'; several are tried in this order.",
            show_default="{text}",
        ),
    ] = None,
    latency_ms: Annotated[
        float, typer.Option(min=0, help="Median time to the first byte, where none was recorded.")
    ] = 0.0,
    latency_sigma: Annotated[
        float, typer.Option(min=0, help="Spread of that time: standard deviation of its logarithm.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same times.")] = 0,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: the system chooses; the ready line says which.")] = 0,
    log: Annotated[
        Path | None, typer.Option(help="File to append a line to for every request seen and served.")
    ] = None,
    always: Annotated[str, typer.Option(help="Words that hold for every request, such as err503.")] = "",
) -> None:
    """Serve recorded answers of real models as a provider, on the wires of OpenAI, Azure and Anthropic, until Ctrl-C.

    A text that was not recorded is answered 404: nothing is made up. Tokens and times are those in the fields
    input_tokens, output_tokens and latency_ms (or FIELD_input_tokens, …), else bytes of text / 4, and --latency-ms.
    """
    with complaints():
        from upeti.sim.replay import SLOT, Latency, read_recording

        columns: dict[str, str] = {}
        for one in answers:
            model, sign, field = one.rpartition("=")
            if not (model and sign and field):
                raise ConfigError(f"--answers {one}: write MODEL=FIELD, such as gpt-4=gpt4")
            columns[model] = field
        recording = read_recording(file, text, columns, template or [SLOT], Latency(latency_ms, latency_sigma, seed))
    import uvloop

    from upeti.sim.provider import SimProvider, run

    provider = SimProvider(host=host, port=port, log=log, seed=seed, keep_requests=False, says=recording)
    provider.always = always
    uvloop.run(run(provider))


def _month(directory: Path, seed: int, month: str, samples: int) -> dict[str, Any]:
    from upeti.control import config_file
    from upeti.control.books import Books
    from upeti.control.store import Store
    from upeti.money.ledger import SIMULATION
    from upeti.sim.month import hours_of, rate_of, read_mix, usage_of

    began = time.perf_counter()
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(
            f"{directory} is not empty: simulated books never stand beside real ones; name a new directory"
        )
    try:
        datetime.date.fromisoformat(f"{month}-01")
    except ValueError:
        raise ConfigError(f"{month} is no month; write it as 2026-10") from None
    directory.mkdir(parents=True, exist_ok=True)
    for name in _STORY:
        (directory / name).write_bytes((files("upeti.sim") / "story" / name).read_bytes())
    config = config_file.load(directory / "upeti.toml")
    lanes = _lanes(config)
    mix = read_mix("mix.toml", (directory / "mix.toml").read_bytes())
    total = sum(tenant.calls for tenant in mix)
    rows: list[UsageRow] = []
    tenants: dict[str, Any] = {}
    for tenant in mix:
        own = list(usage_of(tenant, month, lanes, seed, samples * tenant.calls // total))
        rows += own
        rate = rate_of(hours_of(tenant, month))
        tenants[tenant.name] = {
            "calls": sum(row.calls for row in own),
            "peak_per_second": rate.peak,
            "average_per_second": rate.average,
            "cost": decimal_text(sum(row.cost_pico for row in own)),
            "currency": "USD",
        }
    books = Books(Store(Path(config.data_dir)))
    books.keep_prices(_prices_of(rows, lanes), _start_ns(min(row.day for row in rows)))
    batches = _post(books, rows, f"{SIMULATION}seed {seed}")
    return {
        "directory": str(directory),
        "month": month,
        "seed": seed,
        "tenants": tenants,
        "rows": len(rows),
        "batches": batches,
        "drawn": samples,
        "seconds": round(time.perf_counter() - began, 1),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _lanes(config: Config) -> dict[str, list[Lane]]:
    """Return the candidates of every route with their prices. Raises ``ConfigError`` for one without a price."""
    from upeti.money.price_book import PriceBook
    from upeti.providers.catalog import PROVIDERS
    from upeti.sim.month import Lane

    book = PriceBook.load(config.money.price_files)
    parts, wires = {}, {}
    for channel in config.channel:
        provider = PROVIDERS[channel.kind]
        host = urlsplit(channel.base_url or provider.base_url).hostname or ""
        parts[channel.name] = channel.prices or provider.host(host).prices
        wires[channel.name] = "messages" if "messages" in provider.wires else "chat_completions"
    return {
        route.name: [
            Lane(one.channel, one.model, wires[one.channel], one.weight, book.prices(parts[one.channel], one.model))
            for one in route.candidate
        ]
        for route in config.route
    }


def _prices_of(rows: Iterable[UsageRow], lanes: dict[str, list[Lane]]) -> list[Any]:
    used = {row.price_id for row in rows}
    return [price for route in lanes.values() for lane in route for price in lane.prices if price.id in used]


def _post(books: Any, rows: Iterable[UsageRow], reference: str) -> int:
    """Append one batch per day, as a keeper would have; return how many."""
    from upeti.control.posting import postings_of
    from upeti.money.ledger import Batch, BatchKind

    by_day: dict[datetime.date, list[UsageRow]] = {}
    for row in rows:
        by_day.setdefault(row.day, []).append(row)
    for day, of_day in sorted(by_day.items()):
        batch = Batch(
            number=0,
            kind=BatchKind.USAGE,
            at_ns=_start_ns(day) + _DAY_NS,
            period=f"{day:%Y-%m}",
            reference=reference,
            postings=postings_of(of_day),
        )
        books.append(batch, of_day)
    return len(by_day)


def _start_ns(day: datetime.date) -> int:
    return int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()) * 10**9
