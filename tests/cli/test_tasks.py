"""`upeti tasks`, with a real Upeti that keeps pairs and recorded answers of GPT-4 behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from support.capture_side import capturing, consent, kept
from support.keeper_side import until
from support.tasks_side import BANKING, SYSTEM, banking
from support.upeti_process import KEY, UpetiProcess
from upeti.cli.main import main

ROWS = banking(40)
WHO = ("--by", "head of support", "--why", "asked all day")


@contextmanager
def replay() -> Iterator[int]:
    """Run the provider of recorded answers; give its port."""
    models = ["--answers", "gpt-4=gpt4", "--answers", "gpt-4-other=gpt4_other_prompt"]
    command = [sys.executable, "-m", "upeti.cli.main", "simulate", "replay", str(BANKING), *models]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    folder = tmp_path_factory.mktemp("tasks")
    os.environ["UPETI_TEST_KEY_2"] = "upeti-second-key-of-the-tests"
    with replay() as port:
        process = capturing(folder, port)
        terms = folder / "terms.toml"
        terms.write_text(terms.read_text().replace('allow = ["store",', 'allow = ["store", "evaluate",'))
        process.start()
        consent(process.data_dir, "acme", purposes=("classify_internal", "evaluate"))
        client = openai.OpenAI(base_url=process.gateway + "/v1", api_key=KEY, max_retries=0)

        def ask(text: str, said: str = "", **headers: str) -> None:
            messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
            made = client.chat.completions.create(model="gpt-4", messages=messages, extra_headers=headers)
            assert said in ("", made.choices[0].message.content)

        def one_is_kept() -> bool:
            ask(ROWS[0][0], **{"x-upeti-task": "warm-up"})
            return bool(kept(process.data_dir))

        until(one_is_kept, seconds=30, what="the first pair")
        for text, said in ROWS:
            ask(text, said, **{"x-upeti-task": "intent"})
        until(lambda: len(kept(process.data_dir, task="intent")) == len(ROWS), seconds=30, what="all pairs")
        client.close()
        yield process
        assert process.stop() == 0


class Run:
    """Runs commands on a configuration, in this process."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(self._config)])
        printed = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, printed
        return printed.out if not code else printed.err


@pytest.fixture
def run(upeti: UpetiProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("UPETI_KEY", KEY)
    return Run(upeti.config, capsys)


def test_a_task_is_found_measured_declared_and_forgotten(upeti: UpetiProcess, run: Run) -> None:
    (intent, *others) = json.loads(run("tasks", "list", "--share", "0.6", "--json"))
    assert [one["name"] for one in others] == ["warm-up"]
    assert (intent["name"], intent["declared"], intent["calls"], intent["captured"]) == ("intent", False, 40, 40)
    assert (intent["channel"], intent["model"], intent["form"]["kind"]) == ("sim", "gpt-4", "label")
    assert intent["labels"]["distinct"] == len({said for _, said in ROWS})
    bill = json.loads(run("bill", "--by", "task", "--json"))
    spent = next(line["cost"] for line in bill["lines"] if line["task"] == "intent")
    assert intent["costs"] == {"USD": spent}
    told = run("tasks", "list")
    assert "sim/gpt-4" in told
    assert f"{spent} USD" in told
    assert "at an assumed share of 0.5" in told

    base = ("--base-url", f"{upeti.gateway}/v1")
    again = json.loads(run("tasks", "stability", "intent", "--sample", "15", "--limit", "0.5", *base, "--json"))
    assert (again["asked"], again["agreed"], again["failed"], again["ended_early"]) == (15, 15, 0, "")
    other = run("tasks", "stability", "intent", "--sample", "15", "--limit", "0.5", *base, "--route", "gpt-4-other")
    assert "sim/gpt-4-other, asked again on route gpt-4-other, said the same in" in other
    poor = run("tasks", "stability", "intent", "--limit", "0.0000001", *base, code=2)
    assert "the limit of 0.0000001 USD" in poor
    bill = json.loads(run("bill", "--by", "feature", "--json"))
    assert next(line["calls"] for line in bill["lines"] if line["feature"] == "stability") == 30

    declared = run("tasks", "declare", "intents", "--tag", "intent", "--alpha", "0.02", *WHO)
    assert "intents is declared: calls with the tag intent on route *, taught by sim/gpt-4" in declared
    assert "At most 0.02 of all its calls" in declared
    shown = json.loads(run("tasks", "show", "intents", "--json"))
    assert (shown["calls"], shown["declared"]) == (40, True)
    assert shown["declaration"]["template_sha256"] == shown["template_sha256"]
    words = run("tasks", "show", "intents")
    assert f"system: {SYSTEM}" in words
    assert "Declared by head of support (asked all day): calls with the tag intent" in words
    assert words.count("asked again on route") == 2  # measured before it had this name
    assert "there is a task `intents` already" in run("tasks", "declare", "intents", "--tag", "intent", *WHO, code=2)
    assert "no declared task any more" in run("tasks", "forget", "intents", *WHO)
    assert "no task `intents`" in run("tasks", "show", "intents", code=2)
    acts = json.loads(run("journal", "acts", "--kind", "tasks", "--json"))
    assert [one["kind"] for one in acts] == ["tasks.declared", "tasks.forgotten"]


def test_what_is_wrong_is_said_with_its_cure(upeti: UpetiProcess, run: Run) -> None:
    assert "write a share above 0" in run("tasks", "list", "--share", "2", code=2)
    assert "leaves the gateway's port to the system: give --base-url" in run(
        "tasks", "stability", "intent", "--limit", "1", code=2
    )
    nobody = run("tasks", "stability", "intent", "--limit", "1", "--base-url", "http://127.0.0.1:9/v1", code=2)
    assert "no answer: ConnectionRefusedError" in nobody
    assert "--limit: 'much' is not a decimal number" in run(
        "tasks", "stability", "intent", "--limit", "much", "--base-url", f"{upeti.gateway}/v1", code=2
    )


def test_an_empty_state_says_where_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "upeti.toml").write_text('data_dir = "data"\n')
    assert "docs/tasks.md says how to find out" in Run(tmp_path / "upeti.toml", capsys)("tasks", "list")
