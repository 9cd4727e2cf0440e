"""The state, in SQLite and in PostgreSQL: keys, secrets, exact amounts, migrations, several processes at once."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from support.postgres import Postgres
from upeti.control import store as store_module
from upeti.control import (
    tables,
    tables_capture,
    tables_conduct,
    tables_drills,
    tables_latches,
    tables_learning,
    tables_lineage,
    tables_rights,
    tables_students,
    tables_tasks,
)
from upeti.control.keys import KeyRow
from upeti.control.ports import free_port
from upeti.control.store import HEAD, Store, StoreError, insert_new

OpenStore = Callable[[], Store]


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    store.set_secret("a", b"x", 1)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "data").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_opening_it_again_leaves_the_locks_of_who_has_it_open(tmp_path: Path) -> None:
    """A file that is opened and closed beside SQLite takes the process's locks along: the next process to leave would
    believe that it is the last one, and remove the WAL that this one reads.
    """
    store = Store(tmp_path)
    assert store.changes() >= 0
    Store(tmp_path).close()
    other = "import sys, pathlib; from upeti.control.store import Store; s = Store(pathlib.Path(sys.argv[1]))"
    other += "; s.set_secret('a', b'x', 1); s.close()"
    subprocess.run([sys.executable, "-c", other, tmp_path], check=True, timeout=60)
    assert (tmp_path / "state.sqlite3-wal").exists()
    assert store.sealed_secrets() == {"a": b"x"}
    store.close()


def test_keys_come_back_as_they_were(open_store: OpenStore) -> None:
    row = KeyRow("k1", "a" * 64, "acme", "p", "f", ("r1", "*"), 10**31 + 1, 5, 7)
    open_store().add_key(row)
    assert open_store().all_keys() == [row]


def test_amounts_are_exact_at_any_size(open_store: OpenStore) -> None:
    """Four hundred billion rupiah in pico units is 4·10²³; SQLite's own numbers end at 9.2·10¹⁸."""
    store = open_store()
    amounts = [0, 1, 2**63, 4 * 10**23 + 1, 10**37 - 1]
    for place, amount in enumerate(amounts):
        store.add_key(KeyRow(f"k{place}", f"{place:064d}", "t", limit_pico=amount))
    assert [key.limit_pico for key in open_store().all_keys()] == amounts
    with store.engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT limit_pico FROM keys ORDER BY id").scalars().all()
    assert kept == list(map(str, amounts))


def test_an_id_is_taken_once(open_store: OpenStore) -> None:
    store = open_store()
    store.add_key(KeyRow("k1", "a" * 64, "acme"))
    with pytest.raises(StoreError, match="there is a key `k1` already"):
        store.add_key(KeyRow("k1", "b" * 64, "acme"))
    assert len(store.all_keys()) == 1


def test_revoking(open_store: OpenStore) -> None:
    store = open_store()
    store.add_key(KeyRow("k1", "a" * 64, "acme"))
    store.revoke_key("k1", 9)
    assert store.all_keys()[0].revoked_ns == 9
    for name in ("k1", "k2"):
        with pytest.raises(StoreError, match=r"there is no valid key `k\d`: `upeti keys list`"):
            store.revoke_key(name, 10)
    assert store.all_keys()[0].revoked_ns == 9


def test_secrets(open_store: OpenStore) -> None:
    store = open_store()
    store.set_secret("b", b"1", 1)
    store.set_secret("a", b"2", 1)
    store.set_secret("b", b"3", 2)
    assert store.sealed_secrets() == {"a": b"2", "b": b"3"}
    store.delete_secret("a")
    assert store.sealed_secrets() == {"b": b"3"}
    with pytest.raises(StoreError, match="there is no secret `a`"):
        store.delete_secret("a")


def test_what_workers_must_learn_raises_the_counter(open_store: OpenStore) -> None:
    store = open_store()
    seen = [store.changes()]
    store.add_key(KeyRow("k1", "a" * 64, "acme"))
    seen.append(store.changes())
    store.set_secret("s", b"1", 1)
    seen.append(store.changes())
    store.revoke_key("k1", 1)
    seen.append(store.changes())
    with pytest.raises(StoreError):
        store.revoke_key("k1", 1)
    seen.append(store.changes())
    assert seen == [0, 1, 2, 3, 3]


def test_the_newest_migration_is_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(store_module._MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_migrations_make_the_tables_that_the_code_knows(open_store: OpenStore) -> None:
    with open_store().engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == HEAD
        assert tables_rights.rights.metadata is tables.metadata
        assert compare_metadata(context, tables.metadata) == []
    assert tables_conduct.metadata is tables.metadata
    assert tables_latches.metadata is tables.metadata
    assert tables_capture.metadata is tables.metadata
    assert tables_lineage.metadata is tables.metadata
    assert tables_tasks.metadata is tables.metadata
    assert tables_learning.metadata is tables.metadata
    assert tables_drills.metadata is tables.metadata
    assert tables_students.metadata is tables.metadata


def test_foreign_keys_hold(open_store: OpenStore) -> None:
    store = open_store()
    with pytest.raises(exc.IntegrityError, match=r"(?i)foreign key"), store.writing() as connection:
        connection.exec_driver_sql("INSERT INTO leases VALUES ('nobody', 'nothing', '1', '0')")


def test_two_writers_both_succeed(open_store: OpenStore) -> None:
    """Read, then write: without the lock at the beginning one of them would lose its snapshot."""
    stores = [open_store(), open_store()]

    def add(store: Store, first: int) -> None:
        for number in range(first, first + 25):
            store.add_key(KeyRow(f"k{number}", f"{number:064d}", "t"))

    threads = [threading.Thread(target=add, args=(store, place * 100)) for place, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].all_keys()) == 50
    assert stores[0].changes() == 50


def test_processes_that_open_a_new_state_at_once(tmp_path: Path, state_url: str) -> None:
    program = (
        "import sys; from pathlib import Path; from upeti.control.store import Store;"
        "Store(Path(sys.argv[1]), url=sys.argv[2]).all_keys()"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), state_url], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors


def test_a_newer_state_is_left_alone(open_store: OpenStore) -> None:
    with open_store().writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="made by a newer Upeti"):
        open_store()


def test_a_reader_sees_one_moment(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    with store.engine.connect() as connection:
        first = connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'changes'").scalar()
        with other.changing():
            pass
        assert connection.exec_driver_sql("SELECT value FROM counters WHERE name = 'changes'").scalar() == first
    assert store.changes() == first + 1


def test_a_lease_does_not_wait_for_the_books(tmp_path: Path, postgres: Postgres) -> None:
    """A large posting holds the one writer's lock; who locks rows goes on beside it."""
    store = Store(tmp_path, url=postgres.new_database())
    done = threading.Event()

    def lease() -> None:
        with store.writing_rows() as connection:
            insert_new(connection, tables.budgets, [{"id": "key:a", "limit_pico": 1, "spent_pico": 0}])
        done.set()

    with store.writing():
        threading.Thread(target=lease).start()
        assert done.wait(5)


def test_connections_that_were_cut_are_made_again(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.new_database()
    store = Store(tmp_path, url=url)
    assert postgres.cut_connections(url) > 0
    assert store.changes() == 0

    def cut_within() -> None:
        with store.changing():
            postgres.cut_connections(url)

    with pytest.raises(exc.OperationalError):
        cut_within()
    with store.changing():
        pass
    assert store.changes() == 1


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    place = f"postgresql://upeti:secret@127.0.0.1:{free_port()}/upeti"
    with pytest.raises(
        StoreError, match=r"the state at postgresql://upeti@127\.0\.0\.1:\d+/upeti cannot be reached"
    ) as told:
        Store(tmp_path, url=place)
    assert "start PostgreSQL, or correct [state]" in str(told.value)
    assert "secret" not in str(told.value)


def test_without_the_driver_its_name_is_said(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; from pathlib import Path; from upeti.control.store import Store\n"
        "try: Store(Path(sys.argv[1]), url='postgresql://upeti@127.0.0.1/upeti')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("StoreError")
    assert "pip install 'upeti[postgres]'" in told.stdout
