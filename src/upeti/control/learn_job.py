"""Jobs of own models in a process of their own: ``python -m upeti.control.learn_job``; or on a Ray cluster.

Rules: the process reads one job on its standard input and writes frames of progress and one result to its standard output;
it knows no state, no secret and no configuration. It runs below everything else, on one core, and ends with its parent.
What libraries print goes to standard error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any, Final

import msgspec

from upeti.control import child
from upeti.core.errors import ConfigError, UpetiError
from upeti.learning.job import Failed, Job, JobError, Made, Measure, Measured, Progress, Result, Train

_NICENESS: Final = 10  # below the workers, which share the machine
_LENGTH: Final = 4  # bytes before each frame
_END_S: Final = 5.0
LOCAL: Final = "local"
THREADS: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Step(msgspec.Struct, frozen=True, tag="step"):
    """How far a job is."""

    done: int
    total: int
    what: str


_encode: Final = msgspec.msgpack.Encoder().encode
_job_of: Final = msgspec.msgpack.Decoder(Train | Measure).decode
_frame_decoder: Final[msgspec.msgpack.Decoder[Step | Result]] = msgspec.msgpack.Decoder(Step | Made | Measured | Failed)


def perform(job: Job, *, ray: str = "", progress: Progress = lambda done, total, what: None) -> Made | Measured:
    """Have a job done, by Ray where an address is given, and return its result. Raises ``JobError``, ``ConfigError``."""
    result = _by_ray(job, ray, progress) if ray else _by_process(job, progress)
    if isinstance(result, Failed):
        raise JobError(result.message)
    return result


def _by_process(job: Job, progress: Progress) -> Result:
    program = [sys.executable, "-m", "upeti.control.learn_job"]
    process = subprocess.Popen(  # noqa: S603
        child.command(program, signal.SIGKILL),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | THREADS,
        start_new_session=True,  # Ctrl-C is for us: we end it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            process.stdin.write(_encode(job))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it says below what is wrong
        while (frame := _read(process.stdout)) is not None:
            if not isinstance(frame, Step):
                process.wait()
                return frame
            progress(frame.done, frame.total, frame.what)
        code = process.wait()
        raise UpetiError(f"the job ended without a result (status {code}): was there memory enough? Try it once more")
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(file: IO[bytes]) -> Step | Result | None:
    head = file.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    data = file.read(int.from_bytes(head))
    return _frame_decoder.decode(data)


def _by_ray(job: Job, address: str, progress: Progress) -> Result:
    """The machines of the cluster need Upeti of the same version, with ``learning``."""
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise ConfigError("[learning] ray is set, and Ray is not installed: `pip install 'upeti[ray]'`") from None
    mine = not ray.is_initialized()
    try:
        if mine:
            where: dict[str, Any] = {"num_cpus": 1} if address == LOCAL else {"address": address}
            ray.init(**where, include_dashboard=False if address == LOCAL else None, log_to_driver=False)
        progress(0, 1, "on Ray")
        task = ray.remote(_remote).options(num_cpus=1, runtime_env={"env_vars": THREADS})
        answer: bytes = ray.get(task.remote(_encode(job)))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"[learning] ray: {address} did not do the job ({said[-1]}): is the cluster there, with the same Upeti on it? "
            "Without the setting the job runs here"
        ) from None
    finally:
        if mine and ray.is_initialized():
            ray.shutdown()
    progress(1, 1, "done")
    result = _frame_decoder.decode(answer)
    assert not isinstance(result, Step)
    return result


def _remote(data: bytes) -> bytes:
    from upeti.learning.job import run

    return _encode(run(_job_of(data)))


def main() -> int:
    from upeti.learning.job import run

    os.umask(0o077)
    os.nice(_NICENESS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # temporary folders go with it
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(value: Step | Result) -> None:
        data = _encode(value)
        out.write(len(data).to_bytes(_LENGTH) + data)
        out.flush()

    step: Callable[[int, int, str], object] = lambda done, total, what: say(Step(done, total, what))  # noqa: E731
    say(run(_job_of(sys.stdin.buffer.read()), step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
