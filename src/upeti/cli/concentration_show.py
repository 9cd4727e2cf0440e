"""The report on concentration for people, for programs and for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from upeti.cli.output import aligned, cell, console, shown_rates, table
from upeti.core.amount import decimal_text
from upeti.money.concentration import TOPS, Leaving, Ranking, decimal_places, percent_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from upeti.control.dependence import Dependence
    from upeti.money.concentration_report import Report, Stress

_SHOWN: Final = 12  # names per table; the rest is one line
_WIDE: Final = 10_000
_MONEY: Final = frozenset({"spend", "revenue", "margin", "committed"})


def show(report: Report, found: Dependence) -> None:
    """Print the report for people."""
    screen = console()
    if not report.months:
        screen.print("Nothing has been settled in this time.")
        return
    span = report.months[0] if len(report.months) == 1 else f"{report.months[0]} to {report.months[-1]}"
    screen.print(f"{report.side.capitalize()}, {span}, {report.currency}", style="bold", highlight=False)
    for level in report.rankings:
        _show_level(report, level, screen)
    _show_index(report, screen)
    _show_wholes(report, screen)
    _show_trend(report, screen)
    for line in [*_stress_lines(report), *_notes(report, found)]:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_level(report: Report, level: str, screen: Console) -> None:
    """Print every measure with its amounts, or, where the terminal is too narrow, only the first one's."""
    from rich.measure import Measurement

    shown = _level_table(report, level, amounts=len(report.measures))
    if Measurement.get(screen, screen.options.update(max_width=_WIDE), shown).maximum > screen.width:
        shown = _level_table(report, level, amounts=1)
    screen.print()
    screen.print(shown)


def _level_table(report: Report, level: str, amounts: int) -> Table:
    rankings = [one for one in report.rankings[level].values() if one.shares]
    columns = [(level, False)]
    for place, one in enumerate(rankings):
        columns += [(one.measure, True), ("share", True)] if place < amounts else [(f"of {one.measure}", True)]
    shown = table(columns)
    names = [share.name for share in rankings[0].shares]
    listed, rest = names[:_SHOWN], names[_SHOWN:]
    cells = [[cell(name)] for name in listed] + ([[cell(f"{len(rest)} others")]] if rest else [])
    for place, one in enumerate(rankings):
        values = {share.name: share for share in one.shares}
        found = [values.get(name) for name in listed]
        texts = _value_texts(one, found)
        parts = [None if share is None else share.share for share in found]
        if rest:
            others = [values[name] for name in rest if name in values]
            texts.append(_value_text(one.measure, sum(share.value for share in others)))
            parts.append(
                None if one.hhi is None else sum((share.share or Fraction(0) for share in others), Fraction(0))
            )
        for line, text, part in zip(cells, texts, parts, strict=True):
            line += [cell(text)] if place < amounts else []
            line.append(cell(percent_text(part)))
    for line in cells:
        shown.add_row(*line)
    return shown


def _value_texts(ranking: Ranking, shares: Sequence[Any]) -> list[str | None]:
    values = [None if share is None else share.value for share in shares]
    if ranking.measure in _MONEY:
        return aligned(values)
    return [None if value is None else f"{value:,}" for value in values]


def _value_text(measure: str, value: int) -> str:
    return decimal_text(value) if measure in _MONEY else f"{value:,}"


def _show_index(report: Report, screen: Console) -> None:
    shown = table([("by", False), ("of", False), *((f"top {top}", True) for top in TOPS), ("HHI", True), ("", False)])
    for level, by_measure in report.rankings.items():
        for measure, one in by_measure.items():
            if not one.shares:
                continue
            tops = [cell(percent_text(one.top.get(top))) for top in TOPS]
            hhi = "?" if one.hhi is None else decimal_places(one.hhi, 0)
            shown.add_row(cell(level), cell(measure), *tops, cell(hhi), cell(report.band(one.hhi)))
    screen.print()
    screen.print(shown)


def _show_wholes(report: Report, screen: Console) -> None:
    names = list(dict.fromkeys(one.denominator for one in report.wholes))
    by_party: dict[str, list[str]] = {}
    for one in report.wholes:
        text = percent_text(one.share, 2) + (" *" if one.large else "")
        by_party.setdefault(one.name, []).append(text)
    shown = table(
        [("parent", False), *((f"of the {name}" if name == "line" else f"of {name}", True) for name in names)]
    )
    for name, texts in list(by_party.items())[:_SHOWN]:
        shown.add_row(cell(name), *map(cell, texts))
    screen.print()
    screen.print(shown)
    screen.print("* 10 % or more. The line is what went through Upeti.", highlight=False)
    for line in _finding_lines(report):
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _finding_lines(report: Report) -> Iterator[str]:
    missing = sorted({f"{one.denominator} ({', '.join(one.missing)})" for one in report.wholes if one.missing})
    if missing:
        yield f"No amount is given for {', '.join(missing)}: no share of it."
    for one in report.findings:
        clause = one.clause
        if not clause.percent:
            yield f"{clause.id}: {one.name}: no percentage decides. {clause.says}"
        elif one.asks is None:
            yield f"{clause.id}: {one.name}: not known: give what the {clause.scope} amounts to with --denominators."
        else:
            verdict = "asks for it" if one.asks else "does not ask for it"
            share = percent_text(one.share)
            yield f"{clause.id}: {one.name} is {share} of the {clause.scope}: {verdict} (from {clause.percent} %)."


def _show_trend(report: Report, screen: Console) -> None:
    if len(report.trend) < 2:
        return
    shown = table(
        [
            ("month", False),
            (report.measures[0], True),
            ("largest", False),
            ("share", True),
            ("top 3", True),
            ("HHI", True),
        ]
    )
    totals = aligned([one.total for one in report.trend.values()])
    for (month, one), total in zip(report.trend.items(), totals, strict=True):
        largest = one.largest
        hhi = "?" if one.hhi is None else decimal_places(one.hhi, 0)
        shown.add_row(
            cell(month),
            cell(total),
            cell(largest.name if largest else None),
            cell(percent_text(largest.share if largest else None)),
            cell(percent_text(one.top.get(3))),
            cell(hhi),
        )
    screen.print()
    screen.print(shown)


def _stress_lines(report: Report) -> Iterator[str]:
    stress = report.stress
    if stress is None:
        return
    yield f"\nIf {stress.name} leaves:"
    for one in stress.left:
        yield f"  {one.measure}: {_left_text(one, report.currency)}"
    if stress.fixed_pico is not None:
        yield f"  fixed cost that stays: {decimal_text(stress.fixed_pico)} {report.currency}{_fixed_text(stress)}"
    if stress.reach:
        yield from _reach_lines(stress)


def _left_text(one: Leaving, currency: str) -> str:
    unit = f" {currency}" if one.measure in _MONEY else ""
    if one.after is None:
        return f"not known, of {_value_text(one.measure, one.before)}{unit}"
    part = f" ({percent_text(Fraction(one.after, one.before))})" if one.before > 0 else ""
    return f"{_value_text(one.measure, one.after)}{unit} of {_value_text(one.measure, one.before)}{unit} remain{part}"


def _fixed_text(stress: Stress) -> str:
    main = stress.left[0]
    if not main.before or not main.after or stress.fixed_pico is None:
        return ""
    before, after = Fraction(stress.fixed_pico, main.before), Fraction(stress.fixed_pico, main.after)
    return f": {percent_text(before)} of {main.measure} before, {percent_text(after)} after"


def _reach_lines(stress: Stress) -> Iterator[str]:
    alone = [one.route for one in stress.reach if one.alone]
    part = Fraction(stress.calls_alone, stress.calls) if stress.calls else None
    yield (
        f"  {stress.calls_alone:,} of its {stress.calls:,} calls ({percent_text(part)}) go through "
        f"{len(alone)} of {len(stress.reach)} routes that have no candidate of another party"
        + (f": {', '.join(alone[:8])}{', …' if len(alone) > 8 else ''}" if alone else "")
    )
    if stress.calls_unknown:
        yield f"  {stress.calls_unknown:,} calls went through routes that the configuration does not name: not known"


def _notes(report: Report, found: Dependence) -> Iterator[str]:
    yield ""
    if found.unpriced:
        yield f"{found.unpriced:,} attempts have no price: they count in calls and tokens, not in money."
    if found.estimated_pico:
        amount = f"{decimal_text(found.estimated_pico)} {report.currency}"
        yield f"{amount} of the cost are posted at a bound, until a report corrects them."
    if found.unsold:
        yield f"Not all usage of {', '.join(found.unsold)} is sold yet (no price, or a bound): its revenue is what is."
    if found.internal:
        yield f"Left out, as parts of one's own company: {', '.join(found.internal)}."
    unknown = sorted(name for name, standing in found.standings.items() if not standing.source)
    if unknown:
        yield f"Nobody is known behind {', '.join(unknown)}: counted as parties of their own; name them in a file with --parties."
    for rate in found.rates:
        yield f"{rate.rate:f} {rate.currency} = 1 {rate.base} from {rate.date} ({rate.source})."
    bands = [band for band in report.bands if band.above is not None]
    for band in bands:
        yield f"HHI above {band.above:,}: {band.name} ({band.source})."


def csv_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """Return one row per level, name, measure and month, for a spreadsheet."""
    header = ["side", "level", "name", "measure", "currency", "value", "share_percent"]
    rows: list[list[object]] = []
    for level, by_measure in report.rankings.items():
        for measure, one in by_measure.items():
            money = measure in _MONEY
            for share in one.shares:
                value: object = decimal_text(share.value) if money else share.value
                percent = None if share.share is None else decimal_places(share.share * 100, 6).replace(",", "")
                rows.append([report.side, level, share.name, measure, report.currency if money else "", value, percent])
    return header, rows


def as_values(report: Report, found: Dependence) -> dict[str, Any]:
    """Return the report as JSON values: money as exact decimal text, shares as percentages with six decimals."""
    return {
        "side": report.side,
        "currency": report.currency,
        "months": list(report.months),
        "levels": {
            level: {measure: _ranking_values(report, one) for measure, one in by_measure.items()}
            for level, by_measure in report.rankings.items()
        },
        "denominators": [
            {
                "name": one.name,
                "denominator": one.denominator,
                "scope": one.scope,
                "share_percent": _percent(one.share),
                "ten_percent": None if one.share is None else one.large,
                "missing_months": list(one.missing),
            }
            for one in report.wholes
        ],
        "clauses": [
            {
                "clause": one.clause.id,
                "says": one.clause.says,
                "scope": one.clause.scope,
                "percent": one.clause.percent or None,
                "source": one.clause.source,
                "name": one.name,
                "share_percent": _percent(one.share),
                "asks": one.asks,
            }
            for one in report.findings
        ],
        "trend": [{"month": month, **_ranking_values(report, one)} for month, one in report.trend.items()],
        "largest_leaves": _stress_values(report),
        "standings": {
            channel: {"party": one.party, "parent": one.parent, "source": one.source, "remark": one.remark}
            for channel, one in found.standings.items()
        },
        "unpriced": found.unpriced,
        "unsold": found.unsold,
        "internal": found.internal,
        "estimated": decimal_text(found.estimated_pico),
        "rates": shown_rates(found.rates),
    }


def _ranking_values(report: Report, one: Ranking) -> dict[str, Any]:
    def value(amount: int) -> str | int:
        return decimal_text(amount) if one.measure in _MONEY else amount

    return {
        "total": value(one.total),
        "shares": [
            {"name": share.name, "value": value(share.value), "share_percent": _percent(share.share)}
            for share in one.shares
        ],
        "top_percent": {str(top): _percent(part) for top, part in one.top.items()},
        "hhi": None if one.hhi is None else decimal_places(one.hhi, 2).replace(",", ""),
        "band": report.band(one.hhi),
        "unknown": list(one.unknown),
    }


def _stress_values(report: Report) -> dict[str, Any] | None:
    stress = report.stress
    if stress is None:
        return None
    return {
        "name": stress.name,
        "remains": {
            one.measure: {
                "before": decimal_text(one.before) if one.measure in _MONEY else one.before,
                "after": None if one.after is None else decimal_text(one.after) if one.measure in _MONEY else one.after,
            }
            for one in stress.left
        },
        "fixed_cost": None if stress.fixed_pico is None else decimal_text(stress.fixed_pico),
        "calls": stress.calls,
        "calls_without_another_party": stress.calls_alone,
        "calls_through_unknown_routes": stress.calls_unknown,
        "routes": [{"route": one.route, "calls": one.calls, "no_other_party": one.alone} for one in stress.reach],
    }


def _percent(share: Any) -> str | None:
    return None if share is None else decimal_places(share * 100, 6).replace(",", "")
