"""Rights by the control API: decided with a name and a reason, in the snapshot within a moment, on record first."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from support.keeper_side import CONFIG, KeeperProcess, until
from upeti.control.rights import evidence_dir
from upeti.journal.acts import read_acts

WHO = {"by": "head of risk", "why": "read the contract"}
CONTRACT = "deepseek-platform-2026-04-29"
LETTER = base64.b64encode(b"You may.").decode()


def post(keeper: KeeperProcess, path: str, **body: Any) -> Any:
    code, answer = keeper.request("POST", f"/v1/rights/{path}", body=WHO | body)
    assert code in (200, 201), answer
    return json.loads(answer)


def refused(keeper: KeeperProcess, path: str, **body: Any) -> tuple[int, str]:
    return keeper.request("POST", f"/v1/rights/{path}", body=WHO | body)


def decision(keeper: KeeperProcess, purpose: str, **query: str) -> Any:
    return keeper.get(f"/v1/rights/explain?{urlencode({'channel': 'up', 'purpose': purpose} | query)}")


def test_a_right_from_the_contract_to_its_end(keeper: KeeperProcess) -> None:
    assert decision(keeper, "general_model")["decision"] == "deny"
    binding = post(keeper, "bindings", channel="up", contract=CONTRACT)
    assert decision(keeper, "general_model")["decision"] == "ask"
    post(keeper, "reviews", clause=f"{CONTRACT}/4.2", decision="confirm")
    found = decision(keeper, "general_model")
    assert (found["decision"], found["speaking"][0]["reviewed_by"]) == ("allow", "head of risk")
    assert "distillation" in found["quote"]
    until(
        lambda: "general_model" in keeper.snapshot().channels["up"].purposes,
        seconds=30,
        what="the purpose in the snapshot",
    )

    assert "resell" not in keeper.snapshot().channels["up"].purposes
    grant = post(keeper, "grants", channel="up", purpose="resell", evidence=LETTER, evidence_name="letter.txt")
    assert (evidence_dir(keeper.data_dir) / grant["evidence_sha256"]).read_bytes() == b"You may."
    assert decision(keeper, "resell")["grant"] == grant["id"]
    until(
        lambda: "resell" in keeper.snapshot().channels["up"].purposes,
        seconds=30,
        what="what was granted in the snapshot",
    )
    post(keeper, f"grants/{grant['id']}/revoke")
    until(
        lambda: "resell" not in keeper.snapshot().channels["up"].purposes,
        seconds=30,
        what="the revocation in the snapshot",
    )

    denial = post(keeper, "denials", channel="up", purpose="serve")
    until(
        lambda: "serve" not in keeper.snapshot().channels["up"].purposes, seconds=30, what="the denial in the snapshot"
    )
    assert decision(keeper, "serve")["decision"] == "deny"
    post(keeper, f"denials/{denial['id']}/lift")
    until(lambda: "serve" in keeper.snapshot().channels["up"].purposes, seconds=30, what="serving in the snapshot")

    post(keeper, f"bindings/{binding['id']}/end")
    assert decision(keeper, "serve")["decision"] == "deny"
    until(lambda: not keeper.snapshot().channels["up"].purposes, seconds=30, what="the contract's end in the snapshot")
    kinds = [one.kind for one in read_acts(keeper.data_dir)]
    assert kinds == [
        "rights.bound",
        "rights.reviewed",
        "rights.granted",
        "rights.revoked",
        "rights.denied",
        "rights.lifted",
        "rights.contract_ended",
    ]
    shown = keeper.get("/v1/rights")
    assert [len(shown[name]) for name in ("channels", "bindings", "reviews", "grants", "denials")] == [1, 1, 1, 1, 1]


def test_what_cannot_be_is_refused_and_changes_nothing(shared: KeeperProcess) -> None:
    for path, body, code, what in (
        ("bindings", {"channel": "up", "contract": "x"}, 422, "there is no contract `x`"),
        ("bindings", {"channel": "x", "contract": CONTRACT}, 422, "there is no channel `x`"),
        ("bindings", {"channel": "up", "contract": CONTRACT, "by": " "}, 422, "--by"),
        ("reviews", {"clause": "x", "decision": "allow"}, 422, "there is no clause `x`"),
        ("reviews", {"clause": f"{CONTRACT}/4.2", "decision": "yes"}, 422, "`yes` is no decision"),
        ("reviews", {"clause": f"{CONTRACT}/4.2", "decision": "allow"}, 422, "name each with --purpose"),
        ("grants", {"channel": "up", "purpose": "store", "evidence": "?", "evidence_name": "a"}, 422, "not base64"),
        ("grants", {"channel": "up", "purpose": "store", "evidence": "", "evidence_name": "a"}, 422, "is empty"),
        ("grants", {"channel": "up", "purpose": "store", "evidence": LETTER, "evidence_name": "a"}, 422, "no contract"),
        ("grants", {"channel": "up", "purpose": "serve", "evidence": LETTER, "evidence_name": "a"}, 422, "no grant"),
        ("denials", {"channel": "up", "purpose": "all"}, 422, "there is no purpose `all`"),
        ("denials", {"channel": "up", "purpose": "serve", "tenant": "acme"}, 422, "whole channel"),
        ("grants/grt_x/revoke", {}, 404, "no grant `grt_x`"),
        ("denials/dny_x/lift", {}, 404, "no denial `dny_x`"),
        ("bindings/bnd_x/end", {}, 404, "no binding `bnd_x`"),
    ):
        found, answer = refused(shared, path, **body)
        assert (found, what in answer) == (code, True), (path, body, answer)
    assert not any(shared.get("/v1/rights")[name] for name in ("bindings", "reviews", "grants", "denials"))


def test_contracts_and_clauses_are_listed(shared: KeeperProcess) -> None:
    assert CONTRACT in [one["id"] for one in shared.get("/v1/rights/contracts")]
    wanted = "anthropic-commercial-2025-06-17"
    found = shared.get(f"/v1/rights/clauses?contract={wanted}")
    assert {one["contract"] for one in found} == {wanted, "anthropic-usage-policy-2025-09-15"}
    assert len(shared.get("/v1/rights/clauses")) > len(found)


def test_a_right_ends_by_date_and_also_while_the_configuration_is_broken(keeper: KeeperProcess) -> None:
    """The end is in the snapshot beforehand, and a new one is made at its moment. The files of terms as they were last read
    whole still count while one is broken, and so does what the state says now.
    """
    ends = datetime.now(UTC) + timedelta(seconds=3)
    ends_ns = int(ends.timestamp() * 10**6) * 1000
    binding = post(keeper, "bindings", channel="up", contract=CONTRACT)
    post(keeper, f"bindings/{binding['id']}/end", until=ends.isoformat())
    found = until(
        lambda: purposes if (purposes := keeper.snapshot().channels["up"].purposes) != {"serve": 1 << 63} else None,
        seconds=30,
        what="the end in the snapshot",
    )
    assert found in ({"serve": ends_ns}, {})  # the latter on a machine that took three seconds for this
    until(lambda: not keeper.snapshot().channels["up"].purposes, seconds=30, what="a snapshot of the moment itself")
    assert keeper.get("/v1/status")["config_error"] == ""
    post(keeper, "bindings", channel="up", contract=CONTRACT)
    until(
        lambda: "serve" in keeper.snapshot().channels["up"].purposes,
        seconds=30,
        what="the next contract in the snapshot",
    )
    keeper.write_config(CONFIG.replace('channel = "up"', 'channel = "pu"'))
    until(lambda: "config_refused" in keeper.events(), seconds=30)
    post(keeper, "denials", channel="up", purpose="serve")
    until(
        lambda: "serve" not in keeper.snapshot().channels["up"].purposes, seconds=30, what="the denial in the snapshot"
    )
