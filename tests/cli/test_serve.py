"""`upeti serve`: real processes, killed, stopped, reconfigured, with calls going through."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from support.keeper_side import until
from support.upeti_process import KEY, UpetiProcess, in_background, upeti_process
from upeti.journal.verify import verify


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    """Two workers; every test leaves it serving."""
    with upeti_process(tmp_path_factory.mktemp("serve")) as process:
        process.start("--workers", "2")
        yield process


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[UpetiProcess]:
    with upeti_process(tmp_path) as process:
        yield process


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def fails_to_call(process: UpetiProcess) -> None:
    with pytest.raises(OSError):
        process.call("m-never", timeout=15)


def wait_for_workers(process: UpetiProcess, count: int) -> None:
    until(lambda: len(process.ask("/v1/status")["workers"]) == count, what=f"{count} workers")


def test_the_banner_says_where_everything_is(running: UpetiProcess) -> None:
    lines = running.out().splitlines()
    assert lines[0].startswith("Upeti ")
    assert f"config    {running.config}" in running.out()
    assert f"upeti keys create --tenant NAME --config {running.config}" in running.out()
    assert "(2 workers)" in running.out()
    assert lines[-1] == "ready"


def test_a_call_is_answered_billed_and_journaled(running: UpetiProcess) -> None:
    status, body = running.call()
    assert status == 200
    assert body["choices"]
    assert len(running.pids("gateway.worker")) == 2
    assert len(running.pids("control.keeper")) == 1
    assert verify(running.data_dir).sound


def test_a_key_with_a_limit_spends_exactly_and_is_then_refused(running: UpetiProcess) -> None:
    """An input token costs 10⁻⁶ USD, an output token 2·10⁻⁶; 4,000 of them are below the cap that is put in (4,096)."""
    made = json.loads(running.command("keys", "create", "--tenant", "acme", "--limit", "0.2", "--json").stdout)
    until(lambda: running.call(key=made["key"])[0] != 401, seconds=2.5, what="the key")
    (before,) = running.ask("/v1/budgets")
    assert before["limit"] == "0.2"
    cost = until(lambda: Decimal(running.ask("/v1/budgets")[0]["spent"])) * 10**6  # of the call above
    while (answer := running.call("m-out4000", key=made["key"]))[0] == 200:
        usage = answer[1]["usage"]
        cost += usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    assert answer[0] == 429
    assert answer[1]["error"]["code"] == "budget_exceeded"
    assert 150_000 < cost <= 200_000
    until(lambda: Decimal(running.ask("/v1/budgets")[0]["spent"]) == cost / 10**6, what=f"a bill of {cost}")
    running.command("keys", "revoke", made["id"])
    until(lambda: running.call(key=made["key"])[0] == 401, seconds=2.5)


def test_a_killed_worker_is_replaced_while_the_other_serves(running: UpetiProcess) -> None:
    before = running.pids("gateway.worker")
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(running.pids("gateway.worker")) == 2 and before[0] not in running.pids("gateway.worker"))
    wait_for_workers(running, 2)
    assert running.call()[0] == 200
    assert any("signal SIGKILL" in event["message"] for event in running.events())


def test_a_killed_keeper_is_replaced_while_workers_serve(running: UpetiProcess) -> None:
    (before,) = running.pids("control.keeper")
    os.kill(before, signal.SIGKILL)
    for _ in range(20):
        assert running.call()[0] == 200
    until(lambda: running.pids("control.keeper") not in ([], [before]))
    wait_for_workers(running, 2)


def test_a_changed_configuration_drops_no_call(running: UpetiProcess) -> None:
    text = running.config.read_text()
    statuses: list[int] = []
    thread = in_background(lambda: statuses.append(running.call("m-slow2500")[0]))
    time.sleep(0.3)
    running.config.write_text(text.replace('name = "*"', 'name = "only"'))
    until(lambda: running.call("other")[0] == 404, seconds=3, what="the new route")
    assert running.call("only")[0] == 200
    thread.join()
    assert statuses == [200]
    running.config.write_text(text.replace('channel = "sim"', 'channel = "sum"'))
    until(lambda: "did you mean `sim`?" in running.err(), seconds=3)
    assert running.call("only")[0] == 200
    running.config.write_text(text)
    until(lambda: running.call("other")[0] == 200, seconds=3)


def test_stopping_finishes_the_calls_in_flight(fresh: UpetiProcess) -> None:
    fresh.start()
    statuses: list[int] = []
    thread = in_background(lambda: statuses.append(fresh.call("m-slow1500")[0]))
    until(lambda: '"seen"' in (fresh.folder / "provider.jsonl").read_text(), what="the call at the provider")
    children = fresh.children()
    assert fresh.stop() == 0
    thread.join()
    assert statuses == [200]
    assert not any(map(is_alive, children))
    assert verify(fresh.data_dir).sound
    # Everything is closed: the next start has nothing to recover.
    fresh.start()
    assert fresh.call()[0] == 200
    assert "recovered" not in [event["event"] for event in fresh.events()]


def test_a_second_interrupt_does_not_wait(fresh: UpetiProcess) -> None:
    fresh.start()
    thread = in_background(lambda: fails_to_call(fresh))
    time.sleep(0.5)
    began = time.monotonic()
    fresh.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert fresh.process.poll() is None
    assert fresh.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 8
    thread.join()


def test_children_end_with_a_killed_supervisor(fresh: UpetiProcess) -> None:
    fresh.start()
    children = fresh.children()
    assert len(children) == 2
    fresh.process.kill()
    fresh.process.wait()
    until(lambda: not any(map(is_alive, children)), seconds=15, what="the end of the children")
    fresh.start()
    assert fresh.call()[0] == 200


def test_a_taken_port_is_said_at_once(fresh: UpetiProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fresh.start("--port", str(port), ready=False)
        assert fresh.process.wait(timeout=20) == 2
    assert fresh.err() == (
        f"upeti: 127.0.0.1:{port} is taken by another program; stop it, or choose another [gateway] port (or --port)\n"
    )


def test_two_on_one_data_directory_are_refused(running: UpetiProcess) -> None:
    second = running.command("serve", "--port", "0")
    assert second.returncode == 2
    assert f"another serve (process {running.process.pid}) runs on {running.data_dir}" in second.stderr


def test_a_wrong_configuration_is_said_whole(fresh: UpetiProcess) -> None:
    text = fresh.config.read_text()
    fresh.config.write_text(
        text.replace('kind = "openai_compatible"', 'kind = "openai"').replace("port = 0", "prt = 0")
    )
    fresh.start(ready=False)
    assert fresh.process.wait(timeout=20) == 2
    assert fresh.err().splitlines()[0].startswith(f"upeti: {fresh.config}:4: unknown field `gateway.prt`")
    assert len(fresh.err().splitlines()) == 3


def test_a_secret_that_is_not_there_is_said_at_the_start(fresh: UpetiProcess) -> None:
    text = fresh.config.read_text()
    fresh.config.write_text(text.replace('prices = "sim"', 'prices = "sim"\napi_key = "env:UPETI_TEST_NONE"'))
    fresh.start(ready=False)
    assert fresh.process.wait(timeout=20) == 2
    assert "the environment variable UPETI_TEST_NONE is not set; set it where Upeti is started" in fresh.err()
    assert "upeti: keeper ended while starting (exit code 2)" in fresh.err()


def test_an_embedded_provider_that_cannot_start_is_said(fresh: UpetiProcess) -> None:
    text = fresh.config.read_text()
    fresh.config.write_text(
        text + '\n[[channel]]\nname = "local"\nkind = "embedded"\n[[route]]\nname = "x"\n'
        'candidate = [{ channel = "local", model = "no-such-model" }]\n'
    )
    fresh.start(ready=False)
    assert fresh.process.wait(timeout=30) == 2
    assert "no model 'no-such-model'" in fresh.err()


def test_neither_key_nor_token_is_in_what_was_printed(running: UpetiProcess) -> None:
    token = (running.data_dir / "run" / "admin-token").read_text().strip()
    assert running.call()[0] == 200
    for text in (running.out(), running.err()):
        assert KEY not in text
        assert token not in text
