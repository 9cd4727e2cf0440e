"""`upeti serve` as a user starts it, with a fake provider behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.keeper_side import until

KEY = "upeti-key-of-the-tests"
PRICES = """\
part = "sim"

[[price]]
models = ["*"]
from = 2026-01-01
currency = "USD"
per_million = { input = "1", output = "2" }
source = "made up for the tests"
source_date = 2026-11-23
"""
CONFIG = """\
data_dir = "data"

[gateway]
port = 0
drain_timeout_ms = 10000

[control]
port = 0

[money]
price_files = ["prices.toml"]

[[channel]]
name = "sim"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{port}/v1"
prices = "sim"

[[route]]
name = "*"
candidate = [{{ channel = "sim" }}]

[[key]]
id = "k1"
tenant = "acme"
secret = "env:UPETI_TEST_KEY"
"""


@contextmanager
def sim_provider(log: Path) -> Iterator[int]:
    """Run the fake provider; give its port."""
    command = [sys.executable, "-m", "upeti.sim.provider", "--port", "0", "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(urllib.parse.urlsplit(json.loads(process.stdout.readline())["url"]).port or 0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class UpetiProcess:
    """One `upeti serve` in a folder."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = folder / "upeti.toml"
        self.config.write_text(config)
        (folder / "prices.toml").write_text(PRICES)
        self.data_dir = folder / "data"
        self.gateway = ""
        self.control = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self, *arguments: str, ready: bool = True) -> None:
        command = [sys.executable, "-m", "upeti.cli.main", "serve", "--config", str(self.config), *arguments]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=err, env=os.environ | {"UPETI_TEST_KEY": KEY}, start_new_session=True
            )
        if not ready:
            return
        until(lambda: self.out().endswith("ready\n") or self.process.poll() is not None, seconds=40, what="ready")
        assert self.process.poll() is None, self.err()
        lines = {line.split()[0]: line.split()[1] for line in self.out().splitlines() if line.startswith("  ")}
        self.gateway = lines["gateway"].removesuffix("/v1")
        self.control = lines["control"].removesuffix("/docs")

    def out(self) -> str:
        return (self.folder / "out").read_text()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def events(self) -> list[dict[str, Any]]:
        """Return what was logged by all processes."""
        return [json.loads(line) for line in self.err().splitlines() if line.startswith("{")]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def children(self) -> dict[int, str]:
        """Return pid → command line of the processes that `upeti serve` started."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def pids(self, part: str) -> list[int]:
        """Return the children that run ``part``: gateway.worker, control.keeper."""
        return sorted(pid for pid, command in self.children().items() if f"-m upeti.{part}" in command)

    def call(self, model: str = "m", *, key: str = KEY, timeout: float = 20) -> tuple[int, dict[str, Any]]:
        """Make one chat completion; return status and body. Raises ``OSError`` when there is no answer."""
        request = urllib.request.Request(
            f"{self.gateway}/v1/chat/completions",
            data=json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode(),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        return _answer(request, timeout)

    def ask(self, path: str) -> Any:
        """Return what the control API says at ``path``."""
        token = (self.data_dir / "run" / "admin-token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        status, body = _answer(urllib.request.Request(f"{self.control}{path}", headers=headers), 10)
        assert status == 200, body
        return body

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run another command on the same configuration."""
        command = [sys.executable, "-m", "upeti.cli.main", *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@contextmanager
def upeti_process(folder: Path, config: str = CONFIG) -> Iterator[UpetiProcess]:
    """Give an `upeti serve` that can be started, with a fake provider; nothing of it is left afterwards."""
    with sim_provider(folder / "provider.jsonl") as port:
        process = UpetiProcess(folder, config.format(port=port))
        try:
            yield process
        finally:
            if process._process is not None:
                children = list(process.children())
                if process.process.poll() is None:
                    process.process.kill()
                    process.process.wait()
                for pid in children:
                    _kill(pid)


def in_background(work: Any) -> threading.Thread:
    """Run ``work`` in a thread; join it to wait."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _answer(request: urllib.request.Request, timeout: float) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
