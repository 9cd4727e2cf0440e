"""The students' process as the keeper starts it, with students that a test can see through."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from support.keeper_side import until
from upeti.control.ports import free_port
from upeti.core.config_learning import Learning
from upeti.learning import served as served_file
from upeti.learning.served import STATUS_FILE, Served


class StudentsProcess:
    """One process on one port; it can be started again on it."""

    def __init__(self, data_dir: Path, *served: Served, module: str = "support.tiny_students", **settings: Any) -> None:
        self.run = data_dir / "run"
        self.run.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._module = module
        self._data_dir = data_dir
        self._settings = msgspec.json.encode(Learning(**settings)).decode()
        self._process: subprocess.Popen[bytes] | None = None
        self.take(*served)

    def take(self, *served: Served) -> None:
        """Leave another list of what is to be served."""
        served_file.write(self.run, list(served))

    def status(self) -> dict[str, Any]:
        """Return what the process says of each student; nothing while it has said nothing."""
        try:
            told = json.loads((self.run / STATUS_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        return told["students"] if self._process is not None and told["pid"] == self._process.pid else {}

    def start(self) -> None:
        command = [sys.executable, "-m", self._module, "--data-dir", str(self._data_dir), "--port", str(self.port)]
        paths = os.pathsep.join(path for path in sys.path if path)
        with (self._data_dir / "students.err").open("ab") as err:
            self._process = subprocess.Popen(
                [*command, "--settings", self._settings], stderr=err, env=os.environ | {"PYTHONPATH": paths}
            )
        until(self._listens, seconds=20, what="the students' process")
        until(self.status, seconds=20, what="its status")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def events(self) -> list[dict[str, Any]]:
        lines = (self._data_dir / "students.err").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait(10)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
