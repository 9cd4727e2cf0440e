"""The experiments of a tenant: one file, changed by acts.

Rules: what is decided about an experiment is in the journal of acts before it takes effect. A draft may be replaced; what
runs is never changed, because an interval is only valid for what was fixed before it was looked at. The file is written
aside and renamed, so a service that reads it sees the old or the new one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from upeti.core.errors import ConfigError
from upeti.feed.experiment import Experiment, State, check, next_state
from upeti.journal.acts import act, record_acts

_FILE: Final = "experiments.json"


class Experiments:
    """Reads and changes the experiments of one tenant."""

    def __init__(self, directory: Path, data_dir: Path, tenant: str) -> None:
        """``directory`` is what ``FeedStore.tenant_dir`` returns; acts go to the journal of ``data_dir``."""
        self._path = directory / _FILE
        self._data_dir = data_dir
        self._tenant = tenant

    def all(self) -> list[Experiment]:
        """Return every experiment, the oldest first. Raises ``ConfigError`` for a file that is damaged."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Experiment])
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self._path} cannot be read ({error}); restore it from a copy") from None

    def running(self) -> list[Experiment]:
        return [one for one in self.all() if one.state is State.RUNNING]

    @property
    def stamp(self) -> int:
        """Changes when the experiments do: a service that keeps them looks at this."""
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def get(self, name: str) -> Experiment:
        """Raises ``ConfigError`` when there is none of that name."""
        found = next((one for one in self.all() if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.all()) or "none"
            raise ConfigError(f"there is no experiment {name}; there are: {known}")
        return found

    def put(self, experiment: Experiment, actor: str, at_ns: int, reason: str = "") -> Experiment:
        """Make a draft, or replace one. Raises ``ConfigError`` for one that cannot tell anything or has begun."""
        check(experiment)
        draft = msgspec.structs.replace(experiment, state=State.DRAFT, started_ns=0, stopped_ns=0)
        with self._changing() as kept:
            was = kept.get(draft.name)
            if was is not None and was.state is not State.DRAFT:
                raise ConfigError(
                    f"experiment {draft.name} is {was.state}: it cannot be changed; make one of another name"
                )
            detail = msgspec.to_builtins(draft)
            record_acts(
                self._data_dir, act(at_ns, actor, "experiment.drafted", self._subject(draft), reason, experiment=detail)
            )
            kept[draft.name] = draft
        return draft

    def start(self, name: str, actor: str, at_ns: int, reason: str = "") -> Experiment:
        """Raises ``ConfigError`` when it cannot be started, or another one runs that has the same users."""
        return self._step(name, "started", actor, at_ns, reason)

    def stop(self, name: str, actor: str, at_ns: int, reason: str = "") -> Experiment:
        """Raises ``ConfigError`` when it does not run."""
        return self._step(name, "stopped", actor, at_ns, reason)

    def drop(self, name: str, actor: str, at_ns: int, reason: str = "") -> Experiment:
        """End a draft. Raises ``ConfigError`` when it has begun."""
        return self._step(name, "dropped", actor, at_ns, reason)

    def _step(self, name: str, event: str, actor: str, at_ns: int, reason: str) -> Experiment:
        was = self.get(name)
        with self._changing() as kept:
            was = kept.get(name, was)
            state = next_state(was.state, event)
            others = [one.name for one in kept.values() if one.state is State.RUNNING]
            if state is State.RUNNING and others:
                raise ConfigError(
                    f"experiment {others[0]} runs, and its users cannot be in a second one: stop it first"
                )
            moment = {"started_ns": at_ns} if state is State.RUNNING else {"stopped_ns": at_ns}
            now = msgspec.structs.replace(was, state=state, **moment)
            record_acts(self._data_dir, act(at_ns, actor, f"experiment.{event}", self._subject(now), reason))
            kept[name] = now
        return now

    def _subject(self, experiment: Experiment) -> str:
        return f"{self._tenant}/{experiment.name}"

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Experiment]]:
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            kept = {one.name: one for one in self.all()}
            yield kept
            aside = self._path.with_suffix(".aside")
            with aside.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(list(kept.values()), order="deterministic")))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        finally:
            os.close(descriptor)
