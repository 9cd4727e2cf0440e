"""Rows written to each format come back as they were, and the checker finds nothing in them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.focus_rows import every_sort, exported, invoice_line
from upeti.core.amount import parse_pico, to_decimal
from upeti.money.focus import files
from upeti.money.focus.checker import Checker, Verdict
from upeti.money.focus.columns import COST_AND_USAGE, Dataset
from upeti.money.focus.export import Row, sum_pico
from upeti.money.focus.files import FocusFileError, Format


def verdict_of(path: Path) -> Verdict:
    opened = files.read(path, files.format_of(path))
    checker = Checker(opened.dataset, opened.header, opened.types)
    for row, extra in opened.rows:
        checker.take(row, extra=extra)
    return checker.verdict


@pytest.mark.parametrize("kind", list(Format))
def test_what_is_written_is_read_back_to_the_last_digit(kind: Format, tmp_path: Path) -> None:
    rows = exported()
    path = tmp_path / f"november.{kind}"
    assert files.write(path, Dataset.COST_AND_USAGE, kind, rows) == len(rows)
    back = [row for row, _ in files.read(path, kind).rows]
    assert back == rows
    assert sum_pico(back)["USD"] == sum(one.cost_pico for one in every_sort() if one.currency == "USD")
    assert verdict_of(path).findings == []
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", list(Format))
def test_invoice_lines_are_known_by_their_columns(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / f"lines.{kind}"
    files.write(path, Dataset.INVOICE_DETAIL, kind, [invoice_line(), invoice_line(InvoiceDetailId="INV-1/2")])
    assert files.read(path, kind).dataset is Dataset.INVOICE_DETAIL
    assert verdict_of(path).findings == []


def test_other_tools_sum_the_file_exactly(tmp_path: Path) -> None:
    path = tmp_path / "november.parquet"
    files.write(path, Dataset.COST_AND_USAGE, Format.PARQUET, exported())
    query = f"SELECT BillingCurrency, sum(BilledCost) FROM '{path}' GROUP BY 1"
    found = dict(duckdb.connect().execute(query).fetchall())
    assert found == {currency: to_decimal(pico) for currency, pico in sum_pico(exported()).items()}
    assert isinstance(found["IDR"], Decimal)


def test_no_amount_has_an_exponent_or_is_a_float(tmp_path: Path) -> None:
    row = exported()[0] | {"BilledCost": "0.000000000001"}
    for kind in (Format.CSV, Format.JSON):
        files.write(tmp_path / f"one.{kind}", Dataset.COST_AND_USAGE, kind, [row])
        text = (tmp_path / f"one.{kind}").read_text()
        assert "0.000000000001" in text
        assert "E-" not in text
    schema = pq.read_schema(_parquet(tmp_path, [row]))
    assert schema.field("BilledCost").type == pa.decimal128(38, 12)
    assert schema.metadata[b"FocusVersion"] == b"1.4"


def _parquet(folder: Path, rows: list[Row]) -> Path:
    files.write(folder / "one.parquet", Dataset.COST_AND_USAGE, Format.PARQUET, rows)
    return folder / "one.parquet"


def test_a_parquet_file_with_floats_is_found(tmp_path: Path) -> None:
    path = tmp_path / "floats.parquet"
    row = {name: [value] for name, value in exported()[0].items()} | {"BilledCost": [0.4]}
    pq.write_table(pa.table(row), path)
    rules = {(one.rule, one.column) for one in verdict_of(path).findings}
    assert ("columns.type", "BilledCost") in rules


def test_a_map_of_tags_and_a_time_with_a_zone_are_read_as_focus_writes_them(tmp_path: Path) -> None:
    import datetime

    zone = datetime.timezone(datetime.timedelta(hours=7))
    table = pa.table(
        {
            "Tags": pa.array([[("team", "a")]], pa.map_(pa.string(), pa.string())),
            "ChargePeriodStart": pa.array([datetime.datetime(2026, 11, 3, 7, tzinfo=zone)]),
            "BillingPeriodStart": pa.array([datetime.datetime(2026, 11, 1)]),
        }
    )
    pq.write_table(table, tmp_path / "map.parquet")
    ((row, _),) = files.read(tmp_path / "map.parquet", Format.PARQUET).rows
    assert row == {
        "Tags": '{"team": "a"}',
        "ChargePeriodStart": "2026-11-03T00:00:00Z",
        "BillingPeriodStart": "2026-11-01T00:00:00",
    }


def test_numbers_of_a_json_file_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text('[{"BilledCost": 0.100000000000000000001, "Tags": {"a": true}}, {"ListCost": 7}]')
    rows = [row for row, _ in files.read(path, Format.JSON).rows]
    assert rows[0] == {"BilledCost": "0.100000000000000000001", "Tags": '{"a": true}', "ListCost": None}
    assert rows[1]["ListCost"] == "7"


def test_a_csv_file_with_a_byte_order_mark_and_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufeffBilledCost,ListCost\r\n1\r\n1,2,3\r\n".encode())
    opened = files.read(path, Format.CSV)
    assert opened.header == ["BilledCost", "ListCost"]
    assert list(opened.rows) == [
        ({"BilledCost": "1", "ListCost": None}, True),
        ({"BilledCost": "1", "ListCost": "2"}, True),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "end it with .csv"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\xff\xfe\x00", "UTF-8"),
        ("a.json", b"{", "cannot be read as json"),
        ("a.json", b"[1]", "no list of objects"),
        ("a.parquet", b"PAR1", "cannot be read as parquet"),
    ],
)
def test_what_is_no_such_file_is_said_with_the_cure(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FocusFileError, match=message):
        verdict_of(path)


def test_a_file_that_is_not_there_and_a_write_that_fails(tmp_path: Path) -> None:
    with pytest.raises(FocusFileError, match="there is no file"):
        files.read(tmp_path / "none.csv", Format.CSV)

    def broken() -> object:
        yield exported()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write(tmp_path / "half.csv", Dataset.COST_AND_USAGE, Format.CSV, broken())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_columns_are_as_many_as_focus_has() -> None:
    own = [column for column in COST_AND_USAGE if column.name.startswith("x_")]
    assert len(COST_AND_USAGE) - len(own) == 65
    assert [column.name for column in COST_AND_USAGE[:65]] == sorted(column.name for column in COST_AND_USAGE[:65])
    assert parse_pico("0.000000000001") == 1
