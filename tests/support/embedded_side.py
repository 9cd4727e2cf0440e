"""The embedded server in a process of its own, with any model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from upeti.providers import embedded_server


class EmbeddedModel:
    """A server of one model for the time of a ``with``."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.url = ""

    def __enter__(self) -> EmbeddedModel:
        source = Path(embedded_server.__file__).parents[2]
        command = [sys.executable, "-m", "upeti.providers.embedded_server", "--port", "0", "--model", self._model]
        self._process = subprocess.Popen(
            [*command, "--context", "512", "--parallel", "1"],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
