"""A TOML file of dated rows: facts from outside, each with its source.

Rules: a file is read whole or refused; a field that is not known is an error, because a misspelt price is a
missing price. Every error names file, line and row, and what to write instead.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from upeti.core.errors import ConfigError

# No sign, no exponent, no separators: what a person reads in the file is what is counted.
DecimalText = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
Text = Annotated[str, Meta(pattern=r"\S")]

HeadT = TypeVar("HeadT")
RowT = TypeVar("RowT")


class DatedRow(msgspec.Struct, Generic[RowT], frozen=True):
    """One row with the place where it stands, for messages: ``file:line``."""

    file: str
    line: int
    number: int  # of the row in its file, from 1
    values: RowT

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.file}:{self.line}: row {self.number}: {what}")


def read_bytes(source: Path | Traversable) -> bytes:
    """Return the file's bytes. Raises ``ConfigError`` when it cannot be read."""
    try:
        return source.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{source}: cannot be read ({reason}); check the path and its permissions") from error


def rows_of(
    file: str, data: bytes, table: str, head: type[HeadT], row: type[RowT]
) -> tuple[HeadT, list[DatedRow[RowT]]]:
    """Return what stands above the rows, as a ``head``, and every ``[[table]]``, as a ``row``.

    Both are msgspec structs that forbid unknown fields. Raises ``ConfigError``.
    """
    text, document, (tables,) = split_tables(file, data, table)
    return head_of(file, document, head), typed_rows(file, text, table, tables, row)


def tables_of(file: str, data: bytes, kinds: Mapping[str, type]) -> dict[str, list[DatedRow[Any]]]:
    """Return the rows of every table in ``kinds``; a file may lack some, and has nothing else. Raises ``ConfigError``."""
    text, document, found = split_tables(file, data, *kinds)
    if document:
        names = ", ".join(f"[[{table}]]" for table in kinds)
        raise ConfigError(f"{file}: `{next(iter(document))}` is not known here; there are: {names}")
    return {
        table: typed_rows(file, text, table, tables, kind)
        for (table, kind), tables in zip(kinds.items(), found, strict=True)
    }


def split_tables(file: str, data: bytes, *names: str) -> tuple[str, dict[str, Any], list[list[Any]]]:
    """Return the file's text, what stands above its rows, and the rows of each table as they are written.

    Raises ``ConfigError``, also for a file without any row.
    """
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: not a TOML file: {error}") from error
    found = [document.pop(name, []) for name in names]
    if not all(isinstance(tables, list) for tables in found) or not any(found):
        raise ConfigError(f"{file}: there is no row; begin each one with a line `[[{names[0]}]]`")
    return text, document, found


def head_of(file: str, document: dict[str, Any], head: type[HeadT]) -> HeadT:
    """Return what stands above the rows. Raises ``ConfigError``."""
    try:
        return msgspec.convert(document, head)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: above the rows: {_with_cure(error, head)}") from error


def typed_rows(file: str, text: str, table: str, tables: list[Any], row: type[RowT]) -> list[DatedRow[RowT]]:
    """Return every ``[[table]]`` of a file with its place. Raises ``ConfigError``."""
    lines = _lines_of(text, table, len(tables))
    rows: list[DatedRow[RowT]] = []
    for number, (line, values) in enumerate(zip(lines, tables, strict=True), 1):
        try:
            rows.append(DatedRow(file, line, number, msgspec.convert(values, row)))
        except msgspec.ValidationError as error:
            place = DatedRow(file, line, number, values)
            raise place.error(_with_cure(error, row)) from error
    return rows


def _lines_of(text: str, table: str, count: int) -> list[int]:
    header = re.compile(rf"\s*\[\[\s*{re.escape(table)}\s*\]\]")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if header.match(line)]
    # Rows written as one inline array have no line of their own.
    return lines if len(lines) == count else [1] * count


def _with_cure(error: msgspec.ValidationError, kind: Any) -> str:
    what = str(error)
    if "unknown field" in what:
        names = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        return f"{what}; the fields are: {names}"
    if "missing required field" in what:
        return f"{what}; add it, no row is complete without"
    if "Expected `str`" in what and ("got `float`" in what or "got `int`" in what):
        return f'{what}; write it in quotes: "2.50" is exact, a TOML number is not'
    if "`date`" in what or "encoded date" in what:
        return f"{what}; write dates as 2026-01-31"
    if "matching regex" in what:
        return f'{what}; amounts are plain decimals such as "2.50", currencies three capitals such as "USD"'
    return what
