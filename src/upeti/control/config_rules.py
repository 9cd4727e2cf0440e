"""What the fields of a configuration must be to each other: names exist and are unique, pairs are whole.

``problems_of`` finds everything that would stop Upeti from serving; it looks at the file system for the
files that are named, and at nothing else. What only costs the user a surprise is a warning, found when the
snapshot is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from upeti.control.places import Places
from upeti.core.amount import AmountError, parse_pico
from upeti.core.config import Budget, Channel, Config, Control, Key, RateLimit, State, Telemetry
from upeti.money.budget_terms import KEY_PREFIX

# sun_path of a Unix socket's address is 108 bytes with its closing zero (unix(7)).
SOCKET_PATH_BYTES_MAX: Final = 107


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong: where in the file, what, and what to do about it."""

    path: str  # such as route[1].candidate[0].channel
    what: str
    cure: str


def problems_of(config: Config) -> list[Problem]:
    """Return every problem, in no particular order."""
    return [
        *_unique("channel", "name", [channel.name for channel in config.channel]),
        *_unique("route", "name", [route.name for route in config.route]),
        *_unique("key", "id", [key.id for key in config.key]),
        *_unique("key", "sha256", [key.sha256 for key in config.key]),
        *_unique("budget", "name", [budget.name for budget in config.budget]),
        *_unique("rate_limit", "name", [rate.name for rate in config.rate_limit]),
        *_unique("data_policy", "name", [policy.name for policy in config.data_policy]),
        *_gateway(config),
        *_state(config.state),
        *_telemetry(config.telemetry),
        *_files(config),
        *(found for place, channel in enumerate(config.channel) for found in _channel(place, channel)),
        *_contracts(config),
        *_policies(config),
        *_candidates(config),
        *(found for place, key in enumerate(config.key) for found in _key(place, key, config)),
        *(found for place, budget in enumerate(config.budget) for found in budget_problems(f"budget[{place}]", budget)),
        *(found for place, rate in enumerate(config.rate_limit) for found in _rate_limit(f"rate_limit[{place}]", rate)),
        *_alerts(config),
    ]


def _unique(table: str, field: str, values: Iterable[str]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for place, value in enumerate(values):
        if value and value in seen:
            what = f"a second {table} with the {field} `{value}`"
            yield Problem(f"{table}[{place}].{field}", what, f"the first is {table}[{seen[value]}]: rename one")
        seen.setdefault(value, place)


def _gateway(config: Config) -> Iterator[Problem]:
    gateway, control = config.gateway, config.control
    for name, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(gateway, name) and not getattr(gateway, other):
            yield Problem(f"gateway.{name}", f"`{name}` without `{other}`", f"add `{other}`, or leave both out")
    if gateway.port and gateway.port == control.port and gateway.host == control.host:
        path = "gateway.port" if control.port == Control().port else "control.port"
        yield Problem(path, "gateway and control have the same port", "choose another; 0 takes a free one")
    names = [channel.name for channel in config.channel]
    if gateway.default_channel and gateway.default_channel not in names:
        what = f"there is no channel `{gateway.default_channel}`"
        yield Problem("gateway.default_channel", what, _choose(gateway.default_channel, names, "[[channel]]"))
    socket = Places(Path(config.data_dir)).socket
    if len(bytes(socket)) > SOCKET_PATH_BYTES_MAX:
        what = f"data_dir is too long: its Unix socket {socket} has {len(bytes(socket))} bytes"
        yield Problem("data_dir", what, f"choose one so that it has at most {SOCKET_PATH_BYTES_MAX}")


def _telemetry(telemetry: Telemetry) -> Iterator[Problem]:
    url = urlsplit(telemetry.otlp_endpoint)
    if telemetry.otlp_endpoint and (url.scheme not in ("http", "https") or not url.hostname or url.query):
        what = "telemetry.otlp_endpoint is no URL of a collector"
        yield Problem("telemetry.otlp_endpoint", what, 'write it like otlp_endpoint = "http://127.0.0.1:4318"')
    elif url.path.rstrip("/").endswith(("/v1/traces", "/v1/metrics")):
        what = "telemetry.otlp_endpoint names one signal"
        yield Problem("telemetry.otlp_endpoint", what, "end it before /v1: traces and metrics go to their own paths")


def _state(state: State) -> Iterator[Problem]:
    if state.password is not None and state.password.startswith("stored:"):
        what = "state.password: a stored secret is in the state that it would open"
        yield Problem("state.password", what, "use `env:NAME` or `file:PATH`")
    if not state.url:
        if state.password is not None:
            yield Problem("state.password", "`password` without `url`", "add `url`, or leave both out for SQLite")
        return
    cure = "write it like postgresql://upeti@db.example:5432/upeti, with the password in `password`"
    try:
        url = urlsplit(state.url)
        sound = url.scheme == "postgresql" and bool(url.path.strip("/")) and url.port != 0
        secret = url.password is not None or "password=" in url.query
    except ValueError:
        sound = secret = False
    if not sound:
        yield Problem("state.url", "state.url: this is no address of a PostgreSQL database", cure)
    elif secret:
        yield Problem("state.url", "state.url holds a password", 'write it as password = "env:NAME" or "file:PATH"')


def _files(config: Config) -> Iterator[Problem]:
    named = [
        ("gateway.tls_certificate", config.gateway.tls_certificate),
        ("gateway.tls_key", config.gateway.tls_key),
        ("money.rates_file", config.money.rates_file),
        ("money.tenants_file", config.money.tenants_file),
        ("conduct.thresholds_file", config.conduct.thresholds_file),
        *((f"money.price_files[{place}]", file) for place, file in enumerate(config.money.price_files)),
        *((f"channel[{place}].ca_file", channel.ca_file) for place, channel in enumerate(config.channel)),
        *((f"channel[{place}].model_file", channel.model_file) for place, channel in enumerate(config.channel)),
        *((f"rights.terms_files[{place}]", file) for place, file in enumerate(config.rights.terms_files)),
        *((f"contract[{place}].order_form", contract.order_form) for place, contract in enumerate(config.contract)),
    ]
    for path, file in named:
        if file and not Path(file).is_file():
            yield Problem(path, f"there is no file {file}", "correct the path; it is relative to this file")


def _contracts(config: Config) -> Iterator[Problem]:
    names = [channel.name for channel in config.channel]
    for place, contract in enumerate(config.contract):
        here = f"contract[{place}]"
        if contract.channel not in names:
            cure = _choose(contract.channel, names, "[[channel]]")
            yield Problem(f"{here}.channel", f"there is no channel `{contract.channel}`", cure)
        if contract.until is not None and contract.until <= contract.effective:
            what = f"the contract of `{contract.channel}` ends before it begins"
            yield Problem(f"{here}.until", what, "`until` is the first day on which it holds no more")


def _channel(place: int, channel: Channel) -> Iterator[Problem]:
    here = f"channel[{place}]"
    name = f"channel `{channel.name}`"
    if channel.base_url:
        url = urlsplit(channel.base_url)
        try:
            sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            sound = False
        if not sound or url.query or url.fragment or url.username is not None:
            cure = "write it like https://api.openai.com/v1, without user, query or fragment"
            yield Problem(f"{here}.base_url", f"{name}: `base_url` is no address", cure)
    elif channel.kind == "azure":
        cure = 'add base_url = "https://NAME.openai.azure.com"'
        yield Problem(here, f"{name} has no `base_url`", cure)
    if channel.model_file and (channel.kind != "embedded" or channel.base_url):
        what = f"{name}: `model_file` is for channels of kind `embedded` that have no `base_url`"
        yield Problem(f"{here}.model_file", what, "leave it out, or change the kind")
    elif channel.model_file and not channel.model_file.endswith(".gguf"):
        what = f"{name}: {channel.model_file} is no .gguf file"
        yield Problem(
            f"{here}.model_file", what, "name the .gguf file that `train_generative` has written, or another one"
        )
    if channel.kind == "anthropic" and channel.api_key is None:
        yield Problem(here, f"{name} has no `api_key`", 'add api_key = "env:ANTHROPIC_API_KEY"')
    if channel.kind == "azure":
        if channel.api_key is None and not channel.entra:
            cure = 'add api_key = "env:AZURE_OPENAI_API_KEY", or entra = true'
            yield Problem(here, f"{name} has neither `api_key` nor `entra`", cure)
        if channel.api_key is not None and channel.entra:
            yield Problem(f"{here}.entra", f"{name} has both `api_key` and `entra`", "leave one out")
        return
    for field in ("entra", "api_version", "deployments"):
        if getattr(channel, field):
            what = f"{name}: `{field}` is for channels of kind `azure`"
            yield Problem(f"{here}.{field}", what, "leave it out, or change the kind")


def _policies(config: Config) -> Iterator[Problem]:
    names = [channel.name for channel in config.channel]
    for place, policy in enumerate(config.data_policy):
        here = f"data_policy[{place}]"
        for index, name in enumerate(policy.channels_denied):
            if name not in names:
                what = f"data policy `{policy.name}`: there is no channel `{name}`"
                yield Problem(f"{here}.channels_denied[{index}]", what, _choose(name, names, "[[channel]]"))
        if not policy.regions and policy.retention_days_max is None and not policy.channels_denied:
            cure = "add regions, retention_days_max or channels_denied"
            yield Problem(here, f"data policy `{policy.name}` asks for nothing", cure)


def _candidates(config: Config) -> Iterator[Problem]:
    names = [channel.name for channel in config.channel]
    for place, route in enumerate(config.route):
        for index, candidate in enumerate(route.candidate):
            if candidate.channel not in names:
                cure = _choose(candidate.channel, names, "[[channel]]")
                path = f"route[{place}].candidate[{index}].channel"
                yield Problem(path, f"route `{route.name}`: there is no channel `{candidate.channel}`", cure)


def _key(place: int, key: Key, config: Config) -> Iterator[Problem]:
    here = f"key[{place}]"
    if bool(key.sha256) == (key.secret is not None):
        cure = 'give one: sha256 = "…" or secret = "env:NAME", or make the key with `upeti keys create`'
        which = "both `sha256` and `secret`" if key.sha256 else "neither `sha256` nor `secret`"
        yield Problem(here, f"key `{key.id}` has {which}", cure)
    if key.limit:
        try:
            negative = parse_pico(key.limit) < 0
        except AmountError as error:
            yield Problem(f"{here}.limit", f"key `{key.id}`: {error}", 'write it like limit = "10.50"')
        else:
            if negative:
                cure = "give what the key may spend in all; empty is no limit"
                yield Problem(f"{here}.limit", f"key `{key.id}`: a limit below zero", cure)
    routes = [route.name for route in config.route]
    for index, name in enumerate(key.routes):
        # With a route for every name a key may be bound to names that have no route of their own.
        if name not in routes and "*" not in routes:
            what = f"key `{key.id}`: there is no route `{name}`"
            yield Problem(f"{here}.routes[{index}]", what, _choose(name, routes, "[[route]]"))


def budget_problems(here: str, budget: Budget) -> Iterator[Problem]:
    """Yield what is wrong with one budget, wherever it was written."""
    name = f"budget `{budget.name}`"
    if budget.name.startswith(KEY_PREFIX):
        yield Problem(f"{here}.name", f"{name}: `{KEY_PREFIX}` begins the names of keys' own limits", "choose another")
    try:
        if parse_pico(budget.limit) < 0:
            yield Problem(f"{here}.limit", f"{name}: a limit below zero", "give what may be spent in a window")
    except AmountError as error:
        yield Problem(f"{here}.limit", f"{name}: {error}", 'write it like limit = "10.50"')
    try:
        ZoneInfo(budget.zone)
    except (ValueError, OSError, KeyError):
        what = f"{name}: there is no time zone `{budget.zone}`"
        yield Problem(f"{here}.zone", what, "write it like Asia/Jakarta or UTC (the IANA time zone database)")
    if len(set(budget.alert_shares)) != len(budget.alert_shares):
        yield Problem(f"{here}.alert_shares", f"{name}: a share is there twice", "leave one out")


def _rate_limit(here: str, rate: RateLimit) -> Iterator[Problem]:
    if rate.calls_per_minute is None and rate.tokens_per_minute is None:
        cure = "add calls_per_minute, or tokens_per_minute, or both"
        yield Problem(here, f"rate limit `{rate.name}` limits nothing", cure)


def _alerts(config: Config) -> Iterator[Problem]:
    alerts = config.alerts
    if alerts.secret is not None and not alerts.webhook:
        yield Problem("alerts.secret", "`secret` without `webhook`", "add `webhook`, or leave it out")
    if alerts.webhook:
        url = urlsplit(alerts.webhook)
        if url.scheme not in ("http", "https") or not url.hostname:
            yield Problem("alerts.webhook", "`webhook` is no address", "write it like https://example.com/hook")


def _choose(name: str, names: list[str], table: str) -> str:
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"choose from {', '.join(names)}, or add a {table}" if names else f"add a {table}"
