"""How fast own models answer, beside scikit-learn's plain ``predict_proba`` in the same run.

    python -m benchmarks.student_speed [--quick] [--shared ../shared/data]

Students of 77 intents are trained on GPT-4's recorded answers to 1,001 bank customers and asked what 3,080 others wrote. The
students' process has core 0 to itself; who asks, over HTTP with connections that stay open, runs on core 1. Through the gateway
means a worker of its own on core 1, with journal and prices. Every answer is looked at: one that is not 200, or not of the
student that was asked, ends the run. Writes build/bench-students.json.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from benchmarks import machine, report  # noqa: E402 - numpy reads the threads when it is imported
from benchmarks.report import Figure, figure  # noqa: E402
from upeti.control.ports import free_port  # noqa: E402
from upeti.core import config  # noqa: E402
from upeti.core.config_learning import Learning  # noqa: E402
from upeti.gateway import snapshot as s  # noqa: E402
from upeti.learning import served as served_file  # noqa: E402
from upeti.learning.answers import form_of_texts  # noqa: E402
from upeti.learning.examples import Example  # noqa: E402
from upeti.learning.served import First, Served  # noqa: E402
from upeti.learning.template import Template  # noqa: E402
from upeti.money.price import Price  # noqa: E402
from upeti.providers.minilm import MiniLm  # noqa: E402

RESULT: Final = machine.BUILD.parent / "bench-students.json"
KEY: Final = "sk-bench-0123456789abcdef"
SYSTEM: Final = "Name the intent of this message of a bank's customer, as one of the labels."
TEMPLATE: Final = Template(("system", "user"), ((SYSTEM,), ("", "")))
L1, L2, LADDER = "intents-l1", "intents-l2", "intents-ladder"
_ROUNDS: Final = 6
_PRECISION: Final = 0.95  # of what the quick one of the ladder says, by cross-validation


def rows_of(folder: Path, file: str) -> list[tuple[str, str]]:
    with (folder / f"{file}.csv").open(newline="", encoding="utf-8") as stream:
        return [(row["text"], f"intent_{row['gpt4']}") for row in csv.DictReader(stream)]


def body_of(model: str, text: str) -> bytes:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()


# -- students ---------------------------------------------------------------------------------------------------------


def train_students(folder: Path, rows: list[tuple[str, str]]) -> list[Served]:
    """Train both levels; return what is to be served: each alone, and the two as a ladder."""
    from upeti.learning.train import keep, train

    form = form_of_texts([label for _, label in rows])
    examples = [Example(str(number), text, (label,)) for number, (text, label) in enumerate(rows)]
    kept = {}
    sure = 1.0
    for level in ("l1", "l2"):
        trained = train(examples, form, level=level)  # type: ignore[arg-type]
        kept[level] = keep(trained, folder / level)
        if level == "l1":
            sure = sure_at(trained.report.confidence, trained.report.agrees)

    def served(model: str, level: str, first: First | None = None) -> Served:
        return Served(
            model=model,
            folder=str(folder / level),
            sha256=kept[level],
            task="intents",
            template=TEMPLATE,
            threshold=0.0,  # it answers everything: what is measured is answering
            out_of_scope=False,
            first=first,
        )

    first = First(str(folder / "l1"), kept["l1"], sure)
    return [served(L1, "l1"), served(L2, "l2"), served(LADDER, "l2", first)]


def sure_at(confidence: Sequence[float], agrees: Sequence[bool]) -> float:
    """Return the least confidence from which on so many agree."""
    right, found = 0, 1.0
    for said, (sure, agreed) in enumerate(sorted(zip(confidence, agrees, strict=True), reverse=True), 1):
        right += agreed
        if right >= _PRECISION * said:
            found = sure
    return found


@contextmanager
def students_process(data_dir: Path, served: list[Served], **settings: Any) -> Iterator[tuple[int, int]]:
    """Run the process; give its port and pid."""
    run = data_dir / "run"
    run.mkdir(parents=True, exist_ok=True)
    served_file.write(run, served)
    port = free_port()
    shown = json.dumps({"answer_within_ms": 20_000, **settings})
    assert Learning(**json.loads(shown))
    command = [sys.executable, "-m", "upeti.control.students_service", "--data-dir", str(data_dir)]
    with (data_dir / "students.err").open("wb") as err:
        process = subprocess.Popen([*command, "--port", str(port), "--settings", shown], stderr=err)
    try:
        deadline = time.monotonic() + 60
        while not _ready(port, len(served)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise machine.UnfitError((data_dir / "students.err").read_text())
            time.sleep(0.05)
        machine.pin(process.pid, machine.MEASURED_CORE)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def _ready(port: int, count: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            states = [one["state"] for one in json.loads(answer.read())["students"].values()]
    except OSError:
        return False
    return states == ["ready"] * count


@contextmanager
def gateway_process(data_dir: Path, students_port: int, provider_port: int) -> Iterator[int]:
    """Run one worker whose routes are the students and a provider that answers at once; give its port."""
    port = free_port()
    (data_dir / "run").mkdir(parents=True, exist_ok=True)
    free = {"*": (Price("local", "USD", 0, {"input": 0, "output": 0}),)}
    channels = {
        "own": s.ChannelView("own", "student", "127.0.0.1", students_port, False, "/v1", answer_within_ms=20_000),
        "teacher": s.ChannelView("teacher", "openai_compatible", "127.0.0.1", provider_port, False, "/v1"),
    }
    routes = {model: s.RouteView(model, (s.CandidateView("own", model, 0, 1, free),)) for model in (L1, L2, LADDER)} | {
        "fake": s.RouteView("fake", (s.CandidateView("teacher", "fake", 0, 1, free),))
    }
    view = s.Snapshot(
        1,
        config.Gateway(port=port),
        config.Journal(),
        {sha256(KEY.encode()).digest(): s.Caller("k1", "acme", "app")},
        channels,
        routes,
        shares={"own": {model: s.ShareView(1_000_000) for model in (L1, L2, LADDER)}},
    )
    s.write(data_dir / "run" / "snapshot.msgpack", view)
    command = [sys.executable, "-m", "upeti.gateway.worker", "--data-dir", str(data_dir), "--index", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise machine.UnfitError("the gateway's worker did not start") from None
                time.sleep(0.05)
        machine.pin(process.pid, machine.OTHER_CORE)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def fake_provider() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([str(machine.compile_c("fake_provider")), "-p", str(port)])
    machine.pin(process.pid, machine.OTHER_CORE)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


# -- who asks ---------------------------------------------------------------------------------------------------------


class _Line(asyncio.Protocol):
    """One connection that asks one thing after the other."""

    def __init__(self, told: Callable[[_Line, bytes], None]) -> None:
        self._told = told
        self._buffer = b""
        self.sent_s = 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._told(self, b"")

    def ask(self, request: bytes) -> None:
        self.sent_s = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length: ") + 16
        length = int(head[at : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else end])
        if len(self._buffer) < end + 4 + length:
            return
        answer, self._buffer = self._buffer, b""
        self._told(self, answer)


async def _ask(port: int, bodies: list[bytes], connections: int, seconds: float, rate: float) -> list[float]:
    """Return the seconds that each answer took: ``rate`` a second (from when each was due), 0 for as many as go."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\nauthorization: Bearer %b\r\ncontent-type: application/json\r\n"
    requests = [head % KEY.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
    loop = asyncio.get_running_loop()
    took: list[float] = []
    wrong: list[bytes] = []
    idle: list[_Line] = []
    due: list[float] = []
    turn = 0
    until_s = time.perf_counter() + seconds
    done = loop.create_future()
    under_way = 0

    def begin(line: _Line, due_s: float) -> None:
        nonlocal turn, under_way
        under_way += 1
        turn += 1
        line.ask(requests[turn % len(requests)])
        line.sent_s = due_s

    def told(line: _Line, answer: bytes) -> None:
        nonlocal under_way
        now_s = time.perf_counter()
        if not answer.startswith(b"HTTP/1.1 200"):
            wrong.append(answer[:300])
            if not done.done():
                done.set_result(None)
            return
        under_way -= 1
        took.append(now_s - line.sent_s)
        if rate:
            if due:
                begin(line, due.pop(0))
            else:
                idle.append(line)
        elif now_s < until_s:
            begin(line, now_s)
        if now_s >= until_s and not under_way and not due and not done.done():
            done.set_result(None)

    lines = []
    for _ in range(connections):
        _, line = await loop.create_connection(lambda: _Line(told), "127.0.0.1", port)
        lines.append(line)
    if rate:
        idle += lines
        next_s = time.perf_counter()
        while next_s < until_s and not done.done():
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            if idle:
                begin(idle.pop(), next_s)
            else:
                due.append(next_s)
            next_s += 1 / rate
        while under_way and not done.done():
            await asyncio.sleep(0.01)
    else:
        for line in lines:
            begin(line, time.perf_counter())
        await done
    for line in lines:
        line._told = lambda *_: None
        line.transport.abort()
    if wrong:
        raise machine.UnfitError(f"an answer was not 200: {wrong[0]!r}")
    return took


class Asked(NamedTuple):
    """What one round of asking has shown."""

    per_second: float  # by the clock
    per_cpu_second: float  # of the students' process
    took: list[float]  # seconds of each answer, ascending


def asked(
    port: int, pid: int, model: str, texts: list[str], *, connections: int, seconds: float, rate: float = 0
) -> Asked:
    """Ask at ``port``; ``pid`` is the students' process, behind a gateway or not."""
    bodies = [body_of(model, text) for text in texts]
    asyncio.run(_ask(port, bodies, connections, min(1.0, seconds / 2), rate))  # warm
    began_s, began_us = time.perf_counter(), machine.cpu_us(pid)
    took = asyncio.run(_ask(port, bodies, connections, seconds, rate))
    used_s = max(1e-9, (machine.cpu_us(pid) - began_us) / 1e6)
    return Asked(len(took) / (time.perf_counter() - began_s), len(took) / used_s, sorted(took))


def at(took: list[float], share: float) -> float:
    """Return a quantile in milliseconds."""
    return took[min(len(took) - 1, int(share * len(took)))] * 1e3


# -- the peer -----------------------------------------------------------------------------------------------------------


class Peer:
    """scikit-learn as anybody would use it: TF-IDF of n-grams, logistic regression; beside MiniLM's vectors for the second."""

    def __init__(self, rows: list[tuple[str, str]], *, vectors: bool) -> None:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union

        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        self._np = np
        self._encoder = MiniLm() if vectors else None
        self._union = make_union(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True),
        )
        self._model = LogisticRegression(C=10, max_iter=150)
        self._model.fit(self._seen(self._union.fit_transform(texts), texts), labels)

    def _seen(self, counts: Any, texts: list[str]) -> Any:
        if self._encoder is None:
            return counts
        from scipy.sparse import csr_matrix, hstack

        return hstack([counts, csr_matrix(self._encoder.embed(texts))], "csr")

    def ask(self, texts: list[str]) -> None:
        self._model.predict_proba(self._seen(self._union.transform(texts), texts))

    def per_cpu_second(self, texts: list[str], seconds: float, batch: int) -> float:
        """Return answers a second of CPU time."""
        self.ask(texts[:batch])
        until_s = time.perf_counter() + seconds
        began_s, count = time.process_time(), 0
        while time.perf_counter() < until_s:
            start = count % max(1, len(texts) - batch)
            self.ask(texts[start : start + batch])
            count += batch
        return count / (time.process_time() - began_s)


# -- all of it -----------------------------------------------------------------------------------------------------------


def measure(shared: Path, seconds: float) -> list[Figure]:
    folder = shared / "banking77-gpt4"
    if not folder.is_dir():
        raise machine.UnfitError(f"{folder} is not there: name the folder of all data sets with --shared")
    rows = rows_of(folder, "dev_llm")
    texts = [text for text, _ in rows_of(folder, "test_llm")]
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        report_progress("training")
        served = train_students(work, rows)
        os.sched_setaffinity(0, {machine.MEASURED_CORE})
        report_progress("scikit-learn alone")
        peers = {}
        for name, vectors in ((L1, False), (L2, True)):
            peer = Peer(rows, vectors=vectors)
            peers[name] = {batch: peer.per_cpu_second(texts, seconds, batch) for batch in (1, 32)}
        os.sched_setaffinity(0, {machine.OTHER_CORE})

        report_progress("students over HTTP")
        by_cpu = "answers/s of CPU"
        one, many = "scikit-learn, one at a time", "scikit-learn, 32 at once"
        with students_process(work / "small", served[:1]) as (port, pid):
            busy = asked(port, pid, L1, texts, connections=32, seconds=seconds)
            calm = asked(port, pid, L1, texts, connections=1, seconds=seconds)
            figures += [
                figure("L1, 32 at once", by_cpu, busy.per_cpu_second, many, peers[L1][32], at_least=3000),
                figure("L1, 32 at once, by the clock", "answers/s", busy.per_second),
                figure("L1, one at a time", by_cpu, calm.per_cpu_second, one, peers[L1][1]),
                figure("L1: time of an answer, p50", "ms", at(calm.took, 0.5)),
                figure("L1: memory of the process", "MB", machine.rss_kb(pid) / 1024, at_most=400),
            ]
        with students_process(work / "all", served) as (port, pid):
            busy = asked(port, pid, L2, texts, connections=64, seconds=seconds)
            calm = asked(port, pid, L2, texts, connections=1, seconds=seconds)
            both = asked(port, pid, LADDER, texts, connections=64, seconds=seconds)
            steady = asked(port, pid, LADDER, texts, connections=32, seconds=seconds, rate=50)
            figures += [
                figure("L2, 64 at once", by_cpu, busy.per_cpu_second, many, peers[L2][32]),
                figure("L2, 64 at once, by the clock", "answers/s", busy.per_second),
                figure("L2, one at a time", by_cpu, calm.per_cpu_second, one, peers[L2][1]),
                figure("L2: time of an answer, p50", "ms", at(calm.took, 0.5)),
                figure("L1 first, then L2, 64 at once", by_cpu, both.per_cpu_second, at_least=200),
                figure("L1 first, then L2, 64 at once, by the clock", "answers/s", both.per_second),
                figure("L1 first, then L2: p50 at 50/s", "ms", at(steady.took, 0.5), at_most=15),
                figure("L1 first, then L2: p99 at 50/s", "ms", at(steady.took, 0.99)),
                figure("L1, L2 and a ladder: memory of the process", "MB", machine.rss_kb(pid) / 1024, at_most=400),
            ]
            with fake_provider() as provider, gateway_process(work / "gateway", port, provider) as gateway:
                report_progress("through the gateway")
                own: list[float] = []
                fake: list[float] = []
                for _ in range(_ROUNDS):
                    fake += asked(gateway, pid, "fake", texts, connections=1, seconds=seconds / 2).took
                    own += asked(gateway, pid, L1, texts, connections=1, seconds=seconds / 2).took
                own.sort()
                fake.sort()
                peer = "a provider that answers at once"
                for share, name in ((0.5, "p50"), (0.1, "p10, the machine's quiet moments")):
                    ours, theirs = at(own, share), at(fake, share)
                    figures.append(figure(f"L1 through the gateway: {name}", "ms", ours, peer, theirs))
                    figures.append(figure(f"of that, what L1 adds: {name}", "ms", ours - theirs, at_most=1))
    return figures


def report_progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure own models.")
    parser.add_argument("--quick", action="store_true", help="a second for each figure")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("UPETI_SHARED", "../shared/data")))
    arguments = parser.parse_args()
    try:
        seconds = 1.0 if arguments.quick else 5.0
        figures = measure(arguments.shared, seconds)
    except machine.UnfitError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.table(figures, "Upeti"))
    report.write(RESULT, figures, _machine(), {"seconds": seconds})
    return int(any(each.met is False for each in figures))


def _machine() -> machine.Description:
    """Return what this ran on; nginx has no part in it."""
    try:
        return machine.Description.of_this()
    except FileNotFoundError:
        return machine.Description("?", platform.release(), platform.python_version(), "")


if __name__ == "__main__":
    sys.exit(main())
