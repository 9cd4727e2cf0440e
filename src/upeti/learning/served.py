"""What the students' process is to serve, as the keeper leaves it: one file, replaced in one step.

The process takes whatever the file says now. A student that stays as it was goes on with what it was doing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from upeti.learning.answers import Values
from upeti.learning.target import Target
from upeti.learning.template import Template

FILE: Final = "students.json"  # in the data directory's run
STATUS_FILE: Final = "students-status.json"  # what the process says of each of them


Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class First(msgspec.Struct, frozen=True):
    """The quick student of a ladder: it speaks where it is ``sure`` or more, the other one where it is not."""

    folder: str
    sha256: Digest
    sure: float


class AuditTerms(msgspec.Struct, frozen=True):
    """How a student's answers are audited. ``share`` of its answers is drawn."""

    target: Target
    delta: float
    share: Annotated[float, Meta(gt=0, le=1)]
    route: str  # that the teacher is asked by


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One student that may answer: where it is kept, which calls are its own, and what was certified."""

    model: Annotated[str, Meta(min_length=1)]  # as routes name it
    folder: str
    sha256: Digest  # of the student; another one is not loaded
    task: str
    template: Template
    threshold: Annotated[float, Meta(ge=0)]  # it answers from this confidence on; above 1: never
    target: str = ""  # what was certified, for people
    certificate: str = ""  # its id
    lapses_ns: int = 0  # 0: never
    shadow: bool = False  # it only says what it would have answered
    only: tuple[Values, ...] = ()  # the only answers that the certificate lets it give; (): all
    first: First | None = None  # asked before it
    audit: AuditTerms | None = None  # None: nothing was promised
    out_of_scope: bool = True  # whether it leaves what is unlike its training texts


class ServedFileError(ValueError):
    """The file cannot be read as a list of students."""


def encode(served: list[Served]) -> bytes:
    """Raises ``ValueError`` when two have one name."""
    names = [one.model for one in served]
    if len(set(names)) < len(names):
        raise ValueError("two students have one name")
    return msgspec.json.encode(served)


def write(run: Path, served: list[Served]) -> None:
    """Replace the file: a reader sees the old one or the new one, never a part."""
    replace(run / FILE, encode(served))


def read(run: Path) -> list[Served]:
    """Return what is to be served; nothing where there is no file yet. Raises ``ServedFileError``, ``OSError``."""
    try:
        data = (run / FILE).read_bytes()
    except FileNotFoundError:
        return []
    try:
        return msgspec.json.decode(data, type=list[Served])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ServedFileError(f"{run / FILE}: {error}; the keeper writes it anew when it makes a snapshot") from None


def replace(path: Path, data: bytes) -> None:
    """Replace a file of the process or the keeper in one step."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.chmod(0o600)
    partial.replace(path)
