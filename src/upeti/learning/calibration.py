"""Calibration rows: one for each call that was drawn for it, whoever answered; the file that a certificate is checked from.

Rules: a call is drawn *before* anyone looks at its confidence, and then always gets the teacher's answer, so that the rows
are a fair sample of the task's calls. The file is JSON lines, one row a line, sorted by id; its digest is that of these
bytes, whatever order the rows came in. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from upeti.core.errors import UpetiError
from upeti.learning.answers import Values


class RowsError(UpetiError):
    """A file of rows cannot be used. The message names the line."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the student said of one call, how sure it was, and what the teacher answered."""

    id: Annotated[str, Meta(min_length=1)]
    confidence: Annotated[float, Meta(ge=0, le=1)]
    student: Values
    teacher: Values
    in_scope: bool = True  # False: the student held the call for none of its task's, and never answers such a one

    @property
    def agrees(self) -> bool:
        return self.student == self.teacher


def encode(rows: Iterable[Row]) -> bytes:
    """Return the file of ``rows``. Raises ``RowsError`` when two have one id, or a confidence is no share."""
    ordered = sorted(rows, key=lambda row: row.id)
    for row in ordered:
        if not 0 <= row.confidence <= 1:
            raise RowsError(f"row {row.id} has the confidence {row.confidence}; it is a number from 0 to 1")
    for earlier, later in pairwise(ordered):
        if earlier.id == later.id:
            raise RowsError(f"two rows have the id {later.id}; a call counts once, so keep the first")
    return b"".join(msgspec.json.encode(row) + b"\n" for row in ordered)


def decode(data: bytes) -> list[Row]:
    """Return the rows of a file. Raises ``RowsError``."""
    decoder = msgspec.json.Decoder(Row)
    rows = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RowsError(
                f"line {number} is no calibration row ({error}); give the file that was certified"
            ) from None
    return rows


def digest(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of the rows' file, in hex. Raises as ``encode`` does."""
    return hashlib.sha256(encode(rows)).hexdigest()
