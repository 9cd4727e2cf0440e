"""A statement as JSON, CSV and a page: the same exact amounts, and nothing of a caller's text is markup."""

from __future__ import annotations

import json

from money.reconcile.planted import billed, line, statement, usage
from upeti.core.amount import parse_pico
from upeti.money.reconcile.lines import Nature, ReportLine
from upeti.money.reconcile.report import CSV_HEADER, csv_rows, document, html, to_look_at
from upeti.money.reconcile.run import Statement


def made() -> Statement:
    odd = ReportLine(
        place="line 9", day=usage().day, nature=Nature.UNMAPPED, name="<b>odd</b>", cost_pico=12_345 * 10**12
    )
    unknown = line("input", 0, model="o3", quantity=None, cost_pico=2_500_000_005)
    return statement(
        [*billed(usage()), odd, unknown, line("output", 7, model="gpt-9")],
        [usage(), usage(model="o3", meters={"input": 1_000})],
    )


def test_json_has_exact_texts_that_add_up() -> None:
    found = json.loads(json.dumps(document(made())))
    (total,) = found["totals"]
    amounts = {name: parse_pico(total[name]) for name in ("theirs", "ours", "difference", "explained", "unexplained")}
    assert amounts["theirs"] - amounts["ours"] == amounts["difference"] == amounts["explained"] + amounts["unexplained"]
    assert sum(parse_pico(kind["amount"]) for kind in total["kinds"]) == amounts["explained"]
    assert sum(parse_pico(one["difference"]) for one in found["lines"]) == amounts["difference"]
    assert (found["equal_lines"], found["explained"], amounts["unexplained"]) == (2, False, 5)
    assert "corrections" not in found


def test_csv_has_every_line_that_differs() -> None:
    rows = [dict(zip(CSV_HEADER, row, strict=True)) for row in csv_rows(made())]
    assert len(rows) == 3
    for row in rows:
        kinds = list(CSV_HEADER)[list(CSV_HEADER).index("difference") + 1 : list(CSV_HEADER).index("unexplained")]
        assert sum(row[kind] for kind in kinds) + row["unexplained"] == row["difference"] == row["theirs"] - row["ours"]


def test_unexplained_lines_come_first() -> None:
    assert [one.model for one in to_look_at(made())] == ["o3", "", "gpt-9"]


def test_the_page_shows_it_and_escapes_it() -> None:
    page = html(made())
    assert "One line is not explained" in page
    assert '<td class="n">12,345</td>' in page, "thousands are separated"
    assert "<b>odd</b>" not in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert "http" not in page, "nothing is fetched"
