"""Bringing data in: MovieTweetings, RankLens, and anybody's CSV or Parquet files.

Rules: rows are checked as the API checks them; a bad one is named by file and line, and nothing is imported unless it may
be left out. What is imported twice counts once. The films of MovieTweetings are all dated by the first rating of any: the
file does not say when each came, and a film's own first rating would tell the ranker when it is going to be rated.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from upeti.core.errors import CallError, UpetiError
from upeti.feed.items import Feedback, Item, checked_feedback, checked_item
from upeti.feed.store import FeedStore

_BATCH: Final = 5_000
_YEAR: Final = re.compile(r"^(.*) \((\d{4})\)$")
# How people's own files call these columns.
_ITEM: Final = ("item", "item_id", "itemid", "id")
_USER: Final = ("user", "user_id", "userid")
_KIND: Final = ("kind", "type", "feedback_type", "feedbacktype", "event")
_AT: Final = ("at", "timestamp", "time", "created_at", "published_at", "date")
_VALUE: Final = ("value", "rating", "score", "weight")
_COMMENT: Final = ("comment", "text")
_CATEGORIES: Final = ("category", "categories")
_HIDDEN: Final = ("is_hidden", "hidden")
_LIST_SEPARATOR: Final = "|"
_NS: Final = 10**9


class ImportingError(UpetiError):
    """A file cannot be imported. The message names file, line and cure."""


class Imported(NamedTuple):
    """What an import brought."""

    items: int
    feedback: int  # rows that were new
    feedback_rows: int
    left_out: tuple[str, ...]  # why, by file and line


class Data(NamedTuple):
    """What is to be imported; both may be read once."""

    items: Iterable[Item]
    feedback: Iterable[Feedback]


def import_data(
    store: FeedStore, tenant: str, data: Data, now_ns: int, *, left_out: list[str] | None = None
) -> Imported:
    """Write ``data``. What cannot be taken is noted in ``left_out``, that of the reader; None: it is an error.

    Raises ``ImportingError``.
    """
    items = 0
    for batch in _batches(_checked(data.items, lambda item: checked_item(item, now_ns), left_out)):
        store.put_items(tenant, batch)
        items += len(batch)
    new = rows = 0
    for one in _batches(_checked(data.feedback, lambda row: checked_feedback(row, now_ns), left_out)):
        new += store.add_feedback(tenant, one)
        rows += len(one)
    return Imported(items, new, rows, tuple(left_out or ()))


def movietweetings(directory: Path) -> Data:
    """Return the films and ratings in ``directory`` (movies.dat, ratings.dat), ratings in the order of time.

    A rating is feedback of the kind ``rate`` with its value, 0 to 10. Raises ``ImportingError``.
    """
    ratings = []
    for fields in _dat(directory / "ratings.dat", 4):
        user, film, rating, at = fields
        ratings.append(Feedback("rate", user, film, float(rating), int(at) * _NS))
    ratings.sort(key=lambda rating: rating.at_ns)
    first_ns = ratings[0].at_ns if ratings else 0
    films = []
    for film, title, genres in _dat(directory / "movies.dat", 3):
        named = _YEAR.match(title)
        labels: dict[str, Any] = {"title": named.group(1) if named else title}
        if named:
            labels["year"] = int(named.group(2))
        if genres:
            labels["genre"] = genres.lower().split("|")
        films.append(Item(film, labels=labels, at_ns=first_ns))
    return Data(films, ratings)


def ranklens(directory: Path) -> Data:
    """Return the films and clicks in ``directory/events.jsonl.gz``. Raises ``ImportingError``."""
    films, clicks = [], []
    for event in ranklens_events(directory):
        if event["event"] == "item":
            films.append(_ranklens_film(event))
        elif event["event"] == "interaction":
            clicks.append(Feedback(event["type"], event["user"], event["item"], 1.0, int(event["timestamp"]) * 10**6))
    clicks.sort(key=lambda click: click.at_ns)
    return Data(films, clicks)


def ranklens_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of RankLens as they are. Raises ``ImportingError``."""
    path = directory / "events.jsonl.gz"
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield msgspec.json.decode(line)
    except (OSError, msgspec.DecodeError) as error:
        raise ImportingError(f"{path} cannot be read: {error}; name the folder that holds RankLens") from None


def _ranklens_film(event: dict[str, Any]) -> Item:
    fields = {field["name"]: field["value"] for field in event["fields"]}
    labels: dict[str, Any] = {name: fields[name] for name in ("title", "description") if fields.get(name)}
    for name, label in (("genres", "genre"), ("tags", "tag"), ("actors", "actor"), ("director", "director")):
        if fields.get(name):
            labels[label] = fields[name]
    released_s = fields.get("release_date")
    if released_s is not None:
        labels["year"] = datetime.datetime.fromtimestamp(released_s, datetime.UTC).year
    return Item(event["item"], labels=labels, at_ns=int(event["timestamp"]) * 10**6)


def from_csv(items: Path | None, feedback: Path | None, left_out: list[str] | None = None) -> Data:
    """Return what two CSV files with a header say; the docs list the columns. Raises ``ImportingError`` when read.

    A bad row is noted in ``left_out``; without it, it is an error.
    """
    return Data(_read(_csv_rows(items), _item_of, left_out), _read(_csv_rows(feedback), _click_of, left_out))


def from_parquet(items: Path | None, feedback: Path | None, left_out: list[str] | None = None) -> Data:
    """Return what two Parquet files say, by the columns of ``from_csv`` and as it does."""
    return Data(_read(_parquet_rows(items), _item_of, left_out), _read(_parquet_rows(feedback), _click_of, left_out))


Row = tuple[str, dict[str, Any]]  # where it is, and column → value
_Read = TypeVar("_Read")


def _read(
    rows: Iterator[Row], read: Callable[[str, dict[str, Any]], _Read], left_out: list[str] | None
) -> Iterator[_Read]:
    """Yield what rows say. Raises ``ImportingError`` for a bad one unless it may be left out."""
    for where, row in rows:
        try:
            if None in row:
                raise ImportingError(f"{where}: more cells than the header has; quote cells that hold a comma")
            one = read(where, {name.strip().lower(): value for name, value in row.items() if name})
        except ImportingError as error:
            if left_out is None:
                raise ImportingError(f"{error}. `--skip-bad` leaves such rows out.") from None
            left_out.append(str(error))
        else:
            yield one


def _item_of(where: str, row: dict[str, Any]) -> Item:
    known = {*_ITEM, *_AT, *_COMMENT, *_CATEGORIES, *_HIDDEN}
    labels = {
        name: _label(value) for name, value in row.items() if name not in known and value is not None and value != ""
    }
    categories = _first(row, _CATEGORIES, "")
    if isinstance(categories, str):
        categories = [one for one in categories.split(_LIST_SEPARATOR) if one]
    return Item(
        _needed(where, row, _ITEM),
        tuple(str(one) for one in categories),
        labels,
        str(_first(row, _COMMENT, "")),
        str(_first(row, _HIDDEN, "")).lower() in ("1", "true", "yes"),
        _ns(where, _first(row, _AT, "")),
    )


def _click_of(where: str, row: dict[str, Any]) -> Feedback:
    value = _first(row, _VALUE, 1.0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ImportingError(f"{where}: the value {value!r} is no number") from None
    kind = str(_first(row, _KIND, "click"))
    at_ns = _ns(where, _first(row, _AT, ""))
    return Feedback(kind, _needed(where, row, _USER), _needed(where, row, _ITEM), number, at_ns)


def _label(value: Any) -> Any:
    """Return a cell as a label: ``a|b`` is a list."""
    if isinstance(value, str) and _LIST_SEPARATOR in value:
        return [one.strip() for one in value.split(_LIST_SEPARATOR) if one.strip()]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | list) else str(value)


def _first(row: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), default)


def _needed(where: str, row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    value = _first(row, names, None)
    if value is None:
        raise ImportingError(f"{where}: there is no `{names[0]}`; the column may be called {', '.join(names)}")
    return str(value)


def _ns(where: str, value: Any) -> int:
    """Return a time as people's files write it: seconds or milliseconds since 1970, or ISO 8601. 0 for none."""
    if value == "":
        return 0
    if isinstance(value, datetime.datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp() * 10**6) * 1000
    try:
        number = float(value)
    except ValueError:
        return parse_ns(str(value), where)
    if not math.isfinite(number):
        raise ImportingError(f"{where}: the time {value!r} is no number")
    return int(number * 10**6) if number > 10**11 else int(number * _NS)  # 10**11 seconds are in the year 5138


def parse_ns(text: str, where: str) -> int:
    """Return an ISO 8601 time in nanoseconds since 1970; without a zone it is UTC. Raises ``ImportingError``."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ImportingError(
            f"{where}: {text!r} is no time; write 2026-11-27T08:30:00Z, or seconds since 1970"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp()) * _NS + moment.microsecond * 1000


def _csv_rows(path: Path | None) -> Iterator[Row]:
    if path is None:
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield f"{path}:{reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportingError(f"{path} cannot be read: {error}; it must be CSV in UTF-8 with a header") from None


def _parquet_rows(path: Path | None) -> Iterator[Row]:
    if path is None:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise ImportingError(f"{path} cannot be read: {error}; it must be a Parquet file") from None


def _dat(path: Path, columns: int) -> Iterator[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImportingError(f"{path} cannot be read: {error}; name the folder that holds MovieTweetings") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("::")
        if len(fields) != columns:
            raise ImportingError(f"{path}:{number}: {len(fields)} columns, {columns} are expected")
        yield fields


def _checked(rows: Iterable[Any], check: Callable[[Any], Any], left_out: list[str] | None) -> Iterator[Any]:
    """Yield checked rows. Raises ``ImportingError`` for a bad one unless it may be left out."""
    found = iter(rows)
    number = 0
    while True:
        number += 1
        try:
            yield check(next(found))
        except StopIteration:
            return
        except CallError as error:
            if left_out is None:
                raise ImportingError(f"row {number}: {error.message} `--skip-bad` leaves such rows out.") from None
            left_out.append(f"row {number}: {error.message}")


def _batches(rows: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
