"""When a look counts as evidence, as dated data: ``thresholds.toml`` beside this file."""

from __future__ import annotations

import datetime
import tomllib
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from upeti.core.errors import ConfigError

_FILE: Final = "thresholds.toml"
_CALLS_MIN: Final = 20  # fewer say nothing of anybody


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
    return parse(files("upeti.rights.conduct").joinpath(_FILE).read_text(encoding="utf-8"), _FILE)


def parse(text: str, name: str) -> Thresholds:
    """Return the thresholds that ``text`` says. Raises ``ConfigError`` that calls it ``name``."""
    try:
        made = msgspec.convert(tomllib.loads(text), Thresholds)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{name}: {error}; compare it with the {_FILE} that is shipped") from None
    if made.windows.calls < _CALLS_MIN or made.windows.reference_calls < made.windows.calls:
        raise ConfigError(
            f"{name}: windows need at least {_CALLS_MIN} calls, and the past as many as a window; raise them"
        )
    return made
