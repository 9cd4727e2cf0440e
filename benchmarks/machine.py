"""The machine that a benchmark runs on: its cores, its tools, and what a process has used of it.

Rules: what is measured has core 0 to itself, everything else runs on core 1, so a figure is one core's. CPU
time is that of all threads of a process; memory is its resident set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
MEASURED_CORE = 0
OTHER_CORE = 1

# 5,000 streams are 10,000 sockets in a gateway.
OPEN_FILES = 20_000

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class UnfitError(Exception):
    """The machine cannot run the benchmark. The message names the cure."""


def check() -> None:
    """Raises ``UnfitError`` when a tool, a core or open files are missing."""
    if len(os.sched_getaffinity(0)) < 2:
        raise UnfitError("two cores are needed: one for what is measured, one for its load")
    packages = {"nginx": "nginx-light", "wrk": "wrk", "gcc": "gcc libc6-dev"}
    missing = [package for tool, package in packages.items() if find(tool) is None]
    if missing:
        raise UnfitError(f"missing tools: apt-get install {' '.join(missing)}")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
            raise UnfitError(f"{OPEN_FILES} open files are needed and {hard} allowed: ulimit -Hn {OPEN_FILES}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def find(tool: str) -> str | None:
    """Return the tool's path; Debian keeps servers where a user's PATH does not look."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin")


def compile_c(name: str) -> Path:
    """Compile ``benchmarks/NAME.c`` unless that is done. Returns the program."""
    source, program = HERE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-std=gnu17", "-o", str(program), str(source)], check=True)
    return program


def pin(pid: int, core: int) -> None:
    """Bind every thread of a process to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def cpu_us(pid: int) -> int:
    """Return the CPU time that the process has used, user and system, in microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // _TICKS_PER_SECOND


def rss_kb(pid: int) -> int:
    """Return the memory that the process has resident, in kibibytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise UnfitError(f"process {pid} has gone")


def children(pid: int) -> list[int]:
    """Return all processes below ``pid``."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


@dataclass(frozen=True)
class Description:
    """What a figure was measured on."""

    processor: str
    kernel: str
    python: str
    nginx: str

    @classmethod
    def of_this(cls) -> Description:
        import platform

        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
        program = find("nginx")  # not every benchmark has it as its peer
        run = [program, "-v"] if program else ["true"]
        nginx = subprocess.run(run, capture_output=True, text=True, check=False).stderr
        return cls(processor, platform.release(), platform.python_version(), nginx.strip().rpartition("/")[2])
