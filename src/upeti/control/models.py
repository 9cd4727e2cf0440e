"""The registry of own models: what each was trained on, what it may be used for, and its stage.

Rules: a model is registered only when every row of its data sets may be used for its purpose and every duty that comes
with that is kept. Rights are looked at again whenever a snapshot is made: a model that rests on a row without a right is
quarantined, which is an act, and routes go on without it. It is released by a person, once the right is there again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from upeti.control import consents
from upeti.control.consents import Consent
from upeti.control.datasets import datasets_of_names, file_sha256
from upeti.control.lineage import Objection, duties, objections
from upeti.control.store import Store, StoreError
from upeti.control.tables_lineage import model_datasets, models
from upeti.core.errors import ConfigError
from upeti.core.events import ActDone
from upeti.journal.acts import act, record_acts
from upeti.rights.duties import Plan, unkept
from upeti.rights.stage import LOST, RELEASED, RETIRED, TRANSITIONS, Stage, StageError, after
from upeti.rights.terms import PURPOSES, SERVE, Terms

RULE: Final = "rule:rights"
_RULES: Final = "rule:"
# What is given to others is another purpose than what is kept.
_GIVEN_ON: Final = {"classify_internal": "classify_distributed"}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be registered."""

    name: str
    version: str
    purpose: str
    datasets: tuple[str, ...]
    distributed: bool = False
    base_model: str = ""
    channel: str = ""
    model: str = ""
    notices: tuple[str, ...] = ()
    licence: str = ""
    users_monthly: int | None = None


class Model(msgspec.Struct, frozen=True):
    """A model as the state knows it."""

    id: str
    name: str
    version: str
    purpose: str
    distributed: bool
    base_model: str
    channel: str
    model: str
    file_name: str
    file_sha256: str
    duties: tuple[str, ...]
    notices: tuple[str, ...]
    registered_ns: int
    registered_by: str
    stage: Stage
    stage_act: str
    stage_why: str
    stage_ns: int
    datasets: tuple[str, ...] = ()


def register(store: Store, terms: Terms, wanted: Wanted, *, file: Path | None = None, by: str, why: str) -> Model:
    """Register a model. Raises ``ConfigError`` with clause and cure when a right or a duty stands against it."""
    _check(wanted, by, why)
    found = datasets_of_names(store, wanted.datasets)
    now_ns = time.time_ns()
    ids = [one.id for one in found]
    against = _against(store, terms, consents.in_force(store), ids, wanted.purpose, now_ns)
    if against:
        raise ConfigError(f"`{wanted.name}` may not be trained for {wanted.purpose}: {_shown(against)}")
    owed = {duty for one in found for duty in duties(store, terms, one.id, wanted.purpose, now_ns)}
    _check_duties(owed, wanted)
    made = Model(
        id=f"{wanted.name}@{wanted.version}",
        name=wanted.name,
        version=wanted.version,
        purpose=wanted.purpose,
        distributed=wanted.distributed,
        base_model=wanted.base_model,
        channel=wanted.channel,
        model=wanted.model,
        file_name=file.name if file is not None else "",
        file_sha256=_file(file) if file is not None else "",
        duties=tuple(sorted(owed)),
        notices=wanted.notices,
        registered_ns=now_ns,
        registered_by=by,
        stage=Stage.REGISTERED,
        stage_act="",
        stage_why=why,
        stage_ns=now_ns,
        datasets=tuple(one.id for one in found),
    )
    fields = msgspec.to_builtins(made)
    detail = {name: fields[name] for name in ("purpose", "distributed", "datasets", "file_sha256", "channel", "model")}
    done = act(now_ns, by, "models.registered", made.id, why, **detail)
    if any(one.id == made.id for one in all_models(store)):
        raise ConfigError(f"there is a model `{made.id}` already: give the new one another --version")
    record_acts(store.data_dir, done)
    del fields["datasets"]
    with store.changing() as connection:
        connection.execute(insert(models).values(fields | {"stage_act": done.act_id}))
        rows = [{"model": made.id, "dataset": one.id} for one in found]
        if rows:
            connection.execute(insert(model_datasets), rows)
    return msgspec.structs.replace(made, stage_act=done.act_id)


def _check(wanted: Wanted, by: str, why: str) -> None:
    if not by.strip() or not why.strip():
        raise ConfigError("a model has somebody who answers for it: give --by and --why")
    if not wanted.name or not wanted.version or "@" in wanted.name + wanted.version:
        raise ConfigError("a model has a name and a version, without @")
    if wanted.purpose not in PURPOSES - {SERVE, "store"}:
        known = ", ".join(sorted(PURPOSES - {SERVE, "store"}))
        raise ConfigError(f"`{wanted.purpose}` is no purpose of a model; there are: {known}")
    if bool(wanted.channel) != bool(wanted.model):
        raise ConfigError("where a model is served is a channel and its name there: give --channel and --model")
    if wanted.distributed and wanted.purpose in _GIVEN_ON:
        other = _GIVEN_ON[wanted.purpose]
        raise ConfigError(f"what is given to others is for {other}: --purpose {other}, or leave out --distributed")


def _check_duties(owed: Iterable[str], wanted: Wanted) -> None:
    plan = Plan(
        name=wanted.name,
        distributed=wanted.distributed,
        notices=wanted.notices,
        licence=wanted.licence,
        users_monthly=wanted.users_monthly,
    )
    open_duties = unkept(owed, plan)
    if open_duties:
        listed = "; ".join(f"{one.duty}: {one.cure}" for one in open_duties)
        raise ConfigError(f"`{wanted.name}` does not keep what comes with the permission: {listed}")


def all_models(store: Store) -> list[Model]:
    """Return all models, oldest first."""
    used: dict[str, list[str]] = {}
    with store.engine.connect() as connection:
        for row in connection.execute(select(model_datasets).order_by(model_datasets.c.dataset)):
            used.setdefault(row.model, []).append(row.dataset)
        query = select(models).order_by(models.c.registered_ns, models.c.id)
        rows = connection.execute(query).mappings().all()
    names = [name for name in Model.__struct_fields__ if name != "datasets"]
    found = [{name: row[name] for name in names} | {"datasets": used.get(row["id"], [])} for row in rows]
    return msgspec.convert(found, list[Model])


def model(store: Store, name: str) -> Model:
    """Return ``NAME@VERSION``, or the newest of ``NAME``. Raises ``StoreError``."""
    found = [one for one in all_models(store) if name in (one.id, one.name)]
    if not found:
        raise StoreError(f"there is no model `{name}`: `upeti models list` shows them")
    return found[-1]


def standing_against(store: Store, terms: Terms, one: Model, at_ns: int) -> list[Objection]:
    """Return what stands against using a model now."""
    return _against(store, terms, consents.in_force(store), one.datasets, one.purpose, at_ns)


def _against(
    store: Store, terms: Terms, standing: Mapping[str, Consent], names: Iterable[str], purpose: str, at_ns: int
) -> list[Objection]:
    return [each for name in names for each in objections(store, terms, standing, name, purpose, at_ns)]


# -- stages
# -------------------------------------------------------------------------------------------------------------


def quarantine_touched(store: Store, terms: Terms, at_ns: int) -> list[Model]:
    """Quarantine every model that rests on a row without a right; return which."""
    touched = []
    in_use = [one for one in all_models(store) if LOST in TRANSITIONS[one.stage]]
    standing = consents.in_force(store) if in_use else {}
    for one in in_use:
        against = _against(store, terms, standing, one.datasets, one.purpose, at_ns)
        if against:
            touched.append(move(store, one, LOST, by=RULE, why=_shown(against)))
    return touched


def release(store: Store, terms: Terms, name: str, *, by: str, why: str) -> Model:
    """Let a quarantined model serve again. Raises ``ConfigError`` while a right is still missing, ``StageError``."""
    one = model(store, name)
    against = standing_against(store, terms, one, time.time_ns())
    if against:
        raise ConfigError(
            f"`{one.id}` stays quarantined: {_shown(against)}. `upeti dataset rebuild` leaves those rows out"
        )
    return move(store, one, RELEASED, by=by, why=why, tell=True)


def retire(store: Store, name: str, *, by: str, why: str) -> Model:
    """Take a model out of use for good. Raises ``StoreError``, ``StageError``."""
    return move(store, model(store, name), RETIRED, by=by, why=why, tell=True)


def not_served(store: Store) -> dict[str, dict[str, str]]:
    """Return channel → model's name there → act that took it out of service.

    How much of the calls a student is asked in its stage is another matter: ``control/rollout.shares``.
    """
    found: dict[str, dict[str, str]] = {}
    served: set[tuple[str, str]] = set()
    for one in all_models(store):
        if not one.channel:
            continue
        if one.stage not in (Stage.QUARANTINED, Stage.RETIRED):
            served.add((one.channel, one.model))
        else:
            found.setdefault(one.channel, {})[one.model] = one.stage_act
    for channel, name in served:  # a newer version under the same name
        found.get(channel, {}).pop(name, None)
    return {channel: names for channel, names in found.items() if names}


Also = Callable[[Connection, Stage, ActDone], None]


def move(
    store: Store,
    one: Model,
    event: str,
    *,
    by: str,
    why: str,
    tell: bool = False,
    also: Also | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Model:
    """Bring a model from the stage it is in to the one after ``event``: an act, then the state, in one transaction.

    ``also`` changes in the same transaction what hangs together with it, and may raise to stop it. ``tell``: workers must hear of
    it. By a rule, a model that is in another stage meanwhile stays there and is returned as it was. Raises ``StageError``,
    ``ConfigError``.
    """
    if not by.strip() or not why.strip():
        raise ConfigError("this has a name and a reason: give --by and --why")
    now_ns = time.time_ns()
    with store.changing() if tell else store.writing() as connection:
        stage = connection.execute(select(models.c.stage).where(models.c.id == one.id)).scalar_one()
        if Stage(stage) is not one.stage:
            if by.startswith(_RULES):
                return one  # another node was first
            raise StageError(f"`{one.id}` was moved by somebody else meanwhile; look at `upeti models show {one.id}`")
        new = after(one.stage, event)
        done = act(now_ns, by, f"models.{event}", one.id, why, stage=new, **(detail or {}))
        changes: dict[str, Any] = {"stage": new, "stage_act": done.act_id, "stage_why": why, "stage_ns": now_ns}
        if also is not None:
            also(connection, new, done)
        record_acts(store.data_dir, done)
        connection.execute(update(models).where(models.c.id == one.id).values(**changes))
    return msgspec.structs.replace(one, **changes)


def _shown(against: list[Objection]) -> str:
    first = against[0]
    more = f" (and {len(against) - 1} more reasons)" if len(against) > 1 else ""
    return f"{first.rows} rows of {first.dataset} hang on {first.what}: {first.why}{more}"


def _file(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the model's file") from None
