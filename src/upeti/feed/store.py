"""The feed's store: items, users and feedback of all tenants, through SQLAlchemy Core on SQLite or PostgreSQL.

Rules: feedback is a log. ``add_feedback`` returns once it is committed; a user's second feedback of one kind on one item
is the same feedback, so a client that was not answered sends it again and it counts once. What replaces or takes
back feedback leaves the log, and what replaces it gets a new place at its end. All of a user is deleted in one
transaction. Writers take the write lock first, so ``sequence`` grows in the order of commits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, func, insert, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite

from upeti.core.errors import UpetiError
from upeti.feed import tables
from upeti.feed.items import Feedback, Item, User

FEED_DIR: Final = "feed"
_TENANTS_DIR: Final = "tenants"
_FILE: Final = "feed.sqlite3"
_BUSY_MS: Final = 10_000
_LOCK: Final = 0x66656564  # "feed": of the one writer (PostgreSQL)
_BATCH: Final = 10_000
# What brings a store from the version before to this one: {version: step}. Version 1 is `metadata.create_all`.
_STEPS: Final[dict[int, Callable[[Connection], None]]] = {}


class FeedStoreError(UpetiError):
    """The feed's store cannot be used. The message names the cure."""


class FeedStore:
    """Items, users and feedback. Safe to use from several threads and processes."""

    def __init__(self, data_dir: Path, *, url: str = "", durable: bool = False) -> None:
        """Open the store in ``data_dir/feed``, made where needed. ``url`` is PostgreSQL's; empty: SQLite.

        ``durable``: a commit in SQLite survives the power; otherwise it survives the process. Raises ``FeedStoreError``.
        """
        self.directory = data_dir / FEED_DIR
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.engine = _postgresql(url) if url else _sqlite(self.directory / _FILE, durable=durable)
        self._is_sqlite = not url
        with self.writing() as connection:
            _bring_up_to_date(connection)

    def close(self) -> None:
        self.engine.dispose()

    def tenant_dir(self, tenant: str) -> Path:
        """Return where files of one tenant are: models, impressions. It is made where needed."""
        directory = self.directory / _TENANTS_DIR / quote(tenant, safe="")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else's write can come between."""
        options = {"upeti_write": True} if self._is_sqlite else {"isolation_level": "READ COMMITTED"}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            if not self._is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection

    def tenants(self) -> list[str]:
        """Return every tenant that has an item, a user or feedback."""
        found: set[str] = set()
        with self.engine.connect() as connection:
            for table in (tables.items, tables.users, tables.feedback):
                found.update(connection.execute(select(table.c.tenant).distinct()).scalars())
        return sorted(found)

    def put_items(self, tenant: str, items: Sequence[Item]) -> None:
        """Write items that `checked_item` returned, in place of what has their ids."""
        rows = [
            {
                "tenant": tenant,
                "item": item.id,
                "is_hidden": item.is_hidden,
                "categories": list(item.categories),
                "labels": item.labels,
                "comment": item.comment,
                "at_ns": item.at_ns,
                "changed_ns": item.changed_ns,
                "digest": item.digest,
            }
            for item in items
        ]
        self._put(tables.items, rows)

    def items(self, tenant: str, *, after: str = "", limit: int | None = None) -> list[Item]:
        """Return items by id, those after the id ``after``."""
        table = tables.items
        query = select(table).where((table.c.tenant == tenant) & (table.c.item > after)).order_by(table.c.item)
        with self.engine.connect() as connection:
            return [_item(row) for row in connection.execute(query.limit(limit)).mappings()]

    def changed_items(self, tenant: str, since_ns: int) -> list[Item]:
        """Return the items that were written at or after ``since_ns``, oldest change first."""
        table = tables.items
        query = select(table).where((table.c.tenant == tenant) & (table.c.changed_ns >= since_ns))
        with self.engine.connect() as connection:
            return [
                _item(row) for row in connection.execute(query.order_by(table.c.changed_ns, table.c.item)).mappings()
            ]

    def item(self, tenant: str, item: str) -> Item | None:
        table = tables.items
        query = select(table).where((table.c.tenant == tenant) & (table.c.item == item))
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _item(row)

    def delete_item(self, tenant: str, item: str) -> bool:
        """Delete an item and the feedback on it; tell whether it was there."""
        with self.writing() as connection:
            here = (tables.items.c.tenant == tenant) & (tables.items.c.item == item)
            was_there = bool(connection.execute(delete(tables.items).where(here)).rowcount)
            log = tables.feedback
            connection.execute(delete(log).where((log.c.tenant == tenant) & (log.c.item == item)))
        return was_there

    def put_users(self, tenant: str, users: Sequence[User]) -> None:
        """Write users that `checked_user` returned, in place of what has their ids."""
        rows = [
            {
                "tenant": tenant,
                "user": user.id,
                "labels": user.labels,
                "comment": user.comment,
                "profiling": user.profiling,
                "changed_ns": user.changed_ns,
            }
            for user in users
        ]
        self._put(tables.users, rows)

    def users(self, tenant: str, *, after: str = "", limit: int | None = None) -> list[User]:
        """Return users by id, those after the id ``after``."""
        table = tables.users
        query = select(table).where((table.c.tenant == tenant) & (table.c.user > after)).order_by(table.c.user)
        with self.engine.connect() as connection:
            return [_user(row) for row in connection.execute(query.limit(limit)).mappings()]

    def user(self, tenant: str, user: str) -> User | None:
        table = tables.users
        query = select(table).where((table.c.tenant == tenant) & (table.c.user == user))
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _user(row)

    def delete_user(self, tenant: str, user: str) -> bool:
        """Delete a user and all they did, in one transaction; tell whether anything was there.

        On SQLite what is deleted is overwritten, and no longer in the file once the write-ahead log is emptied, as this does.
        """
        with self.writing() as connection:
            found = 0
            for table in (tables.users, tables.feedback):
                where = (table.c.tenant == tenant) & (table.c.user == user)
                found += connection.execute(delete(table).where(where)).rowcount
        if self._is_sqlite:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return bool(found)

    def add_feedback(self, tenant: str, feedback: Sequence[Feedback], *, replace: bool = False) -> int:
        """Append what `checked_feedback` returned; return how many were new. It is committed when this returns.

        What is there already stays as it is, or, with ``replace``, makes place for the new one.
        """
        return self.add_feedback_of([(tenant, one) for one in feedback], replace=replace)

    def add_feedback_of(self, feedback: Iterable[tuple[str, Feedback]], *, replace: bool = False) -> int:
        """As ``add_feedback``, of several tenants in one transaction."""
        rows = [
            {
                "tenant": tenant,
                "user": one.user,
                "item": one.item,
                "kind": one.kind,
                "value": one.value,
                "at_ns": one.at_ns,
                "received_ns": one.received_ns,
            }
            for tenant, one in feedback
        ]
        if not rows:
            return 0
        if replace:  # the last one of a key in one request is the one that replaces
            rows = list({(row["tenant"], row["user"], row["item"], row["kind"]): row for row in rows}.values())
        with self.writing() as connection:
            if replace:
                self._drop(connection, rows)
            before = self._last(connection)
            dialect = sqlite if self._is_sqlite else postgresql
            connection.execute(dialect.insert(tables.feedback).on_conflict_do_nothing(), rows)
            log = tables.feedback
            return int(connection.execute(select(func.count()).where(log.c.sequence > before)).scalar_one())

    def feedback(
        self, tenant: str, *, after: int = 0, limit: int | None = None, user: str = "", item: str = "", kind: str = ""
    ) -> list[Feedback]:
        """Return feedback in the order of the log, of one user, item or kind where these are given."""
        log = tables.feedback
        where = (log.c.tenant == tenant) & (log.c.sequence > after)
        for column, value in ((log.c.user, user), (log.c.item, item), (log.c.kind, kind)):
            if value:
                where &= column == value
        query = select(
            log.c.kind, log.c.user, log.c.item, log.c.value, log.c.at_ns, log.c.received_ns, log.c.sequence
        ).where(where)
        with self.engine.connect() as connection:
            rows = connection.execute(query.order_by(log.c.sequence).limit(limit))
            return [Feedback(*row) for row in rows]

    def delete_feedback(self, tenant: str, user: str, item: str, kind: str = "") -> int:
        """Take feedback back; return how much there was."""
        log = tables.feedback
        where = (log.c.tenant == tenant) & (log.c.user == user) & (log.c.item == item)
        if kind:
            where &= log.c.kind == kind
        with self.writing() as connection:
            return int(connection.execute(delete(log).where(where)).rowcount)

    def _put(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        keys = [column.name for column in table.primary_key.columns]
        # One statement must not touch one row twice; the last one given is the one that stays.
        rows = list({tuple(row[key] for key in keys): row for row in rows}.values())
        dialect = sqlite if self._is_sqlite else postgresql
        statement = dialect.insert(table)
        changes = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        with self.writing() as connection:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes), batch)

    def _drop(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        log = tables.feedback
        for row in rows:
            where = (log.c.tenant == row["tenant"]) & (log.c.user == row["user"]) & (log.c.item == row["item"])
            connection.execute(delete(log).where(where & (log.c.kind == row["kind"])))

    def _last(self, connection: Connection) -> int:
        return int(connection.execute(select(func.max(tables.feedback.c.sequence))).scalar() or 0)


def _item(row: Mapping[str, Any] | Any) -> Item:
    return Item(
        row["item"],
        tuple(row["categories"]),
        row["labels"],
        row["comment"],
        row["is_hidden"],
        row["at_ns"],
        row["changed_ns"],
        row["digest"],
    )


def _user(row: Mapping[str, Any] | Any) -> User:
    return User(row["user"], row["labels"], row["comment"], row["profiling"], row["changed_ns"])


def _bring_up_to_date(connection: Connection) -> None:
    """Make the tables, or change them to this version's shape. Raises ``FeedStoreError`` for a newer one's."""
    tables.metadata.create_all(connection)
    found = connection.execute(select(func.max(tables.schema.c.version))).scalar()
    if found is None:
        connection.execute(insert(tables.schema).values(version=tables.SCHEMA))
        return
    if found > tables.SCHEMA:
        raise FeedStoreError(
            f"the feed's store was made by a newer Upeti (version {found}, known is {tables.SCHEMA}): upgrade this one"
        )
    for version in range(found + 1, tables.SCHEMA + 1):
        _STEPS[version](connection)
        connection.execute(insert(tables.schema).values(version=version))


def _postgresql(url: str) -> Engine:
    """Raises ``FeedStoreError`` when the driver is not there."""
    try:
        return create_engine(make_url(url).set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ModuleNotFoundError:
        raise FeedStoreError(
            "the feed's store is in PostgreSQL and its driver is not installed: `pip install 'upeti[postgres]'`"
        ) from None


def _sqlite(path: Path, *, durable: bool) -> Engine:
    # Made here, because SQLite would make it with the umask's mode; its side files take the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _BUSY_MS / 1000},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA secure_delete = ON")  # a user who asks to be deleted is not left in free pages

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("upeti_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
