"""Training and measuring as work that can be done anywhere: what goes in and what comes out are plain values.

Rules: a job touches no store and no file of anybody's: rows come in as bytes, a student's folder goes out as bytes. So the
same function runs in a process of this machine and as a task of a Ray cluster, and gives the same student. Which rows are
for calibration is decided here, before anything is looked at; training never sees them, measuring sees nothing else.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from upeti.core.errors import UpetiError
from upeti.learning.answers import UNREADABLE, AnswerForm, Values
from upeti.learning.template import Template, text_in

Progress = Callable[[int, int, str], object]
Spans = tuple[tuple[int, int], ...]
Wanted = Literal["auto", "l1", "l2", "l3"]

WANTED: Final[tuple[Wanted, ...]] = get_args(Wanted)
# Calls that Upeti makes about tasks are asked on purpose: no fair sample of what people ask.
OWN_FEATURES: Final = frozenset({"audit", "stability"})
_AGREE_MIN_GAIN: Final = 0.01  # of all calls, that the dearer level must answer more to be taken
_UNREADABLE_MAX: Final = 0.5
_DIFFERENT_MAX: Final = 0.5
NOT_OF_TEACHER: Final = "somebody else than the teacher answered"
OF_UPETI: Final = "Upeti itself asked (an audit, a check of steadiness)"
OTHER_TASK: Final = "it is of another task"
OWN: Final = "it is a label of your own"
NOT_OWN: Final = "it is no label of your own"
SPAN: Final = "a student answered a part of the calls then, or it was before the last alarm"
_DIGITS: Final = 6  # of a confidence, as students have them


class JobError(UpetiError):
    """A job cannot be done. The message names the cure."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows count, and how they are read."""

    template: Template
    form: AnswerForm
    channel: str  # the teacher's
    model: str
    tag: str  # that its calls carry; "": none
    key: bytes  # of the calibration flag: the task's, always the same


class Train(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train a student on the rows that are not for calibration."""

    source: Source
    rows: bytes  # a data set's lines
    name: str = "student"  # on its card
    level: Wanted = "auto"
    own: bool = False  # on labels of one's own alone, none of the teacher's
    alpha: float = 0.05  # for which a level is chosen
    seed: int = 0


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Ask a student what it says of the rows that are for calibration."""

    source: Source
    rows: bytes
    files: dict[str, bytes]  # the student's folder
    spans: Spans = ()  # [from, to) in ns: calls of these times do not count, see ``control/certifying``


Job = Train | Measure


class Level(msgspec.Struct, frozen=True):
    """What cross-validation says of a level that was tried."""

    level: str
    agreement: float
    coverage: float  # share of calls that it could answer with alpha of all calls answered differently


class Made(msgspec.Struct, frozen=True, kw_only=True, tag="made"):
    """A student, as files, and what is known of it. Cross-validated figures are no promise."""

    files: dict[str, bytes]
    sha256: str
    level: str
    levels: tuple[Level, ...]
    rows: int  # trained on
    answers: int  # different ones
    calibration_rows: int  # left out
    left_out: dict[str, int]
    agreement: float
    coverage: float
    curve: tuple[tuple[int, float], ...]


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """Calibration rows (``calibration.encode``), and what was known of the student before they were looked at."""

    rows: bytes
    left_out: dict[str, int]
    labels_sha256: str
    versions: tuple[str, ...]  # of the teacher, as its answers say, the most frequent first
    confidences: tuple[float, ...]  # of training rows, cross-validated
    answers: tuple[tuple[Values, int], ...]  # of training rows: how often each


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The job cannot be done; ``message`` names the cure."""

    message: str


Result = Made | Measured | Failed


def run(job: Job, progress: Progress = lambda done, total, what: None) -> Result:
    """Do a job. An error of ours is a result, too: it has a way to go before somebody reads it."""
    try:
        return _train(job, progress) if isinstance(job, Train) else _measure(job, progress)
    except UpetiError as error:
        return Failed(str(error))
    except ModuleNotFoundError as error:
        return Failed(f"{error.name} is not installed where the job runs: `pip install 'upeti[learning]'`")


class _Line(msgspec.Struct):
    channel: str = ""
    model: str = ""
    feature: str = ""
    task: str = ""
    captured: str = ""
    own: bool = False


_line_of = msgspec.json.Decoder(_Line).decode


def _lines(rows: bytes, source: Source, left_out: Counter[str], *, own: bool, spans: Spans = ()) -> Iterator[bytes]:
    """Yield the lines that count: one's own, or else those that the teacher answered when somebody asked it."""
    for line in rows.splitlines():
        try:
            about = _line_of(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            left_out["the line is no row of a data set"] += 1
            continue
        if about.own != own:
            left_out[OWN if about.own else NOT_OWN] += 1
        elif own:
            yield line
        elif about.feature in OWN_FEATURES:
            left_out[OF_UPETI] += 1
        elif (about.channel, about.model) != (source.channel, source.model):
            left_out[NOT_OF_TEACHER] += 1
        elif about.task != source.tag:
            left_out[OTHER_TASK] += 1
        elif spans and _within(about.captured, spans):
            left_out[SPAN] += 1
        else:
            yield line


def _within(captured: str, spans: Spans) -> bool:
    at_ns = int(datetime.fromisoformat(captured).timestamp()) * 10**9 if captured else 0
    return any(start <= at_ns < end for start, end in spans)


def _train(job: Train, progress: Progress) -> Made:
    from upeti.learning.card import card
    from upeti.learning.examples import from_lines, split
    from upeti.learning.train import ROWS_MIN, Trained, keep, train

    source = job.source
    left_out: Counter[str] = Counter()
    lines = list(_lines(job.rows, source, left_out, own=job.own))
    if not lines:
        raise JobError(f"there is no row to learn from ({reasons(left_out)})")
    found = from_lines(lines, text_of=lambda request: text_in(source.template, request), form=source.form)
    left_out.update(found.left_out)
    training, calibration = split(found.rows, source.key)
    known = [row for row in training if row.values != UNREADABLE]
    unreadable = len(training) - len(known)
    if training and unreadable / len(training) > _UNREADABLE_MAX:
        raise JobError(
            f"{unreadable} of {len(training)} answers are not of the task's form ({source.form.kind}): the prompt or the way "
            "the teacher answers has changed; look at them with `upeti tasks show`, forget the task and declare it anew"
        )
    if len(known) < ROWS_MIN:
        raise JobError(
            f"{len(known)} rows with an answer are left to train on, {ROWS_MIN} are needed and 500 are better: about "
            f"{2 * (ROWS_MIN - len(known))} more calls, as every other one is kept for calibration"
            f"{f' (left out: {reasons(left_out)})' if left_out else ''}"
        )
    answers = {row.values for row in known}
    if len(answers) < 2:
        raise JobError(
            f"all {len(known)} rows have the same answer ({', '.join(next(iter(answers)))}): there is nothing to tell apart. "
            "A fixed answer needs no model; otherwise wait for calls that are answered in another way"
        )
    if source.form.kind in ("label", "number") and len(answers) > _DIFFERENT_MAX * len(known):
        raise JobError(
            f"{len(known)} rows have {len(answers)} different answers: they hardly ever come again, there is nothing to learn. "
            "A student needs answers out of a list"
        )
    tried: list[Trained] = []
    names = ("l1", "l2") if job.level == "auto" else (job.level,)
    for number, level in enumerate(names):

        def told(done: int, total: int, what: str, number: int = number, level: str = level) -> None:
            progress(number * total + done, len(names) * total, f"{level}: {what}")

        about: Any = {"seed": job.seed, "template": source.template.digest, "progress": told}
        try:
            if level == "l3":
                tried.append(import_module("upeti.learning.encoder").train_encoder(training, source.form, **about))
            else:
                tried.append(train(training, source.form, level=level, **about))  # type: ignore[arg-type]
        except (UpetiError, ModuleNotFoundError):
            if not tried:
                raise  # the encoder's packages are missing: auto takes what there is
            left_out[f"level {level} could not be tried: its packages are missing"] += 0
    best = tried[0]
    for other in tried[1:]:
        if other.report.coverage(job.alpha) > best.report.coverage(job.alpha) + _AGREE_MIN_GAIN:
            best = other
    with tempfile.TemporaryDirectory(prefix="upeti-train-") as place:
        folder = Path(place) / "student"
        sha256 = keep(best, folder, card(best, name=job.name))
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = best.report
    return Made(
        files=files,
        sha256=sha256,
        level=report.level,
        levels=tuple(Level(one.report.level, one.report.agreement, one.report.coverage(job.alpha)) for one in tried),
        rows=report.rows,
        answers=len(answers),
        calibration_rows=len(calibration),
        left_out=dict(left_out) | ({"the answer is not of the task's form": unreadable} if unreadable else {}),
        agreement=report.agreement,
        coverage=report.coverage(job.alpha),
        curve=report.curve,
    )


def _measure(job: Measure, progress: Progress) -> Measured:
    from upeti.learning.calibration import Row, encode
    from upeti.learning.examples import Example, ExamplesError, from_lines, split
    from upeti.learning.student import load
    from upeti.learning.train import Report

    source = job.source
    left_out: Counter[str] = Counter()
    progress(0, 3, "reading rows")
    calibration: list[Example] = []
    lines = list(_lines(job.rows, source, left_out, own=False, spans=job.spans))
    if lines:
        try:
            found = from_lines(lines, text_of=lambda request: text_in(source.template, request), form=source.form)
        except ExamplesError:
            pass  # certifying says how many are needed
        else:
            left_out.update(found.left_out)
            _, calibration = split(found.rows, source.key)
    with tempfile.TemporaryDirectory(prefix="upeti-measure-") as place:
        folder = write_folder(job.files, Path(place) / "student")
        progress(1, 3, "loading the student")
        student = load(folder)
        progress(2, 3, "asking the student")
        said = student.predict([row.text for row in calibration])
    rows = [
        Row(row.id, round(float(confidence), _DIGITS), answer, row.values, bool(in_scope))
        for row, answer, confidence, in_scope in zip(calibration, *said, strict=True)
    ]
    report = msgspec.json.decode(job.files["report.json"], type=Report)
    progress(3, 3, "done")
    return Measured(
        rows=encode(rows),
        left_out=dict(left_out),
        versions=_versions(lines),
        labels_sha256=hashlib.sha256(msgspec.json.encode(student.about.labels)).hexdigest(),
        confidences=report.confidence,
        answers=tuple((one.values, one.rows) for one in report.answers),
    )


class _Answered(msgspec.Struct):
    class Body(msgspec.Struct):
        model: str = ""

    answer: Body


def _versions(lines: list[bytes]) -> tuple[str, ...]:
    decode = msgspec.json.Decoder(_Answered).decode
    counts: Counter[str] = Counter()
    for line in lines:
        try:
            counts[decode(line).answer.model] += 1
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return tuple(name for name, _ in counts.most_common() if name)


def write_folder(files: dict[str, bytes], folder: Path) -> Path:
    """Write a student's files into a new folder and return it. Names are plain: nothing lands elsewhere."""
    folder.mkdir(mode=0o700, parents=True)
    for name, data in files.items():
        if Path(name).name != name:
            raise JobError(f"{name!r} is no name of a student's file")
        (folder / name).write_bytes(data)
    return folder


def reasons(left_out: Counter[str] | dict[str, int]) -> str:
    """Return what was left out, for people."""
    return "; ".join(f"{rows:,} rows: {why}" for why, rows in left_out.items() if rows) or "there are no rows"
