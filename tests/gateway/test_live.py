"""A snapshot made ready: addresses and first lines of requests, caps, prices, and what is remembered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.gateway_side import KEY, candidate, channel, keys, route, snapshot
from upeti import __version__
from upeti.core.errors import BadRequest, ConfigError, Forbidden, NotFound, Unauthenticated
from upeti.gateway.live import LiveView, build
from upeti.gateway.paths import target_of
from upeti.gateway.snapshot import Caller, ChannelView, RouteView, SecretRef
from upeti.money.price import Price

CALLER = Caller("k1", "acme", "shop")
NOBODY = Caller("k2", "acme", "shop", routes=frozenset({"none"}))


@pytest.fixture
def make(tmp_path: Path) -> Any:
    loop = asyncio.new_event_loop()

    def view(channels: list[ChannelView], routes: list[RouteView] | None = None, **changes: Any) -> LiveView:
        def no_tokens(view: ChannelView, old: Any = None) -> Any:
            raise AssertionError(view)

        return build(snapshot(channels, routes, **changes), None, loop, tmp_path, no_tokens)

    yield view
    loop.close()


@pytest.mark.parametrize(
    ("view", "method", "path", "address"),
    [
        ({}, "POST", "/v1/chat/completions", "/v1/chat/completions"),
        ({"path": ""}, "POST", "/v1/chat/completions", "/chat/completions"),
        ({"path": "/api/openai/v1"}, "POST", "/v1/files?a=b", "/api/openai/v1/files?a=b"),
        ({}, "POST", "/openai/deployments/m/embeddings?api-version=1", "/v1/embeddings"),
        ({"kind": "anthropic", "path": ""}, "POST", "/v1/messages", "/v1/messages"),
        ({"kind": "anthropic", "path": "/v1"}, "POST", "/v1/messages?beta=true", "/v1/messages?beta=true"),
        ({"kind": "anthropic", "path": "/proxy"}, "POST", "/v1/messages", "/proxy/v1/messages"),
        ({"kind": "azure", "path": ""}, "POST", "/v1/chat/completions", "/openai/v1/chat/completions"),
        ({"kind": "azure", "path": ""}, "GET", "/v1/files?limit=1", "/openai/v1/files?limit=1"),
        *(
            ({"kind": "azure", "path": "/x", "api_version": "2024-10-21"}, "POST", path, address)
            for path, address in (
                ("/v1/chat/completions", "/x/openai/deployments/a%2Fb%20c/chat/completions?api-version=2024-10-21"),
                ("/v1/embeddings?x=1", "/x/openai/deployments/a%2Fb%20c/embeddings?x=1&api-version=2024-10-21"),
                ("/v1/audio/speech", "/x/openai/deployments/a%2Fb%20c/audio/speech?api-version=2024-10-21"),
                ("/v1/images/generations", "/x/openai/deployments/a%2Fb%20c/images/generations?api-version=2024-10-21"),
                ("/v1/responses", "/x/openai/responses?api-version=2024-10-21"),
                ("/v1/files", "/x/openai/files?api-version=2024-10-21"),
            )
        ),
    ],
)
def test_addresses(make: Any, view: dict[str, Any], method: str, path: str, address: str) -> None:
    live = make([channel("up", 80, **({"kind": "openai_compatible"} | view))]).channels["up"]
    target = target_of(method.encode(), path.encode())
    first, host, agent, encoding, end = live.head_for(target, "a/b c").split(b"\r\n")
    assert first == f"{method} {address} HTTP/1.1".encode()
    assert (host, agent, encoding, end) == (
        b"host: 127.0.0.1",
        f"user-agent: upeti/{__version__}".encode(),
        b"accept-encoding: identity",
        b"",
    )


@pytest.mark.parametrize(
    ("host", "port", "tls", "line"),
    [
        ("api.example.com", 443, True, b"host: api.example.com"),
        ("api.example.com", 80, False, b"host: api.example.com"),
        ("api.example.com", 80, True, b"host: api.example.com:80"),
        ("::1", 8080, False, b"host: [::1]:8080"),
    ],
)
def test_hosts(make: Any, host: str, port: int, tls: bool, line: bytes) -> None:
    view = ChannelView("up", "openai_compatible", host, port, tls, "/v1")
    head = make([view]).channels["up"].head_for(target_of(b"GET", b"/v1/files"), "")
    assert head.split(b"\r\n")[1] == line


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("openai_compatible", b"Authorization: Bearer s3cret"),
        ("azure", b"api-key: s3cret"),
        ("anthropic", b"x-api-key: s3cret"),
        ("embedded", None),
    ],
)
def test_credentials(make: Any, monkeypatch: pytest.MonkeyPatch, kind: str, line: bytes | None) -> None:
    monkeypatch.setenv("UPETI_TEST_SECRET", "s3cret")
    view = channel("up", 80, kind, api_key=SecretRef("env", "UPETI_TEST_SECRET"))
    head = make([view]).channels["up"].head_for(target_of(b"GET", b"/v1/files"), "")
    assert (b"s3cret" in head) is (line is not None)
    if line is not None:
        assert line in head.split(b"\r\n")


@pytest.mark.parametrize(
    ("path", "kind", "host", "field", "cap"),
    [
        ("/v1/chat/completions", "openai_compatible", "api.openai.com", "max_completion_tokens", 99),
        ("/v1/chat/completions", "openai_compatible", "llm.example.com", "max_tokens", 99),
        ("/v1/chat/completions", "azure", "x.openai.azure.com", "max_completion_tokens", 99),
        ("/v1/responses", "openai_compatible", "api.openai.com", "max_output_tokens", 99),
        ("/v1/completions", "openai_compatible", "api.openai.com", "max_tokens", 16),
        ("/v1/embeddings", "openai_compatible", "api.openai.com", "", 0),
        ("/v1/messages", "anthropic", "api.anthropic.com", "max_tokens", 99),
        ("/v1/files", "openai_compatible", "api.openai.com", "", 0),
    ],
)
def test_caps(make: Any, path: str, kind: str, host: str, field: str, cap: int) -> None:
    view = ChannelView("up", kind, host, 443, True, "/v1")
    live = make([view], [route("m", candidate("up", output_tokens_max=99))])
    (lane,) = live.way(CALLER, target_of(b"POST", path.encode()), "m").lanes
    assert (lane.cap_field, lane.cap) == (field, cap)


def test_a_cap_of_the_configuration_where_the_candidate_has_none(make: Any) -> None:
    live = make([channel("up", 80)], output_tokens_default=77)
    (lane,) = live.way(CALLER, target_of(b"POST", b"/v1/chat/completions"), "m").lanes
    assert lane.cap == 77


def test_prices_by_the_models_name_and_by_date(make: Any) -> None:
    old, new, any_model = (Price(name, "USD", at, {"input": 1}) for name, at in (("o", 10), ("n", 20), ("*", 0)))
    prices = {"exact": (old, new), "*": (any_model,)}
    live = make([channel("up", 80)], [route("*", candidate("up", prices=prices))])
    target = target_of(b"POST", b"/v1/chat/completions")
    (lane,) = live.way(CALLER, target, "exact").lanes
    found = []
    for now_ns in (5, 10, 19, 20, 10**18):
        lane.look_up_prices(now_ns)
        price = lane.prices_by_tier.get("")
        found.append((price.id if price else None, lane.until_ns))
    forever = 1 << 63
    assert found == [(None, 10), ("o", 20), ("o", 20), ("n", forever), ("n", forever)]
    (lane,) = live.way(CALLER, target, "other").lanes
    assert lane.prices_by_tier[""] is any_model


@pytest.mark.parametrize(
    ("path", "model", "caller", "error", "code"),
    [
        ("/v1/chat/completions", "unknown", CALLER, NotFound, "model_not_found"),
        ("/v1/chat/completions", "x" * 257, CALLER, BadRequest, "invalid_model"),
        ("/v1/messages", "m", CALLER, BadRequest, "no_candidate"),
        ("/v1/chat/completions", "m", NOBODY, Forbidden, "route_not_allowed"),
        ("/v1/messages/count_tokens", "", CALLER, NotFound, "no_channel"),
    ],
)
def test_ways_that_there_are_not(
    make: Any, path: str, model: str, caller: Caller, error: type[Exception], code: str
) -> None:
    live = make([channel("up", 80)], [route("m", candidate("up"))])
    with pytest.raises(error) as caught:
        live.way(caller, target_of(b"POST", path.encode()), model)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_what_clients_choose_is_remembered_within_bounds(make: Any) -> None:
    live = make([channel("up", 80)])
    target = target_of(b"POST", b"/v1/chat/completions")
    assert live.way(CALLER, target, "m") is live.way(CALLER, target, "m")
    for number in range(5_000):
        live.way(CALLER, target, f"m-{number}")
    assert len(live._ways) <= 4_096
    long = target_of(b"GET", b"/v1/files?after=" + b"x" * 5_000)
    live.way(CALLER, long, "")
    assert not any(key[1] is long for key in live._ways)


def test_a_bearer_key_is_looked_up_once_and_only_as_such(make: Any) -> None:
    callers = {KEY: CALLER, "short": Caller("k3", "acme", "", expires_ns=100)}
    live = make([channel("up", 80)], keys=keys(callers))
    bearer = {b"authorization": f"Bearer {KEY}".encode()}
    assert live.caller(bearer, 0) is live.caller(bearer, 0) is CALLER
    assert list(live._callers.values()) == [CALLER]
    assert live.caller({b"api-key": KEY.encode()}, 0) is CALLER
    assert live.caller({b"authorization": b"Basic x", b"api-key": KEY.encode()}, 0) is CALLER
    assert len(live._callers) == 1
    for headers in ({b"authorization": b"Basic x"}, {}, {b"authorization": b""}):
        with pytest.raises(Unauthenticated):
            live.caller(headers, 0)
    # A key that ends is looked at every time.
    short = {b"authorization": b"Bearer short"}
    assert live.caller(short, 99).key == "k3"
    with pytest.raises(Unauthenticated, match="expired"):
        live.caller(short, 100)


def test_a_name_as_it_may_stand_in_a_header(make: Any) -> None:
    live = make([channel("up", 80)])
    (lane,) = live.way(CALLER, target_of(b"POST", b"/v1/chat/completions"), "a\r\nb: c 漢\x7f").lanes
    assert lane.served_by == "up/a??b: c ??"


def test_a_secret_that_is_not_there_is_named(make: Any) -> None:
    with pytest.raises(ConfigError, match="UPETI_NOT_SET"):
        make([channel("up", 80, api_key=SecretRef("env", "UPETI_NOT_SET"))])
