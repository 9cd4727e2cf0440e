"""Who calls: the places of a key, and what is no key."""

from __future__ import annotations

from hashlib import sha256

import pytest

from upeti.core.errors import Forbidden, Unauthenticated
from upeti.gateway.auth import check_route, identify
from upeti.gateway.snapshot import Caller

CALLER = Caller("k1", "acme", "shop")
SHORT_LIVED = Caller("k2", "acme", "shop", expires_ns=1_000)
KEYS = {sha256(b"good").digest(): CALLER, sha256(b"old").digest(): SHORT_LIVED}


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer good"},
        {b"authorization": b"bearer good"},
        {b"authorization": b"Bearer  good "},
        {b"api-key": b"good"},
        {b"x-api-key": b"good"},
        {b"authorization": b"Basic Zm9vOmJhcg==", b"api-key": b"good"},
        {b"authorization": b"Bearer good", b"api-key": b"bad"},
    ],
)
def test_a_key_is_found(headers: dict[bytes, bytes]) -> None:
    assert identify(headers, KEYS, 0) is CALLER


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b""}, "missing_api_key"),
        ({b"authorization": b"Bearer "}, "missing_api_key"),
        ({b"authorization": b"Basic good"}, "missing_api_key"),
        ({b"authorization": b"good"}, "missing_api_key"),
        ({b"authorization": b"Bearer bad"}, "invalid_api_key"),
        ({b"authorization": b"Bearer goo"}, "invalid_api_key"),
        ({b"authorization": b"Bearer good good"}, "invalid_api_key"),
        ({b"authorization": b"Bearer " + sha256(b"good").digest()}, "invalid_api_key"),
        ({b"authorization": b"Bearer " + sha256(b"good").hexdigest().encode()}, "invalid_api_key"),
        ({b"api-key": b"\xff\x00"}, "invalid_api_key"),
        ({b"x-api-key": b"x" * 1_000_000}, "invalid_api_key"),
        ({b"authorization": b"Bearer old"}, "expired_api_key"),
    ],
)
def test_what_is_no_key(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(Unauthenticated, match="upeti keys create") as caught:
        identify(headers, KEYS, 1_000)
    assert (caught.value.status, caught.value.code) == (401, code)
    assert "good" not in caught.value.message


def test_a_key_lives_up_to_its_last_nanosecond() -> None:
    assert identify({b"api-key": b"old"}, KEYS, 999) is SHORT_LIVED


def test_routes_of_a_key() -> None:
    check_route(CALLER, "anything")
    limited = Caller("k3", "acme", "shop", routes=frozenset({"fast"}))
    check_route(limited, "fast")
    with pytest.raises(Forbidden, match="'slow'"):
        check_route(limited, "slow")
