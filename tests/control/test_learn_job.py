"""A job in a process of its own gives what it gives here, tells how far it is, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from support.job_side import lines, rows, train_job
from upeti.control.learn_job import perform
from upeti.learning.job import JobError, Made, run


def test_a_process_makes_the_same_student_and_tells_how_far_it_is() -> None:
    told: list[tuple[int, int, str]] = []
    job = train_job(lines(rows()))
    found = perform(job, progress=lambda *step: told.append(step))
    assert found == run(job)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_what_is_wrong_comes_as_an_error_of_ours() -> None:
    with pytest.raises(JobError, match="there is no row to learn from"):
        perform(train_job(b""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_at_once_and_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "upeti.control.learn_job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.msgpack.encode(train_job(lines(rows()))))
    process.stdin.close()
    assert process.stdout.read(4)  # it has begun
    process.send_signal(number)
    assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []


def test_the_result_can_be_sent() -> None:
    made = run(train_job(lines(rows())))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Made) == made


def test_without_ray_the_setting_names_what_to_install() -> None:
    with pytest.raises(JobError, match=r"Ray is not installed: `pip install 'upeti\[ray\]'`"):
        perform(train_job(b""), ray="local")
