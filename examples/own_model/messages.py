"""Sends messages of a bank's customers through a gateway to recorded answers of GPT-4, and looks at them as tasks.

It starts a replay of the recorded answers and an Upeti that keeps pairs, sends the messages with the official client (some
calls name their task, others do not), asks a few again, declares the task, and prints each command with what it says.
Options: ``--directory DIR``, ``--messages N``, ``--go-on`` leaves both running until Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from openai import AuthenticationError, OpenAI

HERE = Path(__file__).resolve().parent
MESSAGES = HERE.parent / "data" / "banking77.csv"
UPETI = Path(sys.executable).with_name("upeti")
WAIT_S = 60
SHORT = "Which of our {count} intents has this message? Its name only.\n\n{text}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("build/own-model"))
    parser.add_argument("--messages", type=int, default=400, help="how many are sent, of 3,080")
    parser.add_argument("--go-on", action="store_true", help="leave gateway and replay running until Ctrl-C")
    arguments = parser.parse_args()
    directory: Path = arguments.directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    gateway, recorded = free_port(), free_port()
    for name in ("upeti.toml", "prices.toml", "terms.toml"):
        text = (HERE / name).read_text().replace("8080", str(gateway)).replace("9101", str(recorded))
        (directory / name).write_text(text)
    (directory / "consent.txt").write_text("The bank agrees that its calls are kept, evaluated and learned from.\n")
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(start(directory, "replay", replay_command(recorded)))
        started.append(start(directory, "serve", ["serve", "--config", str(directory / "upeti.toml")]))
        address = f"http://127.0.0.1:{gateway}"
        wait_ready(address, started[-1], directory / "serve.log")
        own(directory, f"{address}/v1", arguments.messages)
        if arguments.go_on:
            print(f"\nThe gateway goes on at {address}/v1 until Ctrl-C.")
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(WAIT_S)
    return 0


def own(directory: Path, base_url: str, count: int) -> None:
    who = ["--by", "head of support"]
    consent = ["capture", "consent", "bank", "--evidence", "consent.txt", "--by", "head of legal", "--why", "signed"]
    shown(directory, *consent, "--purposes", "evaluate,classify_internal")
    key = json.loads(run(directory, "keys", "create", "--tenant", "bank", "--json"))["key"]
    client = OpenAI(base_url=base_url, api_key=key, max_retries=20)
    with MESSAGES.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gpt4_other_prompt"]]
    labels = sorted({row["gold"] for row in rows})
    rows = rows[:: max(1, len(rows) // count)][:count]
    wait_kept(directory, client, rows[0]["text"])
    # Half of the traffic says which task it is; the other half does not and is found by its template.
    for row in rows:
        ask(client, "gpt-4", f"Intents: {', '.join(labels)}. Answer with one of them.", row["text"], "intent")
        ask(client, "gpt-4-other-prompt", "", SHORT.format(count=len(labels), text=row["text"]))
    wait_for(lambda: kept(directory) >= 2 * len(rows) + 1, "the pairs to be kept")
    shown(directory, "tasks", "list", "--share", "0.6")
    shown(directory, "tasks", "stability", "intent", "--sample", "20", "--limit", "0.50", key=key)
    shown(directory, "tasks", "declare", "bank-intent", "--tag", "intent", *who, "--why", "asked all day")
    shown(directory, "tasks", "show", "bank-intent")


def ask(client: OpenAI, model: str, system: str, text: str, task: str = "") -> str:
    messages: Any = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    headers = {"x-upeti-feature": "support", **({"x-upeti-task": task} if task else {})}
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=20, extra_headers=headers)
    return answer.choices[0].message.content or ""


def replay_command(port: int) -> list[str]:
    template = SHORT.format(count=77, text="{text}")
    # A message is looked up by its text, in either prompt.
    answers = ["--answers", "gpt-4=gpt4", "--answers", "gpt-4-other-prompt=gpt4_other_prompt"]
    return [
        "simulate",
        "replay",
        str(MESSAGES),
        *answers,
        "--template",
        template,
        "--template",
        "{text}",
        "--port",
        str(port),
    ]


def wait_kept(directory: Path, client: OpenAI, text: str) -> None:
    def one() -> bool:
        try:
            ask(client, "gpt-4", "A first call, to see that pairs are kept.", text, "first")
        except AuthenticationError:  # a new key reaches the workers within a second
            return False
        return kept(directory) > 0

    wait_for(one, "the first pair to be kept")


def kept(directory: Path) -> int:
    return sum(one["pairs"] for one in json.loads(run(directory, "capture", "status", "--json"))["kept"])


def wait_for(done: Any, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {WAIT_S} s for {what}")
        time.sleep(0.3)


def run(directory: Path, *command: str, key: str = "", width: int = 160) -> str:
    environment = {**os.environ, "UPETI_KEY": key, "COLUMNS": os.environ.get("COLUMNS", str(width))}
    ran = subprocess.run(
        [UPETI, *command, "--config", "upeti.toml"],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ran.stdout


def shown(directory: Path, *command: str, key: str = "") -> None:
    print(f"\n$ upeti {shlex.join(command)}", flush=True)
    print(run(directory, *command, key=key), end="", flush=True)


def start(directory: Path, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that Ctrl-C reaches this process alone, which then ends it."""
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [UPETI, *command], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (directory / f"{name}.pid").write_text(str(process.pid))
    return process


def wait_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        if server.poll() is not None:
            raise SystemExit(f"Upeti did not start:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return True
        except OSError:
            return False

    wait_for(ready, f"Upeti; {log} says more")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
