"""FOCUS rows in files: CSV, JSON and Parquet, written row after row and read back as text.

Rules: null is an empty field in CSV, ``null`` in JSON, a null in Parquet. Numbers are decimal text in CSV and JSON and
DECIMAL(38,12) in Parquet, never floats. A file is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from upeti.core.errors import UpetiError
from upeti.money.focus.columns import COLUMNS, FOCUS_VERSION, Column, Dataset, Kind
from upeti.money.focus.export import Row


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


_ROWS_AT_ONCE: Final = 10_000


class FocusFileError(UpetiError):
    """A file cannot be read as FOCUS data. The message names the cure."""


def format_of(path: Path) -> Format:
    """Return the format that a file's name says. Raises ``FocusFileError``."""
    for name in Format:
        if path.suffix.lower() == f".{name}":
            return name
    raise FocusFileError(
        f"{path}: the name does not say the format; end it with .csv, .parquet or .json, or give --format"
    )


def write(path: Path, dataset: Dataset, kind: Format, rows: Iterable[Row]) -> int:
    """Write a file and return the number of rows. Raises ``OSError``."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        count = _WRITERS[kind](partial, COLUMNS[dataset], rows)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    return count


def _write_csv(path: Path, columns: tuple[Column, ...], rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in columns)
        for row in rows:
            writer.writerow(row[column.name] for column in columns)
            count += 1
    return count


def _write_json(path: Path, columns: tuple[Column, ...], rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for row in rows:
            text = json.dumps({column.name: row[column.name] for column in columns}, ensure_ascii=False)
            file.write(f"{',' if count else ''}\n{text}")
            count += 1
        file.write("\n]\n")
    return count


def _write_parquet(path: Path, columns: tuple[Column, ...], rows: Iterable[Row]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {Kind.DECIMAL: pa.decimal128(38, 12), Kind.DATETIME: pa.timestamp("us", tz="UTC")}
    fields = [pa.field(one.name, types.get(one.kind, pa.string()), nullable=one.nullable) for one in columns]
    schema = pa.schema(fields, metadata={"FocusVersion": FOCUS_VERSION})
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in _parts(rows):
            values = {one.name: [_typed(one.kind, row[one.name]) for row in part] for one in columns}
            writer.write_table(pa.table(values, schema=schema))
            count += len(part)
    return count


_WRITERS: Final = {Format.CSV: _write_csv, Format.JSON: _write_json, Format.PARQUET: _write_parquet}


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while part := list(islice(left, _ROWS_AT_ONCE)):
        yield part


def _typed(kind: Kind, text: str | None) -> object:
    if text is None:
        return None
    if kind is Kind.DECIMAL:
        return Decimal(text)
    return datetime.datetime.fromisoformat(text) if kind is Kind.DATETIME else text


# -- reading
# ---------------------------------------------------------------------------------------------------------------


class FocusFile:
    """A file that is being read: its header, its column types when it has any, and its rows."""

    def __init__(
        self, header: list[str], rows: Iterator[tuple[Row, bool]], types: dict[str, str] | None = None
    ) -> None:
        """``rows`` come with whether they had another number of values than the header."""
        self.header = header
        self.rows = rows
        self.types = types

    @property
    def dataset(self) -> Dataset:
        """The dataset that the columns most look like."""
        likeness = {one: len({column.name for column in COLUMNS[one]} & set(self.header)) for one in Dataset}
        return max(likeness, key=lambda one: likeness[one] / len(COLUMNS[one]))


def read(path: Path, kind: Format) -> FocusFile:
    """Open a file. Raises ``FocusFileError``; its rows may raise it too."""
    if not path.is_file():
        raise FocusFileError(f"there is no file {path}; `upeti focus export -o FILE` writes one")
    try:
        return _READERS[kind](path)
    except (ValueError, OSError) as error:
        raise FocusFileError(f"{path} cannot be read as {kind}: {error}; give --format when it is another") from error


def _read_csv(path: Path) -> FocusFile:
    lines = _csv_lines(path)
    header = next(lines, [])
    if not header:
        raise FocusFileError(f"{path} is empty; a CSV file begins with the names of its columns")

    def rows() -> Iterator[tuple[Row, bool]]:
        for values in lines:
            if values:
                padded = [value or None for value in values] + [None] * (len(header) - len(values))
                yield dict(zip(header, padded, strict=False)), len(values) != len(header)

    return FocusFile(header, rows())


def _csv_lines(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FocusFileError(
            f"{path} cannot be read as CSV: {error}; write it as UTF-8, and quote line breaks"
        ) from error


def _read_json(path: Path) -> FocusFile:
    text = path.read_text(encoding="utf-8-sig")
    # Numbers stay as they are written: a float would change what is checked.
    values = json.loads(text, parse_float=_Number, parse_int=_Number)
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise FocusFileError(f"{path} is no list of objects; write one object for each row, in one list")
    header = list(dict.fromkeys(chain.from_iterable(values)))
    return FocusFile(header, (({name: _text(row.get(name)) for name in header}, False) for row in values))


class _Number(str):
    """A number's text in a JSON file."""

    __slots__ = ()


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, default=str)


def _read_parquet(path: Path) -> FocusFile:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    header = list(schema.names)

    def rows() -> Iterator[tuple[Row, bool]]:
        for part in file.iter_batches(_ROWS_AT_ONCE):
            for row in part.to_pylist():
                yield {name: _plain(value) for name, value in row.items()}, False

    return FocusFile(header, rows(), {field.name: str(field.type) for field in schema})


def _plain(value: Any) -> str | None:
    """Return a value of a Parquet file as a CSV file would have it."""
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return value.isoformat()  # without a zone: no moment as FOCUS writes it
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date | float | int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, tuple) for one in value):
        return json.dumps(dict(value))  # a MAP column
    return _text(value)


_READERS: Final = {Format.CSV: _read_csv, Format.JSON: _read_json, Format.PARQUET: _read_parquet}
