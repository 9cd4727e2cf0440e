"""The control port: keys, budgets, readiness, and who may ask."""

from __future__ import annotations

import hashlib
import json
import time

from support.keeper_side import Connect, KeeperProcess, until


def test_a_key_of_the_api_is_in_the_snapshot_within_two_seconds(shared: KeeperProcess) -> None:
    body = {"tenant": "acme", "feature": "search", "limit": "12.5", "routes": ["m"], "expires": "30d"}
    code, answer = shared.request("POST", "/v1/keys", body=body)
    assert code == 201
    made = json.loads(answer)
    digest = hashlib.sha256(made["key"].encode()).digest()
    caller = until(lambda: shared.snapshot().keys.get(digest), seconds=2, what="the key")
    assert (caller.key, caller.feature, caller.routes) == (made["id"], "search", frozenset({"m"}))
    assert caller.budgets == (f"key:{made['id']}",)
    assert caller.expires_ns > time.time_ns() + 29 * 86_400 * 10**9
    assert shared.budget(f"key:{made['id']}")["limit"] == "12.5"
    shown = shared.request("GET", "/v1/keys")[1]
    assert made["id"] in shown
    assert made["key"] not in shown
    assert shared.request("DELETE", f"/v1/keys/{made['id']}")[0] == 204
    until(lambda: digest not in shared.snapshot().keys, seconds=2)
    assert shared.request("DELETE", f"/v1/keys/{made['id']}")[0] == 404


def test_the_api_says_what_is_wrong(shared: KeeperProcess) -> None:
    for body, what in (
        ({"tenant": "a b"}, "tenant: 'a b' does not have the right form"),
        ({"tenant": "a", "limit": "1e-13"}, "more than 12 decimals"),
        ({"tenant": "a", "expires": "2001-01-01"}, "has passed"),
        ({"tenant": "a", "limits": "1"}, "limits"),
        ({}, "tenant"),
    ):
        code, answer = shared.request("POST", "/v1/keys", body=body)
        assert code == 422
        assert what in answer


def test_everything_under_v1_asks_for_the_token(shared: KeeperProcess) -> None:
    paths = shared.get("/openapi.json")["paths"]
    guarded = [(path, method) for path, methods in paths.items() for method in methods if path.startswith("/v1/")]
    assert len(guarded) >= 5
    for path, method in guarded:
        for token in ("", "wrong"):
            body = {"post": {"tenant": "t"}, "put": {"limit": "1"}}.get(method)
            code, answer = shared.request(method.upper(), path.format(key_id="x", name="x"), token=token, body=body)
            assert code == 401, (path, method)
            assert "admin-token" in answer
    assert shared.request("DELETE", "/v1/keys/x")[0] == 404


async def test_readiness_counts_workers(keeper: KeeperProcess, connect: Connect) -> None:
    assert keeper.request("GET", "/readyz")[0] == 503
    worker = await connect(keeper, "key:k1")
    assert keeper.get("/readyz", token="") == {"ready": True, "workers": 1, "snapshot": 1}
    await worker.close()
    until(lambda: keeper.request("GET", "/readyz")[0] == 503)
