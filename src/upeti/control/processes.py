"""Is a process still there, and is it the same one? A pid alone does not say: the system gives it out
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STATE, _START_TICKS = 0, 19  # places after the command's name in /proc/PID/stat (proc(5), fields 3 and 22)


def identity(pid: int) -> str:
    """Return what tells this process from any other, ever: boot and start time. Empty when it has ended."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The command's name may hold blanks and brackets; nothing after it does.
    fields = stat.rpartition(")")[2].split()
    # A zombie does no more work; it only waits for its parent to read its status.
    return "" if fields[_STATE] in "ZX" else f"{_boot_id()}:{fields[_START_TICKS]}"


def is_alive(pid: int, process: str) -> bool:
    """Tell whether the process that had this identity is still running."""
    return bool(process) and identity(pid) == process


def holds_open(directory: Path) -> bool:
    """Tell whether any process we may look into has a file of ``directory`` open."""
    prefix = f"{directory.resolve()}/"
    running = (place for place in _PROC.iterdir() if place.name.isdigit())
    return any(file.startswith(prefix) for process in running for file in _open_files(process))


def _open_files(process: Path) -> Iterator[str]:
    try:
        for descriptor in (process / "fd").iterdir():
            try:
                yield str(descriptor.readlink())
            except FileNotFoundError:
                continue  # closed since it was listed
    except OSError:
        return  # the process has ended, or is another user's


@cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
