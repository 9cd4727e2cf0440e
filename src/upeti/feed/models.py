"""Trained models on disk: a directory for each version, written aside and renamed, and one file that names the live one.

Rules: a version is whole or not there, whenever its trainer was killed. Which one is live changes by replacing one file, so
a service reads the old one or the new one. The items are named with it: places are a matter of one process. What is
trained over night is kept for some nights, because a ranker must be trained on what the models of those days knew.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upeti.core.errors import UpetiError
from upeti.feed.catalogue import Catalogue
from upeti.feed.collaborative import Factors, Neighbours
from upeti.feed.prior import Prior
from upeti.feed.rank import Ranker
from upeti.feed.state import FeedState, Models

_CURRENT: Final = "current"
_KEPT: Final = 5  # versions that can be gone back to
_NIGHTS_KEPT: Final = 12

Matrix = NDArray[np.float32]


class ModelError(UpetiError):
    """A version of the models cannot be used. The message names the cure."""


class ModelStore:
    """The versions of one tenant."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is what ``FeedStore.tenant_dir`` returns."""
        self._versions = directory / "models"
        self._nights = directory / "nights"
        for each in (self._versions, self._nights):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def current(self) -> str:
        """Return the live version; empty when there is none."""
        try:
            return (self._versions / _CURRENT).read_text().strip()
        except FileNotFoundError:
            return ""

    def versions(self) -> list[str]:
        """Return all versions, oldest first."""
        return sorted(path.name for path in self._versions.iterdir() if path.is_dir() and not path.name.startswith("."))

    def save(self, version: str, state: FeedState, ranker: Ranker | None) -> None:
        """Write the models of ``state`` and a ranker as a version; it is not live yet."""
        aside = self._versions / f".{version}-{token_hex(4)}"
        aside.mkdir(mode=0o700)
        try:
            _write(aside, state.catalogue.ids, state.models, state.prior)
            if ranker is not None:
                ranker.save(aside)
            _sync(aside)
            aside.rename(self._versions / version)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def make_current(self, version: str) -> None:
        """Make a version the live one, at once and as a whole. Raises ``ModelError``."""
        if not (self._versions / version).is_dir():
            raise ModelError(
                f"there is no version {version!r} of the models; there are {', '.join(self.versions()) or 'none'}"
            )
        partial = self._versions / f".{_CURRENT}-{token_hex(4)}"
        partial.write_text(version + "\n")
        _sync_file(partial)
        partial.replace(self._versions / _CURRENT)

    def load(self, version: str, catalogue: Catalogue) -> tuple[Models, Prior | None, Ranker | None]:
        """Return a version, its items at their places in ``catalogue``. Raises ``ModelError``."""
        directory = self._versions / version
        try:
            models, prior = _read(directory, catalogue)
            return models, prior, Ranker.load(directory, version)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"version {version} of the models cannot be read ({error}); go back with `upeti feed rollback`"
            ) from None

    def keep_night(self, day: int, state: FeedState) -> None:
        """Keep what was trained before the day began."""
        aside = self._nights / f".{day}-{token_hex(4)}"
        aside.mkdir(mode=0o700)
        try:
            _write(aside, state.catalogue.ids, state.models, state.prior)
            target = self._nights / str(day)
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def night(self, day: int, catalogue: Catalogue) -> tuple[Models, Prior | None] | None:
        """Return what was trained before the day began; None when it is not kept."""
        try:
            return _read(self._nights / str(day), catalogue)
        except (OSError, ValueError, KeyError):
            return None

    def clean(self) -> None:
        """Remove what a killed trainer left, old nights, and versions that are neither live nor among the newest."""
        for path in (*self._versions.iterdir(), *self._nights.iterdir()):
            if path.is_dir() and path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
        current = self.current()
        for version in self.versions()[:-_KEPT]:
            if version != current:
                shutil.rmtree(self._versions / version, ignore_errors=True)
        for day in sorted((int(path.name) for path in self._nights.iterdir()), reverse=True)[_NIGHTS_KEPT:]:
            shutil.rmtree(self._nights / str(day), ignore_errors=True)


def _write(directory: Path, ids: list[str], models: Models, prior: Prior | None) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    if models.factors is not None:
        arrays["factors"] = models.factors.items
    for name, near in (("neighbours", models.neighbours), ("neighbours_recent", models.neighbours_recent)):
        if near is not None:
            arrays[f"{name}_places"], arrays[f"{name}_similarities"] = near.places, near.similarities
    if prior is not None:
        arrays["prior"], arrays["prior_model"] = prior.values, prior.model
    np.savez(directory / "models.npz", allow_pickle=False, **arrays)
    (directory / "items.json").write_text(json.dumps(ids))


def _read(directory: Path, catalogue: Catalogue) -> tuple[Models, Prior | None]:
    ids = json.loads((directory / "items.json").read_text())
    places = np.array([catalogue.place(item) for item in ids], np.int64)
    size = len(catalogue)
    with np.load(directory / "models.npz", allow_pickle=False) as arrays:
        factors = Factors(_moved(arrays["factors"], places, size)) if "factors" in arrays else None
        near = [
            Neighbours(
                _moved(places[arrays[f"{name}_places"]].astype(np.int32), places, size),
                _moved(arrays[f"{name}_similarities"], places, size),
            )
            if f"{name}_places" in arrays
            else None
            for name in ("neighbours", "neighbours_recent")
        ]
        prior = None
        if "prior" in arrays:
            prior = Prior(_moved(arrays["prior"], places, size, fill=np.nan), arrays["prior_model"])
    return Models(factors, near[0], near[1]), prior


def _moved(rows: NDArray[Any], places: NDArray[np.int64], size: int, fill: float = 0.0) -> NDArray[Any]:
    """Return rows at the places of this process; an item that the models did not know has ``fill``."""
    moved = np.full((size, *rows.shape[1:]), fill, rows.dtype)
    moved[places[: len(rows)]] = rows
    return moved


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        _sync_file(path)
    _sync_file(directory)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
