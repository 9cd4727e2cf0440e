"""The second act of ``make demo``: a task of a paid model becomes a model of one's own, and comes back when it drifts.

Real messages of a bank's customers go through a gateway to what GPT-4 answered to them, replayed. They are kept, a student is
trained on them and certified, it is let in by hand, and then the customers begin to ask other things. Everything that is done
is a command that is printed as it is run. Both processes are stopped at the end, and the state stays for a look.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from openai import AuthenticationError
from own_model.control import ask_control
from own_model.messages import HERE, WAIT_S, free_port, run, start, wait_for, wait_ready
from own_model.traffic import Messages, Stream, record
from own_model.view import WIDTH, View
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

STUDENT = "intent"
WHO = ("--by", "head of product")
FAST, WATCHED = 150.0, 50.0  # messages a second


class Size(NamedTuple):
    """How many messages each part has, and what is promised of the student's answers."""

    paid: int
    shadow: int
    step: int
    live: int
    back: int
    alpha: str = "0.10"
    audit_share: str = "0.25"


WHOLE = Size(paid=1_900, shadow=120, step=40, live=600, back=100)
SHORT = Size(paid=1_500, shadow=40, step=12, live=80, back=20, alpha="0.20", audit_share="0.9")


def play(console: Console, directory: Path, size: Size, level: str, picture: Path | None) -> None:
    """Play the act in ``directory``, which is made anew. ``picture``: where its last view is written as SVG."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    gateway, replay = free_port(), free_port()
    for name, made in (
        ("owned.toml", "upeti.toml"),
        *((n, n) for n in ("prices.toml", "own-prices.toml", "terms.toml")),
    ):
        text = (HERE / name).read_text().replace("8080", str(gateway)).replace("9101", str(replay))
        (directory / made).write_text(text)
    (directory / "consent.txt").write_text("The bank agrees that its calls are kept, evaluated and learned from.\n")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        messages = record(directory / "recorded.jsonl")
        answers = ["recorded.jsonl", "--answers", "gpt-4=gpt-4", "--port", str(replay)]
        processes.append(start(directory, "replay", ["simulate", "replay", *answers]))
        processes.append(start(directory, "serve", ["serve", "--config", "upeti.toml"]))
        wait_ready(f"http://127.0.0.1:{gateway}", processes[-1], directory / "serve.log")
        _Act(console, directory, f"http://127.0.0.1:{gateway}/v1", size, level, picture).play(messages)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(WAIT_S)


class _Act:
    def __init__(
        self, console: Console, directory: Path, base_url: str, size: Size, level: str, picture: Path | None
    ) -> None:
        self._console = console
        self._directory = directory
        self._base_url = base_url
        self._size = size
        self._level = level
        self._picture = picture

    def play(self, messages: Messages) -> None:
        self._say(
            f"[bold]Upeti[/] answers at {self._base_url}; its one provider replays what GPT-4 answered to messages of a "
            "bank's customers."
        )
        signed = ("--evidence", "consent.txt", "--by", "head of legal", "--why", "signed")
        self._command("capture", "consent", "bank", *signed, "--purposes", "evaluate,classify_internal")
        key = json.loads(run(self._directory, "keys", "create", "--tenant", "bank", "--json"))["key"]
        stream = Stream(self._base_url, key, messages.intents)
        with closing(stream), View(self._console, self._directory / "data", stream.counts) as view:
            self._own(view, stream, messages)
        bill = self._command("bill", "--by", "feature,channel,model")
        self._say(f"\n[dim]All of it stays in {os.path.relpath(self._directory)}.[/]")
        if self._picture is not None:
            paint(self._picture, view.rendered(WIDTH), "$ upeti bill --by feature,channel,model", bill)

    def _own(self, view: View, stream: Stream, messages: Messages) -> None:
        size, bank = self._size, iter(messages.bank)
        take = lambda count: list(islice(bank, count))  # noqa: E731

        view.begin("1. GPT-4 answers every message; consent and contract allow it, so pairs are kept")
        self._wait_kept(stream, take(1)[0])
        stream.send(take(size.paid - 1), FAST)
        wait_for(lambda: self._kept() >= size.paid, "the pairs to be kept")

        view.begin("2. A student is trained on one half of them, and certified on the other, which it never saw")
        promise = ("--target", "answer", "--alpha", size.alpha, "--audit-share", size.audit_share)
        self._command("tasks", "declare", STUDENT, "--tag", "intent", *promise, *WHO, "--why", "asked all day")
        with view.paused():  # it shows how far it is
            self._command("learn", "run", STUDENT, "--level", self._level, *WHO, "--why", "own it")
        if view.look().stage != "shadow":
            raise SystemExit("No certificate came of it this time, so no student is let in; the reason is above.")

        view.begin("3. Shadow: GPT-4 answers, the student only says what it would have answered")
        stream.send(take(size.shadow), WATCHED)
        for stage in ("canary_1", "canary_10", "canary_50", "live"):
            self._command("students", "promote", STUDENT, *WHO, "--why", "so far, so good")
            wait_for(lambda stage=stage: view.look().stage == stage, f"the stage {stage}")
            if stage != "live":
                stream.send(take(size.step), WATCHED)

        rang = lambda: view.audits.stage == "rolled_back"  # noqa: E731
        view.begin("4. Live: the student answers what it is sure of, GPT-4 the rest")
        stream.send(take(size.live), WATCHED, until=rang)
        if rang():  # at most with the probability that was promised
            self._say("The alarm rang before anything had changed: of a hundred certificates, it may of five.")
        else:
            view.begin("5. Drift: customers ask for recipes, flights, alarms")
            self._say(
                "[dim]Nobody recorded GPT-4 on these messages (CLINC150): the data set's own labels stand in for the teacher.[/]"
            )
            sent = stream.send(messages.drifted, WATCHED, until=rang)
            if not rang():
                raise SystemExit(f"No alarm after {sent:,} other messages: too few of them were audited.")

        view.begin("6. Rolled back: GPT-4 answers everything again")
        self._command("students", "show", STUDENT)
        stream.send(take(size.back), WATCHED)
        view.look()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _command(self, *command: str) -> str:
        self._say(f"\n[bold]$ upeti {escape(shlex.join(command))}[/]")
        width = self._console.width if self._console.is_terminal else 160
        try:
            said = run(self._directory, *command, width=width)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"`upeti {command[0]} {command[1]}` ended with {error.returncode}: {error.stderr}"
            ) from None
        for line in said.rstrip().splitlines():
            row = self._console.is_terminal and any(edge in line for edge in "┃│╇┼")
            # A row of a table that is wider than the terminal is cut, so that the table stays one.
            self._console.print(
                Text(line), no_wrap=row, overflow="crop" if row else "fold", soft_wrap=not self._console.is_terminal
            )
        return said

    def _wait_kept(self, stream: Stream, text: str) -> None:
        def one() -> bool:
            try:
                stream.ask(text)
            except AuthenticationError:  # a new key reaches the workers within a second
                return False
            return self._kept() > 0

        wait_for(one, "the first pair to be kept")

    def _kept(self) -> int:
        try:
            return sum(one["pairs"] for one in ask_control(self._directory / "data", "/v1/capture")["kept"])
        except OSError:  # workers answer before the control API does
            return 0


def paint(file: Path, panel: Panel, command: str, said: str) -> None:
    """Write what is to be seen at the end as a picture."""
    screen = Console(record=True, width=116, file=io.StringIO(), force_terminal=True)
    screen.print(panel)
    screen.print(Text(f"\n{command}", "bold"))
    screen.print(Text(said.rstrip()))
    # Fonts of this machine: whoever opens the picture asks nobody for them.
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    file.write_text(screen.export_svg(title="make demo", code_format=plain.replace("Fira Code, ", "")))
