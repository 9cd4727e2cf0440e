"""The snapshot: everything a worker knows, frozen, swapped in whole.

The keeper compiles it from the configuration, the state and the price book, and leaves it as one file; a
worker reads the file at start and whenever the keeper says there is a new one. Nothing else changes what a
worker does. Secrets are not in it, only where they are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from upeti.core.config import Gateway, Journal
from upeti.gateway.faults import Fault
from upeti.gateway.latch import Latch
from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price
from upeti.rights.data_policy import DataPolicy
from upeti.rights.terms import FOREVER_NS, SERVE

AUDITS: Final = "audit:"  # begins the names of routes that only a key that names them may use, or see


def hidden(route: str) -> bool:
    """Say whether a route is for keys alone that name it."""
    return route.startswith(AUDITS)


class Caller(msgspec.Struct, frozen=True):
    """Who a key stands for."""

    key: str  # public id
    tenant: str
    project: str
    feature: str = ""  # when a call carries no tag
    budgets: tuple[str, ...] = ()  # ("key:ID",) when the key has a limit of its own
    routes: frozenset[str] = frozenset()  # empty: all
    expires_ns: int = 0  # 0: never
    limit: str = ""  # the key's own, decimal USD


class SecretRef(msgspec.Struct, frozen=True):
    """Where a provider secret is found, and, for a stored one, its ciphertext."""

    kind: str  # "env" | "file" | "stored"
    name: str
    sealed: bytes = b""


class ChannelView(msgspec.Struct, frozen=True):
    """A channel as the data plane needs it."""

    name: str
    kind: str
    host: str
    port: int
    tls: bool
    path: str  # path prefix of base_url, without a trailing slash
    api_key: SecretRef | None = None
    api_version: str = ""
    deployments: dict[str, str] = msgspec.field(default_factory=dict)
    entra: bool = False
    organization: str = ""
    project: str = ""
    ca_file: str = ""
    connect_timeout_ms: int = 5_000
    connections_max: int = 10_000
    keepalive_idle_ms: int = 30_000
    breaker_failures: int = 5
    breaker_pause_ms: int = 10_000
    # What rights.permit allows on this channel now → until when, ns: what ends by date ends also while the keeper is down.
    purposes: dict[str, int] = msgspec.field(default_factory=lambda: {SERVE: FOREVER_NS})
    tier: str = ""  # service tier of calls that ask for none
    region: str = ""  # where it computes and keeps; "": not known
    retention_days: int | None = None  # how long the provider keeps prompts and answers; None: not known
    signals_host: str = ""  # whose errors it gives, where that is not its own host's
    answer_within_ms: int = 0  # an own model's time for an attempt; 0: the route's


class CandidateView(msgspec.Struct, frozen=True):
    """A candidate with its price: an own model is one more of these."""

    channel: str
    model: str  # "" = the name the client sent
    order: int
    weight: int
    prices: dict[str, tuple[Price, ...]]  # model → rows of all tiers, ascending by date; "*" any model of the channel
    output_tokens_max: int | None = None  # cap put into calls that name none
    context_tokens: int | None = None


class RouteView(msgspec.Struct, frozen=True):
    name: str
    candidates: tuple[CandidateView, ...]  # ascending by order
    deadline_ms: int = 600_000
    attempt_timeout_ms: int = 600_000
    stream_idle_ms: int = 120_000
    attempts_max: int = 4
    created_s: int = 0  # for /v1/models
    content_failover: bool = False  # whether what a content filter refused goes on to another candidate
    throttle_wait_ms: int = 500


class ShareView(msgspec.Struct, frozen=True):
    """How many of the calls an own model is asked."""

    share_ppm: int  # of a million
    sticky: bool = False  # drawn by end user, or by key where none is named: the same one stays on one side
    teacher: str = ""  # channel at which it is audited: it answers nobody whose texts may not go there


class CaptureView(msgspec.Struct, frozen=True):
    """Whose exchanges go to the process that keeps them."""

    keep: dict[str, frozenset[str]]  # tenant that has consented → for which features; none: for all
    watch: bool  # the conduct monitor looks at everybody's
    body_bytes_max: int


class Snapshot(msgspec.Struct, frozen=True):
    version: int
    gateway: Gateway
    journal: Journal
    keys: dict[bytes, Caller]  # SHA-256 of the key → caller
    channels: dict[str, ChannelView]
    routes: dict[str, RouteView]
    default_channel: str = ""
    unpriced: str = "refuse"  # "refuse" | "record"
    output_tokens_default: int = 4096
    budgets: tuple[BudgetTerms, ...] = ()  # named ones, and rate limits
    frozen: frozenset[str] = frozenset()  # roots of budgets that refuse until they are released
    suspended: dict[str, str] = msgspec.field(default_factory=dict)  # tenant that is not served → its case
    not_served: dict[str, dict[str, str]] = msgspec.field(
        default_factory=dict
    )  # channel → own model → act that says so
    capture: CaptureView | None = None  # None: nobody is kept or watched
    notices: dict[str, str] = msgspec.field(default_factory=dict)  # case → what its tenants are told
    latches: tuple[Latch, ...] = ()
    policies: tuple[DataPolicy, ...] = ()
    faults: tuple[Fault, ...] = ()  # of drills under way
    shares: dict[str, dict[str, ShareView]] = msgspec.field(default_factory=dict)  # channel that defers → own model


_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    return msgspec.msgpack.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """Raises ``msgspec.DecodeError`` when the data is not a snapshot of this version's shape."""
    return _decoder.decode(data)


def read(path: Path) -> Snapshot:
    return decode(path.read_bytes())


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file in one step: a reader sees the old one or the new one, never a part."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode(snapshot))
    partial.chmod(0o600)
    partial.replace(path)
