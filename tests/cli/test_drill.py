"""Drills as a user runs them: a real `upeti serve` between a client and two providers, one of which is cut off."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.keeper_side import until
from support.upeti_process import KEY, UpetiProcess, _kill, sim_provider
from upeti.control.drill_reports import checked
from upeti.control.drills import drill_of
from upeti.control.store import Store
from upeti.gateway.faults import MILLION, chosen
from upeti.journal.acts import read_acts
from upeti.journal.events_store import connect

CONFIG = """\
data_dir = "data"
[gateway]
port = 0
[control]
port = 0
[money]
price_files = ["prices.toml", "dear.toml"]
[[channel]]
name = "first"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{first}/v1"
signals_of = "api.openai.com"
prices = "sim"
[[channel]]
name = "second"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{second}/v1"
prices = "dear"
[[route]]
name = "m"
function = "answers to customers"
critical = true
candidate = [{{ channel = "first" }}, {{ channel = "second", model = "other" }}]
[[route]]
name = "alone"
candidate = [{{ channel = "first" }}]
[[key]]
id = "k1"
tenant = "acme"
secret = "env:UPETI_TEST_KEY"
"""
DEAR = """\
part = "dear"
[[price]]
models = ["*"]
from = 2026-01-01
currency = "USD"
per_million = { input = "3", output = "5" }
source = "made up for the tests"
source_date = 2026-11-23
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    folder = tmp_path_factory.mktemp("drill")
    with ExitStack() as stack:
        ports = [stack.enter_context(sim_provider(folder / f"{name}.jsonl")) for name in ("first", "second")]
        (folder / "dear.toml").write_text(DEAR)
        process = UpetiProcess(folder, CONFIG.format(first=ports[0], second=ports[1]))
        process.start()
        try:
            yield process
        finally:
            children = list(process.children())
            process.process.kill()
            process.process.wait()
            for pid in children:
                _kill(pid)


def call(process: UpetiProcess, model: str = "m", feature: str = "search") -> tuple[str, int, str]:
    """Return call id, status and who served it."""
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "x-upeti-feature": feature}
    address = f"{process.gateway}/v1/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.headers["x-request-id"], answer.status, answer.headers["x-upeti-served-by"]
    except urllib.error.HTTPError as error:
        return error.headers["x-request-id"], error.code, ""


class Traffic:
    """Calls from several clients until it is stopped."""

    def __init__(self, process: UpetiProcess, *models: str) -> None:
        self.made: list[tuple[str, str, int, str]] = []  # model, id, status, served by
        self._models = models
        self._stop = threading.Event()
        self._process = process
        self._pool = ThreadPoolExecutor(4)

    def __enter__(self) -> Traffic:
        self._work = [self._pool.submit(self._run, number) for number in range(4)]
        return self

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            model = self._models[number % len(self._models)]
            self.made.append((model, *call(self._process, model, f"feature-{number % 2}")))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._work:
            one.result()
        self._pool.shutdown()


def post(process: UpetiProcess, path: str, **body: Any) -> tuple[int, Any]:
    """Ask the control API for something; return status and answer."""
    token = (process.data_dir / "run" / "admin-token").read_text().strip()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(f"{process.control}{path}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def report_of(process: UpetiProcess, drill: str = "last") -> dict[str, Any]:
    """Return a report once it is there and its signature fits."""
    store = Store(process.data_dir)
    try:
        row = until(lambda: (found := drill_of(store, drill)).envelope and found, seconds=60, what="the report")
        return checked(process.data_dir, row.envelope).report
    finally:
        store.close()


def test_a_live_drill_meets_its_share_and_nobody_else_and_all_with_an_alternative_survive(
    serving: UpetiProcess,
) -> None:
    with Traffic(serving, "m") as traffic:
        until(lambda: len(traffic.made) > 20, seconds=20)
        options = ("--live", "50%", "--minutes", "0.05", "--by", "head of legal", "--why", "rehearsal", "--json")
        done = serving.command("drill", "cut", "first", *options)
        assert done.returncode == 0, done.stderr
        over = len(traffic.made)
        until(lambda: len(traffic.made) > over + 40, seconds=20)
    report = json.loads(done.stdout)
    drill = report["drill"]
    # Whoever made a call has an answer, in the drill or not.
    assert {status for _, _, status, _ in traffic.made} == {200}
    share = MILLION // 2
    by_second = {call_id for _, call_id, _, served in traffic.made if served == "second/other"}
    assert by_second
    assert all(chosen(drill["id"], call_id, share) for call_id in by_second)
    late = [served for _, call_id, _, served in traffic.made[over:] if chosen(drill["id"], call_id, share)]
    assert len(late) > 5
    assert set(late) == {"first/m"}  # it is over
    # Calls of the share while it ran: all at the second candidate, and all in the report.
    result = report["result"]
    assert (result["lost"], result["left"], result["open"]) == (0, 0, 0)
    assert result["survived"] == result["calls"] == len(by_second)
    assert report["outside_share_met"] == 0
    with connect(serving.data_dir) as connection:
        met = connection.execute("SELECT channel, call_id, cost FROM events WHERE ended = 'drill'").fetchall()
    assert met
    assert {channel for channel, _, _ in met} == {"first"}
    assert {call_id for _, call_id, _ in met} <= by_second
    assert {cost for _, _, cost in met} == {Decimal(0)}
    # The share among the calls of that time, within five standard deviations.
    during = [one for one in traffic.made if one[1] in by_second or not chosen(drill["id"], one[1], share)]
    assert result["met_the_fault"] <= len(met)
    assert len(by_second) < len(during)


def test_the_report_tells_time_to_recover_cost_rights_and_what_people_must_fill_in(serving: UpetiProcess) -> None:
    report = report_of(serving)
    assert report["schema"] == "upeti.drill/1"
    recovery = report["recovery"]
    assert recovery["measured"] == report["result"]["met_the_fault"] > 0
    assert 0 <= recovery["added_ms_p50"] <= recovery["added_ms_p99"] <= recovery["added_ms_max"]
    assert recovery["first_answer_ms"] > 0
    cost = report["cost"]
    assert (cost["compared"], cost["unknown"]) == (report["result"]["survived"], 0)
    before, after = Decimal(cost["before"]["USD"]), Decimal(cost["after"]["USD"])
    assert Decimal(cost["difference"]["USD"]) == after - before > 0
    with connect(serving.data_dir) as connection:
        query = "SELECT sum(cost) FROM events WHERE channel = 'second'"
        assert connection.execute(query).fetchone() == (after,)
    assert sum(one["survived"] for one in report["by"]["feature"]) == report["result"]["survived"]
    assert {one["name"] for one in report["by"]["feature"]} == {"feature-0", "feature-1"}
    assert {one["purpose"] for one in report["rights"]} >= {"serve", "store", "general_model"}
    assert [one["agreement"] for one in report["quality"]] == [None]
    assert [one["route"] for one in report["no_alternative"]] == ["alone"]
    dora = report["dora"]
    assert dora["functions"]["value"] == [
        {"route": "m", "function": "answers to customers", "critical_or_important": True}
    ]
    assert dora["conducted_by"]["value"] == "head of legal"
    assert dora["alternatives"]["value"] == ["second"]
    assert dora["responsible"]["to_be_filled"]
    assert dora["next_test"]["at_the_latest"] > dora["date"]["value"]


def test_what_happened_to_it_is_in_the_journal_of_acts(serving: UpetiProcess) -> None:
    drill = report_of(serving)["drill"]["id"]
    acts = [act for act in read_acts(serving.data_dir) if act.subject == drill]
    assert [act.kind for act in acts] == ["drill.begun", "drill.ended", "drill.reported"]
    assert [act.actor for act in acts] == ["head of legal", "rule:time", "head of legal"]
    assert (
        json.loads(acts[-1].detail)["report_sha256"]
        == json.loads(serving.command("drill", "verify", drill, "--json").stdout)["sha256"]
    )


def test_no_incident_is_opened_and_nothing_is_latched_for_others(serving: UpetiProcess) -> None:
    assert serving.ask("/v1/incidents") == []
    assert {one["state"] for one in serving.ask("/v1/channels")} == {"usable"}


def test_the_signature_breaks_when_a_byte_is_changed(serving: UpetiProcess, tmp_path: Path) -> None:
    file = tmp_path / "report.dsse.json"
    shown = serving.command("drill", "show", "last", "--envelope", str(file))
    assert shown.returncode == 0
    assert "head of legal" in shown.stdout
    assert checked(serving.data_dir, file.read_bytes()).report == report_of(serving)
    envelope = json.loads(file.read_text())
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[payload.index(b'"lost": 0') + 8] ^= 1
    envelope["payload"] = base64.b64encode(payload).decode()
    file.write_text(json.dumps(envelope))
    found = serving.command("drill", "verify", str(file))
    assert found.returncode == 1
    assert "changed since it was signed" in found.stderr


def test_a_drill_that_too_few_survive_is_ended_by_rule_and_says_so(serving: UpetiProcess) -> None:
    with Traffic(serving, "alone") as traffic:
        code, begun = post(
            serving, "/v1/drills", channel="first", share_percent=100, minutes=5, by="head of legal", kind="refused"
        )
        assert (code, begun["without_alternative"].keys()) == (201, {"alone"})
        report = report_of(serving, begun["id"])
        over = len(traffic.made)
        until(lambda: len(traffic.made) > over + 8, seconds=20)
    assert report["drill"]["aborted"]
    assert report["drill"]["ended_by"] == "rule:survival"
    lost = [status for _, _, status, _ in traffic.made if status != 200]
    assert report["result"]["lost"] == len(lost) >= 20
    assert sum(report["told"].values()) == len(lost)
    assert report["told"].keys() == {"upstream_failed"}
    assert [status for _, _, status, _ in traffic.made[over + 4 :]] == [200] * len(traffic.made[over + 4 :])


def made_calls(process: UpetiProcess) -> None:
    """Each test stands alone: whatever ran before it, there is traffic on both routes."""
    for model in ("m", "alone"):
        for _ in range(3):
            assert call(process, model)[1] == 200


def test_in_the_shadow_what_has_an_alternative_survives_and_the_rest_is_named(serving: UpetiProcess) -> None:
    made_calls(serving)
    with connect(serving.data_dir) as connection:
        query = "SELECT route, count(*), sum(cost) FROM events WHERE channel = 'first' AND ended = 'answered' GROUP BY route"
        answered = {route: (calls, cost) for route, calls, cost in connection.execute(query).fetchall()}
    done = serving.command("drill", "cut", "first", "--by", "head of legal", "--hours", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    result = report["result"]
    assert (result["survived"], result["lost"]) == (answered["m"][0], answered["alone"][0])
    assert Decimal(result["spend"]["USD"]) == answered["m"][1] + answered["alone"][1]
    (lost,) = report["no_alternative"]
    assert (lost["route"], lost["reason"], lost["calls"]) == ("alone", "no_candidate", answered["alone"][0])
    assert "[[route.candidate]]" in lost["cure"]
    # The same tokens at 3 and 5 dollars a million in place of 1 and 2.
    with connect(serving.data_dir) as connection:
        query = "SELECT sum(3 * input + 5 * output) FROM events WHERE channel = 'first' AND ended = 'answered' AND route = 'm'"
        (units,) = connection.execute(query).fetchone() or (0,)
    assert Decimal(report["cost"]["after"]["USD"]) == Decimal(units) / 1_000_000
    assert Decimal(report["cost"]["before"]["USD"]) == answered["m"][1]
    with connect(serving.data_dir) as connection:
        ((rehearsed,),) = connection.execute("SELECT count(*) FROM events WHERE ended = 'drill'").fetchall()
    assert (report["recovery"]["measured"] > 0) == (rehearsed > 0)  # live drills before are failovers of this journal
    assert [one["mode"] for one in serving.ask("/v1/drills")].count("shadow") == 1


def test_what_cannot_be_rehearsed_is_refused_with_its_cure(serving: UpetiProcess) -> None:
    usual = {"channel": "first", "share_percent": 5, "by": "head of legal"}
    for changes, code, what in (
        ({"share_percent": 0}, 422, "share_percent"),
        ({"channel": "gone"}, 404, "there is no channel `gone`"),
        ({"channel": "second", "signal": "anthropic-credit"}, 422, "is of anthropic"),
        ({"by": "rule:time"}, 422, "no name of a person"),
        ({"kind": "loud"}, 422, "kind"),
        ({"kind": "slow", "signal": "openai-quota"}, 422, "leave out --signal"),
        ({"signal": "openai-quotas"}, 422, "there is no signal"),
    ):
        status, answer = post(serving, "/v1/drills", **usual | changes)
        assert (status, changes) == (code, changes)
        assert what in json.dumps(answer), (changes, answer)
    done = serving.command("drill", "cut", "first", "--by", "head of legal", "--live", "some")
    assert done.returncode == 2
    assert "such as 5%" in done.stderr


def test_a_person_ends_it_at_once_and_one_runs_at_a_time(serving: UpetiProcess) -> None:
    usual = {"channel": "first", "share_percent": 100, "minutes": 5, "by": "head of legal", "abort_below_percent": 0}
    drill = post(serving, "/v1/drills", **usual)[1]["id"]
    status, answer = post(serving, "/v1/drills", **usual)
    assert (status, drill in answer["detail"]) == (422, True)
    until(lambda: call(serving)[2] == "second/other", seconds=10, what="the fault")
    seen = until(lambda: serving.ask(f"/v1/drills/{drill}")["progress"], seconds=10, what="progress")
    assert seen["lost"] == 0
    ended = post(serving, f"/v1/drills/{drill}/end", by="head of legal", why="enough")[1]
    assert (ended["state"], ended["ended_why"]) == ("ended", "enough")
    until(lambda: call(serving)[2] == "first/m", seconds=10, what="the end")
    assert post(serving, f"/v1/drills/{drill}/end", by="head of legal")[1]["ended_why"] == "enough"  # once is enough
    report = report_of(serving, drill)
    assert (report["drill"]["ended_by"], report["result"]["lost"]) == ("head of legal", 0)


def test_ctrl_c_ends_it_at_once(serving: UpetiProcess) -> None:
    options = ["--live", "100%", "--minutes", "30", "--by", "Ana Putri", "--abort-below", "0%", "--json"]
    command = [
        sys.executable,
        "-m",
        "upeti.cli.main",
        "drill",
        "cut",
        "first",
        *options,
        "--config",
        str(serving.config),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: call(serving)[2] == "second/other", seconds=60, what="the fault")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["drill"]["ended_by"], report["result"]["lost"]) == ("Ana Putri", 0)
    until(lambda: call(serving)[2] == "first/m", seconds=10, what="the end")


def test_the_exit_plan_knows_the_drills(serving: UpetiProcess) -> None:
    made_calls(serving)
    assert serving.command("drill", "cut", "first", "--by", "head of legal", "--hours", "1").returncode == 0
    said = ("--alternative", "own model", "--months", "3", "--owner", "platform", "--by", "head of legal")
    assert serving.command("exit-plan", "set", "m", *said).returncode == 0
    shown = serving.command("exit-plan", "show", "--json")
    assert shown.returncode == 0, shown.stderr  # the critical route has a fresh drill
    plan = json.loads(shown.stdout)
    alone, usual = plan["routes"]
    assert (alone["route"], alone["overdue"]) == ("alone", False)
    assert any("no alternative" in warning for warning in alone["warnings"])
    assert [one["alternative"] for one in usual["alternatives"]] == ["second/other", "own model"]
    leaving = usual["leaving"]
    assert (leaving["source"], leaving["months"]) == ("derived", "3")
    assert "730 h a month" in leaving["computation"]
    assert serving.ask("/v1/exit-plan")["routes"] == plan["routes"]


def test_a_channel_that_nothing_can_replace_is_cut_only_by_force(serving: UpetiProcess) -> None:
    """The second channel is on one route, and the first could take its calls: while it is latched, nobody can."""
    made_calls(serving)
    person = {"by": "head of legal", "why": "for the test"}
    usual = {"channel": "second", "share_percent": 5, "minutes": 5, "by": "head of legal"}
    assert (
        serving.command("channels", "latch", "first", "--by", "head of legal", "--why", "for the test").returncode == 0
    )
    try:
        time.sleep(2)  # the keeper has it in the next snapshot; a drill that began before would be in the way
        refused = until(
            lambda: (one := post(serving, "/v1/drills", **usual))[0] == 422 and one, seconds=10, what="a refusal"
        )
        assert "no route has an alternative" in refused[1]["detail"]
        status, begun = post(serving, "/v1/drills", **usual, force=True)
        assert (status, begun["without_alternative"].keys()) == (201, {"m"})
        post(serving, f"/v1/drills/{begun['id']}/end", **person)
        assert "says nothing" in report_of(serving, begun["id"])["findings"][0]
    finally:
        serving.command("channels", "open", "first", "--by", "head of legal", "--why", "for the test")
