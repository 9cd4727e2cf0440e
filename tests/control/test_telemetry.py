"""The telemetry process on a real journal and a real receiver: at least once, over restarts, without a collector."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.journal_files import JournalFiles, opened, settled
from support.keeper_side import CONFIG, running_keeper, until
from support.otlp_receiver import Receiver, attributes, running_receiver
from support.upeti_process import CONFIG as UPETI_CONFIG
from support.upeti_process import upeti_process
from upeti.control.telemetry import EXIT_TAKEN
from upeti.core.config import Telemetry


class TelemetryProcess:
    def __init__(self, data_dir: Path, settings: Telemetry) -> None:
        self.log_path = data_dir / "telemetry.log"
        command = [sys.executable, "-m", "upeti.control.telemetry", "--data-dir", str(data_dir), "--node", "n1"]
        command += ["--settings", msgspec.json.encode(settings).decode()]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=os.environ | {"TOKEN": "Bearer t"})

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log_path.read_text().splitlines()]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=10)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as serving:
        yield serving


def calls(receiver: Receiver) -> list[str]:
    return [attributes(span)["upeti.call_id"] for span in receiver.spans]


def settings(receiver: Receiver, **changes: object) -> Telemetry:
    return msgspec.structs.replace(
        Telemetry(otlp_endpoint=receiver.url, headers={"authorization": "env:TOKEN"}), **changes
    )


def position_file(data_dir: Path) -> Path:
    return data_dir / "telemetry.json"


def test_it_sends_what_is_settled_from_now_on_and_goes_on_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    files = JournalFiles(tmp_path)
    files.append(opened(1), settled(1), opened(2))
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(position_file(tmp_path).exists, what="the position")
    files.append(settled(2), opened(3), settled(3), opened(4))
    until(lambda: len(receiver.spans) == 2, what="spans")
    assert process.stop() == 0
    assert sum(point.as_int for point in receiver.points("upeti.attempts")) == 2
    files.append(settled(4))
    files.rotate()
    files.append(opened(5), settled(5))
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(lambda: len(receiver.spans) == 4, what="spans")
    assert process.stop() == 0
    assert calls(receiver) == [f"call-{number:04d}" for number in (2, 3, 4, 5)]
    assert receiver.headers[0]["authorization"] == "Bearer t"
    assert process.events() == []


def test_what_was_not_kept_is_sent_again_after_a_kill(tmp_path: Path, receiver: Receiver) -> None:
    files = JournalFiles(tmp_path)
    position_file(tmp_path).write_text('{"positions": {}}')
    files.append(opened(1), settled(1))
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(lambda: json.loads(position_file(tmp_path).read_text())["positions"], what="the position")
    files.append(opened(2), settled(2))
    until(lambda: len(receiver.spans) == 2, what="spans")
    process.kill()  # before the next metrics, ten seconds later
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(lambda: len(receiver.spans) >= 3, what="spans")
    process.stop()
    assert calls(receiver) == ["call-0001", "call-0002", "call-0002"]
    assert receiver.spans[1].span_id == receiver.spans[2].span_id


def two_thousand(data_dir: Path) -> list[str]:
    """Write a journal that is to be sent from its beginning; return its calls."""
    files = JournalFiles(data_dir)
    position_file(data_dir).write_text('{"positions": {}}')
    for first in range(1, 2_001, 50):
        files.append(*(record for call in range(first, first + 50) for record in (opened(call), settled(call))))
    return [f"call-{number:04d}" for number in range(1, 2_001)]


def test_while_the_collector_refuses_it_waits_and_then_sends_all(tmp_path: Path, receiver: Receiver) -> None:
    expected = two_thousand(tmp_path)
    receiver.status = 403
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(lambda: "telemetry_unreachable" in process.events(), what="the warning")
    assert receiver.asked <= 3  # nothing is read ahead of the batch that was refused
    receiver.status = 200
    until(lambda: len(receiver.spans) == 2_000, what="spans")
    assert process.stop() == 0
    assert calls(receiver) == expected
    assert process.events() == ["telemetry_unreachable", "telemetry_resumed"]


@pytest.mark.slow
def test_without_a_collector_it_waits_and_then_sends_all(tmp_path: Path) -> None:
    with running_receiver() as receiver:
        pass  # it has a port now, and is gone
    expected = two_thousand(tmp_path)
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(lambda: "telemetry_unreachable" in process.events(), seconds=30, what="the warning")
    with running_receiver(receiver):
        until(lambda: len(receiver.spans) == 2_000, seconds=30, what="spans")
        assert process.stop() == 0
    assert calls(receiver) == expected


def test_it_stops_at_once_while_the_collector_is_away(tmp_path: Path) -> None:
    two_thousand(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        nowhere = Telemetry(otlp_endpoint=f"http://127.0.0.1:{server.getsockname()[1]}")
        process = TelemetryProcess(tmp_path, nowhere)
        server.accept()[0].close()  # it has begun
    began_s = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began_s < 4
    assert position_file(tmp_path).read_text() == '{"positions": {}}'


def test_only_one_runs_on_a_data_directory(tmp_path: Path, receiver: Receiver) -> None:
    process = TelemetryProcess(tmp_path, settings(receiver))
    until(position_file(tmp_path).exists, what="the position")
    assert TelemetryProcess(tmp_path, settings(receiver)).process.wait(timeout=10) == EXIT_TAKEN
    process.stop()


def test_a_missing_secret_or_package_is_named_with_the_cure(tmp_path: Path, receiver: Receiver) -> None:
    process = TelemetryProcess(tmp_path, settings(receiver, headers={"authorization": "env:NO_SUCH_TOKEN"}))
    assert process.process.wait(timeout=10) == 2
    assert "NO_SUCH_TOKEN is not set" in process.log_path.read_text()
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
    code += "from upeti.control.telemetry_export import require_sdk\nrequire_sdk()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "upeti[telemetry]"' in ran.stderr


def test_the_keeper_starts_it(tmp_path: Path, receiver: Receiver) -> None:
    with running_keeper(tmp_path, f'{CONFIG}\n[telemetry]\notlp_endpoint = "{receiver.url}"\n') as keeper:
        until(position_file(keeper.data_dir).exists, what="telemetry")
        JournalFiles(keeper.data_dir).append(opened(1, channel="up"), settled(1))
        until(lambda: len(receiver.spans) == 1, what="the span")
        assert keeper.stop() == 0
    assert attributes(receiver.spans[0])["server.address"] == "127.0.0.1"
    assert attributes(receiver.spans[0])["server.port"] == 9


@pytest.mark.slow
def test_a_call_is_a_span_and_series_with_its_cost_and_new_settings_replace_the_process(
    tmp_path: Path, receiver: Receiver
) -> None:
    told = f'\nlimit = "5"\n\n[telemetry]\notlp_endpoint = "{receiver.url}"\n'
    with upeti_process(tmp_path, UPETI_CONFIG + told) as upeti:
        upeti.start()
        until(position_file(upeti.data_dir).exists, what="telemetry")
        status, _ = upeti.call("gpt-strange")
        assert status == 200
        until(lambda: receiver.spans, seconds=15, what="the span")

        def scraped() -> dict[str, float]:
            with urllib.request.urlopen(f"{upeti.control}/metrics", timeout=10) as answer:
                families = text_string_to_metric_families(answer.read().decode())
            return {one.name: one.value for family in families for one in family.samples}

        until(lambda: scraped().get("upeti_cost_total"), seconds=15, what="the cost")
        until(lambda: scraped().get("upeti_budget_spent"), seconds=15, what="the budget")
        samples = scraped()
        bill = json.loads(upeti.command("bill", "--json").stdout)
        upeti.config.write_text(f'{upeti.config.read_text()}service_name = "second"\n')
        until(lambda: upeti.call() and receiver.resources[-1]["service.name"] == "second", what="the new settings")
        assert upeti.stop() == 0
    span = receiver.spans[0]
    assert receiver.resources[0]["service.name"] == "upeti"
    found = attributes(span)
    assert (found["gen_ai.request.model"], found["upeti.tenant"], found["upeti.outcome"]) == (
        "gpt-strange",
        "acme",
        "posted",
    )
    assert found["upeti.cost"] == bill["totals"][0]["cost"] != "0"
    assert found["server.address"] == "127.0.0.1"
    assert samples["upeti_cost_total"] == samples["upeti_budget_spent"] == float(found["upeti.cost"])
    assert samples["upeti_budget_limit"] == 5
