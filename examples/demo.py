"""The demo of ``make demo``, in two acts.

Act one: a real language model on this machine, answered, metered and billed through Upeti. Starts the gateway with the embedded
provider, sends prompts with the official client (plain and streamed; three features, two tenants), prints each answer with
its meters and its cost, then the bill. The gateway goes on running; ``make demo-stop`` ends it.

Act two (``own_model/act.py``): recorded calls of GPT-4 become a model of one's own, under a certificate, until they drift.

Options: ``--act 1`` or ``2`` for one of them, ``--stop`` ends the gateway at once, ``--directory DIR``, ``--port N``,
``--short`` plays act two with few messages, ``--picture FILE`` keeps its last view as SVG.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI
from own_model import act
from rich.console import Console

UPETI = Path(sys.executable).with_name("upeti")
READY_S = 120  # the model's weights are 93 MB: a cold disk takes a while

CONFIG = """\
# Made by the demo. `upeti init` writes a file of your own.
data_dir = "data"

[gateway]
port = {port}

[control]
port = 0

[money]
price_files = ["demo-prices.toml"]

[[channel]]
name = "on-this-machine"
kind = "embedded"
prices = "demo"

[[route]]
name = "assistant"
[[route.candidate]]
channel = "on-this-machine"
model = "smollm2-135m"
"""

# A model of one's own costs nothing here, and a bill of zeros shows nothing: so it is priced like the rented model that such
# tasks usually go to.
PRICES = """\
part = "demo"

[[price]]
models = ["smollm2-135m"]
from = 2026-01-01
currency = "USD"
per_million = { input = "0.15", input_cached = "0.075", output = "0.60" }
context_tokens = 4096
output_tokens_max = 2048
source = "OpenAI's list price of gpt-4o-mini, put on the local model so that the demo's bill shows figures"
source_date = 2026-11-23
"""

# (tenant, feature, streamed, prompt)
PROMPTS = (
    ("warung", "caption-topic", False, "In one word, what is this caption about? 'Street food in Jakarta at midnight'"),
    ("warung", "support-reply", True, "A customer writes: 'My order is late.' Answer politely in one sentence."),
    ("warung", "product-text", False, "Write one short sentence that sells a ceramic coffee cup."),
    ("pasar", "caption-topic", True, "In one word, what is this caption about? 'Our cat found the box again'"),
    ("pasar", "support-reply", False, "A customer asks: 'How do I reset my password?' Answer in one sentence."),
    ("pasar", "product-text", True, "Write one short sentence that sells a bamboo lamp."),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--act", choices=("1", "2", "all"), default="all")
    parser.add_argument("--directory", type=Path, default=Path("build/demo"))
    parser.add_argument("--port", type=int, default=0, help="of act one; 8080, or any free port when that is taken")
    parser.add_argument("--stop", action="store_true", help="stop the gateway of act one at the end")
    parser.add_argument("--only-stop", action="store_true", help="stop what an earlier demo left running")
    parser.add_argument(
        "--short", action="store_true", help="few messages in act two, and the quickest kind of student"
    )
    parser.add_argument("--picture", type=Path, help="write the last view of act two to this SVG")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    directory: Path = arguments.directory.resolve()
    stop_earlier(directory, console)
    if arguments.only_stop:
        return 0
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        if arguments.act == "2":
            act_two(console, directory, arguments)
        else:
            act_one(console, directory, arguments)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    return 0


def act_two(console: Console, directory: Path, arguments: argparse.Namespace) -> None:
    size, level = (act.SHORT, "l1") if arguments.short else (act.WHOLE, "l2")
    act.play(console, directory / "own-model", size, level, arguments.picture)


def act_one(console: Console, directory: Path, arguments: argparse.Namespace) -> None:
    port = arguments.port or free_port()
    config = directory / "upeti.toml"
    config.write_text(CONFIG.format(port=port))
    (directory / "demo-prices.toml").write_text(PRICES)
    address = f"http://127.0.0.1:{port}"
    server = start(config, directory)
    try:
        with console.status("Starting Upeti and the language model …"):
            wait_ready(address, server, directory / "upeti.log")
        keys = {tenant: make_key(config, tenant) for tenant in dict.fromkeys(prompt[0] for prompt in PROMPTS)}
        console.print(
            f"Upeti answers at [bold]{address}/v1[/]; the model is SmolLM2-135M on this machine, one CPU thread.\n"
            "[dim]It costs nothing here; it is priced like gpt-4o-mini, so that the bill shows figures.[/]\n"
        )
        with console.status("The first answer …"):
            wait_answer(address, next(iter(keys.values())))
        for tenant, feature, streamed, prompt in PROMPTS:
            client = OpenAI(base_url=f"{address}/v1", api_key=keys[tenant])
            ask(console, client, config, tenant, feature, streamed, prompt)
        for options in ((), ("--currency", "IDR")):
            command = ["bill", "--by", "tenant,feature,model", *options]
            console.print(f"\n[bold]$ upeti {' '.join(command)}[/]")
            sys.stdout.flush()
            subprocess.run([UPETI, *command, "--config", config], check=True)
        if arguments.act == "all":
            console.rule("Act two: a model of one's own")
            act_two(console, directory, arguments)
    except BaseException:
        stop(server.pid)
        raise
    if arguments.stop:
        stop(server.pid)
        return
    key = next(iter(keys.values()))
    # Plainly printed, whatever the terminal's width: these lines are to be copied.
    print(
        f"\nThe gateway of act one goes on running at {address}/v1; `make demo-stop` ends it. To use it yourself:\n\n"
        f"export OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY={key}\n\n"
        f'curl {address}/v1/chat/completions -H "Authorization: Bearer {key}" \\\n'
        '  -H "Content-Type: application/json" -H "x-upeti-feature: by-hand" \\\n'
        '  -d \'{"model": "assistant", "messages": [{"role": "user", "content": "Hello!"}]}\'\n\n'
        f"{shown(UPETI)} bill --config {shown(config)}"
    )


def shown(path: Path) -> str:
    """As one would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def free_port() -> int:
    for port in (8080, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise SystemExit("no port is free on 127.0.0.1")


def start(config: Path, directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "upeti.log").open("wb") as log:
        server = subprocess.Popen(
            [UPETI, "serve", "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (directory / "upeti.pid").write_text(str(server.pid))
    return server


def stop_earlier(directory: Path, console: Console) -> None:
    """Stop what an earlier demo left running: the gateway of act one, or all when it was killed."""
    for file in (*directory.glob("*.pid"), *directory.glob("own-model/*.pid")):
        try:
            pid = int(file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if b"serve" in words or b"simulate" in words:
            console.print(f"Stopping {file.stem} of an earlier demo.")
            stop(pid)
        file.unlink(missing_ok=True)


def stop(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
        for _ in range(150):
            time.sleep(0.1)
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
    except ChildProcessError:
        for _ in range(150):  # not a child of ours: an earlier demo's
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.1)
    except ProcessLookupError:
        return


def wait_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"Upeti did not start:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"Upeti was not ready within {READY_S} s:\n{log.read_text()}")


def wait_answer(address: str, key: str) -> None:
    """The gateway is ready before the model has read its weights; the client's own retries wait for it."""
    client = OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=20)
    messages: Any = [{"role": "user", "content": "Hi"}]
    client.chat.completions.create(
        model="assistant", messages=messages, max_tokens=1, extra_headers={"x-upeti-feature": "warm-up"}
    )


def make_key(config: Path, tenant: str) -> str:
    command = [
        UPETI,
        "keys",
        "create",
        "--config",
        config,
        "--tenant",
        tenant,
        "--project",
        "demo",
        "--limit",
        "1.00",
        "--json",
    ]
    return str(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["key"])


def ask(console: Console, client: OpenAI, config: Path, tenant: str, feature: str, streamed: bool, prompt: str) -> None:
    headers = {"x-upeti-feature": feature}
    messages: Any = [{"role": "user", "content": prompt}]
    console.print(
        f"[bold]{tenant} · {feature}[/]{' · streamed' if streamed else ''}\n[dim]{prompt}[/]", highlight=False
    )
    if streamed:
        raw = client.chat.completions.with_raw_response.create(
            model="assistant",
            messages=messages,
            max_tokens=40,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
        )
        usage = None
        for chunk in raw.parse():
            usage = chunk.usage or usage
            if chunk.choices and chunk.choices[0].delta.content:
                console.print(chunk.choices[0].delta.content, end="", style="green", highlight=False, markup=False)
        console.print()
        # A stream's cost is known at its end, so its head could not say it: the journal does.
        cost = recorded_cost(config, raw.headers["x-request-id"])
    else:
        whole = client.chat.completions.with_raw_response.create(
            model="assistant", messages=messages, max_tokens=40, temperature=0, extra_headers=headers
        )
        answer = whole.parse()
        usage = answer.usage
        console.print(answer.choices[0].message.content or "", style="green", highlight=False, markup=False)
        cost = whole.headers["x-upeti-cost"]
        raw = whole
    assert usage is not None
    parts = (
        f"input {usage.prompt_tokens} · output {usage.completion_tokens} tokens",
        f"cost {cost} {raw.headers['x-upeti-currency']}",
        raw.headers["x-request-id"],
    )
    console.print("   ".join(parts), style="cyan", highlight=False, soft_wrap=True)
    console.print()


def recorded_cost(config: Path, call_id: str) -> str:
    command = [UPETI, "calls", "--config", config, "--call-id", call_id, "--json"]
    calls = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return str(calls[0]["cost"])


if __name__ == "__main__":
    sys.exit(main())
