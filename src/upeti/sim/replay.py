"""Recorded answers of real models, said again on every wire of the fake provider.

Rules: a recording is rows of fields, from CSV or from JSON lines: one field is the text that was asked about, and for each
model one field is its answer. The request's model chooses the field, so that two snapshots of a model are two models. The
text is looked for in the last message of the user, where ``{text}`` stands in one of the templates that are given; runs of
white space count as one blank. A text that was not recorded is a 404 that says so: nothing is ever made up. A text that was
recorded several times is answered in turn. Tokens are those that were recorded (``input_tokens``, ``output_tokens``),
otherwise bytes of text // 4, at least 1; the time is what was recorded (``latency_ms``), otherwise drawn log-normally.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

from upeti.core.errors import ConfigError
from upeti.sim import answers
from upeti.sim.behaviours import Behaviour
from upeti.sim.http import Request
from upeti.sim.values import CREATED_S, Answer, Usage, dumps
from upeti.sim.wires import Call

SLOT: Final = "{text}"
_BYTES_OF_TOKEN: Final = 4
_COUNTS: Final = ("input_tokens", "output_tokens", "latency_ms")


@dataclass(frozen=True)
class Said:
    """One recorded answer; None: it was not recorded."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: int | None = None


@dataclass(frozen=True)
class Latency:
    """Time to the first byte: log-normal about a median of ``median_ms``, repeatable by ``seed``; 0: at once."""

    median_ms: float = 0.0
    sigma: float = 0.0  # standard deviation of the logarithm
    seed: int = 0

    def seconds(self, number: int) -> float:
        """Return the time for the provider's request of a number."""
        random = Random(self.seed * 1_000_003 + number)  # noqa: S311 - repeatable, not secret
        return self.median_ms / 1000 * math.exp(random.gauss(0.0, self.sigma)) if self.median_ms else 0.0


@dataclass(frozen=True)
class Recording:
    """What models said: model → text in one line → answers in the order of the rows."""

    models: Mapping[str, Mapping[str, list[Said]]]
    patterns: tuple[re.Pattern[str], ...]  # of the last message of the user, tried one after the other
    latency: Latency = field(default_factory=Latency)

    def __call__(self, request: Request, behaviour: Behaviour) -> Answer:
        """Answer as the ``says`` of a ``SimProvider``."""
        wrong = answers.refusal(request, behaviour)
        if wrong is not None:
            return wrong
        wire = answers.wire_of(request.path)
        if request.method == "GET" and request.path.endswith("/models"):
            listed = [
                {"id": name, "object": "model", "created": CREATED_S, "owned_by": "replay"} for name in self.models
            ]
            return Answer(200, dumps({"object": "list", "data": listed}))
        model = answers.model_of(request)
        texts = self.models.get(model)
        if texts is None:
            known = ", ".join(self.models)
            return answers.error(
                404, wire, message=f"No answers of the model {model!r} were recorded, only of: {known}."
            )
        asked = question_of(request.json)
        slots = [] if asked is None or wire == "embeddings" else self._slots(one_line(asked))
        if not slots:
            return answers.error(
                404, wire, "not_recorded", "The request has no text where the recording has its texts."
            )
        found = next((texts[slot] for slot in slots if slot in texts), None)
        if found is None:
            said = f"No answer of {model} to this text was recorded: {slots[0][:200]!r}"
            return answers.error(404, wire, "not_recorded", said)
        return self._answer(request, behaviour, wire, found[request.number % len(found)])

    def _slots(self, asked: str) -> list[str]:
        return [matched[1].strip() for pattern in self.patterns if (matched := pattern.fullmatch(asked))]

    def _answer(self, request: Request, behaviour: Behaviour, wire: str, said: Said) -> Answer:
        count = said.output_tokens or _tokens(said.text)
        choices = answers.choices_of(request)
        read = said.input_tokens or _tokens("".join(texts_of(request.json)))
        call = Call(
            answers.model_of(request),
            Usage(read, count * choices),
            choices,
            "",
            behaviour,
            request.json,
            pieces(said.text, count),
        )
        made = answers.spoken(call, wire)
        wait_s = self.latency.seconds(request.number) if said.latency_ms is None else said.latency_ms / 1000
        return Answer(made.status, made.body, made.events, made.billed, made.content_type, made.headers, wait_s)


def one_line(text: str) -> str:
    """Return a text with every run of white space as one blank, and none at its ends."""
    return " ".join(text.split())


def question_of(body: Mapping[str, Any]) -> str | None:
    """Return the text of the user's last message, on any wire; None when there is none."""
    for name in ("messages", "input"):
        turns = body.get(name)
        if isinstance(turns, list):
            mine = [one for one in turns if isinstance(one, dict) and one.get("role") == "user"]
            return "".join(_said_in(mine[-1].get("content"))) if mine else None
    asked = body.get("input", body.get("prompt"))
    return asked if isinstance(asked, str) else None


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """Return all texts that a model reads of a request: instructions and messages."""
    found: list[str] = []
    for name in ("system", "instructions", "input", "prompt"):
        found += _said_in(body.get(name))
    turns = body.get("messages")
    for turn in turns if isinstance(turns, list) else ():
        found += _said_in(turn.get("content")) if isinstance(turn, dict) else []
    return found


def _said_in(content: Any) -> list[str]:
    """Return the texts of a content: a text, or parts, or whole turns."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        parts = [one for one in content if isinstance(one, dict)]
        return [text for one in parts for text in _said_in(one.get("text", one.get("content")))]
    return []


def _tokens(text: str) -> int:
    return max(1, len(text.encode()) // _BYTES_OF_TOKEN)


def pieces(text: str, count: int) -> tuple[str, ...]:
    """Cut a text into ``count`` pieces of about the same length; empty ones when it is shorter."""
    cuts = [len(text) * number // count for number in range(count + 1)]
    return tuple(text[start:end] for start, end in pairwise(cuts))


# -- reading
# -------------------------------------------------------------------------------------------------------------


def pattern_of(template: str) -> re.Pattern[str]:
    """Return what finds the text in a message of the shape ``template``. Raises ``ConfigError`` without ``{text}``."""
    before, slot, behind = template.partition(SLOT)
    if not slot or SLOT in behind:
        raise ConfigError(f"the template must have {SLOT} once, where the text stands: {template!r}")
    return re.compile(rf"{re.escape(one_line(before))} ?(.*?) ?{re.escape(one_line(behind))}")


def read_recording(
    path: Path,
    text: str,
    columns: Mapping[str, str],
    templates: Sequence[str] = (SLOT,),
    latency: Latency | None = None,
) -> Recording:
    """Read a CSV file, or JSON lines for every other ending. ``columns``: model → the field with its answers.

    A row without an answer of a model is none of its. Raises ``ConfigError``.
    """
    if not columns:
        raise ConfigError("name at least one model and the column with its answers")
    models: dict[str, dict[str, list[Said]]] = {model: {} for model in columns}
    patterns = tuple(map(pattern_of, templates))
    try:
        for number, row in enumerate(_rows(path), 1):
            missing = [name for name in (text, *columns.values()) if name not in row]
            if missing:
                raise ConfigError(f"{path}, row {number}: there is no field {missing[0]!r}, only {', '.join(row)}")
            for model, column in columns.items():
                if row[column] not in (None, ""):
                    models[model].setdefault(one_line(str(row[text])), []).append(_said(row, column))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a recording: {error}") from error
    return Recording(models, patterns, latency or Latency())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
            return
        yield from _objects(file)


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line is no JSON object")
            yield row


def _said(row: Mapping[str, Any], column: str) -> Said:
    """Counts stand in fields of the answer's own (``gpt4_latency_ms``) or of the whole row (``latency_ms``)."""
    answer = row[column]
    found: dict[str, int | None] = {}
    for name in _COUNTS:
        value = row.get(f"{column}_{name}", row.get(name))
        found[name] = None if value in (None, "") else int(value)
    return Said(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False), **found)
