"""How prices, and differences between them, are printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.table import Table

from upeti.cli.output import aligned, cell, console, plain, table
from upeti.core.amount import decimal_text
from upeti.core.meters import ALL_METERS
from upeti.money.capacity import CapacityCost
from upeti.money.price_book import Cell, Row
from upeti.money.price_import import UNITS_PER_MILLION, Comparison, Difference, Offer
from upeti.money.reprice import Change

STANDARD_SHOWN = "standard"


def per_million(pico: int) -> str:
    return decimal_text(pico * UNITS_PER_MILLION)


def row_json(at: Cell, row: Row) -> dict[str, Any]:
    price = row.price
    return {
        "part": at.part,
        "model": at.model,
        "tier": at.tier,
        "zone": at.zone,
        "id": price.id,
        "from": row.effective.isoformat(),
        "currency": price.currency,
        "per_million": {meter: per_million(pico) for meter, pico in price.pico.items()},
        "cliffs": [
            {
                "above_input_tokens": cliff.above_input_tokens,
                "per_million": {meter: per_million(pico) for meter, pico in cliff.pico.items()},
            }
            for cliff in price.cliffs
        ],
        "per_call": decimal_text(price.per_call_pico),
        "context_tokens": row.facts.context_tokens,
        "output_tokens_max": row.facts.output_tokens_max,
        "source": price.source,
        "source_date": row.source_date.isoformat(),
        "remark": price.remark,
        "file": row.file,
        "line": row.line,
    }


def show_rows(found: Sequence[tuple[Cell, Row]]) -> None:
    """Print one line for each price: the cells that most calls meet; the rest is in `upeti prices show`."""
    meters = ("input", "input_cached", "output")
    shown = table(
        [(name, False) for name in ("part", "model", "tier", "zone", "from", "currency")]
        + [(name.replace("_", " "), True) for name in meters]
        + [("more", False), ("row", False)]
    )
    columns = [aligned([_pico_million(row, meter) for _, row in found]) for meter in meters]
    for number, (at, row) in enumerate(found):
        more = [name for name in row.price.pico if name not in meters]
        more += [f"cliff at {cliff.above_input_tokens:,}" for cliff in row.price.cliffs]
        shown.add_row(
            *(cell(text) for text in (at.part, at.model, at.tier or STANDARD_SHOWN, at.zone or "any")),
            cell(row.effective.isoformat()),
            cell(row.price.currency),
            *(cell(column[number] or "") for column in columns),
            cell(", ".join(more)),
            cell(row.price.id),
        )
    console().print(shown)
    console().print(f"{len(found):,} prices, per million units.", markup=False, highlight=False)


def _pico_million(row: Row, meter: str) -> int | None:
    pico = row.price.pico.get(meter)
    return None if pico is None else pico * UNITS_PER_MILLION


def show_row(row: Row) -> None:
    price = row.price
    say = typer.echo
    say(
        f"row {price.id}  {row.part}, {row.tier or STANDARD_SHOWN} tier, {row.zone or 'any zone'}, from {row.effective}"
    )
    say(f"  models    {plain(', '.join(row.models))}")
    steps = [(0, price.pico), *((cliff.above_input_tokens, cliff.pico) for cliff in price.cliffs)]
    for above, cells in steps:
        where = f"above {above:,} input tokens" if above else "per million"
        parts = [f"{meter} {per_million(cells[meter])}" for meter in ALL_METERS if meter in cells]
        say(f"  {where:<9} {', '.join(parts)} {price.currency}")
    if price.per_call_pico:
        say(f"  per call  {decimal_text(price.per_call_pico)} {price.currency}")
    if row.facts.context_tokens or row.facts.output_tokens_max:
        say(
            f"  limits    context {row.facts.context_tokens or '?'}, output {row.facts.output_tokens_max or '?'} tokens"
        )
    say(f"  source    {plain(price.source)}, {row.source_date}; {plain(row.file)}:{row.line}")
    if price.remark:
        say(f"  remark    {plain(price.remark)}")


def capacity_json(cost: CapacityCost) -> dict[str, Any]:
    row = cost.row
    return {
        "id": row.id,
        "part": row.part,
        "name": row.name,
        "channel": row.channel,
        "tenant": row.tenant,
        "day": cost.day.isoformat(),
        "units": row.units,
        "per_unit_hour": decimal_text(row.unit_hour_pico),
        "seconds": cost.seconds,
        "currency": row.currency,
        "cost": decimal_text(cost.cost_pico),
        "source": row.source,
        "source_date": row.source_date.isoformat(),
        "file": row.file,
        "line": row.line,
    }


def show_capacity(costs: Sequence[CapacityCost]) -> None:
    heads = [(name, False) for name in ("name", "channel", "tenant", "source", "line")]
    shown = table(
        [*heads, *((name, True) for name in ("units", "a unit and hour", "hours", "cost")), ("currency", False)]
    )
    for cost in costs:
        row = cost.row
        line = f"{row.file}:{row.line}"
        shown.add_row(
            *(cell(text) for text in (row.name, row.channel, row.tenant or "shared", row.source, line)),
            cell(row.units),
            cell(decimal_text(row.unit_hour_pico)),
            cell(f"{cost.seconds / 3600:.4g}"),
            cell(decimal_text(cost.cost_pico)),
            cell(row.currency),
        )
    console().print(shown)


# -- comparisons -----------------------------------------------------------------------------------------------


def comparison_json(made: Comparison) -> dict[str, Any]:
    return {
        "source": made.source.name,
        "day": made.day.isoformat(),
        "agree": len(made.agree),
        "differences": [_difference_json(one) for one in made.differences],
        "only_source": [_offer_json(offer) for offer in made.only_source],
        "only_book": [{**at._asdict(), "id": row.price.id} for at, row in made.only_book],
        "unmapped": [{"name": one.name, "why": one.why} for one in made.source.unmapped],
        "fallbacks": made.source.fallbacks,
        "fallback_differences": [_difference_json(one) for one in made.fallbacks],
    }


def _difference_json(one: Difference) -> dict[str, Any]:
    return {
        **one.cell._asdict(),
        "meter": one.meter,
        "above_input_tokens": one.above_input_tokens,
        "book": one.book,
        "source": one.source,
        "book_row": one.row.price.id,
        "book_source": one.row.price.source,
        "source_from": one.offer.first_day.isoformat(),
    }


def _offer_json(offer: Offer) -> dict[str, Any]:
    return {
        **offer.cell._asdict(),
        "from": offer.first_day.isoformat(),
        "currency": offer.currency,
        "per_million": {meter: per_million(pico) for meter, pico in offer.pico.items()},
    }


def show_comparison(made: Comparison, *, everything: bool, book: str = "the book") -> None:
    """Print every difference; of the rest the counts, or, with ``everything``, the names as well."""
    screen, source = console(), made.source
    if made.differences:
        screen.print(_table_of(made.differences, book, source.name))

    def say(line: str) -> None:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)

    say(f"{len(made.agree):,} prices are the same.")
    say(f"{len({one.cell for one in made.differences}):,} prices differ, in {len(made.differences):,} cells.")
    _counted(say, f"only {source.name} has", [offer.cell for offer in made.only_source], everything)
    _counted(say, f"only {book} has", [at for at, _ in made.only_book], everything)
    if source.fallbacks:
        for whose, count in sorted(Counter(source.fallbacks.values()).items()):
            names = sorted(name for name, other in source.fallbacks.items() if other == whose)
            say(
                f"{count:,} models have no price of their own in {source.name}: it would give {whose}'s in silence, which is "
                f"not taken{': ' + ', '.join(names) if everything else ''}."
            )
    if made.fallbacks:
        count = len({one.cell for one in made.fallbacks})
        say(f"{count:,} of those are not what {book} has:")
        screen.print(_table_of(made.fallbacks, book, "another seller's"))
    reasons = Counter(one.why for one in source.unmapped)
    if reasons:
        say(f"{len(source.unmapped):,} entries of {source.name} cannot be mapped:")
    for why, count in reasons.most_common():
        names = [one.name for one in source.unmapped if one.why == why]
        few = names if everything else names[:2]
        say(f"  {count:>5,}  {plain(why)} ({plain(', '.join(few))}{', …' if len(few) < len(names) else ''})")


def _table_of(differences: Sequence[Difference], book: str, other: str) -> Table:
    heads = [(name, False) for name in ("part", "model", "tier", "zone", "meter")]
    shown = table([*heads, (plain(book), True), (plain(other), True), ("row", False)])
    for one in differences:
        meter = one.meter + (f" above {one.above_input_tokens:,}" if one.above_input_tokens else "")
        shown.add_row(
            *(cell(text) for text in (*_names(one.cell), meter)),
            cell(one.book if one.book is not None else "-"),
            cell(one.source if one.source is not None else "-"),
            cell(one.row.price.id),
        )
    return shown


def _counted(say: Any, what: str, cells: list[Cell], everything: bool) -> None:
    if not cells:
        return
    kinds = Counter((at.part, at.tier or STANDARD_SHOWN, at.zone) for at in cells)
    parts = ", ".join(
        f"{count} {part} {tier}{' ' + zone if zone else ''}" for (part, tier, zone), count in kinds.items()
    )
    say(f"{len(cells):,} prices {what}: {parts}.")
    if everything:
        for at in cells:
            say(f"  {' '.join(_names(at))}")


def _names(at: Cell) -> tuple[str, str, str, str]:
    return at.part, at.model, at.tier or STANDARD_SHOWN, at.zone or "any"


# -- repricing -------------------------------------------------------------------------------------------------


def change_json(change: Change) -> dict[str, Any]:
    return {
        **change.bearer._asdict(),
        "day": change.bearer.day.isoformat(),
        "attempts": change.attempts,
        "was": decimal_text(change.was_pico),
        "now": None if change.now_pico is None else decimal_text(change.now_pico),
        "difference": None if change.now_pico is None else decimal_text(change.difference_pico),
        "price_ids": list(change.price_ids),
        "why": change.why,
    }


def show_changes(found: Sequence[Change]) -> None:
    if not found:
        typer.echo("Nothing differs: what is recorded is what the book says.")
        return
    heads = ("day", "tenant", "feature", "channel", "model", "tier", "outcome")
    numbers = ("attempts", "was", "now", "difference")
    shown = table([(name, False) for name in heads] + [(name, True) for name in numbers] + [("currency", False)])
    was = aligned([change.was_pico for change in found])
    now = aligned([change.now_pico for change in found])
    difference = aligned([None if change.now_pico is None else change.difference_pico for change in found])
    for number, change in enumerate(found):
        bearer = change.bearer
        texts = (
            bearer.tenant,
            bearer.feature,
            bearer.channel,
            bearer.model,
            bearer.tier or STANDARD_SHOWN,
            bearer.outcome,
        )
        shown.add_row(
            cell(bearer.day.isoformat()),
            *map(cell, texts),
            cell(change.attempts),
            *(cell(column[number]) for column in (was, now, difference)),
            cell(bearer.currency),
        )
    console().print(shown)
    for currency, total in sorted(_totals(found).items()):
        typer.echo(f"in all {decimal_text(total)} {currency}")
    for why, count in Counter(change.why for change in found if change.why).most_common():
        typer.echo(f"{count:,} lines stay as they are: {why}")


def _totals(found: Iterable[Change]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for change in found:
        if change.now_pico is not None:
            totals[change.bearer.currency] += change.difference_pico
    return dict(totals)
