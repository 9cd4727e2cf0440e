"""The impression log: one row for every item that was shown, with all that is needed to judge it later.

Rules: a row is in a file before the feed that it belongs to leaves (it survives the death of the process; with ``power``
also that of the machine). Rows go to a *segment*, which one process alone writes and holds a lock on; a segment without a
writer becomes one Parquet file, written aside and renamed, and is then removed. What a killed writer left of a block was
promised to nobody and is left out. A query reads Parquet and segments alike, so it is current to the last row.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from zlib import crc32

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from upeti.core.errors import UpetiError

SEGMENT_SUFFIX: Final = ".upi"
_SEGMENT_BYTES: Final = 16 * 1024 * 1024  # some 50,000 rows: a Parquet file worth the name, read in a tenth of a second
_SEGMENT_S: Final = 3600.0
_MAGIC: Final = b"UPI1"
_HEADER: Final = struct.Struct("<4sII")  # magic, payload bytes, CRC-32 of the payload
_SCHEMA: Final = pa.schema(
    [
        ("impression_id", pa.string()),
        ("request_id", pa.string()),
        ("at_ns", pa.int64()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("rank", pa.int64()),
        ("sources", pa.list_(pa.string())),
        ("arm", pa.string()),
        ("experiment", pa.string()),
        ("propensity", pa.float64()),
        ("score", pa.float64()),
        ("features", pa.map_(pa.string(), pa.float64())),
        ("model_version", pa.string()),
        ("enrichment_version", pa.string()),
        ("context", pa.map_(pa.string(), pa.string())),
        ("spent_us", pa.int64()),
    ]
)


class ImpressionError(UpetiError):
    """A row cannot be logged, or the log cannot be changed now."""


class Impression(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item in one answer of the feed. Fields are only ever appended, each with a default."""

    impression_id: str
    request_id: str
    at_ns: int
    user: str
    item: str
    rank: int  # from 0
    sources: tuple[str, ...]  # who proposed it: "popular", "als", "content", "explore" …
    arm: str  # of the experiment, or the default's name
    experiment: str  # "" outside of any
    propensity: float  # probability with which this item was put at this place, in (0, 1]
    score: float
    features: dict[str, float] = {}  # what the ranker saw; a name that is absent was unknown
    model_version: str = ""
    enrichment_version: str = ""  # of the item, as the ranker used it; "" when it used none
    context: dict[str, str] = {}  # such as the device or the surface; never a name or an address of a person
    spent_us: int = 0  # microseconds that making the list took; 0: nobody measured


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Impression]).decode


def checked(row: Impression) -> Impression:
    """Return ``row`` without features that are not finite: they say nothing. Raises ``ImpressionError``."""
    if not 0 < row.propensity <= 1:  # NaN too
        raise ImpressionError(
            f"impression {row.impression_id}: a propensity of {row.propensity} is none; log the probability of the item "
            "at its place, over 0 and at most 1 (1 when nothing was drawn)"
        )
    if row.rank < 0 or not row.user or not row.item:
        raise ImpressionError(f"impression {row.impression_id} needs a user, an item and a rank from 0")
    if math.isfinite(row.score + sum(row.features.values())):  # a single one that is not finite shows in the sum
        return row
    features = {name: value for name, value in row.features.items() if math.isfinite(value)}
    score = row.score if math.isfinite(row.score) else 0.0
    return msgspec.structs.replace(row, features=features, score=score)


class ImpressionLog:
    """The log of one tenant, in ``directory/impressions``.

    One thread at a time may use it; several processes may, each through one of its own.
    """

    def __init__(self, directory: Path, *, power: bool = False) -> None:
        """``directory`` is what ``FeedStore.tenant_dir`` returns. ``power``: rows survive that of the machine."""
        self._directory = directory / "impressions"
        self._power = power
        self._segment: _Segment | None = None

    def append(self, rows: Sequence[Impression]) -> None:
        """Log ``rows``, all or none. Raises ``ImpressionError`` for a row that cannot be, ``OSError`` for a full disk."""
        if not rows:
            return
        payload = _encode([checked(row) for row in rows])
        if self._segment is not None and self._segment.is_full:
            self.roll()
        if self._segment is None:
            self._segment = _Segment(self._directory)
        self._segment.write(_HEADER.pack(_MAGIC, len(payload), crc32(payload)) + payload, power=self._power)

    def roll(self) -> None:
        """End the segment that is being written; the next ``append`` begins another one."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    close = roll

    def project(self) -> int:
        """Turn segments without a writer into Parquet; return how many."""
        made = 0
        for path in self._segments():
            held = _lock_of(path)
            if held is None:
                continue
            try:
                self._project_one(path)
                made += 1
            finally:
                os.close(held)
        return made

    def erase(self, user: str) -> int:
        """Take every impression of ``user`` out; return how many there were.

        Raises ``ImpressionError`` when another process is writing: its segment cannot be changed under it.
        """
        self.roll()
        self.project()
        if self._segments():
            raise ImpressionError(
                "another process writes impressions; ask the feed service to delete the user, or stop it first"
            )
        erased = 0
        for path in sorted(self._directory.glob("*.parquet")):
            table = pq.read_table(path, schema=_SCHEMA)
            kept = table.filter(pc.not_equal(table["user"], user))
            if kept.num_rows < table.num_rows:
                erased += table.num_rows - kept.num_rows
                _write_aside(kept, path)
        return erased

    def read(self, from_ns: int = 0, to_ns: int = 2**63 - 1, experiment: str | None = None) -> list[Impression]:
        """Return the rows from ``from_ns`` up to, not including, ``to_ns``, oldest first."""
        query = "SELECT * FROM impressions WHERE at_ns >= ? AND at_ns < ?"
        given: list[Any] = [from_ns, to_ns]
        if experiment is not None:
            query += " AND experiment = ?"
            given.append(experiment)
        with self.connect() as connection:
            table = connection.sql(query + " ORDER BY at_ns, request_id, rank", params=given).to_arrow_table()
        return [_impression(row) for row in table.to_pylist(maps_as_pydicts="strict")]

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return a connection with the view ``impressions``: every row that is logged."""
        # Segments first: one that becomes Parquet meanwhile is then found there, and counts once by its name.
        live = {path.stem: _rows_of(path) for path in self._segments()}
        files = {path.stem: path for path in sorted(self._directory.glob("*.parquet"))}
        rest = [row for name, rows in live.items() if name not in files for row in rows]
        connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
        connection.register("unprojected", _table(rest))
        parts = "SELECT * FROM unprojected"
        if files:
            connection.read_parquet([str(path) for path in files.values()], union_by_name=True).create_view("projected")
            parts += " UNION ALL BY NAME SELECT * FROM projected"
        connection.execute(f"CREATE VIEW impressions AS {parts}")
        return connection

    def _segments(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{SEGMENT_SUFFIX}"))

    def _project_one(self, path: Path) -> None:
        target = path.with_suffix(".parquet")
        if not target.exists():  # else its projector was killed between the two steps
            rows = _rows_of(path)
            if rows:
                _write_aside(_table(rows), target)
        path.unlink(missing_ok=True)


class _Segment:
    """The file that this process writes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / f"{time.time_ns():020d}-{token_hex(4)}{SEGMENT_SUFFIX}"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._began_s = time.monotonic()
        self._end = 0

    @property
    def is_full(self) -> bool:
        return self._end >= _SEGMENT_BYTES or time.monotonic() - self._began_s >= _SEGMENT_S

    def write(self, block: bytes, *, power: bool) -> None:
        done = 0
        try:
            while done < len(block):
                done += os.pwrite(self._file, block[done:], self._end + done)
        except OSError:
            os.ftruncate(self._file, self._end)  # all or none
            raise
        if power:
            os.fsync(self._file)
        self._end += len(block)

    def close(self) -> None:
        os.close(self._file)


def _lock_of(path: Path) -> int | None:
    """Return a descriptor that holds the segment, or None while its writer lives or when it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _rows_of(path: Path) -> list[Impression]:
    """Return the rows of every whole block."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []  # became Parquet a moment ago
    rows: list[Impression] = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        magic, length, crc = _HEADER.unpack_from(data, offset)
        body = offset + _HEADER.size
        payload = data[body : body + length]
        if magic != _MAGIC or len(payload) < length or crc32(payload) != crc:
            break
        rows += _decode(payload)
        offset = body + length
    return rows


def _table(rows: Sequence[Impression]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
    for name in ("features", "context"):
        columns[name] = [list(value.items()) for value in columns[name]]
    return pa.table(columns, schema=_SCHEMA)


def _write_aside(table: pa.Table, target: Path) -> None:
    aside = target.with_suffix(".aside")
    pq.write_table(table, aside, compression="zstd")
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(target)


def _impression(row: dict[str, Any]) -> Impression:
    row["sources"] = tuple(row["sources"])
    row["spent_us"] = row["spent_us"] or 0  # files of before have no such column
    return Impression(**row)


def days(rows: Sequence[Impression]) -> Iterator[tuple[int, list[Impression]]]:
    """Yield (day since 1970 in UTC, its rows) of rows in order of time."""
    of_day: list[Impression] = []
    current = -1
    for row in rows:
        day = row.at_ns // 86_400_000_000_000
        if day != current and of_day:
            yield current, of_day
            of_day = []
        current = day
        of_day.append(row)
    if of_day:
        yield current, of_day
