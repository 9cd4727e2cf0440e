"""Jobs of own models in a process of their own: ``python -m upeti.control.learn_job``; or on a Ray cluster.

Rules: the process reads one job on its standard input and writes frames of progress and one result to its standard output;
it knows no state, no secret and no configuration. It runs below everything else, on one core, and ends with its parent.
What libraries print goes to standard error. With a Ray cluster the process hands the job on and waits: Ray ends its process
where it finds no cluster, which must not be ours.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from importlib import import_module
from typing import IO, Any, Final

import msgspec

from upeti.control import child
from upeti.learning.job import Failed, Job, JobError, Made, Measure, Measured, Progress, Result, Train

_NICENESS: Final = 10  # below the workers, which share the machine
_LENGTH: Final = 4  # bytes before each frame
_END_S: Final = 5.0
_STOPPED: Final = 143
_CLUSTER_S: Final = 60
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
    """Have a job done, by Ray where an address is given, and return its result. Raises ``JobError``."""
    result = _in_process(job, ray, progress)
    if isinstance(result, Failed):
        raise JobError(result.message)
    return result


def _in_process(job: Job, ray: str, progress: Progress) -> Result:
    program = [sys.executable, "-m", "upeti.control.learn_job", *(["--ray", ray] if ray else [])]
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
        if ray:
            raise JobError(_no_ray(ray, f"status {code}"))
        raise JobError(f"the job ended without a result (status {code}): was there memory enough? Try it once more")
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


def _no_ray(address: str, said: str) -> str:
    return (
        f"[learning] ray: {address} did not do the job ({said}): is the cluster there, with the same Upeti on its machines? "
        "Without the setting the job runs here"
    )


def _by_ray(job: Job, address: str, progress: Progress) -> Result:
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        return Failed("[learning] ray is set, and Ray is not installed: `pip install 'upeti[ray]'`")
    progress(0, 1, "on Ray")
    try:
        signal.alarm(_CLUSTER_S)  # without a cluster Ray tries for many minutes, in code that nothing else interrupts
        if address == LOCAL:
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address, log_to_driver=False)
        signal.alarm(0)
        # By its module's name, under which the cluster finds it too: here it is `__main__`.
        remote = import_module("upeti.control.learn_job").remote
        task = ray.remote(remote).options(num_cpus=1, runtime_env={"env_vars": THREADS})
        answer: bytes = ray.get(task.remote(_encode(job)))
    except Exception as error:  # of Ray, of the network, of a cluster with another Python
        said = str(error).strip().splitlines() or [type(error).__name__]
        return Failed(_no_ray(address, said[0]))
    finally:
        ray.shutdown()
    progress(1, 1, "done")
    result = _frame_decoder.decode(answer)
    assert not isinstance(result, Step)
    return result


def remote(data: bytes) -> bytes:
    """Do an encoded job, and return the encoded result: on a machine of the cluster."""
    from upeti.learning.job import run

    return _encode(run(_job_of(data)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="upeti-learn-job", description="A job of own models; started by a command.")
    parser.add_argument("--ray", default="", help="address of a cluster that does it")
    arguments = parser.parse_args()
    os.umask(0o077)
    os.nice(_NICENESS)
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        raise SystemExit(_STOPPED)  # temporary folders go with it

    signal.signal(signal.SIGTERM, stop)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(value: Step | Result) -> None:
        data = _encode(value)
        out.write(len(data).to_bytes(_LENGTH) + data)
        out.flush()

    def step(done: int, total: int, what: str) -> None:
        say(Step(done, total, what))

    try:
        from upeti.learning.job import run

        data = sys.stdin.buffer.read()
        if not data:  # whoever started us was told to stop before there was a job
            return _STOPPED
        job = _job_of(data)
        say(_by_ray(job, arguments.ray, step) if arguments.ray else run(job, step))
    except Exception:
        if stopped:  # a library made another error of it; nobody reads on
            return _STOPPED
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
