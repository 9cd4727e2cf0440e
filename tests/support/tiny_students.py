"""A student whose every answer follows from the text, and the process that serves such ones: for what serving does, not for
what a student knows. ``python -m support.tiny_students`` takes the arguments of ``upeti.control.students_service``.

The first word of a text is its label. ``unsure`` in it: a confidence of 0.4 in place of 0.9; ``unlike``: out of scope;
``broken``: it raises.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from upeti.learning.answers import AnswerForm, Field, Values
from upeti.learning.ladder import Ladder, Student
from upeti.learning.served import Served
from upeti.learning.template import Template

SYSTEM = "Name the intent of the message."
TEMPLATE = Template(("system", "user"), ((SYSTEM,), ("", "")))
FORM = AnswerForm(kind="label", fields=(Field("label"),))


class TinyFile(msgspec.Struct):
    """The only file of a folder."""

    mark: str = ""  # put behind each label: tells one student from the next
    text_ms: float = 0.0  # what a text takes


class TinyPrediction(msgspec.Struct):
    answers: list[Values]
    confidence: list[float]
    in_scope: list[bool]


class TinyStudent:
    def __init__(self, file: TinyFile) -> None:
        self.form = FORM
        self.file = file
        self.sizes: list[int] = []  # of the batches

    def predict(self, texts: Sequence[str]) -> TinyPrediction:
        self.sizes.append(len(texts))
        if self.file.text_ms:
            time.sleep(self.file.text_ms * len(texts) / 1000)
        if any("broken" in text for text in texts):
            raise RuntimeError("as it was asked to")
        return TinyPrediction(
            [(text.split()[0] + self.file.mark,) for text in texts],
            [0.4 if "unsure" in text else 0.9 for text in texts],
            ["unlike" not in text for text in texts],
        )


def tiny_folder(folder: Path, mark: str = "", text_ms: float = 0.0) -> str:
    """Write a student; return the digest of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(TinyFile(mark, text_ms))
    (folder / "tiny.json").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def tiny_served(folder: Path, model: str = "own-1", mark: str = "", text_ms: float = 0.0, **changes: Any) -> Served:
    sha256 = tiny_folder(folder, mark, text_ms)
    fields = {"model": model, "folder": str(folder), "sha256": sha256, "task": "intents", "template": TEMPLATE}
    return Served(**(fields | {"threshold": 0.5, "target": "system 5 %", "certificate": "crt_1"} | changes))


def load(served: Served) -> Student:
    student = _tiny(served.folder, served.sha256)
    first = served.first
    return student if first is None else Ladder(_tiny(first.folder, first.sha256), student, first.sure)


def _tiny(folder: str, sha256: str) -> TinyStudent:
    data = (Path(folder) / "tiny.json").read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{folder}/tiny.json is not what was certified")
    return TinyStudent(msgspec.json.decode(data, type=TinyFile))


def messages(text: str) -> list[Any]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


if __name__ == "__main__":
    from upeti.control.students_service import main

    sys.exit(main(load))
