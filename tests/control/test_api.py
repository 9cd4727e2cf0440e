"""The control port: keys, budgets, readiness, and who may ask."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from support.keeper_side import CONFIG, Connect, KeeperProcess, running_keeper, until
from upeti.gateway import keeper_link as link


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
    described = shared.get("/openapi.json")
    paths = described["paths"]
    guarded = [(path, method) for path, methods in paths.items() for method in methods if path.startswith("/v1/")]
    assert len(guarded) >= 5
    for path, method in guarded:
        url = filled(path, paths[path][method].get("parameters", []))
        content = paths[path][method].get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        body = None if schema is None else example(schema, described["components"]["schemas"])
        for token in ("", "wrong"):
            code, answer = shared.request(method.upper(), url, token=token, body=body)
            assert code == 401, (path, method, answer)
            assert "admin-token" in answer
    assert shared.request("DELETE", "/v1/keys/x")[0] == 404


def filled(path: str, parameters: list[dict[str, Any]]) -> str:
    """Return a path with something in place of every parameter that must be given."""
    queries = [f"{one['name']}=x" for one in parameters if one["in"] == "query" and one.get("required")]
    path = re.sub(r"\{[^}]*\}", "x", path)
    return f"{path}?{'&'.join(queries)}" if queries else path


def example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return the least that a schema takes."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    kind = schema.get("type", "string")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example(fields[name], schemas) for name in schema.get("required", [])}
    return {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": []}[kind]


async def test_readiness_counts_workers(keeper: KeeperProcess, connect: Connect) -> None:
    assert keeper.request("GET", "/readyz")[0] == 503
    worker = await connect(keeper, "key:k1")
    assert keeper.get("/readyz", token="") == {"ready": True, "workers": 1, "snapshot": 1}
    await worker.close()
    until(lambda: keeper.request("GET", "/readyz")[0] == 503)


def test_budgets_are_made_changed_shown_and_removed(shared: KeeperProcess) -> None:
    wanted = {"limit": "10", "window": "month", "zone": "Asia/Jakarta", "tenant": "acme", "alert_shares": [90]}
    assert shared.request("PUT", "/v1/budgets/team/month", body=wanted)[0] == 204
    until(lambda: shared.request("GET", "/v1/budgets/team/month")[0] == 200, seconds=3, what="the budget")
    shown = shared.get("/v1/budgets/team/month")
    assert shown["id"].startswith("team/month@20")
    assert shown["resets_at"].endswith("T00:00:00+07:00")
    assert (shown["limit"], shown["left"], shown["share"], shown["mode"], shown["source"], shown["frozen"]) == (
        *("10", "10", "0.0", "hard", "state"),
        None,
    )
    assert shown in shared.get("/v1/budgets")
    until(lambda: [terms.name for terms in shared.snapshot().budgets] == ["team/month"], seconds=3)
    assert shared.request("PUT", "/v1/budgets/team/month", body=wanted | {"limit": "4", "mode": "soft"})[0] == 204
    until(lambda: shared.get("/v1/budgets/team/month")["limit"] == "4", seconds=3)
    until(lambda: shared.snapshot().budgets[0].soft, seconds=3)
    assert shared.request("POST", "/v1/budgets/team/month/release")[0] == 404  # it is not frozen
    assert shared.request("DELETE", "/v1/budgets/team/month")[0] == 204
    until(lambda: shared.request("GET", "/v1/budgets/team/month")[0] == 404, seconds=3)
    assert shared.request("DELETE", "/v1/budgets/team/month")[0] == 404
    for body, what in (({"limit": "x"}, "not a decimal"), ({}, "limit"), ({"limit": "1", "zone": "Mars"}, "time zone")):
        code, answer = shared.request("PUT", "/v1/budgets/b", body=body)
        assert code == 422
        assert what in answer


async def test_a_share_that_is_spent_is_an_alert_and_an_overrun_a_freeze(
    shared: KeeperProcess, connect: Connect
) -> None:
    budget = shared.new_budget()
    worker = await connect(shared, budget)
    granted = await worker.ask(500)
    worker.report(granted.amount_pico)
    alerts = until(lambda: [each for each in shared.get("/v1/alerts") if each["budget"] == budget], what="the alert")
    assert [(each["kind"], each["share"], each["spent"]) for each in alerts] == [("share", 50, "0.0000000005")]
    assert alerts[0]["delivered_at_ns"] is None
    worker.say(link.LeaseReturn(budget, 0, granted.amount_pico, overrun="req_1-0 cost 2, above its bound 1"))
    until(lambda: budget in shared.snapshot().frozen, seconds=5, what="the freeze")
    assert shared.get(f"/v1/budgets/{budget}")["frozen"] == "req_1-0 cost 2, above its bound 1"
    until(lambda: "frozen" in {each["kind"] for each in shared.get("/v1/alerts")}, what="the alarm")
    assert "budget_frozen" in shared.events()
    assert shared.request("POST", f"/v1/budgets/{budget}/release")[0] == 204
    until(lambda: budget not in shared.snapshot().frozen, seconds=5, what="the release")


def test_a_budget_of_the_file_is_changed_there(tmp_path: Path) -> None:
    file = (
        '\n[[budget]]\nname = "all"\nlimit = "5"\nwindow = "week"\n[[rate_limit]]\nname = "r"\ncalls_per_minute = 7\n'
    )
    with running_keeper(tmp_path, CONFIG + file) as keeper:
        code, answer = keeper.request("PUT", "/v1/budgets/all", body={"limit": "6"})
        assert (code, "change it there" in answer) == (409, True)
        assert keeper.request("DELETE", "/v1/budgets/all")[0] == 404
        shown = {each["name"]: each for each in keeper.get("/v1/budgets")}
        assert shown["all"]["source"] == shown["r"]["source"] == "file"
        assert (shown["r"]["unit"], shown["r"]["limit"], shown["r"]["window"]) == ("calls", "7", "minute")
        # A higher limit in the file holds within a second.
        keeper.config.write_text(keeper.config.read_text().replace('limit = "5"', 'limit = "50"'))
        until(lambda: keeper.get("/v1/budgets/all")["limit"] == "50", seconds=5, what="the new limit")
