"""The snapshot kept up to date: watches the configuration, the files it names and the keys; compiles; writes.

A change that cannot be taken is logged once and changes nothing: the last good configuration stays in
force, and new keys are compiled with it. Budgets are in the state before a worker can hear of them. Used by
one thread at a time.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from upeti.control import config_file, consents, rollout
from upeti.control.audit_line import leave_line
from upeti.control.books import Books
from upeti.control.budgets import stored_terms
from upeti.control.capacity import post_capacity
from upeti.control.case_effects import effects
from upeti.control.compile import Placement, State, compile_snapshot, watched_files
from upeti.control.config_file import Document
from upeti.control.drills import faults_in_force
from upeti.control.latches import all_latches
from upeti.control.ledger import Ledger
from upeti.control.models import not_served, quarantine_touched
from upeti.control.places import Places, write_private
from upeti.control.rights import terms_of_files, with_state
from upeti.control.store import Store
from upeti.control.students import all_students
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.gateway import snapshot as snapshot_file
from upeti.gateway.log import Log
from upeti.gateway.snapshot import CaptureView, Snapshot
from upeti.learning import served as served_file
from upeti.money.budget_terms import BudgetTerms
from upeti.money.capacity import Capacity
from upeti.money.price import Price
from upeti.money.price_book import PriceBook
from upeti.rights.terms import FOREVER_NS, Terms

_NS_PER_DAY = 86_400 * 10**9
_Signature = tuple[tuple[int, int, int], ...]


class Snapshots:
    """The present snapshot, and what it takes to make the next one."""

    def __init__(
        self,
        document: Document,
        places: Places,
        store: Store,
        ledger: Ledger,
        placement: Placement,
        log: Log,
    ) -> None:
        self.path = document.path
        self.refused = ""  # why the configuration that is in the file is not in force
        self.refusals = 0
        self.warnings: list[str] = []
        self._notes: list[str] = []
        self._document = document
        self._places = places
        self._store = store
        self._ledger = ledger
        self._placement = placement
        self._log = log
        self._at_start = document.config
        self._current: Snapshot | None = None
        self._files: _Signature = ()
        self._changes = -1
        self._terms_of_files: Terms | None = None  # as they were last read whole
        self._rights_until_ns = FOREVER_NS  # when the next decision changes by date
        self._budgets: dict[str, BudgetTerms] = {}
        self._capacity: tuple[Capacity, ...] = ()
        self._capacity_day = -1  # since 1970, whose capacity is not over yet: all before are posted

    @property
    def version(self) -> int:
        """Version of the snapshot in force; 0 before the first."""
        return self._current.version if self._current is not None else 0

    @property
    def capture(self) -> CaptureView | None:
        """Whose exchanges are kept or watched under the snapshot in force."""
        return self._current.capture if self._current is not None else None

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in force."""
        return self._current

    @property
    def budgets(self) -> dict[str, BudgetTerms]:
        """The terms of all budgets by root, keys' own limits too."""
        return self._budgets

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._document.config

    def first(self, *, resume: bool) -> None:
        """Make the first snapshot of this keeper.

        With ``resume``, when none can be made now, the one that workers are serving from stays. Raises
        ``ConfigError`` otherwise.
        """
        self._files, self._changes = self._signature(), self._store.changes()
        try:
            self._compile(self._document)
        except ConfigError as error:
            if not resume:
                raise
            self._refuse(error)
            try:
                self._current = snapshot_file.read(self._places.snapshot)
            except (OSError, msgspec.MsgspecError):
                raise error from None
        self._post_capacity()

    def update(self, *, force: bool = False) -> bool:
        """Make a new snapshot when anything has changed, or by ``force``; return whether there is a new
        one.
        """
        self._post_capacity()
        files, changes = self._signature(), self._store.changes()
        due = time.time_ns() >= self._rights_until_ns
        if not (force or due) and files == self._files and changes == self._changes:
            return False
        before = self.version
        try:
            document = self._keep_what_needs_a_restart(config_file.read(self.path))
            self._compile(document)
        except ConfigError as error:
            self._refuse(error)
            if due or changes != self._changes:
                self._compile_good_again()
        else:
            self.refused = ""
        self._files, self._changes = files, changes
        return self.version != before

    def _compile_good_again(self) -> None:
        """A new key must work, and a revoked right end, although somebody is in the middle of editing a file."""
        try:
            self._compile(self._document, read_terms=False)
        except ConfigError as error:
            self._log.error("keys_refused", str(error))

    def _compile(self, document: Document, *, read_terms: bool = True) -> None:
        now_ns = time.time_ns()
        last = None if read_terms else self._terms_of_files
        of_files = terms_of_files(document.config) if last is None else last
        terms = with_state(self._store, of_files)
        for touched in quarantine_touched(self._store, terms, now_ns):
            self._log.warning("quarantined", f"routes go on without {touched.id}: {touched.stage_why}")
        state = state_in(self._store, self._ledger, terms, now_ns, self._audit_secret(document.config))
        book = PriceBook.load(document.config.money.price_files)
        compiled = compile_snapshot(document, state, book, placement=self._placement)
        self._say([*self._notes, *compiled.warnings])
        self._ledger.set_terms(compiled.terms)
        self._budgets = compiled.terms
        # Before a call is served with them: it must be explainable when the file of its price is gone.
        Books(self._store).keep_prices(_prices_of(compiled.snapshot), time.time_ns())
        # Always a new version: a secret's file may have changed, which only its reader sees.
        self._current = msgspec.structs.replace(compiled.snapshot, version=self._store.next_version())
        # The students' process first: who is asked is there by then.
        served_file.write(self._places.run, rollout.served(all_students(self._store), self._places.data_dir))
        snapshot_file.write(self._places.snapshot, self._current)
        if document.text != self._document.text or not self._places.good_config.exists():
            write_private(self._places.good_config, document.text)
        self._document = document
        self._terms_of_files = of_files
        self._rights_until_ns = next(iter(terms.changes(now_ns)), FOREVER_NS)
        if book.capacity != self._capacity:
            self._capacity, self._capacity_day = book.capacity, -1

    def _audit_secret(self, config: Config) -> str:
        """Return the secret of the keys that audits are asked with; it and the gateway's address are left for who asks."""
        if not any(channel.kind == "student" for channel in config.channel):
            return ""
        secret = self._places.audit_key()
        leave_line(self._places, self._placement, config, secret)
        return secret

    def _post_capacity(self) -> None:
        """Once a day, and when a file with capacity has changed: what rented hours cost goes into the books."""
        now_ns = time.time_ns()
        day = now_ns // _NS_PER_DAY
        if day != self._capacity_day:
            post_capacity(self._store, self._capacity, now_ns)
            self._capacity_day = day

    def _say(self, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self.warnings:
                self._log.warning("config", warning)
        self.warnings = warnings

    def _refuse(self, error: ConfigError) -> None:
        if str(error) != self.refused:
            self.refused = str(error)
            self.refusals += 1
            self._log.error("config_refused", str(error))

    def _keep_what_needs_a_restart(self, document: Document) -> Document:
        config, start = document.config, self._at_start
        changed = [
            name
            for name, before, now in (
                ("data_dir", start.data_dir, config.data_dir),
                ("gateway.host", start.gateway.host, config.gateway.host),
                ("gateway.port", start.gateway.port, config.gateway.port),
                ("gateway.workers", start.gateway.workers, config.gateway.workers),
                ("control", start.control, config.control),
                ("journal", start.journal, config.journal),
                ("state", start.state, config.state),
                ("node", start.node, config.node),
            )
            if before != now
        ]
        self._notes = [
            f"{self.path}: {name} has changed; it takes effect when `upeti serve` is started again" for name in changed
        ]
        kept = msgspec.structs.replace(
            config,
            data_dir=start.data_dir,
            control=start.control,
            journal=start.journal,
            state=start.state,
            node=start.node,
        )
        return msgspec.structs.replace(document, config=kept)

    def _signature(self) -> _Signature:
        """Return what is different after any of the files was written or replaced."""
        signature = []
        for path in (self.path, *watched_files(self._document)):
            try:
                status = Path(path).stat()
                signature.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                signature.append((0, 0, 0))
        return tuple(signature)


def state_in(store: Store, ledger: Ledger, terms: Terms, now_ns: int, audit_secret: str = "") -> State:
    """Return all that the state adds to the configuration."""
    learned = all_students(store)
    return State(
        keys=store.all_keys(),
        sealed=store.sealed_secrets(),
        created_s=store.created_s(),
        budgets=stored_terms(store),
        frozen=frozenset(freeze.root for freeze in ledger.freezes()),
        effects=effects(store),
        consents={tenant: one.features for tenant, one in consents.in_force(store).items()},
        latches=tuple(row.latch for row in all_latches(store)),
        not_served=not_served(store),
        faults=faults_in_force(store, now_ns),
        shares=rollout.shares(learned),
        teachers=rollout.teachers(learned),
        audit_secret=audit_secret,
        audit_limits=rollout.audit_limits(store),
        terms=terms,
        at_ns=now_ns,
    )


def _prices_of(snapshot: Snapshot) -> list[Price]:
    tables = [candidate.prices for route in snapshot.routes.values() for candidate in route.candidates]
    return [price for table in tables for prices in table.values() for price in prices]
