from __future__ import annotations

import csv
import io

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from upeti.cli.output import aligned, cell, only_one, plain, write_csv


@given(st.text())
def test_what_is_printed_acts_on_nothing(text: str) -> None:
    assert plain(text).isprintable()


def test_printable_text_stays_as_it_is() -> None:
    assert plain("ringkas – サーチ [bold]") == "ringkas – サーチ [bold]"
    assert plain("a\x1b[31m\u202eb\u00a0c") == "a\\x1b[31m\\u202eb c"


def test_a_cell_holds_no_markup_and_knows_unknown() -> None:
    assert [cell(value).plain for value in ("[red]x", 1234567, 0, None)] == ["[red]x", "1,234,567", "0", "?"]


def test_points_stand_below_each_other() -> None:
    assert aligned([1_500_000_000_000, None, 0, 1]) == ["1.500000000000", None, "0.000000000000", "0.000000000001"]
    assert aligned([10**12, 0]) == ["1", "0"]
    assert aligned([-(10**11), 5 * 10**12]) == ["-0.1", "5.0"]


def test_csv_holds_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(["a", "b"], [["=HYPERLINK(1)", "-1.5"], ["@x", None], ["-cmd", 7], ['a,"b"', "x\x1by"]])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        ["a", "b"],
        ["'=HYPERLINK(1)", "-1.5"],
        ["'@x", ""],
        ["'-cmd", "7"],
        ['a,"b"', "x\\x1by"],
    ]


def test_options_that_contradict_are_refused() -> None:
    only_one(json=True, csv=False)
    with pytest.raises(typer.BadParameter, match="--json and --csv"):
        only_one(json=True, csv=True)
