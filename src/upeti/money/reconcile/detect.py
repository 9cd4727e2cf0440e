"""Opening what a provider gave: which of the known shapes it is, from its content, whatever it is called.

Rules: the same bytes are the same report. Several files are one report when they are its parts: pages of an API, the
partitions of an export. A shape that is not known is an error that says what is known, never a guess.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec

from upeti.money.reconcile import anthropic, azure, calls, openai
from upeti.money.reconcile.lines import Report, ReportError, ReportLine

KNOWN: Final = (
    "Azure cost and usage details as CSV (native or FOCUS) or Parquet (FOCUS), OpenAI organization costs and usage as JSON, "
    "Anthropic cost report and usage report as JSON, calls as CSV or JSON lines"
)
_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"
_BLOCK_BYTES: Final = 1 << 20


def sha256_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file; of several files, of their digests in order. Raises ``ReportError``."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise _unreadable(path, error) from error
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def open_report(paths: Sequence[Path]) -> Report:
    """Return the report that the files are. Raises ``ReportError``."""
    pages: list[tuple[str, Any]] = []
    parts: list[tuple[Path, Report]] = []
    for path in paths:
        try:
            opened = _open(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ReportError(f"{path}: not a text file in UTF-8: {error}") from None
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from None
        if isinstance(opened, Report):
            parts.append((path, opened))
        else:
            pages += [(path.name, page) for page in opened]
    if pages and parts:
        raise ReportError("these files are not parts of one report: give those of one provider and one kind at a time")
    return _of_pages(pages) if pages else _joined(parts)


def _unreadable(path: Path, error: OSError) -> ReportError:
    return ReportError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions")


def _open(path: Path) -> Report | list[Any]:
    """Return a report whose lines are read later, or the pages of an API."""
    file: BinaryIO = path.open("rb")
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        file = cast(BinaryIO, gzip.open(file))  # noqa: SIM115 its lines are read later
        head = file.read(4)
        file.seek(0)
    if head == _PARQUET:
        return azure.read_parquet(file)
    first = file.read(_BLOCK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    file.seek(0)
    if first in (b"{", b"["):
        return _open_json(file)
    text = azure.open_text(file)
    header = next(csv.reader([text.readline()]), [])
    text.seek(0)
    if calls.is_header(header):
        return calls.read_csv(text)
    if azure.is_focus(header) or azure.is_native(header):
        return azure.read_csv(text)
    shown = ", ".join(header[:6]) + (", …" if len(header) > 6 else "")
    raise ReportError(f"the columns ({shown or 'none'}) are not those of a report that is known: {KNOWN}")


def _open_json(file: BinaryIO) -> Report | list[Any]:
    text = azure.open_text(file)
    try:
        first = json.loads(text.readline(), parse_float=Decimal)
    except ValueError:
        first = None
    text.seek(0)
    if calls.is_record(first):
        return calls.read_json_lines(text)
    try:
        document = json.loads(text.read(), parse_float=Decimal)
    except ValueError as error:
        raise ReportError(f"not JSON: {error}") from None
    pages = document if isinstance(document, list) else [document]
    if pages and all(openai.is_page(page) or anthropic.is_page(page) for page in pages):
        return pages
    raise ReportError(f"the JSON is not that of a report that is known: {KNOWN}")


def _of_pages(pages: list[tuple[str, Any]]) -> Report:
    if all(openai.is_page(page) for _, page in pages):
        return openai.read(pages)
    if all(anthropic.is_page(page) for _, page in pages):
        return anthropic.read(pages)
    raise ReportError("these files are not parts of one report: give those of one provider at a time")


def _joined(parts: list[tuple[Path, Report]]) -> Report:
    """Return the partitions of an export as one report; what each notes is known once its lines are read."""
    whole = parts[0][1]
    if len(parts) == 1:
        return whole
    if any((part.provider, part.format) != (whole.provider, whole.format) for _, part in parts):
        raise ReportError("these files are not parts of one report: give those of one provider and one kind at a time")
    joined = Report(provider=whole.provider, format=whole.format, lines=iter(()), tells=whole.tells)

    def lines() -> Iterator[ReportLine]:
        for path, part in parts:
            for line in part.lines:
                yield _named(line, path)
            for text, count in part.notes.items():
                joined.note(text, count)
            for day in (part.first_day, part.last_day):
                if day is not None:
                    joined.cover(day)
            joined.decimals = max(joined.decimals, part.decimals)
            joined.residue_pico += part.residue_pico

    joined.lines = lines()
    return joined


def _named(line: ReportLine, path: Path) -> ReportLine:
    return msgspec.structs.replace(line, place=f"{path.name}: {line.place}")
