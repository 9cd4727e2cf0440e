"""The state on disk: keys, secrets, exact amounts, migrations, several processes at once."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from upeti.control import store as store_module
from upeti.control import tables
from upeti.control.keys import KeyRow
from upeti.control.places import STATE_FILE
from upeti.control.store import HEAD, Store, StoreError


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    store.set_secret("a", b"x", 1)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "data").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_keys_come_back_as_they_were(tmp_path: Path) -> None:
    row = KeyRow("k1", "a" * 64, "acme", "p", "f", ("r1", "*"), 10**31 + 1, 5, 7)
    Store(tmp_path).add_key(row)
    assert Store(tmp_path).all_keys() == [row]


def test_amounts_are_exact_at_any_size(tmp_path: Path) -> None:
    """Four hundred billion rupiah in pico units is 4·10²³; SQLite's own numbers end at 9.2·10¹⁸."""
    store = Store(tmp_path)
    amounts = [0, 1, 2**63, 4 * 10**23 + 1, 10**37 - 1]
    for place, amount in enumerate(amounts):
        store.add_key(KeyRow(f"k{place}", f"{place:064d}", "t", limit_pico=amount))
    assert [key.limit_pico for key in Store(tmp_path).all_keys()] == amounts
    kinds = sqlite3.connect(tmp_path / STATE_FILE).execute("SELECT DISTINCT typeof(limit_pico) FROM keys").fetchall()
    assert kinds == [("text",)]


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add_key(KeyRow("k1", "a" * 64, "acme"))
    with pytest.raises(StoreError, match="there is a key `k1` already"):
        store.add_key(KeyRow("k1", "b" * 64, "acme"))
    assert len(store.all_keys()) == 1


def test_revoking(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add_key(KeyRow("k1", "a" * 64, "acme"))
    store.revoke_key("k1", 9)
    assert store.all_keys()[0].revoked_ns == 9
    for name in ("k1", "k2"):
        with pytest.raises(StoreError, match=r"there is no valid key `k\d`: `upeti keys list`"):
            store.revoke_key(name, 10)
    assert store.all_keys()[0].revoked_ns == 9


def test_secrets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.set_secret("b", b"1", 1)
    store.set_secret("a", b"2", 1)
    store.set_secret("b", b"3", 2)
    assert store.sealed_secrets() == {"a": b"2", "b": b"3"}
    store.delete_secret("a")
    assert store.sealed_secrets() == {"b": b"3"}
    with pytest.raises(StoreError, match="there is no secret `a`"):
        store.delete_secret("a")


def test_what_workers_must_learn_raises_the_counter(tmp_path: Path) -> None:
    store = Store(tmp_path)
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


def test_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    with Store(tmp_path).engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, tables.metadata) == []


def test_foreign_keys_hold(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(Exception, match="FOREIGN KEY"), store.writing() as connection:
        connection.exec_driver_sql("INSERT INTO leases VALUES ('nobody', 'nothing', '1', '0')")


def test_two_writers_both_succeed(tmp_path: Path) -> None:
    """Read, then write: without the lock at the beginning one of them would lose its snapshot."""
    stores = [Store(tmp_path), Store(tmp_path)]

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


def test_processes_that_open_a_new_state_at_once(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from upeti.control.store import Store; Store(Path(sys.argv[1])).all_keys()"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
