"""The process that serves own models: ``python -m upeti.control.students_service``. Started by the keeper.

It serves what ``run/students.json`` says now, and says in ``run/students-status.json`` what became of each. It may be killed
at any moment: calls go on to their routes' next candidates until the keeper has started it again. Whatever native code does
to it, no worker goes along.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from upeti.control.places import Places, TakenError
from upeti.control.ports import hold
from upeti.core.config_learning import Learning
from upeti.core.errors import ConfigError, UpetiError
from upeti.gateway.log import Log
from upeti.learning import served as served_file
from upeti.learning.answers import AnswerForm
from upeti.learning.ladder import Ladder, Student
from upeti.learning.serve import Connection, Students
from upeti.learning.served import FILE, STATUS_FILE, Served, ServedFileError

EXIT_TAKEN: Final = 3
_LOOK_S: Final = 0.1  # a student that is to stop has stopped within this
_STATUS_S: Final = 1.0
_END_S: Final = 2.0  # for the calls under way
_BACKLOG: Final = 1024
_SAY_AGAIN_S: Final = 10.0  # of a student that fails at each call
Signature = tuple[int, int, int]


def keep_to_one_thread() -> None:
    """Before numpy is imported: its libraries read it once, and the other cores are for others."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


class StudentsService:
    """The students of a data directory on a port of loopback."""

    def __init__(self, places: Places, settings: Learning, load: Callable[[Served], Student], log: Log) -> None:
        self._places = places
        self._log = log
        self._executor = ThreadPoolExecutor(settings.threads, "predict")
        self.students = Students(load, settings, self._executor, refused=self._refused, failed=self._failed)
        # Only now: it brings numerical libraries, and how many threads they use is settled before they are imported.
        from upeti.control.auditor import Auditor

        self.auditor = Auditor(places.data_dir, places.node("").name, self.students.stop, self._form_of, log)
        self.students.on_answer = self.auditor.answered
        self.students.on_deferred = self.auditor.deferred
        self._connections: set[Connection] = set()
        self._taken: Signature | None = None
        self._stopping = asyncio.Event()
        self._said_s: dict[str, float] = {}

    def _refused(self, served: Served, error: Exception) -> None:
        self._log.error(
            "student_refused",
            f"{served.model} is not served: {error}; its calls go to their routes' next candidates, the other students go on. "
            f"Bring {served.folder} back as it was certified, or train and certify anew",
            model=served.model,
            task=served.task,
        )

    def _form_of(self, model: str) -> AnswerForm | None:
        serving = self.students.by_model.get(model)
        return serving.student.form if serving is not None else None

    def _failed(self, served: Served, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s >= self._said_s.get(served.model, 0.0):
            self._said_s[served.model] = now_s + _SAY_AGAIN_S
            self._log.error(
                "student_failed", f"{served.model} cannot predict: {type(error).__name__}", model=served.model
            )

    async def run(self, listening: socket.socket) -> None:
        """Serve until told to stop; then finish what is under way."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        telling = loop.create_task(self._tell())
        await self._look()
        self.auditor.start()
        server = await loop.create_server(
            lambda: Connection(self.students, self._connections), sock=listening, backlog=_BACKLOG
        )
        self._log.info("students_ready", "own models answer", models=sorted(self.students.by_model))
        while not self._stopping.is_set():
            await self._look()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        server.close()
        for connection in list(self._connections):
            connection.end()
        until_s = loop.time() + _END_S
        while self._connections and loop.time() < until_s:
            await asyncio.sleep(0.01)
        telling.cancel()
        await self.auditor.end()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _tell(self) -> None:
        """Say that the process is there, also while it loads students: who says nothing for long is ended."""
        while True:
            await asyncio.sleep(_STATUS_S)
            self._say()

    async def _look(self) -> None:
        """Serve what the file says, when it has changed."""
        now = self._signature()
        if now == self._taken:
            return
        self._taken = now
        try:
            wanted = served_file.read(self._places.run)
        except (OSError, ServedFileError) as error:
            self._log.error("students_refused", f"{error}; what was served before goes on")
            return
        untrusted = await self.auditor.take(wanted)
        await self.students.take([one for one in wanted if one.model not in untrusted])
        for one in wanted:
            if one.model in untrusted:
                self.students.refuse(one, ServedFileError(untrusted[one.model]))
        self.auditor.stop_where_it_rang()
        self._log.info("students", "other own models are served", models=sorted(self.students.by_model))
        self._say()

    def _signature(self) -> Signature:
        try:
            status = (self._places.run / FILE).stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _say(self) -> None:
        told = {"pid": os.getpid(), "alive_s": time.monotonic(), "students": self.students.status()}
        try:
            served_file.replace(self._places.run / STATUS_FILE, msgspec.json.encode(told))
        except OSError as error:  # a full disk: answering needs none
            self._log.error("students_status", f"{error}")


def serve(data_dir: Path, port: int, settings: Learning, load: Callable[[Served], Student]) -> None:
    """Serve until SIGTERM. Raises ``ConfigError``, ``TakenError``."""
    import uvloop

    places = Places(data_dir)
    places.make()
    lock = places.lock("students")
    log = Log("students", time.time_ns)
    listening = hold("127.0.0.1", port, "[learning] port", ours=True)

    async def run() -> None:
        await StudentsService(places, settings, load, log).run(listening)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    finally:
        os.close(lock)


def main(load: Callable[[Served], Student] | None = None) -> int:
    """``load`` reads a student's folder; by default as training has written it."""
    parser = argparse.ArgumentParser(prog="upeti-students", description="Serves own models; started by the keeper.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--settings", default="{}", help="[learning] as JSON")
    arguments = parser.parse_args()
    os.umask(0o077)
    keep_to_one_thread()
    try:
        settings = msgspec.json.decode(arguments.settings, type=Learning)
        serve(arguments.data_dir, arguments.port, settings, load or _loader())
    except TakenError as error:
        print(f"upeti: {error}", file=sys.stderr)
        return EXIT_TAKEN
    except UpetiError as error:
        print(f"upeti: {error}", file=sys.stderr)
        return 2
    return 0


def _loader() -> Callable[[Served], Student]:
    """Raises ``ConfigError`` where a package is missing."""
    try:
        from upeti.learning.student import load
        from upeti.providers.minilm import MiniLm
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: `pip install 'upeti[learning]'`") from None
    encoder = cache(MiniLm)  # 90 MB: one for all students that need it, none where nobody does

    def embed(texts: Sequence[str]) -> Any:
        return encoder().embed(texts)

    def loaded(served: Served) -> Student:
        student = load(Path(served.folder), digest=served.sha256, embed=embed)
        first = served.first
        if first is None:
            return student
        return Ladder(load(Path(first.folder), digest=first.sha256, embed=embed), student, first.sure)

    return loaded


if __name__ == "__main__":
    sys.exit(main())
