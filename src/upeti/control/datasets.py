"""Building data sets: every row goes through ``permit``, what is left out is counted with its clause.

Rules: a row is there only when its tenant's consent in force covers the purpose, its contract permits it (of the capture,
with grants and reviews of today), and its bodies are there. Files appear whole or not at all; the state knows every row's
origin, so that a right that changes later finds it. A version is never changed: another build makes another version.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import func, insert, select

from upeti import __version__
from upeti.control import consents, pairs
from upeti.control.signing import public_keys, sign, verify
from upeti.control.store import Store, StoreError
from upeti.control.tables_lineage import dataset_rows, datasets
from upeti.core.errors import ConfigError, UpetiError
from upeti.journal.acts import act, record_acts
from upeti.journal.bodies import Bodies
from upeti.rights.envelope import SignatureError
from upeti.rights.manifest import (
    CROISSANT_FILE,
    MANIFEST_FILE,
    ROWS_FILE,
    STATEMENT_FILE,
    STATEMENT_TYPE,
    LeftOut,
    Manifest,
    Row,
    counted,
    croissant,
    day,
    encoded,
    rows_digest,
    statement,
)
from upeti.rights.permit import permit
from upeti.rights.terms import PURPOSES, SERVE, Origin, Terms

_AT_ONCE: Final = 500  # rows of one statement
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set is to hold."""

    name: str
    purpose: str
    tenant: str = ""
    task: str = ""
    feature: str = ""
    channel: str = ""
    from_ns: int = 0
    until_ns: int = 0
    labels: str = ""  # a CSV file of one's own, with the columns text and label
    labels_owner: str = ""  # who says that they are one's own
    own_only: bool = False  # these labels and no pair


class Dataset(msgspec.Struct, frozen=True):
    """A version of a data set, as the state knows it."""

    id: str
    name: str
    version: int
    purpose: str
    built_ns: int
    built_by: str
    filters: dict[str, Any]
    directory: str
    rows: int
    left_out: int
    manifest_sha256: str
    duties: tuple[str, ...]


def build(
    store: Store,
    terms: Terms,
    bodies: Bodies,
    wanted: Wanted,
    *,
    by: str,
    directory: Path | None = None,
    seen: Callable[[int], None] = lambda count: None,
) -> tuple[Dataset, Manifest]:
    """Build a version of a data set; ``seen`` is told how many pairs were looked at. Raises ``ConfigError``."""
    _check(wanted, by)
    version = 1 + _last_version(store, wanted.name)
    place = directory or store.data_dir / "datasets" / wanted.name / str(version)
    if place.exists():
        raise ConfigError(f"{place} is there already: choose another --out")
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    try:
        collected = _Collection(store, terms, bodies, wanted, seen)
        with (partial / ROWS_FILE).open("wb") as file:
            collected.write(file.write)
        manifest = _papers(store, wanted, version, by, collected, partial)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    made = _register(store, manifest, place, collected.rows)
    return made, manifest


class _Collection:
    """The rows of one build on their way into the file."""

    def __init__(self, store: Store, terms: Terms, bodies: Bodies, wanted: Wanted, seen: Callable[[int], None]) -> None:
        self._store = store
        self._terms = terms
        self._bodies = bodies
        self._wanted = wanted
        self._seen = seen
        self._consents = consents.in_force(store)
        self._now_ns = time.time_ns()
        self.rows: list[Row] = []
        self.left_out: Counter[tuple[str, str, str, str]] = Counter()
        self.redactions: Counter[str] = Counter()
        self.duties: set[str] = set()

    def write(self, write: Callable[[bytes], object]) -> None:
        wanted = self._wanted
        found = pairs.find(
            self._store,
            tenant=wanted.tenant,
            task=wanted.task,
            feature=wanted.feature,
            channel=wanted.channel,
            from_ns=wanted.from_ns,
            until_ns=wanted.until_ns,
        )
        for count, pair in enumerate(() if wanted.own_only else found, 1):
            line = self._line(pair)
            if line is not None:
                write(line)
            self._seen(count)
        if wanted.labels:
            for text, label in _labels(Path(wanted.labels)):
                line = _json({"own": True, "owner": wanted.labels_owner, "pair_id": "", "text": text, "label": label})
                self.rows.append(Row(_sha256(line), "", "", "", "", "", "", 0, "", "", ""))
                write(line)

    def _line(self, pair: pairs.Pair) -> bytes | None:
        """Return the row of a pair; None, counted, when it may not be there."""
        consent = self._consents.get(pair.tenant)
        if consent is None or not consent.covers(self._wanted.purpose):
            why = f"the tenant `{pair.tenant}` has no consent in force for it; `upeti capture consent` records one"
            self.left_out["consent", "", "", why] += 1
            return None
        origin = Origin(pair.channel, pair.contract, pair.at_ns, pair.tenant, pair.model)
        found = permit(self._terms, origin, self._wanted.purpose, self._now_ns)
        if not found.allowed:
            self.left_out[str(found.decision), found.clause, found.quote, found.why] += 1
            return None
        body = pairs.body(self._store, self._bodies, pair)
        if body is None:
            self.left_out["erased", "", "", "its bodies were erased"] += 1
            return None
        asked, answered = body
        line = _json(
            {
                "pair_id": pair.pair_id,
                "call_id": pair.call_id,
                "channel": pair.channel,
                "model": pair.model,
                "contract": pair.contract,
                "clause": found.clause,
                "grant": found.grant,
                "consent": consent.id,
                "tenant": pair.tenant,
                "feature": pair.feature,
                "task": pair.task,
                "wire": pair.wire,
                "captured": day(pair.at_ns),
                "request": msgspec.Raw(asked),
                "answer": msgspec.Raw(answered),
            }
        )
        self.duties.update(found.duties)
        self.redactions.update(pair.redactions)
        self.rows.append(
            Row(
                sha256=_sha256(line),
                pair_id=pair.pair_id,
                call_id=pair.call_id,
                channel=pair.channel,
                contract=pair.contract,
                tenant=pair.tenant,
                model=pair.model,
                captured_ns=pair.at_ns,
                clause=found.clause,
                grant=found.grant,
                consent=consent.id,
            )
        )
        return line


def _papers(store: Store, wanted: Wanted, version: int, by: str, made: _Collection, place: Path) -> Manifest:
    rows_file = place / ROWS_FILE
    times = [row.captured_ns for row in made.rows if row.pair_id]
    given = msgspec.to_builtins(wanted)
    manifest = Manifest(
        id=f"{wanted.name}@{version}",
        name=wanted.name,
        version=version,
        purpose=wanted.purpose,
        built_at=day(time.time_ns()),
        built_by=by,
        tool=f"Upeti {__version__}",
        filters={name: value for name, value in given.items() if value and name not in ("name", "purpose")},
        rows=len(made.rows),
        rows_sha256=rows_digest(row.sha256 for row in made.rows),
        by_channel=counted(made.rows, "channel"),
        by_contract=counted(made.rows, "contract"),
        by_clause=counted(made.rows, "clause"),
        by_grant=counted(made.rows, "grant"),
        by_consent=counted(made.rows, "consent"),
        own_rows=sum(not row.pair_id for row in made.rows),
        first_captured=day(min(times)) if times else "",
        last_captured=day(max(times)) if times else "",
        redactions=dict(sorted(made.redactions.items())),
        duties=tuple(sorted(made.duties)),
        left_out=tuple(LeftOut(*reason, rows) for reason, rows in made.left_out.most_common()),
        files={ROWS_FILE: file_sha256(rows_file)},
    )
    (place / MANIFEST_FILE).write_bytes(encoded(manifest))
    (place / CROISSANT_FILE).write_bytes(croissant(manifest, rows_file.stat().st_size))
    files = {name: file_sha256(place / name) for name in (ROWS_FILE, MANIFEST_FILE, CROISSANT_FILE)}
    sealed = sign(store.data_dir, STATEMENT_TYPE, statement(manifest, files))
    (place / STATEMENT_FILE).write_bytes(sealed)
    return manifest


def _register(store: Store, manifest: Manifest, place: Path, rows: list[Row]) -> Dataset:
    digest = file_sha256(place / MANIFEST_FILE)
    built_ns = time.time_ns()
    made = Dataset(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        purpose=manifest.purpose,
        built_ns=built_ns,
        built_by=manifest.built_by,
        filters=manifest.filters,
        directory=str(place.resolve()),
        rows=manifest.rows,
        left_out=sum(one.rows for one in manifest.left_out),
        manifest_sha256=digest,
        duties=manifest.duties,
    )
    why = f"{manifest.rows} rows for {manifest.purpose}"
    detail = {"manifest_sha256": digest, "rows_sha256": manifest.rows_sha256, "left_out": made.left_out}
    record_acts(store.data_dir, act(built_ns, manifest.built_by, "datasets.built", made.id, why, **detail))
    with store.changing() as connection:
        connection.execute(insert(datasets).values(msgspec.to_builtins(made)))
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            connection.execute(
                insert(dataset_rows),
                [
                    {"dataset": made.id, "number": start + number, **msgspec.structs.asdict(row)}
                    for number, row in enumerate(some)
                ],
            )
    return made


# -- looking
# -------------------------------------------------------------------------------------------------------------


def all_datasets(store: Store) -> list[Dataset]:
    with store.engine.connect() as connection:
        query = select(datasets).order_by(datasets.c.name, datasets.c.version)
        return [_dataset(row) for row in connection.execute(query).mappings()]


def dataset(store: Store, name: str) -> Dataset:
    """Return ``NAME@VERSION``, or the newest version of ``NAME``. Raises ``StoreError``."""
    found = [one for one in all_datasets(store) if name in (one.id, one.name)]
    if not found:
        raise StoreError(f"there is no data set `{name}`: `upeti dataset list` shows them")
    return found[-1]


def datasets_of_names(store: Store, names: Iterable[str]) -> list[Dataset]:
    """Return each named data set. Raises ``StoreError``."""
    return [dataset(store, name) for name in names]


def manifest_of(made: Dataset) -> Manifest:
    """Read a data set's manifest. Raises ``ConfigError``."""
    path = Path(made.directory) / MANIFEST_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): is the data set on this machine?") from None


def check(store: Store, made: Dataset) -> list[str]:
    """Return what is not as it was built: files, statement, rows. Nothing: it is all as it was."""
    place = Path(made.directory)
    problems = []
    try:
        signed = verify((place / STATEMENT_FILE).read_bytes(), public_keys(store.data_dir))
        subjects = json.loads(signed.payload)["subject"]
    except (OSError, SignatureError, UpetiError, ValueError, KeyError) as error:
        return [f"{STATEMENT_FILE}: {error}"]
    for subject in subjects:
        path = place / subject["name"]
        if not path.exists():
            problems.append(f"{subject['name']} is missing: restore it from a copy")
        elif file_sha256(path) != subject["digest"]["sha256"]:
            problems.append(f"{subject['name']} was changed since it was built")
    if not problems and file_sha256(place / MANIFEST_FILE) != made.manifest_sha256:
        problems.append(f"{MANIFEST_FILE} is not the one that the state knows")
    if not problems:
        hashes = [_sha256(line) for line in lines_of(made)]
        if rows_digest(hashes) != manifest_of(made).rows_sha256:
            problems.append(f"the rows of {ROWS_FILE} are not those of the manifest")
    return problems


def lines_of(made: Dataset) -> Iterator[bytes]:
    """Yield the lines of a data set's rows. Raises ``ConfigError``."""
    path = Path(made.directory) / ROWS_FILE
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): is the data set on this machine?") from None


def wanted_again(made: Dataset) -> Wanted:
    """Return what would build the data set anew."""
    return msgspec.convert({**made.filters, "name": made.name, "purpose": made.purpose}, Wanted)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_version(store: Store, name: str) -> int:
    with store.engine.connect() as connection:
        query = select(func.max(datasets.c.version)).where(datasets.c.name == name)
        return int(connection.execute(query).scalar() or 0)


def _dataset(row: Any) -> Dataset:
    return msgspec.convert({name: row[name] for name in Dataset.__struct_fields__}, Dataset)


def _check(wanted: Wanted, by: str) -> None:
    if not wanted.name or not set(wanted.name) <= _NAME or wanted.name.startswith("."):
        raise ConfigError(f"`{wanted.name}` is no name for a data set: letters, digits and _ . - are")
    if wanted.purpose not in PURPOSES - {SERVE}:
        known = ", ".join(sorted(PURPOSES - {SERVE}))
        raise ConfigError(f"`{wanted.purpose}` is no purpose of a data set; there are: {known}")
    if not by.strip():
        raise ConfigError("a data set has a builder: give --by")
    if wanted.labels and not wanted.labels_owner.strip():
        raise ConfigError("labels of your own need somebody who says that they are: give --labels-owner")


def _labels(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"text", "label"} <= set(reader.fieldnames or ()):
                raise ConfigError(f"{path} needs the columns text and label in its first line")
            for row in reader:
                yield row["text"], row["label"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from None


def _json(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(row) + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
