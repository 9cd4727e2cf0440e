"""What a provider's error means, and what to do about it: a table of facts, and the search in it.

Rules: the rows are data (``facts/signals.toml``), each with its source. The row that says most about an error decides:
a phrase says more than a code, a code more than a type, a type more than a host, a host more than a kind; of two phrases
the longer one. The table is refused when two rows that say equally much could fit the same error and ask for different
things. The search is pure and total: an error that no row knows has no signal, and what then happens is the gateway's
rule.

A client's own words can come back within the message of a 400 or 404, but never at its beginning: for these two a phrase
only counts there, so that nobody can have a channel cut off by what he sends.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from upeti.core.errors import ConfigError
from upeti.providers.dated_file import DatedRow, Text, read_bytes, rows_of
from upeti.wire.error_body import Said

_ECHOES: Final = frozenset({400, 404})
Kind = Literal["openai_compatible", "azure", "anthropic", "embedded", "student"]


class Meaning(StrEnum):
    """What an error of a provider says about the account, the model or the call."""

    KEY_DEAD = "key_dead"
    ACCOUNT_CUT = "account_cut"
    BILLING_STOP = "billing_stop"
    RIGHT_MISSING = "right_missing"
    ABUSE_BLOCK = "abuse_block"
    MODEL_GONE = "model_gone"
    DEPLOYMENT_GONE = "deployment_gone"
    THROTTLE = "throttle"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    MODEL_ERROR = "model_error"
    CONTENT = "content"
    BAD_REQUEST = "bad_request"
    UNEXPECTED = "unexpected"  # what no row knows, until a probe has told


class Reaction(StrEnum):
    """What the gateway does about it."""

    GIVE_BACK = "give_back"  # it is the client's: as it came
    WAIT_OR_FAIL_OVER = "wait_or_fail_over"
    FAIL_OVER = "fail_over"  # to the next candidate; the same one is not tried again
    RETRY_ONCE = "retry_once"  # the same candidate a moment later, then the next
    LATCH_KEY = "latch_key"
    LATCH_CHANNEL = "latch_channel"
    LATCH_MODEL = "latch_model"
    QUARANTINE_TENANT = "quarantine_tenant"  # the suspect first, then latch the channel and fail over for the others
    PROBE = "probe"  # ask with a request that is known to be good


LATCHES: Final = frozenset(
    {Reaction.LATCH_KEY, Reaction.LATCH_CHANNEL, Reaction.LATCH_MODEL, Reaction.QUARANTINE_TENANT}
)

MEANS: Final[dict[Meaning, str]] = {
    Meaning.KEY_DEAD: "the provider does not accept the channel's key",
    Meaning.ACCOUNT_CUT: "the provider has cut the account off",
    Meaning.BILLING_STOP: "the account's credit or spend limit is used up",
    Meaning.RIGHT_MISSING: "the account may not use this",
    Meaning.ABUSE_BLOCK: "the provider has blocked the account for what was sent through it",
    Meaning.MODEL_GONE: "the provider has no such model any more",
    Meaning.DEPLOYMENT_GONE: "there is no such deployment",
    Meaning.THROTTLE: "too many requests at once",
    Meaning.OVERLOADED: "the provider is overloaded",
    Meaning.TIMEOUT: "the provider ran out of time",
    Meaning.MODEL_ERROR: "the model failed",
    Meaning.CONTENT: "the provider's content filter refused the call",
    Meaning.BAD_REQUEST: "the request is wrong",
    Meaning.UNEXPECTED: "the provider refuses a request that is known to be good",
}


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row. What is empty fits everything; of several names one must fit."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)+$")]
    provider: Text
    kinds: tuple[Kind, ...] = ()
    hosts: tuple[Text, ...] = ()  # ".name" stands for all hosts below name
    statuses: Annotated[tuple[Annotated[int, Meta(ge=400, le=599)], ...], Meta(min_length=1)]
    types: tuple[Text, ...] = ()
    codes: tuple[Text, ...] = ()
    phrase: str = ""  # in the message, in any case
    meaning: Meaning
    reaction: Reaction
    source: Text
    source_date: datetime.date
    example: Text  # a body as it is documented or was seen
    example_headers: dict[str, str] = msgspec.field(default_factory=dict)
    remark: str = ""

    @property
    def weight(self) -> tuple[bool, bool, bool, bool, bool, int]:
        """How much the row says: of two that fit, the higher one decides."""
        return (
            bool(self.phrase),
            bool(self.codes),
            bool(self.types),
            bool(self.hosts),
            bool(self.kinds),
            len(self.phrase),
        )

    def fits(self, kind: str, host: str, status: int, said: Said) -> bool:
        """Whether the row knows this error of a channel of ``kind`` at ``host`` (in lower case)."""
        if status not in self.statuses or (self.kinds and kind not in self.kinds):
            return False
        if (self.types and said.type not in self.types) or (self.codes and said.code not in self.codes):
            return False
        if self.hosts and not any(host.endswith(name) if name[0] == "." else host == name for name in self.hosts):
            return False
        if not self.phrase:
            return True
        message, phrase = said.message.lower(), self.phrase.lower()
        return message.startswith(phrase) if status in _ECHOES else phrase in message


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing stands above the rows."""


class Signals:
    """A table of rows that decide every error in one way at most."""

    def __init__(self, rows: Iterable[Signal]) -> None:
        """Raises ``ConfigError`` when two rows could both decide an error, differently, or have one id."""
        self.rows: tuple[Signal, ...] = tuple(rows)
        for first, second in combinations(self.rows, 2):
            if first.id == second.id:
                raise ConfigError(f"signals: two rows have the id `{first.id}`; rename one")
            if first.reaction is not second.reaction and collide(first, second):
                raise ConfigError(
                    f"signals: `{first.id}` and `{second.id}` say equally much, can fit the same error and ask for different "
                    "things; give one of them a code, a type, a host or a longer phrase"
                )
        ordered = sorted(self.rows, key=lambda row: row.weight, reverse=True)
        self._by_status: dict[int, list[Signal]] = {}
        for row in ordered:
            for status in row.statuses:
                self._by_status.setdefault(status, []).append(row)

    def find(self, kind: str, host: str, status: int, said: Said) -> Signal | None:
        """Return the row that says most about an error; None when no row knows it."""
        for row in self._by_status.get(status, ()):
            if row.fits(kind, host, status, said):
                return row
        return None

    def blocks_for_abuse(self, kind: str) -> bool:
        """Whether providers of ``kind`` are known to block an account for what is sent through it."""
        return any(
            row.reaction is Reaction.QUARANTINE_TENANT and (not row.kinds or kind in row.kinds) for row in self.rows
        )

    def named(self, signal_id: str) -> Signal | None:
        return next((row for row in self.rows if row.id == signal_id), None)


def collide(first: Signal, second: Signal) -> bool:
    """Whether two rows say equally much and one error could fit both."""
    return (
        first.weight == second.weight
        and _overlap(first.statuses, second.statuses)
        and _overlap(first.kinds, second.kinds)
        and _overlap(first.types, second.types)
        and _overlap(first.codes, second.codes)
        and _hosts_overlap(first.hosts, second.hosts)
        and (not first.phrase or not _only_echoes(first, second) or first.phrase.lower() == second.phrase.lower())
    )


def _overlap(first: Sequence[object], second: Sequence[object]) -> bool:
    return not first or not second or not set(first).isdisjoint(second)


def _hosts_overlap(first: Sequence[str], second: Sequence[str]) -> bool:
    return not first or not second or any(a.endswith(b) or b.endswith(a) for a in first for b in second)


def _only_echoes(first: Signal, second: Signal) -> bool:
    """Whether the phrases of both only count at the beginning: two of the same length then never fit the same message."""
    return set(first.statuses) & set(second.statuses) <= _ECHOES


@cache
def shipped() -> Signals:
    """Return the table that comes with Upeti."""
    source = files("upeti.providers") / "facts" / "signals.toml"
    rows: list[DatedRow[Signal]] = rows_of("signals.toml", read_bytes(source), "signal", _Head, Signal)[1]
    return Signals(row.values for row in rows)
