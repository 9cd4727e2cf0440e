"""A child ends with its parent, and is the program it was to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from support.keeper_side import until
from upeti.control import child

PARENT = """
import signal, subprocess, sys, time
from upeti.control import child
process = subprocess.Popen(child.command([sys.executable, "-c", "import time; time.sleep(60)"], signal.{signal}))
print(process.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_it_is_the_program_under_the_same_pid() -> None:
    program = [sys.executable, "-c", "import os, sys; print(os.getpid(), sys.argv[1:])", "a b", ""]
    process = subprocess.Popen(child.command(program, signal.SIGTERM), stdout=subprocess.PIPE, text=True)
    printed = process.communicate(timeout=10)[0]
    assert printed == f"{process.pid} ['a b', '']\n"


def test_it_ends_with_a_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(signal="SIGTERM")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert is_running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_running(pid), seconds=5)


def test_a_parent_that_ended_first_is_noticed() -> None:
    command = child.command(["/bin/true"], signal.SIGTERM)
    command[4] = str(os.getpid() + 1)  # not our pid: as if the parent had been replaced by init
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "ended before its child had started" in found.stderr
