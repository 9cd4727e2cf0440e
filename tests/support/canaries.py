"""Texts that are planted and must not come up: looked for in everything that was written, whatever its format.

Rules: formats are opened, not only read: what is compressed is unpacked, tables are read by row and column, and what is
found within is opened again. A text is found as it is, and as JSON, addresses and base64 write it. Databases that are read
here must not be in use by this process: closing their files drops its locks.
"""

from __future__ import annotations

import base64
import gzip
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import zstandard

_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP = b"\x1f\x8b\x08"
_SQLITE = b"SQLite format 3\0"
_PARQUET = b"PAR1"
_DEPTH_MAX = 4


class Place(NamedTuple):
    """Where a canary was found: the file, what within it, and the canary's name."""

    file: str
    within: str
    canary: str


def find_canaries(folder: Path, canaries: Mapping[str, str], leave_out: Iterable[str] = ()) -> list[Place]:
    """Return where below ``folder`` canaries (name → text) are, in files' names too; ``leave_out`` names files."""
    wanted = {name: forms_of(text) for name, text in canaries.items()}
    left_out = set(leave_out)
    found: list[Place] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in left_out:
            continue
        found += [Place(name, "name", canary) for canary in _canaries_in(name.encode(), wanted)]
        if stat.S_ISREG(path.lstat().st_mode):
            parts = _parts(path.read_bytes(), path)
            found += sorted(
                {Place(name, within, canary) for within, data in parts for canary in _canaries_in(data, wanted)}
            )
    return found


def canaries_in(text: str, canaries: Mapping[str, str]) -> list[str]:
    """Return the names of the canaries that ``text`` holds."""
    return _canaries_in(text.encode(), {name: forms_of(canary) for name, canary in canaries.items()})


def forms_of(text: str) -> list[bytes]:
    """Return how ``text`` may be written: plain, with JSON's escapes, in an address, in hex, in base64 at any offset."""
    plain = text.encode()
    addresses = {quote(text, safe="").encode(), quote_plus(text).encode()}
    forms = {plain, plain.replace(b"/", rb"\/"), plain.hex().encode(), *addresses}
    for before in range(3):
        packed = base64.b64encode(b"\0" * before + plain).rstrip(b"=")
        inner = packed[-(-before * 8 // 6) : len(packed) - 1]  # letters that no neighbour has a share in
        forms |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return sorted(forms)


def _canaries_in(data: bytes, wanted: Mapping[str, list[bytes]]) -> list[str]:
    return [name for name, forms in wanted.items() if any(form in data for form in forms)]


def _parts(data: bytes, path: Path | None, within: str = "", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield what is to be searched: the bytes themselves, and what they hold when they are opened."""
    yield within.strip() or "plain", data
    if depth == _DEPTH_MAX:
        return
    if data.startswith(_ZSTD):
        yield from _parts(zstandard.ZstdDecompressor().stream_reader(data).read(), None, f"{within}zstd ", depth + 1)
    elif data.startswith(_GZIP):
        yield from _parts(gzip.decompress(data), None, f"{within}gzip ", depth + 1)
    elif data.startswith(_PARQUET):
        table = pq.read_table(BytesIO(data))
        for column in table.column_names:
            values = (_bytes(value) for value in set(map(_hashable, table.column(column).to_pylist())))
            for value in values:
                yield from _parts(value, None, f"{within}column {column} ", depth + 1)
        for name, value in (table.schema.metadata or {}).items():
            yield f"{within}metadata", name + b"=" + value
    elif data.startswith(_SQLITE) and path is not None:
        for name, value in _rows(path):
            yield from _parts(value, None, f"{within}table {name} ", depth + 1)


def _rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every value of a database, as a reader sees it: what is in its WAL alone too."""
    with tempfile.TemporaryDirectory() as copies:
        copy = Path(copies) / path.name
        for ending in ("", "-wal"):
            if (part := path.with_name(path.name + ending)).exists():
                shutil.copyfile(part, copy.with_name(part.name))
        with closing(sqlite3.connect(copy)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        if isinstance(value, str | bytes):
                            yield table, _bytes(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value
