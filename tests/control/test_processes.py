"""Telling a process from a later one, and from a dead one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from upeti.control.processes import holds_open, identity, is_alive

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_itself_and_no_other() -> None:
    other = subprocess.Popen(SLEEP)
    mine = identity(os.getpid())
    assert mine == identity(os.getpid()) != identity(other.pid)
    assert is_alive(os.getpid(), mine)
    assert not is_alive(other.pid, mine)
    assert not is_alive(os.getpid(), "")
    other.kill()
    other.wait()


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen(SLEEP)
    there = identity(process.pid)
    assert is_alive(process.pid, there)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (Path("/proc") / str(process.pid)).exists()
    assert not is_alive(process.pid, there)
    process.wait()
    assert identity(process.pid) == ""


def test_names_with_brackets_do_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(sys.executable)
    process = subprocess.Popen([str(program), "-S", "-c", "import time; time.sleep(60)"])
    assert is_alive(process.pid, identity(process.pid))
    process.kill()
    process.wait()
    assert identity(process.pid) == ""


def test_who_has_a_file_open(tmp_path: Path) -> None:
    assert not holds_open(tmp_path)
    with (tmp_path / "file").open("w"):
        assert holds_open(tmp_path)
        assert not holds_open(tmp_path / "other")
    assert not holds_open(tmp_path)
