"""Capture by the control API: consent, what is kept, its erasure; no texts."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from support.keeper_side import KeeperProcess, until
from upeti.control.tables_capture import pairs
from upeti.journal.acts import read_acts

WHO = {"by": "legal", "why": "letter of today"}
LETTER = base64.b64encode(b"We agree.").decode()
NOW_NS = time.time_ns()
PAIR = {
    "pair_id": "call_1-0",
    "call_id": "call_1",
    "tenant": "acme",
    "feature": "search",
    "task": "topic",
    "channel": "up",
    "redactions": "{}",
    "request_bytes": "3",
    "answer_bytes": "4",
    "at_ns": str(NOW_NS),  # an older one would be erased by rule
    "erased_ns": "0",
}


def post(keeper: KeeperProcess, path: str, code: int, **body: Any) -> Any:
    status, answer = keeper.request("POST", f"/v1/capture{path}", body=body)
    assert status == code, answer
    return json.loads(answer)


def test_consent_pairs_and_erasure(keeper: KeeperProcess) -> None:
    assert keeper.get("/v1/capture") == {"enabled": False, "consents": [], "kept": [], "left_out": []}
    made = post(keeper, "/consents", 201, tenant="acme", purposes=["evaluate"], evidence=LETTER, **WHO)
    assert made["purposes"] == ["evaluate", "store"]
    assert keeper.snapshot().capture is None, "capture is off"
    text = keeper.config.read_text()
    keeper.config.write_text(text + "\n[capture]\nenabled = true\n")
    keeper.hang_up()
    until(lambda: (view := keeper.snapshot().capture) and "acme" in view.keep, what="the consent in the snapshot")

    names = [column.name for column in pairs.columns if column.name not in PAIR]
    columns = (*PAIR, *(f'"{name}"' if name in ("grant", "key") else name for name in names))
    values = ", ".join(f"'{value}'" for value in (*PAIR.values(), *("" for _ in names)))
    keeper.change_state(f"INSERT INTO pairs ({', '.join(columns)}) VALUES ({values})")
    (pair,) = keeper.get("/v1/capture/pairs?tenant=acme&task=topic&feature=search&channel=up")
    assert (pair["pair_id"], pair["request_bytes"]) == ("call_1-0", 3)
    assert keeper.get("/v1/capture/pairs?tenant=beta") == []
    assert keeper.get("/v1/capture")["kept"] == [
        {"tenant": "acme", "pairs": 1, "erased": 0, "bytes": 7, "oldest_ns": NOW_NS}
    ]
    assert keeper.request("GET", "/v1/capture/pairs?limit=0")[0] == 422
    assert keeper.request("GET", "/v1/capture/pairs?limit=1001")[0] == 422

    assert "needs `tenant`" in json.dumps(post(keeper, "/erase", 422, user="rina", **WHO))
    assert "say what to erase" in json.dumps(post(keeper, "/erase", 422, **WHO))
    assert post(keeper, "/erase", 200, tenant="acme", **WHO) == {"pairs": ["call_1-0"], "bodies": 0}
    assert keeper.get("/v1/capture/pairs") == []
    assert "there is no pair `call_1-0`" in json.dumps(post(keeper, "/erase", 404, pair="call_1-0", **WHO))

    ended = post(keeper, "/consents/acme/withdraw", 200, **WHO)
    assert (ended["id"], ended["withdrawn_by"]) == (made["id"], "legal")
    until(lambda: not (view := keeper.snapshot().capture) or "acme" not in view.keep, what="the end in the snapshot")
    assert "no consent in force" in json.dumps(post(keeper, "/consents/acme/withdraw", 404, **WHO))
    kinds = [one.kind for one in read_acts(keeper.data_dir)]
    assert kinds == ["capture.consented", "capture.erased", "capture.withdrawn"]


def test_what_is_wrong_is_said_and_nothing_is_recorded(shared: KeeperProcess) -> None:
    for body, what in (
        ({"evidence": LETTER, "purposes": ["everything"]}, "`everything` is no purpose"),
        ({"evidence": "?"}, "base64"),
        ({}, "evidence"),
        ({"evidence": LETTER, "by": " "}, "a name and a reason"),
    ):
        assert what in json.dumps(post(shared, "/consents", 422, tenant="acme", **(WHO | body)))
    assert shared.get("/v1/capture")["consents"] == []
    for token in ("", "wrong"):
        for method, path in (("GET", ""), ("GET", "/pairs")):
            assert shared.request(method, f"/v1/capture{path}", token=token)[0] == 401
