"""Configuration + state + price book → snapshot: everything a worker will know, decided before it knows it.

Pure but for the secrets it looks at: the digest of a key that the configuration names by its place, and
whether a channel's secret is to be found at all. No secret goes into the snapshot, only its place or its
ciphertext. What is wrong is a ``ConfigError`` with line and cure; what will only surprise somebody is a
warning.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from upeti.control.case_effects import Effects, notices_for, throttle_terms
from upeti.control.config_file import Document
from upeti.control.config_rules import Problem
from upeti.control.keys import KeyRow, audit_key
from upeti.core import config as written
from upeti.core.amount import decimal_text
from upeti.core.config import Budget, Candidate, Channel, Config, RateLimit
from upeti.core.errors import ConfigError
from upeti.gateway.faults import Fault
from upeti.gateway.latch import Latch
from upeti.gateway.snapshot import (
    AUDITS,
    Caller,
    CandidateView,
    CaptureView,
    ChannelView,
    RouteView,
    SecretRef,
    ShareView,
    Snapshot,
    hidden,
)
from upeti.money.budget_terms import CALLS, TOKENS, BudgetTerms, key_terms
from upeti.money.price import Price
from upeti.money.price_book import ANY_MODEL, PriceBook
from upeti.providers.catalog import PROVIDERS
from upeti.rights.data_policy import DataPolicy
from upeti.rights.permit import permit, purposes_until
from upeti.rights.terms import SERVE, Terms
from upeti.wire.tiers import STANDARD

AUDIT: Final = "audit"  # the feature of calls that audit
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Placement(msgspec.Struct, frozen=True):
    """Where the processes of one start are: what the configuration leaves open or a command line overrode."""

    gateway_host: str
    gateway_port: int
    control_host: str
    control_port: int
    workers: int
    embedded: dict[str, int] = msgspec.field(default_factory=dict)  # channel → port on loopback
    students: int = 0  # port on loopback of the process that serves own models


class State(msgspec.Struct, frozen=True):
    """What the store adds to the configuration."""

    keys: list[KeyRow] = msgspec.field(default_factory=list)
    sealed: dict[str, bytes] = msgspec.field(default_factory=dict)
    created_s: int = 0
    budgets: list[BudgetTerms] = msgspec.field(default_factory=list)
    frozen: frozenset[str] = frozenset()  # roots
    effects: Effects = Effects()  # of cases of conduct
    consents: dict[str, tuple[str, ...]] = {}  # tenant → features; (): all
    not_served: dict[str, dict[str, str]] = {}  # channel → own model → act that took it out of service
    terms: Terms = Terms()
    at_ns: int = 0  # moment for which rights are decided
    latches: tuple[Latch, ...] = ()
    faults: tuple[Fault, ...] = ()  # of drills
    shares: dict[str, dict[str, ShareView]] = {}  # channel → own model that is asked
    teachers: dict[str, tuple[str, str]] = {}  # task whose students are audited → channel and model of the teacher
    audit_secret: str = ""  # of the keys that audits are asked with
    audit_limits: dict[str, tuple[str, str]] = {}  # task → what its audits may cost in a month: decimal text, currency


class Compiled(msgspec.Struct, frozen=True):
    """A snapshot, the terms of all budgets by root, keys' own limits too, and what its user should be told."""

    snapshot: Snapshot
    terms: dict[str, BudgetTerms]
    warnings: list[str]


def compile_snapshot(
    document: Document,
    state: State,
    book: PriceBook,
    *,
    version: int = 0,
    placement: Placement | None = None,
) -> Compiled:
    """Compile. Without a ``placement`` it only serves to check: then a secret that is not there is a warning.

    Raises ``ConfigError`` that lists every problem.
    """
    return _Compilation(document, state, book, placement).result(version)


class _Compilation:
    def __init__(self, document: Document, state: State, book: PriceBook, placement: Placement | None) -> None:
        self._document = document
        self._config = document.config
        self._state = state
        self._book = book
        self._placement = placement
        self._problems: list[Problem] = []
        self._warnings: list[str] = []
        self._terms: dict[str, BudgetTerms] = {}
        names = frozenset(channel.name for channel in self._config.channel)
        self._rights = msgspec.structs.replace(state.terms, channels=names)

    def result(self, version: int) -> Compiled:
        config = self._config
        gateway = config.gateway
        if self._placement is not None:
            gateway = msgspec.structs.replace(
                gateway,
                host=self._placement.gateway_host,
                port=self._placement.gateway_port,
                workers=self._placement.workers,
            )
        channels = {channel.name: self._channel(place, channel) for place, channel in enumerate(config.channel)}
        by_name = {channel.name: channel for channel in config.channel}
        routes = {}
        for place, route in enumerate(config.route):
            views = tuple(
                self._candidate(f"route[{place}].candidate[{index}]", index, candidate, by_name[candidate.channel])
                for index, candidate in enumerate(route.candidate)
            )
            routes[route.name] = RouteView(
                name=route.name,
                candidates=tuple(sorted(views, key=lambda view: view.order)),
                deadline_ms=route.deadline_ms,
                attempt_timeout_ms=route.attempt_timeout_ms,
                stream_idle_ms=route.stream_idle_ms,
                attempts_max=route.attempts_max,
                created_s=self._state.created_s,
                content_failover=route.content_failover,
                throttle_wait_ms=route.throttle_wait_ms,
            )
        audits = self._audit_routes(by_name)
        keys = self._keys()
        keys |= self._audit_keys(audits)
        routes |= audits
        budgets = (*self._budgets(), *self._audit_budgets(audits))
        throttles = tuple(throttle_terms(self._state.effects, config.conduct))
        self._check_contracts()
        self._warn_of_gaps(keys)
        self._warn_of_idle_budgets(budgets, keys.values())
        if self._problems:
            raise self._document.error(self._problems)
        snapshot = Snapshot(
            version=version,
            gateway=gateway,
            journal=config.journal,
            keys=keys,
            channels=channels,
            routes=routes,
            default_channel=gateway.default_channel or _first_channel(routes.values()),
            unpriced=config.money.unpriced,
            output_tokens_default=config.money.output_tokens_default,
            budgets=(*budgets, *throttles),
            frozen=self._state.frozen,
            capture=self._capture(),
            not_served=self._state.not_served,
            suspended=self._state.effects.suspended,
            notices=notices_for(self._state.effects, config.conduct),
            latches=tuple(latch for latch in self._state.latches if latch.subject.channel in channels),
            policies=tuple(map(_policy, config.data_policy)),
            faults=tuple(fault for fault in self._state.faults if fault.channel in channels),
            shares=self._shares(),
        )
        return Compiled(snapshot, self._terms | {each.root: each for each in (*budgets, *throttles)}, self._warnings)

    def _channel(self, place: int, channel: Channel) -> ChannelView:
        host, port, tls, path = self._address(place, channel)
        return ChannelView(
            name=channel.name,
            kind=channel.kind,
            host=host,
            port=port,
            tls=tls,
            path=path,
            api_key=self._secret(place, channel),
            api_version=channel.api_version,
            deployments=channel.deployments,
            entra=channel.entra,
            organization=channel.organization,
            project=channel.project,
            tier=channel.tier,
            ca_file=channel.ca_file,
            connect_timeout_ms=channel.connect_timeout_ms,
            connections_max=channel.connections_max,
            keepalive_idle_ms=min(
                channel.keepalive_idle_ms, PROVIDERS[channel.kind].keepalive_idle_ms_max or channel.keepalive_idle_ms
            ),
            breaker_failures=channel.breaker_failures,
            breaker_pause_ms=channel.breaker_pause_ms,
            purposes=self._purposes(place, channel),
            region=channel.region,
            retention_days=channel.retention_days,
            signals_host=channel.signals_of,
            answer_within_ms=self._config.learning.answer_within_ms if PROVIDERS[channel.kind].defers else 0,
        )

    def _shares(self) -> dict[str, dict[str, ShareView]]:
        """Return how much of the calls each own model is asked; nothing when own models are turned off."""
        if not self._config.learning.enabled:
            return {}
        own = {channel.name for channel in self._config.channel if PROVIDERS[channel.kind].defers}
        return {channel: dict(shares) for channel, shares in self._state.shares.items() if channel in own}

    def _audit_routes(self, channels: Mapping[str, Channel]) -> dict[str, RouteView]:
        """Return a route to the teacher alone for each task whose students are audited."""
        for place, route in enumerate(self._config.route):
            if hidden(route.name):
                what = f"route `{route.name}`: names that begin with {AUDITS} are for audits of own models"
                self._problems.append(Problem(f"route[{place}].name", what, "choose another name"))
        found = {}
        for task, (channel, model) in self._state.teachers.items() if self._config.learning.enabled else ():
            if channel not in channels:
                what = f"the channel `{channel}` of the teacher of `{task}` is not configured: its students are not audited"
                self._warn("", what, "add the channel; without audits what was certified lapses")
                continue
            name = f"{AUDITS}{task}"
            view = self._candidate("", 0, Candidate(channel=channel, model=model), channels[channel])
            found[name] = RouteView(name=name, candidates=(view,), created_s=self._state.created_s)
        return found

    def _audit_keys(self, routes: Iterable[str]) -> dict[bytes, Caller]:
        """Return a key for each route of audits, whose id is the route's name."""
        secret, tenant = self._state.audit_secret, self._config.learning.audit_tenant
        found = {}
        for route in routes if secret else ():
            digest = hashlib.sha256(audit_key(secret, route.removeprefix(AUDITS)).encode()).digest()
            found[digest] = Caller(key=route, tenant=tenant, project="", feature=AUDIT, routes=frozenset({route}))
        return found

    def _audit_budgets(self, routes: Iterable[str]) -> Iterator[BudgetTerms]:
        """Yield what audits of each task may cost in a month, where that was declared with it."""
        for route in routes:
            limit, currency = self._state.audit_limits.get(route.removeprefix(AUDITS), ("", ""))
            if limit:
                yield BudgetTerms(name=route, limit=limit, unit=currency, window="month", key=route)

    def _capture(self) -> CaptureView | None:
        settings, watch = self._config.capture, self._config.conduct.enabled
        consents = self._state.consents if settings.enabled else {}
        if not consents and not watch:
            return None
        keep = {tenant: frozenset(features) for tenant, features in consents.items()}
        return CaptureView(keep, watch, settings.body_bytes_max)

    def _purposes(self, place: int, channel: Channel) -> dict[str, int]:
        at_ns = self._state.at_ns
        found = purposes_until(self._rights, channel.name, at_ns)
        if SERVE not in found:
            why = permit(self._rights, self._rights.origin_now(channel.name, at_ns), SERVE, at_ns).why
            what, _, cure = f"channel `{channel.name}` may serve nothing: {why}".partition("; ")
            self._warn(f"channel[{place}]", what, cure)
        return found

    def _check_contracts(self) -> None:
        known = [one.id for one in self._rights.contracts]
        for place, one in enumerate(self._config.contract):
            if known and one.contract not in known:
                near = get_close_matches(one.contract, known, n=1)
                cure = f"did you mean `{near[0]}`?" if near else "`upeti rights contracts` lists them"
                self._problems.append(
                    Problem(f"contract[{place}].contract", f"there is no contract `{one.contract}`", cure)
                )

    def _address(self, place: int, channel: Channel) -> tuple[str, int, bool, str]:
        if channel.kind == "embedded" and not channel.base_url:
            port = 0
            if self._placement is not None:
                port = self._placement.embedded.get(channel.name, 0)
                if not port:
                    what = f"channel `{channel.name}`: no process of the embedded provider was started for it"
                    self._problems.append(Problem(f"channel[{place}]", what, "stop `upeti serve` and start it again"))
            return "127.0.0.1", port, False, "/v1"
        if channel.kind == "student" and not channel.base_url:
            return "127.0.0.1", self._placement.students if self._placement is not None else 0, False, "/v1"
        url = urlsplit(channel.base_url or PROVIDERS[channel.kind].base_url)
        port = url.port or _DEFAULT_PORTS[url.scheme]
        return url.hostname or "", port, url.scheme == "https", url.path.rstrip("/")

    def _secret(self, place: int, channel: Channel) -> SecretRef | None:
        if channel.api_key is None:
            return None
        kind, _, name = channel.api_key.partition(":")
        sealed = self._state.sealed.get(name, b"") if kind == "stored" else b""
        missing = _missing_secret(kind, name, sealed, Path(self._config.data_dir))
        if missing:
            path = f"channel[{place}].api_key"
            what, cure = missing
            if self._placement is not None:
                self._problems.append(Problem(path, f"channel `{channel.name}`: {what}", cure))
            else:
                self._warn(path, f"channel `{channel.name}`: {what}", cure)
        return SecretRef(kind, name, sealed)

    def _candidate(self, path: str, index: int, candidate: Candidate, channel: Channel) -> CandidateView:
        part, zone = price_place(channel)
        model = "" if candidate.model == ANY_MODEL else candidate.model
        prices: dict[str, tuple[Price, ...]] = {
            name: self._book.all_tiers(part, name, zone) for name in ([model] if model else self._book.models(part))
        }
        prices = {name: rows for name, rows in prices.items() if rows}
        priced = {price.tier for rows in prices.values() for price in rows}
        if not priced >= {STANDARD, channel.tier}:  # what is served at another tier may be served as usual after all
            what = f"`{model or ANY_MODEL}` of channel `{candidate.channel}` has no price"
            if STANDARD in priced:
                what += f" at the tier `{channel.tier}`"
            if part:
                what += f" in the part `{part}` of the price book"
            if zone:
                what += f" for the zone `{zone}`"
            refused = self._config.money.unpriced == "refuse"
            effect = "its calls are refused" if refused else "its calls are unpriced, and refused with a limit"
            self._warn(path, f"{what}: {effect}", "add a row in a file of `[money] price_files`")
        facts = self._book.facts(part, model) if model else None
        return CandidateView(
            channel=candidate.channel,
            model=model,
            order=index if candidate.order is None else candidate.order,
            weight=candidate.weight,
            prices=prices,
            output_tokens_max=candidate.output_tokens_max or (facts.output_tokens_max if facts else None),
            context_tokens=candidate.context_tokens or (facts.context_tokens if facts else None),
        )

    def _keys(self) -> dict[bytes, Caller]:
        callers: dict[bytes, Caller] = {}
        in_state = {key.id for key in self._state.keys}
        for place, key in enumerate(self._config.key):
            path = f"key[{place}]"
            if key.id in in_state:
                cure = f"choose another id; `upeti keys revoke {key.id}` does not free it"
                self._problems.append(Problem(f"{path}.id", f"the state has a key `{key.id}` too", cure))
            try:
                digest = bytes.fromhex(key.sha256) if key.secret is None else digest_of(key.secret)
            except ConfigError as error:
                what, _, cure = str(error).partition("; ")
                self._problems.append(Problem(f"{path}.secret", f"key `{key.id}`: {what}", cure))
                continue
            caller = Caller(
                key=key.id,
                tenant=key.tenant,
                project=key.project,
                feature=key.feature,
                budgets=self._own_limit(key.id, key.limit),
                routes=frozenset(key.routes),
                limit=key.limit,
            )
            if callers.setdefault(digest, caller) is not caller:
                what = f"key `{key.id}` is the same as key `{callers[digest].key}`"
                self._problems.append(Problem(path, what, "give each key a secret of its own"))
        for row in self._state.keys:
            if row.revoked_ns:
                continue
            limit = "" if row.limit_pico is None else decimal_text(row.limit_pico)
            caller = Caller(
                key=row.id,
                tenant=row.tenant,
                project=row.project,
                feature=row.feature,
                budgets=self._own_limit(row.id, limit),
                routes=frozenset(row.routes),
                expires_ns=row.expires_ns,
                limit=limit,
            )
            callers.setdefault(bytes.fromhex(row.sha256), caller)
        return callers

    def _own_limit(self, key_id: str, limit: str) -> tuple[str, ...]:
        if not limit:
            return ()
        terms = key_terms(key_id, limit)
        self._terms[terms.root] = terms
        return (terms.root,)

    def _budgets(self) -> tuple[BudgetTerms, ...]:
        """Return the named budgets of the file and of the state, and the rate limits."""
        in_file = {budget.name: place for place, budget in enumerate(self._config.budget)}
        for terms in self._state.budgets:
            if terms.name in in_file:
                cure = f"rename one, or `upeti budget delete {terms.name}` removes the state's"
                what = f"the state has a budget `{terms.name}` too"
                self._problems.append(Problem(f"budget[{in_file[terms.name]}].name", what, cure))
        return (*terms_in_file(self._config), *self._state.budgets)

    def _warn_of_idle_budgets(self, budgets: Iterable[BudgetTerms], callers: Iterable[Caller]) -> None:
        for name in ("tenant", "project", "key"):
            known = {getattr(caller, name) for caller in callers}
            for terms in budgets:
                wanted = getattr(terms, name)
                if wanted and wanted not in known:
                    what = f"`{terms.name}` is for the {name} `{wanted}`, of which there is no key"
                    self._warn("", what, "correct the name, or make a key")

    def _warn_of_gaps(self, keys: Mapping[bytes, Caller]) -> None:
        if not self._config.route:
            self._warn("", "there is no route: no model is served", "add a [[route]]")
        if not keys:
            self._warn("", "there is no key: nobody can call", "`upeti keys create --tenant NAME` makes one")
        host = self._config.control.host
        if host not in ("127.0.0.1", "::1", "localhost"):
            what = f"the control port is open to the network ({host})"
            self._warn("control.host", what, "keep it on 127.0.0.1 unless a firewall guards it")

    def _warn(self, path: str, what: str, cure: str) -> None:
        self._warnings.append(str(self._document.error([Problem(path, what, cure)])))


def terms_in_file(config: Config) -> Iterator[BudgetTerms]:
    """Yield the terms of the file's budgets and rate limits."""
    for budget in config.budget:
        yield terms_of(budget)
    for rate in config.rate_limit:
        for unit, limit in ((CALLS, rate.calls_per_minute), (TOKENS, rate.tokens_per_minute)):
            if limit is not None:
                terms = BudgetTerms(name=rate.name, limit=str(limit), unit=unit, window="minute", shares=())
                yield _for_whom(terms, rate)


def terms_of(budget: Budget) -> BudgetTerms:
    """Return the terms that a budget is, as people write it."""
    terms = BudgetTerms(
        name=budget.name,
        limit=budget.limit,
        unit=budget.currency,
        window=budget.window,
        zone=budget.zone,
        soft=budget.mode == "soft",
        shares=tuple(sorted(budget.alert_shares)),
    )
    return _for_whom(terms, budget)


def _for_whom(terms: BudgetTerms, written: Budget | RateLimit) -> BudgetTerms:
    return msgspec.structs.replace(
        terms,
        tenant=written.tenant or "",
        project=written.project or "",
        key=written.key or "",
        feature=written.feature or "",
    )


def _policy(policy: written.DataPolicy) -> DataPolicy:
    return DataPolicy(
        name=policy.name,
        tenant=policy.tenant or "",
        project=policy.project or "",
        key=policy.key or "",
        feature=policy.feature or "",
        regions=frozenset(policy.regions),
        retention_days_max=policy.retention_days_max,
        channels_denied=frozenset(policy.channels_denied),
    )


def price_place(channel: Channel) -> tuple[str, str]:
    """Return which part of the price book applies to a channel, and which zone."""
    provider = PROVIDERS[channel.kind]
    host = urlsplit(channel.base_url or provider.base_url).hostname or ""
    return channel.prices or provider.host(host).prices, channel.zone


def watched_files(document: Document) -> Iterator[Path]:
    """Yield the files besides the configuration's own whose change makes another snapshot."""
    config = document.config
    yield from map(Path, config.money.price_files)
    yield from map(Path, config.rights.terms_files)
    yield from (Path(one.order_form) for one in config.contract if one.order_form)
    for secret in (*(key.secret for key in config.key), *(channel.api_key for channel in config.channel)):
        if secret is not None and secret.startswith("file:"):
            yield Path(secret.removeprefix("file:"))


def _first_channel(routes: Iterable[RouteView]) -> str:
    return next((route.candidates[0].channel for route in routes), "")


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a client key that is kept in the environment or a file. Raises ``ConfigError``."""
    kind, _, name = secret.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")
        if not value:
            raise ConfigError(f"the environment variable {name} is not set; set it where Upeti is started")
    elif kind == "file":
        try:
            value = Path(name).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{name} cannot be read ({error.strerror}); make it readable") from None
        if not value:
            raise ConfigError(f"{name} is empty; put the key into it")
    else:
        raise ConfigError("a client key is not taken from stored secrets; use `upeti keys create`")
    return hashlib.sha256(value.encode()).digest()


def _missing_secret(kind: str, name: str, sealed: bytes, data_dir: Path) -> tuple[str, str] | None:
    """Return what is wrong with a channel's secret and the cure; None when a worker will find it."""
    if kind == "env":
        if os.environ.get(name):
            return None
        return f"the environment variable {name} is not set", "set it where Upeti is started"
    if kind == "file":
        return None if os.access(name, os.R_OK) else (f"{name} cannot be read", "correct the path or its mode")
    if not sealed:
        return f"there is no stored secret `{name}`", f"`upeti secrets set {name}` stores it"
    # Only who has stored secrets pays for the library.
    from upeti.providers.sealed import master_key, open_sealed

    try:
        open_sealed(sealed, master_key(data_dir))
    except ConfigError as error:
        what, _, cure = str(error).partition("; ")
        return what, cure
    return None
