"""A student: what it sees, how it decides, and the folder that it is kept in.

A folder holds ``student.json`` (form, labels, what it was made of, the SHA-256 of every other file), the arrays in
``weights.safetensors`` and the digest of ``student.json`` in ``digest``. The digest names the student: a certificate is bound
to it. No file can run code. A folder appears whole or not at all; whatever byte of it changes later, it is not loaded.

Levels: ``l1`` sees n-grams only and needs no more than numpy; ``l2`` sees a packaged encoder's vector too, whose files are
named in ``student.json`` by digest, because another build of them would be another student; ``l3`` sees a vector of its own
encoder besides, which lies in the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from upeti.core.errors import UpetiError
from upeti.learning.answers import AnswerForm, Values
from upeti.learning.features import BUCKETS, TfIdf
from upeti.learning.linear import FEATURES, WAVES, Floats, Trust, decide, joint, softmax, waves
from upeti.providers import minilm

Level = Literal["l1", "l2", "l3"]
Embed = Callable[[Sequence[str]], Floats]

FORMAT: Final = 1
STUDENT_FILE: Final = "student.json"
WEIGHTS_FILE: Final = "weights.safetensors"
ENCODER_FILE: Final = "encoder.onnx"  # of a student of level l3
DIGEST_FILE: Final = "digest"
_DIGITS: Final = 6  # of a confidence: the same text has the same one in whatever batch it comes


class StudentError(UpetiError):
    """A folder cannot be used as a student. The message names the file and the cure."""


class Predicted(NamedTuple):
    """What a student says of n texts.

    ``answers``: n tuples of strings, one for each field (of tags: one for each tag). ``confidence``: n float32 in [0, 1], of all
    fields together. ``in_scope``: n booleans; False where a text is unlike all that the student learned from.
    """

    answers: list[Values]
    confidence: NDArray[np.float32]
    in_scope: NDArray[np.bool_]


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``student.json``."""

    format: int
    level: Level
    form: AnswerForm
    labels: tuple[tuple[str, ...], ...]  # of each field; of tags: of each tag, not there and there
    scope: tuple[float, float]  # least share of known n-grams; least cosine with a middle of training vectors
    template: str = ""  # digest of the prompt template that the texts were cut out with
    encoder: str = ""  # digest of the encoder's files
    trained: dict[str, str | int | float] = {}  # rows, seed and so on: for people
    files: dict[str, str] = {}  # name -> SHA-256


class Student:
    """A student in memory. Made by ``train`` or ``load``; predicting changes nothing in it."""

    def __init__(self, about: About, arrays: dict[str, NDArray[Any]], embed: Embed | None, digest: str = "") -> None:
        """``embed`` turns texts into the encoder's vectors (of ``l3``: both encoders'); an ``l1`` needs none."""
        self.about = about
        self.digest = digest
        self.arrays = arrays
        self._embed = embed
        self._tf_idf = TfIdf(arrays["buckets"], arrays["rarity"])
        self._grams: Floats = arrays["grams"]
        self._bias: Floats = arrays["bias"]
        self._trusts = []
        self._ends = []
        start = 0
        for field, labels in enumerate(about.labels):
            end = start + len(labels)
            self._trusts.append(Trust(arrays["label_trust"][start:end], arrays["trust"][field]))
            self._ends.append((start, end))
            start = end

    @property
    def form(self) -> AnswerForm:
        return self.about.form

    def predict(self, texts: Sequence[str]) -> Predicted:
        """Return what the student says of each text. The answer to a text does not depend on the others."""
        if not texts:
            return Predicted([], np.zeros(0, np.float32), np.zeros(0, np.bool_))
        scores, in_scope = self.scores(texts)
        said = []
        confidences = []
        for (start, end), trust in zip(self._ends, self._trusts, strict=True):
            labels, confidence = decide(softmax(scores[:, start:end]), trust)
            said.append(labels.tolist())
            confidences.append(confidence)
        return Predicted(self.answers_of(said), np.round(joint(confidences), _DIGITS), in_scope)

    def scores(self, texts: Sequence[str]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return n × k scores, of all fields' labels side by side, and which texts are in scope."""
        least_known, least_cosine = self.about.scope
        if len(texts) == 1:
            columns, values, share = self._tf_idf.one(texts[0])
            scores = (values @ self._grams[columns])[np.newaxis] + self._bias
            known = np.array([share], np.float32)
        else:
            counts, known = self._tf_idf(texts)
            scores = counts @ self._grams + self._bias
        in_scope = known >= least_known
        if self._embed is not None:
            vectors = self._embed(texts)
            scores += vectors @ self.arrays["vectors"]
            scores += waves(vectors, self.arrays["frequencies"]) @ self.arrays["waves"]
            in_scope &= (vectors @ self.arrays["middles"].T).max(1) >= least_cosine
        return scores, in_scope

    def answers_of(self, said: list[list[int]]) -> list[Values]:
        """Return the values that each field's numbers of labels are."""
        named = [[labels[one] for one in field] for labels, field in zip(self.about.labels, said, strict=True)]
        if self.form.kind == "tags":
            return [tuple(sorted(tag for tag in row if tag)) for row in zip(*named, strict=True)]
        return list(zip(*named, strict=True))


# -- the folder
# -------------------------------------------------------------------------------------------------------------


def save(student: Student, folder: Path, more: dict[str, bytes] | None = None) -> str:
    """Write a student's folder and return its digest; ``more`` are other files of it, such as its card.

    Raises ``StudentError`` when the folder is there already.
    """
    from safetensors.numpy import save as to_safetensors

    if folder.exists():
        raise StudentError(f"{folder} is there already: a student is never changed, give another folder")
    files = {**(more or {}), WEIGHTS_FILE: to_safetensors(student.arrays)}
    about = msgspec.structs.replace(student.about, files={name: _sha256(data) for name, data in sorted(files.items())})
    paper = msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n"
    files |= {STUDENT_FILE: paper, DIGEST_FILE: _sha256(paper).encode() + b"\n"}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, data in files.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StudentError(f"{folder} cannot be written ({error.strerror}): give a folder that can") from None
    return _sha256(paper)


def load(folder: Path, *, digest: str = "", embed: Embed | None = None) -> Student:
    """Return the student of a folder. ``digest``: what it must be, if known; ``embed``: vectors of an encoder in use already.

    Raises ``StudentError`` when anything is missing, changed, of a newer version, or not of the shape it must have.
    """
    paper = _read(folder / STUDENT_FILE)
    found = _sha256(paper)
    if found.encode() + b"\n" != _read(folder / DIGEST_FILE):
        raise StudentError(f"{folder / STUDENT_FILE} or {DIGEST_FILE} beside it was changed: {_RESTORE}")
    if digest and found != digest:
        raise StudentError(f"{folder} is another student ({found[:12]}, not {digest[:12]}): give that one's folder")
    about = _about(folder, paper)
    weights = encoder = b""
    for name, expected in about.files.items():
        data = _read(folder / name)
        if _sha256(data) != expected:
            raise StudentError(f"{folder / name} was changed since the student was made: {_RESTORE}")
        if name == WEIGHTS_FILE:
            weights = data
        elif name == ENCODER_FILE:
            encoder = data
    arrays = _arrays(folder, about, weights)
    if about.level == "l1":
        return Student(about, arrays, None, found)
    if about.encoder != minilm.files_digest():
        raise StudentError(
            f"{folder / STUDENT_FILE} was made with another build of {minilm.MODEL}: "
            "install the packages that it was made with, or train it anew"
        )
    embed = embed or minilm.MiniLm().embed
    if about.level == "l3":
        try:
            embed = with_encoder(embed, encoder)
        except (RuntimeError, ValueError) as error:  # of onnxruntime
            raise StudentError(f"{folder / ENCODER_FILE} cannot be run ({error}): {_RESTORE}") from None
    return Student(about, arrays, embed, found)


def with_encoder(embed: Embed, model: bytes) -> Embed:
    """Return what puts the vectors of a tuned MiniLM (ONNX) beside those that ``embed`` gives."""
    tuned = minilm.MiniLm(model)
    return lambda texts: np.hstack((embed(texts), tuned.embed(texts)))


_RESTORE: Final = "restore the folder from a copy, or train the student anew"


def _about(folder: Path, paper: bytes) -> About:
    class Version(msgspec.Struct):
        format: int

    path = folder / STUDENT_FILE
    try:
        version = msgspec.json.decode(paper, type=Version).format
        if version > FORMAT:
            raise StudentError(f"{path} was made by a newer Upeti (format {version}): update this one")
        about = msgspec.json.decode(paper, type=About)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StudentError(f"{path} is no student ({error}): {_RESTORE}") from None
    if WEIGHTS_FILE not in about.files or any(Path(name).name != name for name in about.files):
        raise StudentError(f"{path} names no {WEIGHTS_FILE}, or a file elsewhere: {_RESTORE}")
    if (about.level == "l3") != (ENCODER_FILE in about.files):
        raise StudentError(f"{path} is of level {about.level} and does not fit its files: {_RESTORE}")
    return about


def _arrays(folder: Path, about: About, data: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_safetensors

    path = folder / WEIGHTS_FILE
    try:
        arrays = from_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StudentError(f"{path} cannot be read ({error}): {_RESTORE}") from None
    count = sum(map(len, about.labels))
    words = len(arrays.get("buckets", ()))
    shapes: dict[str, tuple[int, ...]] = {
        "buckets": (words,),
        "rarity": (words,),
        "grams": (words, count),
        "bias": (count,),
        "label_trust": (count,),
        "trust": (len(about.labels), FEATURES + 1),
    }
    if about.level != "l1":
        width = minilm.DIMENSIONS * (2 if about.level == "l3" else 1)
        shapes["vectors"] = (width, count)
        shapes["frequencies"] = (width, WAVES // 2)
        shapes["waves"] = (WAVES, count)
        shapes["middles"] = (len(arrays.get("middles", ())), width)
    for name, shape in shapes.items():
        kind = np.int32 if name == "buckets" else np.float32
        if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != kind:
            raise StudentError(f"{path} has no `{name}` of shape {shape}: {_RESTORE}")
        if kind is np.float32 and not np.isfinite(arrays[name]).all():
            raise StudentError(f"{path} has numbers in `{name}` that are none: {_RESTORE}")
    buckets = arrays["buckets"]
    if not count or not all(about.labels) or (buckets < 0).any() or (buckets >= BUCKETS).any():
        raise StudentError(f"{path} does not fit {STUDENT_FILE}: {_RESTORE}")
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudentError(f"{path} cannot be read ({error.strerror}): {_RESTORE}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
