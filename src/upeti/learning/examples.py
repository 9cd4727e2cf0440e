"""Examples: the text that a task is about and the values of its answer, from the rows of a data set or from a CSV file.

Rules: duplicates go first, then the calibration flag is drawn, from a keyed hash of the text alone; so no text is on both
sides, no look at an answer or a confidence has moved it, and a text keeps its side in every later data set of the task.
What cannot be used is counted with its reason. An answer that is not of the task's form stays, as ``UNREADABLE``: it is
not learned from, and counts as a disagreement where a student is measured.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from upeti.core.errors import ConfigError, UpetiError
from upeti.learning.answers import (
    UNREADABLE,
    AnswerForm,
    Field,
    Values,
    form_of,
    form_of_texts,
    read_answer,
    read_text,
)

TextOf = Callable[[bytes], str | None]

CALIBRATION_SHARE: Final = 0.5
_FORM_SAMPLE: Final = 2_000  # answers from which a form is told
_CHAT: Final = "chat_completions"


class ExamplesError(UpetiError):
    """No examples can be made of the rows."""


class Example(msgspec.Struct, frozen=True):
    """A text of a task with the teacher's (or one's own) values. ``at_ns`` is 0 for a row without a time."""

    id: str
    text: str
    values: Values
    at_ns: int = 0


class Examples(msgspec.Struct, frozen=True):
    """The examples of a task, the oldest first, and what was left out: reason -> rows."""

    form: AnswerForm
    rows: tuple[Example, ...]
    left_out: dict[str, int]


class _Row(msgspec.Struct):
    """A line of a data set: a pair of a call, or a label of one's own."""

    pair_id: str = ""
    wire: str = ""
    captured: str = ""
    request: msgspec.Raw = msgspec.Raw(b"")
    answer: msgspec.Raw = msgspec.Raw(b"")
    own: bool = False
    text: str = ""
    label: str = ""


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Request(msgspec.Struct):
    messages: list[_Message]


_row_decoder = msgspec.json.Decoder(_Row)
_request_decoder = msgspec.json.Decoder(_Request)


def last_user_text(request: bytes) -> str | None:
    """Return the text of a ``chat.completions`` request's last user message; None where there is none, or an image in it."""
    try:
        messages = _request_decoder.decode(request).messages
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    content = next((one.content for one in reversed(messages) if one.role == "user"), None)
    if isinstance(content, list):
        return "\n".join(part.text for part in content) if all(part.type == "text" for part in content) else None
    return content


def from_lines(lines: Iterable[bytes], *, text_of: TextOf = last_user_text, form: AnswerForm | None = None) -> Examples:
    """Return the examples of a data set's lines; without a ``form`` it is told from the answers.

    Raises ``ExamplesError`` where no row is left, ``AnswerFormError`` where the answers have no form.
    """
    left_out: Counter[str] = Counter()
    found: list[tuple[str, str, int, bytes | str]] = []  # id, text, time, answer or label
    for line in lines:
        try:
            row = _row_decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            left_out["the line is no row of a data set"] += 1
            continue
        if row.own:
            found.append((_own_id(row.text), row.text, 0, row.label))
        elif row.wire != _CHAT:
            left_out[f"answers of the wire `{row.wire}` are not read"] += 1
        elif (text := text_of(bytes(row.request))) is None:
            left_out["the request is not of the task's template"] += 1
        else:
            found.append((row.pair_id, text, _ns(row.captured), bytes(row.answer)))
    return _examples(found, form, left_out)


def from_csv(path: Path, *, text: str = "text", fields: Sequence[str] = ("label",)) -> Examples:
    """Return the examples of a CSV file with a column for the text and one for each value.

    Raises ``ConfigError`` where a file or a column is missing, and what ``from_lines`` raises.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in (text, *fields) if name not in (reader.fieldnames or ())]:
                raise ConfigError(
                    f"{path} has no column `{missing[0]}` in its first line: name the columns that it has"
                )
            rows = [(row[text] or "", tuple(row[name] or "" for name in fields)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from None
    if len(fields) == 1:
        return _examples([(_own_id(text), text, 0, values[0]) for text, values in rows], None, Counter())
    form = AnswerForm(kind="fields", fields=tuple(Field(name) for name in fields))
    return _distinct(form, [Example(_own_id(text), text, values) for text, values in rows], Counter())


def in_calibration(text: str, key: bytes, share: float = CALIBRATION_SHARE) -> bool:
    """Say whether a text is kept for calibration. ``key`` (up to 64 bytes) is the task's, the same as long as the task is."""
    drawn = hashlib.blake2b(_plain(text).encode(), digest_size=8, key=key).digest()
    return int.from_bytes(drawn) < share * 2**64


def split(rows: Iterable[Example], key: bytes, share: float = CALIBRATION_SHARE) -> tuple[list[Example], list[Example]]:
    """Return the rows to train on and those to calibrate on."""
    training: list[Example] = []
    calibration: list[Example] = []
    for row in rows:
        (calibration if in_calibration(row.text, key, share) else training).append(row)
    return training, calibration


def _examples(
    found: list[tuple[str, str, int, bytes | str]], form: AnswerForm | None, left_out: Counter[str]
) -> Examples:
    if form is None:
        answers = [answer for _, _, _, answer in found if isinstance(answer, bytes)]
        labels = [answer for _, _, _, answer in found if isinstance(answer, str)]
        if not found:
            raise ExamplesError(_nothing(left_out))
        form = form_of(answers[:_FORM_SAMPLE]) if answers else form_of_texts(labels[:_FORM_SAMPLE])
    rows = []
    for id_, text, at_ns, answer in found:
        values = read_answer(form, answer) if isinstance(answer, bytes) else read_text(form, answer)
        rows.append(Example(id_, text, UNREADABLE if values is None else values, at_ns))
    return _distinct(form, rows, left_out)


def _distinct(form: AnswerForm, rows: list[Example], left_out: Counter[str]) -> Examples:
    """Keep the earliest of each text: a vote of several would make the teacher look steadier than it is."""
    kept: dict[str, Example] = {}
    for row in sorted(rows, key=lambda row: row.at_ns):
        plain = _plain(row.text)
        if not plain:
            left_out["there is no text"] += 1
        elif plain in kept:
            left_out["the text is there already"] += 1
        else:
            kept[plain] = row
    if not kept:
        raise ExamplesError(_nothing(left_out))
    return Examples(form, tuple(kept.values()), dict(left_out))


def _nothing(left_out: Counter[str]) -> str:
    why = "; ".join(f"{count} rows: {reason}" for reason, count in left_out.most_common()) or "there are no rows"
    return f"no example is left ({why}): look at the data set with `upeti dataset show`"


def _plain(text: str) -> str:
    """Return what makes two texts the same: no difference of case, spaces or way of writing a letter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _own_id(text: str) -> str:
    return f"own-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _ns(captured: str) -> int:
    try:
        return int(datetime.fromisoformat(captured).timestamp()) * 10**9
    except ValueError:
        return 0
