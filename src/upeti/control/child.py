"""Starting a process that ends with its parent, however that ends: ``python child.py PARENT-PID SIGNAL
PROGRAM …``.

The kernel sends ``SIGNAL`` to the process when its parent dies (``prctl(PR_SET_PDEATHSIG)``), and keeps
that over ``exec``; so this sets it and becomes the program. It needs nothing of the program and runs
nothing between fork and exec. Only the standard library, and as little of it as can be: it runs before
every start.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(program: list[str], signal_number: int) -> list[str]:
    """Return the command line that starts ``program`` bound to the calling process."""
    return [sys.executable, "-S", "-E", __file__, str(os.getpid()), str(int(signal_number)), *program]


def main() -> None:
    parent, signal_number, *program = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal_number))
    if os.getppid() != int(parent):
        sys.exit(f"process {parent} ended before its child had started")
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main()
