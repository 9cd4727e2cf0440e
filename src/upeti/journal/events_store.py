"""Events for analysis: Parquet files beside the journal, and DuckDB views over both.

Every closed segment becomes one Parquet file, named after it, written aside and renamed: that it is there
says that the segment is done. What is not projected yet is read from the journal at the time of the query, so
a query is exact and current, and the files may be deleted at any time: the journal is the truth.
Money is DECIMAL(38,12), times are UTC without a zone. Pyarrow is imported here and by the log of impressions alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from upeti.core.errors import JournalError
from upeti.journal.blocks import segment_number
from upeti.journal.event_columns import (
    EVENT_COLUMNS,
    FLAG,
    INTEGER,
    PENDING_COLUMNS,
    PICO,
    REFUSAL_COLUMNS,
    TEXT,
    TIME,
    Column,
    Rows,
    SegmentRows,
)
from upeti.journal.reader import digest_before, instances, is_closed, segments
from upeti.journal.recovery import RecoveredName, recovered_names
from upeti.journal.usage_fold import UsageFold

_BATCH_ROWS: Final = 10_000  # as Python objects at a time; as Arrow they take a fifth of the memory
_ROW_GROUP_ROWS: Final = 100_000  # large enough to compress well and to be scanned in parallel
_TYPES: Final = {
    TEXT: pa.string(),
    INTEGER: pa.int64(),
    FLAG: pa.bool_(),
    TIME: pa.timestamp("us"),
    PICO: pa.decimal128(38, 12),
}
_PICO_WHOLE: Final = pa.decimal128(38, 0)
_FEW_VALUES: Final = frozenset({"instance", "attempt", "bound", *(column.name for column in REFUSAL_COLUMNS[5:])})
_SEGMENT_BYTES: Final = b"upeti.segment_bytes"  # metadata: how long the segment was when it was projected
_DAMAGE: Final = pa.schema([("segment", pa.string()), ("error", pa.string())])


def events_path(data_dir: Path, instance: str, number: int) -> Path:
    """Return where the events of a segment are kept."""
    return data_dir / "events" / f"{instance}-{number:08d}.parquet"


def refusals_path(data_dir: Path, instance: str, number: int) -> Path:
    """Return where the refusals of a segment are kept; there is no file when there was none."""
    return data_dir / "refusals" / f"{instance}-{number:08d}.parquet"


class SegmentEnd(NamedTuple):
    """A segment that was read to its end."""

    instance: str
    number: int
    end: int  # offset past the last sound block
    digest: str  # of that block, in hex


class Sink(Protocol):
    """Who takes the usage of each segment, beside its files."""

    def wants(self, instance: str, number: int) -> bool: ...

    def fold(self) -> UsageFold: ...

    def post(self, segment: SegmentEnd, fold: UsageFold) -> None: ...


def project_closed_segments(data_dir: Path, *, dead: Collection[str] = (), sink: Sink | None = None) -> int:
    """Write the Parquet files of all closed segments that have none, and give ``sink`` the usage of those that it
    wants; return how many were read.

    Closed is a segment that was ended on purpose or has a successor, and the last one of an instance that is
    ``dead``, or of which a keeper recovered attempts, once nothing in it is open any more. Every other
    segment is projected before a ``JournalError`` is raised for a damaged one.
    """
    recovered = recovered_names(data_dir)
    known_dead = {instance for instance, _, _ in recovered} | set(dead)
    read = 0
    failure: JournalError | None = None
    for directory in instances(data_dir):
        try:
            paths = segments(directory)
            for index, path in enumerate(paths):
                last = index == len(paths) - 1
                filed = _is_projected(data_dir, path, last=last)
                wanted = sink if sink is not None and sink.wants(directory.name, segment_number(path)) else None
                if filed and wanted is None:
                    continue
                if last and directory.name not in known_dead and not is_closed(path):
                    continue
                read += _Projection(data_dir, paths, index, filed=filed, sink=wanted).run(recovered)
        except JournalError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return read


def connect(data_dir: Path, *, skip_damaged: bool = False) -> duckdb.DuckDBPyConnection:
    """Return a connection with the views ``events``, ``refusals``, ``pending`` and ``damage``.

    ``events`` has one row per settled or recovered attempt, ``refusals`` one per refused call, ``pending``
    one per attempt that is open. Raises ``JournalError`` when a segment without a file is damaged; with
    ``skip_damaged`` what cannot be read is left out and named in ``damage``, as an unreadable last block
    always is.
    """
    # Listed once, and first: a segment that is projected from here on is still read from the journal.
    projected = {path.name: path for path in sorted((data_dir / "events").glob("*.parquet"))}
    rest = _Unprojected(data_dir, projected, skip_damaged=skip_damaged)
    for directory in instances(data_dir):
        rest.add(directory)
    refused = [data_dir / "refusals" / name for name in projected]
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    connection.execute("SET preserve_insertion_order = false")
    _make_view(connection, "events", _table(EVENT_COLUMNS, rest.events), list(projected.values()))
    refusals = _table(REFUSAL_COLUMNS, rest.refusals)
    _make_view(connection, "refusals", refusals, [path for path in refused if path.exists()])
    connection.register("pending", _table(PENDING_COLUMNS, [_batch(PENDING_COLUMNS, rest.pending)]))
    connection.register("damage", pa.Table.from_pylist(rest.damage, schema=_DAMAGE))
    return connection


def file_sums(paths: Sequence[Path]) -> dict[str, dict[tuple[str, str, str, str], Decimal]]:
    """Return file name → (tenant, channel, currency, day) → cost, from the files alone. Raises ``JournalError``."""
    query = """
        SELECT parse_filename(filename), tenant, channel, currency, strftime(settled_at, '%Y-%m-%d'), sum(cost)
        FROM files WHERE cost <> 0 GROUP BY ALL
    """
    sums: dict[str, dict[tuple[str, str, str, str], Decimal]] = {}
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as connection:
        try:
            files = connection.read_parquet([str(path) for path in paths], union_by_name=True, filename=True)
            files.create_view("files")
            for name, *cell, cost in connection.execute(query).fetchall():
                sums.setdefault(name, {})[cell[0], cell[1], cell[2], cell[3]] = cost
        except duckdb.Error as error:
            cure = "delete the file that is named, it is made again"
            raise JournalError(f"a Parquet file cannot be read ({error}): {cure}") from error
    return sums


class _Unprojected:
    """What has no Parquet file yet, read from the journal."""

    def __init__(self, data_dir: Path, projected: dict[str, Path], *, skip_damaged: bool) -> None:
        self.events: list[pa.RecordBatch] = []
        self.refusals: list[pa.RecordBatch] = []
        self.pending = Rows()
        self.damage: list[dict[str, str]] = []
        self._data_dir = data_dir
        self._projected = projected  # loses a file that its segment has outgrown
        self._skip_damaged = skip_damaged
        self._recovered = recovered_names(data_dir)

    def add(self, directory: Path) -> None:
        paths = segments(directory)
        for index, path in enumerate(paths):
            last = index == len(paths) - 1
            name = events_path(self._data_dir, directory.name, segment_number(path)).name
            if name in self._projected:
                if not last or _is_projected(self._data_dir, path, last=last):
                    continue
                del self._projected[name]
            try:
                self._read(paths, index)
            except JournalError as error:
                if not self._skip_damaged:
                    raise
                self._note_damage(path, str(error))

    def _note_damage(self, path: Path, error: str) -> None:
        self.damage.append({"segment": f"{path.parent.name}/{path.name}", "error": error})

    def _read(self, paths: list[Path], index: int) -> None:
        instance = paths[index].parent.name
        rows = SegmentRows(paths[index], digest_before(paths, index))
        for batch in rows.batches(_BATCH_ROWS):
            self.events.append(_batch(EVENT_COLUMNS, batch))
            self.refusals.append(_batch(REFUSAL_COLUMNS, batch))
        if index < len(paths) - 1:
            rows.scan.check_whole()
            return
        if rows.scan.tail_damage:
            self._note_damage(paths[index], rows.scan.tail_damage)
        for name, opened in rows.open.items():
            if (instance, *name) not in self._recovered:
                self.pending.instances.append(instance)
                self.pending.opened.append(opened)


def _is_projected(data_dir: Path, path: Path, *, last: bool) -> bool:
    """Tell whether a segment has its Parquet file, and, for the last one, whether that is not outgrown.

    An instance may have been declared dead too early; then its last segment has grown since.
    """
    target = events_path(data_dir, path.parent.name, segment_number(path))
    if not target.exists():
        return False
    if not last:
        return True
    noted = (pq.read_metadata(target).metadata or {}).get(_SEGMENT_BYTES)
    return bool(noted == str(path.stat().st_size).encode())


class _Projection:
    """One segment, read once: for its files, for its usage, or for both."""

    def __init__(self, data_dir: Path, paths: list[Path], index: int, *, filed: bool, sink: Sink | None) -> None:
        path = paths[index]
        self._end = SegmentEnd(path.parent.name, segment_number(path), 0, "")
        self._last = index == len(paths) - 1
        self._rows = SegmentRows(path, digest_before(paths, index))
        self._sink = sink
        self._fold = sink.fold() if sink is not None else None
        self._files: list[_File] = []
        if not filed:
            name, size = self._end[:2], path.stat().st_size
            refusals = _File(refusals_path(data_dir, *name), REFUSAL_COLUMNS, size, empty=False)
            # Last: it says that the segment is done.
            self._files = [refusals, _File(events_path(data_dir, *name), EVENT_COLUMNS, size, empty=True)]

    def run(self, recovered: Collection[RecoveredName]) -> int:
        """Returns 0 when it turns out that something in the segment is still open, else 1."""
        rows = self._rows
        try:
            for batch in rows.batches(_BATCH_ROWS):
                for file in self._files:
                    file.write(batch)
                if self._fold is not None:
                    self._fold.add(batch)
            if not self._last:
                rows.scan.check_whole()
            elif not rows.closed and any((self._end.instance, *name) not in recovered for name in rows.open):
                return 0
            for file in self._files:
                file.publish()
        finally:
            for file in self._files:
                file.discard()
        if self._sink is not None and self._fold is not None:
            self._sink.post(self._end._replace(end=rows.scan.end, digest=rows.scan.digest.hex()), self._fold)
        return 1


class _File:
    """A Parquet file that appears whole or not at all."""

    def __init__(self, path: Path, columns: tuple[Column, ...], segment_bytes: int, *, empty: bool) -> None:
        """``empty``: it appears also when there are no rows."""
        self._wanted = empty
        self._batches: list[pa.RecordBatch] = []
        self._path = path
        self._partial = path.with_suffix(".partial")
        self._columns = columns
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = _schema(columns).with_metadata({_SEGMENT_BYTES: str(segment_bytes).encode()})
        # A dictionary of values that are all different costs time and space.
        few = [column.name for column in columns if column.grouped or column.name in _FEW_VALUES]
        self._writer = pq.ParquetWriter(self._partial, schema, compression="zstd", use_dictionary=few)

    def write(self, rows: Rows) -> None:
        batch = _batch(self._columns, rows)
        if batch.num_rows:
            self._wanted = True
            self._batches.append(batch)
            if sum(one.num_rows for one in self._batches) >= _ROW_GROUP_ROWS:
                self._write_group()

    def _write_group(self) -> None:
        if self._batches:
            self._writer.write_table(_table(self._columns, self._batches), row_group_size=_ROW_GROUP_ROWS)
            self._batches = []

    def publish(self) -> None:
        if not self._wanted:
            return
        self._write_group()
        self._writer.close()
        descriptor = os.open(self._partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a name that survives a power loss must not name an empty file
        finally:
            os.close(descriptor)
        self._partial.replace(self._path)

    def discard(self) -> None:
        self._writer.close()
        self._partial.unlink(missing_ok=True)


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([pa.field(column.name, _TYPES[column.kind]) for column in columns])


def _batch(columns: tuple[Column, ...], rows: Rows) -> pa.RecordBatch:
    group_of = pa.array(rows.group_of, pa.int32())
    arrays = [_column(column, rows, group_of) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=_schema(columns))


def _table(columns: tuple[Column, ...], batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, schema=_schema(columns))


def _column(column: Column, rows: Rows, group_of: pa.Array) -> pa.Array:
    values = column.values(rows)
    if values is None:
        return pa.nulls(len(group_of), _TYPES[column.kind])
    array = _array(column.kind, values)
    return array.take(group_of) if column.grouped else array


def _array(kind: str, values: Sequence[Any]) -> pa.Array:
    if kind == PICO:
        return _decimals(values)
    if kind == TIME:
        return pa.array(values, pa.int64()).view(pa.timestamp("us"))
    return pa.array(values, _TYPES[kind])


def _decimals(values: Sequence[int | None]) -> pa.Array:
    """Build DECIMAL(38,12) from pico units: their bytes are those of the same integer with another scale."""
    try:
        whole = pa.array(values, pa.int64()).cast(_PICO_WHOLE)
    except (
        OverflowError,
        pa.ArrowInvalid,
    ):  # more than 9.2 million units: by their bytes, which takes five times as long
        data = b"".join([(value or 0).to_bytes(16, "little", signed=True) for value in values])
        known = pa.array([value is not None for value in values], pa.bool_()).buffers()[1]
        return pa.Array.from_buffers(_TYPES[PICO], len(values), [known, pa.py_buffer(data)])
    return pa.Array.from_buffers(_TYPES[PICO], len(values), whole.buffers())


def _make_view(connection: duckdb.DuckDBPyConnection, name: str, live: pa.Table, files: list[Path]) -> None:
    """Make the view ``name`` over what was read from the journal and what is filed."""
    sources = [f"live_{name}"]
    connection.register(sources[0], live)
    if files:
        sources.append(f"filed_{name}")
        relation = connection.read_parquet([str(path) for path in files], union_by_name=True)
        relation.create_view(sources[1])
    # By name: a file written before a column was added has it as unknown.
    union = " UNION ALL BY NAME ".join(f"SELECT * FROM {source}" for source in sources)  # noqa: S608
    names = ", ".join(f'"{column}"' for column in live.schema.names)
    connection.execute(f"CREATE VIEW {name} AS SELECT {names} FROM ({union})")  # noqa: S608
