"""A state with a declared task and kept pairs of it, of GPT-4's recorded answers, under terms that permit or do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.capture_side import DOCUMENT, TERMS
from support.job_side import rows
from support.tasks_side import TasksSide
from upeti.control import consents, tasks
from upeti.control.store import Store
from upeti.learning.tasks import Task
from upeti.rights import terms_files
from upeti.rights.terms import Binding, Terms

BY = {"by": "head of support", "why": "asked all day"}
DENIED = TERMS.replace(
    'allow = ["store", "classify_internal"]', 'allow = ["store", "evaluate"]\ndeny = ["classify_internal"]'
).replace("You may keep what you get, and sort with it.", "You must not train on what we answer.")

CONFIG = """\
data_dir = "data"
[rights]
terms_files = ["terms.toml"]
[[channel]]
name = "own"
kind = "student"
[[channel]]
name = "sim"
kind = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
[[contract]]
channel = "sim"
contract = "sim-terms"
from = 2026-01-01
[[route]]
name = "*"
candidate = [{ channel = "own", model = "intents" }, { channel = "sim" }]
"""


def terms(folder: Path, text: str = TERMS) -> Terms:
    path = folder / "terms.toml"
    path.write_text(text)
    facts = terms_files.load([str(path)])
    return Terms(
        contracts=facts.contracts,
        clauses=facts.clauses,
        reviews=facts.reviews,
        bindings=(Binding("b-sim", "sim", "sim-terms", 0),),
        channels=frozenset({"sim"}),
    )


class LearnSide:
    """The state, its terms, and the task ``intents``."""

    def __init__(self, folder: Path, text: str = TERMS) -> None:
        self.folder = folder
        self.store = Store(folder / "data")
        self.terms = terms(folder, text)
        self.side = TasksSide(self.store)
        self.bodies = self.side.bodies
        given = {
            "purposes": ("classify_internal", "evaluate"),
            "evidence": DOCUMENT,
            "by": "legal",
            "why": "letter of today",
        }
        consents.give(self.store, "acme", **given)  # type: ignore[arg-type]

    def calls(self, some: Sequence[tuple[str, str]], **changes: Any) -> None:
        self.side.calls(some, task="intents", **changes)

    def declare(self, **changes: Any) -> Task:
        return tasks.declare(self.store, self.bodies, tasks.Wanted(name="intents", tag="intents", **(BY | changes)))


def learned(folder: Path, many: int | None = None, **changes: Any) -> LearnSide:
    """Return a state with the first ``many`` rows of eight intents, all of them without, and the task declared."""
    side = LearnSide(folder)
    side.calls(rows()[:many])
    side.declare(**changes)
    return side
