"""Dated files: rows with their place, and errors that name it."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

from upeti.core.errors import ConfigError
from upeti.providers.dated_file import DecimalText, read_bytes, rows_of


class Head(msgspec.Struct, forbid_unknown_fields=True):
    base: str = ""


class Fact(msgspec.Struct, forbid_unknown_fields=True):
    value: DecimalText
    date: datetime.date


TWO_FACTS = b"""base = "x"

[[fact]]
value = "1.5"
date = 2026-01-01

  [[ fact ]]   # spaced as TOML allows
value = "2"
date = 2026-02-01
"""


def test_rows_know_their_file_line_and_number() -> None:
    head, rows = rows_of("facts.toml", TWO_FACTS, "fact", Head, Fact)
    assert head.base == "x"
    assert [(row.line, row.number, row.values.value) for row in rows] == [(3, 1, "1.5"), (7, 2, "2")]
    assert str(rows[1].error("is odd")) == "facts.toml:7: row 2: is odd"


def test_rows_in_one_line_are_told_apart_by_number() -> None:
    data = b'fact = [{ value = "1", date = 2026-01-01 }, { value = 2, date = 2026-01-01 }]'
    with pytest.raises(ConfigError, match=r'^facts\.toml:1: row 2: .*write it in quotes: "2\.50" is exact'):
        rows_of("facts.toml", data, "fact", Head, Fact)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"^facts\.toml: there is no row; begin each one with a line `\[\[fact\]\]`"),
        (b"[fact]\nvalue = '1'", "there is no row"),
        (b"fact = []", "there is no row"),
        (b"fact = 1", "there is no row"),
        (b"fact = [1]", r"^facts\.toml:1: row 1: Expected `object`"),
        (b"[[fact]\n", r"^facts\.toml: not a TOML file: .*line 1"),
        (b"\xff", "not a TOML file"),
        (TWO_FACTS.replace(b"base", b"bass"), r"^facts\.toml: above the rows: .*the fields are: base"),
        (TWO_FACTS.replace(b"2026-02-01", b"2026-02-01T10:00:00"), r"^facts\.toml:7: row 2: .*write dates as"),
    ],
)
def test_a_file_is_read_whole_or_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows_of("facts.toml", data, "fact", Head, Fact)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_bytes(tmp_path)
