"""Conduct end to end: a harvesting tenant behind a real gateway, its case, a person's decision, the appeal."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.conduct_side import body, question, task
from support.keeper_side import until
from support.upeti_process import CONFIG, KEY, UpetiProcess, sim_provider
from upeti.control.keys import KeyRow
from upeti.control.store import Store
from upeti.journal.acts import read_acts

WINDOW = 60
CONDUCT = """
[conduct]
enabled = true
appeal_contact = "appeals@example.com"
thresholds_file = "thresholds.toml"
"""
SMALL_KEYS = 50
CANARY = "canary-77b0 Siti Rahma's account"


def key_of(place: int) -> str:
    return f"upeti-small-key-{place}"


class Client:
    """Calls on one connection, fast enough to fill windows."""

    def __init__(self, url: str) -> None:
        self.call_ids: list[str] = []
        self._line = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=20)

    def call(self, text: str, *, key: str = KEY, system: str = "", **fields: Any) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._line.request("POST", "/v1/chat/completions", body(text, system, **fields), headers)
        answer = self._line.getresponse()
        self.call_ids.append(answer.headers["x-request-id"])
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    folder = tmp_path_factory.mktemp("conduct")
    shipped = Path(__file__).parents[2] / "src/upeti/rights/conduct/thresholds.toml"
    text = shipped.read_text().replace("calls = 1000 ", f"calls = {WINDOW} ").replace("= 3000 ", f"= {2 * WINDOW} ")
    (folder / "thresholds.toml").write_text(text)
    with sim_provider(folder / "provider.jsonl") as port:
        process = UpetiProcess(folder, CONFIG.format(port=port) + CONDUCT)
        store = Store(process.data_dir)
        for place in range(SMALL_KEYS):
            digest = hashlib.sha256(key_of(place).encode()).hexdigest()
            store.add_key(KeyRow(f"small{place}", digest, f"small-{place}"))
        store.close()
        process.start()
        until(lambda: any(one["event"] == "capture_ready" for one in process.events()), seconds=30, what="the watcher")
        yield process
        assert process.stop() == 0


def cases(process: UpetiProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = process.ask("/v1/conduct/cases")
    return found


def test_a_harvesting_tenant_is_found_suspended_heard_and_served_again(upeti: UpetiProcess) -> None:
    client, dice = Client(upeti.gateway), random.Random(5)
    head = {"by": "head of legal", "why": "as agreed"}
    assert tell(upeti, "PUT", "purposes/acme", purpose="customer_support", **head)[0] == 200
    # The watcher connects to workers within a second; what was sent before is not seen.
    until(
        lambda: client.call(CANARY, user="u1")[0] == 200 and metric(upeti, "upeti_exchanges_sent_total") > 0, seconds=20
    )
    for _ in range(3 * WINDOW):
        assert client.call(question(dice), user="u1")[0] == 200
    assert cases(upeti) == []

    def throttled() -> bool:  # after two windows; more when some calls are passed over
        for _ in range(WINDOW // 2):
            assert client.call(task(dice), max_tokens=8000, n=2)[0] in (200, 429)
        return [one["state"] for one in cases(upeti)] == ["throttled"]

    until(throttled, seconds=60, what="the throttle")
    until(lambda: metric(upeti, 'upeti_conduct_cases{state="throttled"}') == 1, seconds=20, what="the metric")
    (case,) = cases(upeti)
    assert (case["id"], case["tenants"]) == ("C-000001", ["acme"])
    # Windows of sixty calls are few for a drift: whether it is found among them hangs on where they begin.
    assert {"purpose", "signs"} <= set(case["families"]) <= {"drift", "purpose", "signs"}
    throttle = ("conduct:C-000001:acme", "case", "60")
    until(
        lambda: throttle in [(one["name"], one["source"], one["limit"]) for one in upeti.ask("/v1/budgets")], seconds=20
    )
    events = [event["event"] for event in upeti.ask("/v1/conduct/cases/C-000001")["events"]]
    steps = [event for event in events if event != "evidence"]
    assert steps[:3] == ["open", "warn", "throttle"]
    assert set(steps[3:]) <= {"throttle"}  # again, by what was sent meanwhile

    suspend = ("--by", "head of legal", "--why", "it asks for training data")
    suspended = upeti.command("conduct", "suspend", "C-000001", *suspend, "--json")
    assert suspended.returncode == 0, suspended.stderr
    status, refused = until(lambda: refusal(client), seconds=10, what="the refusal")
    assert (status, refused["error"]["code"]) == (403, "tenant_suspended")
    for part in ("C-000001", "appeals@example.com", "suspended since 20"):
        assert part in refused["error"]["message"]
    assert client.call("hello", key=key_of(0))[0] == 200
    bundle = tell(upeti, "GET", "cases/C-000001/evidence")[1]
    assert hashlib.sha256(bundle).hexdigest() == json.loads(suspended.stdout)["bundle_sha256"]
    evidence = json.loads(bundle)["evidence"]
    assert {one["family"] for one in evidence} >= {"purpose", "signs"}
    own = {hashlib.sha256(call_id.encode()).hexdigest()[:16] for call_id in client.call_ids}
    assert all(set(one["call_digests"]) <= own and one["call_digests"] for one in evidence)

    appealed = json.loads(tell(upeti, "POST", "cases/C-000001/steps", event="appeal", **head)[1])
    assert (appealed["state"], bool(appealed["until"])) == ("appealed", True)
    status, refused = tell(upeti, "POST", "cases/C-000001/steps", event="uphold", **head)
    assert (status, b"another person than head of legal" in refused) == (422, True)
    deputy = {"by": "deputy head of legal", "why": "they showed the evaluation"}
    assert tell(upeti, "POST", "cases/C-000001/steps", event="close", **deputy)[0] == 200
    until(lambda: client.call("hello", user="u1")[0] == 200, seconds=10, what="service")
    kinds = [one.kind for one in read_acts(upeti.data_dir) if one.subject == "C-000001"]
    assert kinds[-3:] == ["conduct.suspend", "conduct.appeal", "conduct.close"]
    assert cases(upeti) == []
    assert [one["id"] for one in upeti.ask("/v1/conduct/cases?all=true")] == ["C-000001"]


def test_the_api_says_what_is_wrong(upeti: UpetiProcess) -> None:
    head = {"by": "head of legal", "why": "a letter"}
    assert tell(upeti, "GET", "cases/C-9")[0] == 404
    assert tell(upeti, "POST", "cases/C-9/steps", event="warn", **head)[0] == 404
    status, opened = tell(upeti, "POST", "cases", tenant="gamma", what="their provider wrote to us", **head)
    assert status == 201
    case = json.loads(opened)
    assert (case["kind"], case["state"], case["tenants"]) == ("report", "open", ["gamma"])
    steps = f"cases/{case['id']}/steps"
    for wanted, what in (
        ({"event": "appeal", **head}, b"takes no appeal"),
        ({"event": "suspend", "by": "rule:x", "why": "w"}, b"no name of a person"),
        ({"event": "lapse", **head}, b"event"),
        ({"event": "warn", "by": "head of legal"}, b"why"),
    ):
        status, refused = tell(upeti, "POST", steps, **wanted)
        assert (status, what in refused) == (422, True), refused
    assert tell(upeti, "PUT", "purposes/gamma", purpose="mischief", **head)[0] == 422
    assert tell(upeti, "POST", steps, event="close", **head)[0] == 200


def tell(process: UpetiProcess, method: str, path: str, **wanted: Any) -> tuple[int, bytes]:
    """Return status and body of what the control API says."""
    request = urllib.request.Request(
        f"{process.control}/v1/conduct/{path}",
        method=method,
        data=json.dumps(wanted).encode() if wanted else None,
        headers={
            "authorization": f"Bearer {(process.data_dir / 'run' / 'admin-token').read_text().strip()}",
            "content-type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def refusal(client: Client) -> tuple[int, Any] | None:
    status, answer = client.call("hello", user="u1")
    return (status, answer) if status == 403 else None


def metric(process: UpetiProcess, name: str) -> float:
    with urllib.request.urlopen(f"{process.control}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_cluster_of_keys_that_each_stay_small_is_found(upeti: UpetiProcess) -> None:
    """Fifty tenants, one key and five calls each: less than a tenth of a window."""
    client, dice = Client(upeti.gateway), random.Random(6)
    system = "You write data for our new model, as precisely and as long as you can."
    for _ in range(5):
        for place in range(SMALL_KEYS):
            assert client.call(task(dice), key=key_of(place), system=system, max_tokens=8000)[0] == 200
    found = until(lambda: [one for one in cases(upeti) if len(one["tenants"]) > 1], seconds=20, what="the cluster")
    assert found[0]["state"] == "open"  # over several tenants only persons decide
    assert len(found[0]["tenants"]) == SMALL_KEYS
    shown = upeti.ask(f"/v1/conduct/cases/{found[0]['id']}")
    assert {event["actor"] for event in shown["events"]} == {"rule:conduct"}


def test_what_is_kept_is_the_owners_alone_and_holds_no_text(upeti: UpetiProcess) -> None:
    files = [path for path in (upeti.data_dir / "conduct").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
        for text in (b"canary-77b0", b"Siti", b"Come up with", b"Where is the"):
            assert text not in path.read_bytes()
    assert "canary-77b0" not in upeti.err()
    assert (upeti.data_dir / "conduct").stat().st_mode & 0o077 == 0
