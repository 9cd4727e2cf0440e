"""The whole pipe of an own model with nothing made up: `upeti serve` that keeps pairs, recorded answers of GPT-4 behind it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from support.capture_side import TERMS, consent, kept
from support.keeper_side import until
from support.owned_world import OWN_PRICES
from support.tasks_side import BANKING, SYSTEM
from support.upeti_process import CONFIG, KEY, UpetiProcess, _kill
from upeti.cli.main import main

OWN = """
[rights]
terms_files = ["terms.toml"]

[capture]
enabled = true

[learning]
promote = "by_hand"
answer_within_ms = 20000  # on a machine that is busy with other things the student is not passed over

[[contract]]
channel = "sim"
contract = "sim-terms"
from = 2026-01-01

[[channel]]
name = "own"
kind = "student"
prices = "own"

[[route]]
name = "gpt-4"
candidate = [{ channel = "own", model = "intents" }, { channel = "sim", model = "gpt-4" }]
"""


class Said(NamedTuple):
    """What the app got for a message."""

    by: str  # channel/model
    text: str
    tokens: int


class Pipe:
    """The app's side of it."""

    def __init__(self, process: UpetiProcess) -> None:
        self.process = process
        self.data_dir = process.data_dir
        self._client = openai.OpenAI(base_url=process.gateway + "/v1", api_key=KEY, max_retries=0)

    def ask(self, text: str, *, system: str = SYSTEM, stream: bool = False, task: str = "intents") -> Said:
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        asked: dict[str, Any] = {"model": "gpt-4", "messages": messages, "extra_headers": {"x-upeti-task": task}}
        made = self._client.chat.completions.with_raw_response
        if not stream:
            raw = made.create(**asked)
            answer = raw.parse()
            content, usage = answer.choices[0].message.content, answer.usage
        else:
            raw = made.create(**asked, stream=True, stream_options={"include_usage": True})
            parts = list(raw.parse())
            content = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            usage = parts[-1].usage
        return Said(raw.headers["x-upeti-served-by"], content or "", usage.total_tokens if usage else 0)

    def keep(self, rows: Sequence[tuple[str, str]]) -> None:
        """Ask the teacher all of them, and wait until they are kept."""
        before = len(kept(self.data_dir, task="intents"))
        for text, said in rows:
            assert self.ask(text).text == said
        until(lambda: len(kept(self.data_dir, task="intents")) >= before + len(rows), seconds=60, what="the pairs")

    def upeti(self, *arguments: str, code: int = 0) -> str:
        """Run a command as a user does, in this process: starting one takes longer than most commands."""
        out, errors = io.StringIO(), io.StringIO()
        with (
            chdir(self.process.folder),
            redirect_stdout(out),
            redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            main(arguments)
        assert (ended.value.code or 0) == code, f"{arguments}: {out.getvalue()}{errors.getvalue()}"
        return errors.getvalue() if code else out.getvalue()


@contextmanager
def pipe(folder: Path) -> Iterator[Pipe]:
    """Start replay and gateway; nothing of them is left afterwards."""
    recorded = [sys.executable, "-m", "upeti.cli.main", "simulate", "replay", str(BANKING), "--answers", "gpt-4=gpt4"]
    os.environ["UPETI_TEST_KEY"] = KEY
    with subprocess.Popen(recorded, stdout=subprocess.PIPE, text=True) as replay:
        assert replay.stdout is not None
        process = None
        try:
            port = int(json.loads(replay.stdout.readline())["url"].rpartition(":")[2])
            (folder / "terms.toml").write_text(TERMS)
            (folder / "own.toml").write_text(OWN_PRICES)
            text = CONFIG.format(port=port).replace('["prices.toml"]', '["prices.toml", "own.toml"]')
            process = UpetiProcess(folder, text + OWN)
            consent(process.data_dir, "acme")
            process.start()
            made = Pipe(process)

            def one_is_kept() -> bool:
                made.ask("How do I locate my card?", task="warm-up")
                return bool(kept(process.data_dir))

            until(one_is_kept, seconds=30, what="the first pair")
            yield made
            assert process.stop() == 0
        finally:
            replay.kill()
            if process is not None and process._process is not None and process.process.poll() is None:
                children = list(process.children())
                process.process.kill()
                process.process.wait()
                for pid in children:
                    _kill(pid)
