"""When a look counts as evidence, as dated data: ``thresholds.toml`` beside this file."""

from __future__ import annotations

import datetime
import tomllib
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

_FILE: Final = "thresholds.toml"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a sign is there. One of ``above`` and ``below`` is given."""

    what: str
    above: float | None = None
    below: float | None = None

    def fires(self, value: float) -> bool:
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calls: int
    reference_calls: int
    keys_min: int


class DriftLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    p_max: float


class Needed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    how: int
    what: int


class SignLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    how: dict[str, Limit]
    what: dict[str, Limit]
    needed: Needed


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    date: datetime.date
    source: str
    windows: Windows
    drift: DriftLimit
    signs: SignLimits
    purposes: dict[str, dict[str, float]]


@cache
def thresholds() -> Thresholds:
    """Return what is shipped."""
    text = files("upeti.rights.conduct").joinpath(_FILE).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Thresholds)
