"""`upeti serve` with a trained student of its own and a teacher whose every answer a test chooses."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from support.capture_side import TERMS
from support.lineage_side import bodies, capture, consent
from support.rollout_side import BY, certified
from support.student_side import ANSWER, ScriptedStudent, http_answer
from support.upeti_process import CONFIG, KEY, UpetiProcess, _kill
from upeti.control import config_file, datasets, models, students
from upeti.control.audit_journal import Entry, path_of, read
from upeti.control.rights import terms_in_force
from upeti.control.store import Store
from upeti.control.students import Student, Teacher
from upeti.learning.answers import AnswerForm, Field
from upeti.learning.examples import Example
from upeti.learning.student import save
from upeti.learning.template import Template
from upeti.learning.train import train

WORDS = {"card_lost": "my card was stolen", "refund": "send my money back", "balance": "how much is left on my account"}
FORM = AnswerForm(kind="label", fields=(Field("label"),))
HEAD = """
[learning]
answer_within_ms = 20000  # on a busy machine the student is not passed over
{learning}

[[contract]]
channel = "sim"
contract = "sim-terms"
from = 2026-01-01

[rights]
terms_files = ["terms.toml"]

[[channel]]
name = "own"
kind = "student"
prices = "own"
"""
ROUTE = """
[[route]]
name = "{task}"
candidate = [{{ channel = "own", model = "{task}-1" }}, {{ channel = "sim", model = "paid" }}]
"""
OWN_PRICES = """\
part = "own"

[[price]]
models = ["*"]
from = 2026-01-01
currency = "USD"
per_million = { input = "0", output = "0" }
source = "our own machine"
source_date = 2026-11-23
"""


class SpokenTeacher:
    """A teacher in a thread of its own."""

    def __init__(self) -> None:
        self.scripted = ScriptedStudent()
        self.scripted.answer = lambda body: said(right(body))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> int:
        self._thread.start()
        opening = asyncio.start_server(self.scripted.serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(opening, self._loop).result(10)
        return int(server.sockets[0].getsockname()[1])

    def says(self, answer: Callable[[dict[str, Any]], bytes | None]) -> None:
        self.scripted.answer = answer

    @property
    def asked(self) -> list[dict[str, Any]]:
        return self.scripted.asked

    def end(self) -> None:
        async def stop() -> None:
            self.scripted.cut()
            await asyncio.sleep(0.05)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)
        self._thread.join(5)


def right(body: dict[str, Any]) -> str:
    """Return the label of a request's message."""
    text = body["messages"][-1]["content"]
    return next(label for label, words in WORDS.items() if words in text)


def said(label: str, status: int = 200) -> bytes:
    answer = json.loads(json.dumps(ANSWER))
    answer["choices"][0]["message"]["content"] = label
    return http_answer(status, "", json.dumps(answer).encode())


def system_of(task: str) -> str:
    return f"Name the intent of the message to the {task} desk."


def template_of(task: str) -> Template:
    return Template(("system", "user"), ((system_of(task),), ("", "")))


class OwnedWorld:
    """One `upeti serve` with students of given tasks, each in stage ``registered`` with a certificate."""

    def __init__(self, folder: Path, process: UpetiProcess, teacher: SpokenTeacher) -> None:
        self.folder = folder
        self.process = process
        self.teacher = teacher
        self.store = Store(process.data_dir)

    def student(self, task: str = "intents") -> Student:
        return students.student(self.store, task)

    def enrol(self, task: str) -> None:
        """Train, register and certify a student of a task."""
        terms = terms_in_force(self.store, config_file.read(self.process.config).config)
        rows = [
            Example(f"{label}-{number}", f"{words} {number}", (label,))
            for label, words in WORDS.items()
            for number in range(40)
        ]
        folder = self.folder / f"trained-{task}"
        digest = save(train(rows, FORM, level="l1", template=template_of(task).digest).student, folder)
        made = models.Wanted(
            name=task,
            version="1",
            purpose="classify_internal",
            datasets=("topics",),
            channel="own",
            model=f"{task}-1",
        )
        wanted = students.Wanted(
            model=made,
            task=task,
            form=FORM,
            template=template_of(task),
            teacher=Teacher("sim", "paid"),
            folder=folder,
            sha256=digest,
            audit_share=1.0,
        )
        students.add(self.store, terms, wanted, **BY)
        certified(self.store, task, threshold=0.2)

    def ask(self, number: int = 1, task: str = "intents", **fields: Any) -> tuple[str, str]:
        """Make a call; return who answered (``own``, ``sim``; a status where nobody did) and what."""
        label = list(WORDS)[number % len(WORDS)]
        text = f"{WORDS[label]} {number % 40}"
        messages = [{"role": "system", "content": system_of(task)}, {"role": "user", "content": text}]
        request = urllib.request.Request(
            f"{self.process.gateway}/v1/chat/completions",
            data=json.dumps({"model": task, "messages": messages, **fields}).encode(),
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                content = json.loads(reply.read())["choices"][0]["message"]["content"]
                return reply.headers["x-upeti-served-by"].partition("/")[0], content
        except urllib.error.HTTPError as error:
            return str(error.code), error.read().decode()

    def entries(self, task: str = "intents", certificate: str = "") -> list[Entry]:
        path = path_of(self.process.data_dir, certificate or f"crt_{task}@1_1")
        return read(path)[0] if path.exists() else []

    def students_pid(self) -> int:
        """Return the process that serves students."""
        status = self.process.data_dir / "run" / "students-status.json"
        return int(msgspec.json.decode(status.read_bytes())["pid"])


@contextmanager
def owned_world(folder: Path, *tasks: str, learning: str = "") -> Iterator[OwnedWorld]:
    """Start it with a trained student for each task; nothing of it is left afterwards."""
    teacher = SpokenTeacher()
    port = teacher.start()
    head = HEAD.format(learning=learning)
    (folder / "terms.toml").write_text(TERMS)
    routes = "".join(ROUTE.format(task=task) for task in tasks)
    process = UpetiProcess(folder, CONFIG.format(port=port) + head + routes)
    (folder / "own.toml").write_text(OWN_PRICES)
    process.config.write_text(process.config.read_text().replace('["prices.toml"]', '["prices.toml", "own.toml"]'))
    world = OwnedWorld(folder, process, teacher)
    try:
        consent(world.store)
        capture(world.store, 1, channel="sim", contract="sim-terms", clause="sim-terms/1", at_ns=time.time_ns())
        terms = terms_in_force(world.store, config_file.read(process.config).config)
        wanted = datasets.Wanted(name="topics", purpose="classify_internal")
        datasets.build(world.store, terms, bodies(world.store), wanted, by="legal")
        for task in tasks:
            world.enrol(task)
        process.start()
        yield world
    finally:
        if process._process is not None:
            children = list(process.children())
            if process.process.poll() is None:
                process.process.kill()
                process.process.wait()
            for pid in children:
                _kill(pid)
        world.store.close()
        teacher.end()
