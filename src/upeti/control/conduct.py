"""The conduct monitor in the process that takes exchanges: looks at them, opens cases, and keeps what it knows.

Rules: off unless ``[conduct] enabled``. Of a call only numbers and keyed digests are kept, in files that are the owner's
alone; the salt never leaves the data directory. What it finds goes to ``control.cases``, which decides what a rule may do.
A case that cannot be written now is written later; nothing waits for it.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import distinct, func, select
from sqlalchemy.exc import SQLAlchemyError

from upeti.control.cases import CLUSTER_PREFIX, all_cases, see
from upeti.control.purposes import declared
from upeti.control.store import Store
from upeti.control.tables_lineage import dataset_rows, datasets
from upeti.core.config import Conduct, Config
from upeti.core.errors import ConfigError
from upeti.gateway.capture import Exchange
from upeti.gateway.log import Log
from upeti.money.tenant import Tenants
from upeti.rights.conduct.thresholds import Thresholds, parse, thresholds

if TYPE_CHECKING:
    from upeti.rights.conduct.monitor import Finding, Monitor, MonitorState, Unit
    from upeti.rights.terms import Terms

KIND: Final = "conduct"
_SAVE_S: Final = 30.0  # how much of a window is lost when it is killed
_SALT_BYTES: Final = 32
_TRAINING: Final = ("task_generative", "general_model", "classify_distributed")  # as rights.permit names them


class Files:
    """``{data_dir}/conduct``: the salt, one file for each unit, one for what links keys."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / "conduct"
        self._units = self.directory / "units"
        self._links = self.directory / "links.msgpack"

    def salt(self) -> bytes:
        """Return the salt of all digests, made at the first call."""
        self._units.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / "salt"
        if not path.exists():
            _write_private(path, secrets.token_bytes(_SALT_BYTES))
        return path.read_bytes()

    def units(self) -> Iterator[tuple[str, Unit]]:
        """Yield what was kept of each unit; a file of another form is left out: its unit begins anew."""
        from upeti.rights.conduct.monitor import Unit

        for path in sorted(self._units.glob("*.msgpack")):
            try:
                yield msgspec.msgpack.decode(path.read_bytes(), type=tuple[str, Unit])
            except msgspec.MsgspecError:
                continue

    def read(self) -> MonitorState:
        from upeti.rights.conduct.monitor import MonitorState

        state = MonitorState()
        if self._links.exists():
            try:
                state = msgspec.msgpack.decode(self._links.read_bytes(), type=MonitorState)
            except msgspec.MsgspecError:
                pass
        state.units = dict(self.units())
        return state

    def write(self, state: MonitorState, changed: set[str]) -> None:
        """Write the units that have ``changed``, and the links. Raises ``OSError``."""
        for name in changed:
            digest = hashlib.sha256(name.encode()).hexdigest()[:40]
            _write_private(self._units / f"{digest}.msgpack", msgspec.msgpack.encode((name, state.units[name])))
        _write_private(self._links, msgspec.msgpack.encode(msgspec.structs.replace(state, units={})))


class ConductSink:
    """Takes exchanges as the other sinks do."""

    def __init__(
        self, data_dir: Path, store: Store, log: Log, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._data_dir = data_dir
        self._store = store
        self._log = log
        self._clock_s = clock_s
        self._files = Files(data_dir)
        self._monitor: Monitor | None = None
        self._limits: Thresholds | None = None
        self._settings = Conduct()
        self._parents: Callable[[str], str] = lambda tenant: tenant
        self._purposes: dict[str, str] = {}
        self._found: list[Finding] = []
        self._changed: set[str] = set()
        self._saved_s = clock_s()

    def learn(self, config: Config, terms: Terms) -> None:
        """Take what holds from now on. Without numpy nobody is watched; thresholds that cannot be used change nothing. Both
        are logged.
        """
        self._settings = config.conduct
        if not config.conduct.enabled:
            self.close()
            return
        self._purposes = {name: one.purpose for name, one in declared(self._store).items()}
        self._parents = _parents(config.money.tenants_file)
        limits = self._limits_in(config.conduct.thresholds_file)
        if self._monitor is None or limits != self._limits:
            self.close()
            self._begin(limits)

    def _limits_in(self, file: str) -> Thresholds:
        try:
            return parse(Path(file).read_text(encoding="utf-8"), file) if file else thresholds()
        except (ConfigError, OSError) as error:
            self._log.error("conduct_refused", f"{error}; what was in force before stays so")
            return self._limits or thresholds()

    def take(self, exchange: Exchange) -> None:
        if self._monitor is None or not exchange.watch:
            return
        from upeti.rights.conduct.monitor import Call

        call = Call(
            exchange.call_id,
            exchange.at_ns,
            exchange.tenant,
            exchange.key,
            exchange.feature,
            exchange.wire,
            exchange.request,
        )
        units, found = self._monitor.take(call)
        self._changed.update(units)
        self._found += [one for one in found if one.families]

    def flush(self) -> None:
        """Open the cases of what was found; now and then write what is known. Raises what the state or the disk raise."""
        while self._found:
            finding = self._found[0]
            kind = KIND if finding.unit.startswith("tenant:") else f"{CLUSTER_PREFIX}{finding.unit}"
            case = see(self._store, self._data_dir, finding.tenants, finding.families, self._settings, kind=kind)
            del self._found[0]
            if case is not None:
                families = ", ".join(sorted(finding.families))
                what = f"a look at {finding.unit} has found {families}: case {case.id} is {case.state}"
                self._log.warning("case", what, case=case.id)
        if self._changed and self._clock_s() - self._saved_s >= _SAVE_S:
            self._save()

    def close(self) -> None:
        if self._monitor is not None:
            self._save()
            self._monitor = None

    def _begin(self, limits: Thresholds) -> None:
        try:
            from upeti.rights.conduct.monitor import Monitor, Surroundings
        except ModuleNotFoundError as error:
            self._log.error("conduct_refused", f"{error}; `pip install 'upeti[conduct]'`, or set enabled = false")
            return
        about = Surroundings(
            parent_of=lambda tenant: self._parents(tenant),
            purpose_of=lambda tenant: self._purposes.get(tenant, ""),
            has_case=self._has_case,
            pairs_taken=self._pairs_taken,
        )
        self._limits = limits
        self._monitor = Monitor(limits, self._files.salt(), self._files.read(), about)

    def _has_case(self, tenants: Sequence[str]) -> bool:
        """While the state is away nothing is taken for settled."""
        wanted = set(tenants)
        try:
            live = all_cases(self._store, live=True)
        except SQLAlchemyError:
            return True
        return any(
            wanted & set(case.tenants) for case in live if case.kind == KIND or case.kind.startswith(CLUSTER_PREFIX)
        )

    def _pairs_taken(self, tenants: Sequence[str], since_ns: int) -> int:
        try:
            return pairs_taken(self._store, tenants, since_ns)
        except SQLAlchemyError:
            return 0

    def _save(self) -> None:
        if self._monitor is not None:
            self._files.write(self._monitor.state, self._changed)
        self._changed = set()
        self._saved_s = self._clock_s()


def pairs_taken(store: Store, tenants: Sequence[str], since_ns: int) -> int:
    """Return how many captured pairs of these tenants went into data sets for training what generates, or leaves the house,
    since then.
    """
    joined = dataset_rows.join(datasets, dataset_rows.c.dataset == datasets.c.id)
    query = (
        select(func.count(distinct(dataset_rows.c.pair_id)))
        .select_from(joined)
        .where(dataset_rows.c.tenant.in_(tenants), dataset_rows.c.pair_id != "")
        .where(datasets.c.built_ns >= since_ns, datasets.c.purpose.in_(_TRAINING))
    )
    with store.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def standing(data_dir: Path) -> list[dict[str, Any]]:
    """Return how each unit stands, as it was last written."""
    return [
        {
            "unit": name,
            "calls_in_window": len(unit.notes),
            "past_calls": len(unit.reference),
            "waiting_calls": len(unit.pending),
            "looks": unit.looks,
            "last": unit.last,
        }
        for name, unit in Files(data_dir).units()
    ]


def _parents(file: str) -> Callable[[str], str]:
    if not file:
        return lambda tenant: tenant
    try:
        tenants = Tenants.load(file)
    except ConfigError:
        return lambda tenant: tenant  # invoices say what is wrong with it
    return lambda tenant: tenants.parent(tenant, datetime.datetime.now(datetime.UTC).date())


def _write_private(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.touch(mode=0o600)
    partial.write_bytes(data)
    partial.replace(path)
