"""A right that is taken back while calls run: the next permitted candidate answers, and no call is lost."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.steady_caller import Caller
from support.upeti_process import CONFIG, UpetiProcess, upeti_process

TWO = (
    CONFIG.replace("[[route]]", '[[channel]]\nname = "second"\nkind = "openai_compatible"\n{second}\n[[route]]')
    .replace("{second}", 'base_url = "http://127.0.0.1:{port}/v1"\nprices = "sim"\n')
    .replace('candidate = [{{ channel = "sim" }}]', 'candidate = [{{ channel = "sim" }}, {{ channel = "second" }}]')
    + '\n[[route]]\nname = "only"\ncandidate = [{{ channel = "sim" }}]\n'
)


def rights(process: UpetiProcess, *arguments: str) -> Any:
    done = process.command("rights", *arguments, "--by", "head of risk", "--why", "a test", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def seconds_until_nobody_is_served_by_it(process: UpetiProcess, *callers: Caller) -> float:
    """Deny serving on the first channel while ``callers`` call; return how long it went on after the act."""
    time.sleep(0.5)
    denial = rights(process, "deny", "sim", "serve")
    acted_s = time.monotonic() - (time.time_ns() - denial["at_ns"]) / 10**9
    while any(not caller.seen or caller.seen[-1][2] != "second" for caller in callers):
        assert time.monotonic() < acted_s + 30, "the denial had no effect within 30 s"
        time.sleep(0.01)
    seen = [one for caller in callers for one in caller.stop()]
    assert {status for _, status, _ in seen} == {200}, "a call was lost"
    by_first = [sent_s for sent_s, _, channel in seen if channel == "sim"]
    assert by_first
    assert min(by_first) < acted_s
    return max(by_first) - acted_s


def test_a_denied_channel_serves_no_more_and_the_next_one_answers(tmp_path: Path) -> None:
    with upeti_process(tmp_path, TWO) as process:
        process.start()
        assert process.call("only")[0] == 200
        seconds_until_nobody_is_served_by_it(process, Caller(process.gateway))
        status, body = process.call("only")
        assert (status, body["error"]["code"]) == (403, "channel_not_permitted")
        explained = json.loads(process.command("rights", "explain", "sim", "serve", "--json").stdout)
        assert explained["why"].startswith("head of risk denied it: a test; `upeti rights lift dny_")
        assert process.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_denied_channel_is_left_within_a_second_under_load(tmp_path: Path) -> None:
    """The stated figure: under a second from the act to the last call that was sent on the channel."""
    with upeti_process(tmp_path, TWO) as process:
        process.start()
        took_s = seconds_until_nobody_is_served_by_it(process, *(Caller(process.gateway) for _ in range(4)))
        print(f"from the act to the last call on the channel: {took_s:.3f} s")
        assert took_s < 1
