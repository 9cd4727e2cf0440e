"""Level 3 of the ladder: MiniLM fine-tuned on the teacher's answers, averaged with a student of level 2.

What is tuned is the encoder alone: it gives a text another vector of length 1, and a linear head reads both. So the student
that comes out is one of level 2 with 768 numbers a text in place of 384: its folder, its confidence and its scope are the
same, with ``encoder.onnx`` (int8) beside them. PyTorch trains it; onnxruntime serves it.

Rules: only rows to train on are looked at. How long to train, how much each part counts and how sure to be are told by rows
that were held out; then everything is fitted anew on all rows. The same rows, seed and machine give the same student.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from upeti.learning.answers import UNREADABLE, AnswerForm, Values
from upeti.learning.examples import Example
from upeti.learning.linear import Floats, Ints, Trust, decide, fit_trust, joint, softmax
from upeti.learning.student import ENCODER_FILE, Embed, Student, with_encoder
from upeti.learning.torch_extra import half_precision, need_torch
from upeti.learning.train import ROWS_MIN, OfAnswer, Progress, Report, Trained, TrainingError, train
from upeti.providers import minilm

FOLDS: Final = 4  # of the rows, one is held out at a time
_SHARPNESS: Final = 10.0  # of the head while the encoder is tuned: vectors have length 1
_HEAD_RATE: Final = 70.0  # the head starts from nothing: it learns so many times as fast
_WARM_UP: Final = 0.1  # of the steps
_BUCKET: Final = 16  # batches in which texts of like length are put together
_WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)  # of each part, the best pair of which is taken
_UNSEEN: Final = -20.0  # score of a label that no row has: it is never answered
_RIGHT_AT_LEAST: Final = 0.99  # of the vectors' cosines with those before int8; less is another encoder


class EncoderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an encoder is tuned. ``held_out`` of the ``FOLDS`` quarters of the rows are predicted without them: each costs
    a training more, and makes confidence better founded. ``frozen``: the lowest layers, of six, that stay as they are.
    """

    epochs_max: int = 6
    patience: int = 1  # epochs without a better agreement on what was held out
    batch: int = 32
    learning_rate: float = 3e-4
    tokens_max: int = 128
    held_out: int = 1
    frozen: int = 3
    threads: int = 1


class _Tuned(NamedTuple):
    """An encoder as it was after ``epochs``, with its head, and what it says of the rows held out."""

    encoder: Any
    weights: Floats  # 384 × k
    bias: Floats
    held: Floats  # scores
    epochs: int


def train_encoder(
    examples: Sequence[Example],
    form: AnswerForm,
    *,
    options: EncoderOptions = EncoderOptions(),  # noqa: B008 (frozen)
    seed: int = 0,
    template: str = "",
    embed: Embed | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Trained:
    """Train on ``examples`` (of the training side only). ``embed``: MiniLM's vectors, if they are had already.

    Raises ``ConfigError`` where PyTorch is missing, ``TrainingError`` where there are too few rows.
    """
    torch = need_torch("onnx")
    known = [row for row in examples if row.values != UNREADABLE]
    if len(known) < FOLDS * ROWS_MIN:
        raise TrainingError(
            f"{len(known)} rows with an answer are too few to tune an encoder: it needs {FOLDS * ROWS_MIN}, better 1,000"
        )
    if not 1 <= options.held_out <= FOLDS:
        raise TrainingError(f"from 1 to {FOLDS} quarters of the rows can be held out, not {options.held_out}")
    embed = embed or minilm.MiniLm().embed
    torch.set_num_threads(options.threads)
    steps = _Steps(progress, (options.held_out + 1) * options.epochs_max + 2)
    texts = [row.text for row in known]
    with threadpool_limits(options.threads):
        steps.next("the student of level 2")
        of_all = train(known, form, level="l2", seed=seed, template=template, embed=embed)
        base = of_all.student
        numbers = _numbers(base, [row.values for row in known])
        fold = np.random.default_rng(seed).permutation(len(known)) % FOLDS
        held, of_l2, of_tuned, epochs = [], [], [], []
        for number in range(options.held_out):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            part = train([known[row] for row in inside], form, level="l2", seed=seed, embed=embed).student
            tuned = _tune(texts, numbers, base.about.labels, inside, outside, options, seed, options.epochs_max, steps)
            held.append(outside)
            of_l2.append(_scores_l2(part, base, [texts[row] for row in outside]))
            of_tuned.append(tuned.held)
            epochs.append(tuned.epochs)
        rows = np.concatenate(held)
        l2, alone = np.concatenate(of_l2), np.concatenate(of_tuned)
        weights = _best_weights(l2, alone, numbers[rows], base.about.labels)
        longest = max(1, round(float(np.mean(epochs))))
        every = np.arange(len(known))
        tuned = _tune(texts, numbers, base.about.labels, every, every[:0], options, seed, longest, steps)
        steps.next("ONNX")
        model = _onnx(tuned.encoder, texts[:64], options.tokens_max)
    both = l2 * np.float32(weights[0]) + alone * np.float32(weights[1])
    trusts = [fit_trust(softmax(both[:, s]), numbers[rows, f]) for f, s in enumerate(_slices(base.about.labels))]
    about: dict[str, str | int | float] = {
        "rows": len(known),
        "seed": seed,
        "epochs": longest,
        "learning_rate": options.learning_rate,
        "weight_l2": weights[0],
        "weight_tuned": weights[1],
        # Alone, on the rows held out.
        "agreement_l2": round(float(_agree(l2, numbers[rows], base.about.labels).mean()), 4),
        "agreement_tuned": round(float(_agree(alone, numbers[rows], base.about.labels).mean()), 4),
    }
    student = _student(base, tuned, weights, trusts, with_encoder(embed, model), template, about)
    taught = [known[row].values for row in rows]
    report = _report(student, both, trusts, numbers[rows], taught, len(examples) - len(known), of_all.report.curve)
    steps.end()
    return Trained(student, report, {ENCODER_FILE: model})


class _Steps:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self.done = 0
        self.total = total

    def next(self, what: str) -> None:
        self._progress(self.done, self.total, what)
        self.done = min(self.done + 1, self.total)

    def end(self) -> None:
        self._progress(self.total, self.total, "done")


# -- tuning
# -------------------------------------------------------------------------------------------------------------


def _tune(
    texts: list[str],
    numbers: Ints,
    labels: tuple[tuple[str, ...], ...],
    rows: Ints,
    held: Ints,
    options: EncoderOptions,
    seed: int,
    epochs: int,
    steps: _Steps,
) -> _Tuned:
    """Tune on ``rows``. With ``held`` rows it stops when these agree no better, and what was best is returned."""
    import torch
    from transformers import BertModel

    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    encoder: Any = BertModel.from_pretrained(str(minilm.weights_folder()), add_pooling_layer=False)
    encoder.embeddings.requires_grad_(False)
    for layer in encoder.encoder.layer[: options.frozen]:
        layer.requires_grad_(False)
    head = torch.nn.Linear(minilm.DIMENSIONS, sum(map(len, labels)))
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in encoder.parameters() if one.requires_grad], "lr": options.learning_rate},
            {"params": head.parameters(), "lr": options.learning_rate * _HEAD_RATE},
        ],
        weight_decay=0.01,
    )
    tokens = _tokens(texts, options.tokens_max)
    batches_an_epoch = -(-len(rows) // options.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(epochs * batches_an_epoch))
    slices = _slices(labels)
    rng = np.random.default_rng(seed)
    best = _Tuned(encoder, np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 0), np.float32), 0)
    best_agreement, waited = -1.0, 0
    for epoch in range(1, epochs + 1):
        steps.next(f"tuning, epoch {epoch}" + (" (held out)" if len(held) else ""))
        encoder.train()
        for batch in _batches(rows, tokens, options.batch, rng):
            with _half():
                scores = head(_vectors(encoder, [tokens[row] for row in batch]) * _SHARPNESS).float()
            wanted = torch.from_numpy(numbers[batch])
            loss: Any = sum(torch.nn.functional.cross_entropy(scores[:, s], wanted[:, f]) for f, s in enumerate(slices))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not len(held):
            continue
        found = _predict(encoder, head, [tokens[row] for row in held])
        agreement = float(_agree(found, numbers[held], labels).mean())
        if agreement > best_agreement:
            best_agreement, waited = agreement, 0
            best = best._replace(held=found, epochs=epoch)
        else:
            waited += 1
            if waited > options.patience:
                steps.done += epochs - epoch
                break
    encoder.eval()
    weights = head.weight.detach().numpy().T.astype(np.float32) * np.float32(_SHARPNESS)
    return best._replace(weights=weights, bias=head.bias.detach().numpy().astype(np.float32))


def _rate(steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / max(1.0, _WARM_UP * steps)) * (1 - 0.95 * step / max(1, steps))


def _tokens(texts: Sequence[str], most: int) -> list[list[int]]:
    tokenizer = minilm.tokenizer(most)
    return [one.ids for one in tokenizer.encode_batch([text[: minilm.CHARACTERS_MAX] for text in texts])]


def _batches(rows: Ints, tokens: list[list[int]], size: int, rng: np.random.Generator) -> list[Ints]:
    """Return the rows in a new order, in batches of texts of like length: a batch is as wide as its longest."""
    order = rng.permutation(rows)
    batches = []
    for start in range(0, len(order), size * _BUCKET):
        some = order[start : start + size * _BUCKET]
        some = some[np.argsort([len(tokens[row]) for row in some], kind="stable")]
        batches += [some[first : first + size] for first in range(0, len(some), size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def _padded(tokens: list[list[int]]) -> tuple[Any, Any]:
    import torch

    width = max(map(len, tokens))
    ids = torch.zeros((len(tokens), width), dtype=torch.long)
    mask = torch.zeros((len(tokens), width), dtype=torch.long)
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = torch.tensor(one)
        mask[row, : len(one)] = 1
    return ids, mask


def _half() -> Any:
    """Return a context of half precision where the processor computes in it (twice as fast); else of nothing."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=half_precision(torch))


def _vectors(encoder: Any, tokens: list[list[int]]) -> Any:
    ids, mask = _padded(tokens)
    return _pooled(encoder(ids, attention_mask=mask).last_hidden_state, mask)


def _pooled(hidden: Any, mask: Any) -> Any:
    import torch

    return torch.nn.functional.normalize((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), dim=1)


def _predict(encoder: Any, head: Any, tokens: list[list[int]]) -> Floats:
    import torch

    encoder.eval()
    scores = np.zeros((len(tokens), head.out_features), np.float32)
    order = np.argsort([len(one) for one in tokens], kind="stable")
    with torch.no_grad(), _half():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            scores[rows] = head(_vectors(encoder, [tokens[row] for row in rows]) * _SHARPNESS).float().numpy()
    return scores


# -- from parts to a student
# -------------------------------------------------------------------------------------------------------------


def _numbers(student: Student, values: list[Values]) -> Ints:
    """Return each row's labels as numbers (n × fields)."""
    labels = student.about.labels
    if student.form.kind == "tags":
        return np.array([[field[1] in row for field in labels] for row in values], np.int64)
    places = [{label: number for number, label in enumerate(field)} for field in labels]
    return np.array([[place[one] for place, one in zip(places, row, strict=True)] for row in values], np.int64)


def _slices(labels: tuple[tuple[str, ...], ...]) -> list[slice]:
    ends = np.cumsum([0, *map(len, labels)])
    return [slice(start, end) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


def _scores_l2(part: Student, whole: Student, texts: list[str]) -> Floats:
    """Return the scores of a student that was trained on a part, by the labels of the one trained on all."""
    found, _ = part.scores(texts)
    scores = np.full((len(texts), sum(map(len, whole.about.labels))), _UNSEEN, np.float32)
    fields = zip(
        whole.about.labels, _slices(whole.about.labels), part.about.labels, _slices(part.about.labels), strict=True
    )
    for labels, where, of_part, where_of_part in fields:
        columns = [where.start + labels.index(label) for label in of_part]
        scores[:, columns] = found[:, where_of_part]
    return scores


def _agree(scores: Floats, numbers: Ints, labels: tuple[tuple[str, ...], ...]) -> NDArray[np.bool_]:
    said = np.column_stack([scores[:, where].argmax(1) for where in _slices(labels)])
    return np.asarray((said == numbers).all(1))


def _best_weights(l2: Floats, tuned: Floats, numbers: Ints, labels: tuple[tuple[str, ...], ...]) -> tuple[float, float]:
    """Return how much each part counts: what makes the teacher's answers of the rows held out the likeliest."""
    rows = np.arange(len(numbers))

    def surprise(pair: tuple[float, float]) -> float:
        both = l2 * np.float32(pair[0]) + tuned * np.float32(pair[1])
        return sum(
            -float(np.log(np.maximum(softmax(both[:, where])[rows, numbers[:, field]], 1e-9)).mean())
            for field, where in enumerate(_slices(labels))
        )

    return min(((one, other) for one in _WEIGHTS for other in _WEIGHTS if one + other), key=surprise)


def _student(
    base: Student,
    tuned: _Tuned,
    weights: tuple[float, float],
    trusts: list[Trust],
    embed: Embed,
    template: str,
    trained: dict[str, str | int | float],
) -> Student:
    of_l2, of_tuned = np.float32(weights[0]), np.float32(weights[1])
    middles, frequencies = base.arrays["middles"], base.arrays["frequencies"]
    arrays: dict[str, NDArray[Any]] = {
        **base.arrays,
        "grams": base.arrays["grams"] * of_l2,
        "bias": base.arrays["bias"] * of_l2 + tuned.bias * of_tuned,
        "vectors": np.vstack((base.arrays["vectors"] * of_l2, tuned.weights * of_tuned)),
        "frequencies": np.vstack((frequencies, np.zeros_like(frequencies))),
        "waves": base.arrays["waves"] * of_l2,
        # What a text is about in general is told by the encoder that was not tuned.
        "middles": np.hstack((middles, np.zeros_like(middles))),
        "label_trust": np.concatenate([trust.label_trust for trust in trusts]),
        "trust": np.vstack([trust.weights for trust in trusts]),
    }
    about = msgspec.structs.replace(base.about, level="l3", template=template, trained=trained)
    arrays = {name: np.ascontiguousarray(array, array.dtype) for name, array in arrays.items()}
    return Student(about, arrays, embed)


def _report(
    student: Student,
    scores: Floats,
    trusts: list[Trust],
    numbers: Ints,
    taught: list[Values],
    left_out: int,
    curve: tuple[tuple[int, float], ...],
) -> Report:
    """Return what the rows held out say. They have chosen the epochs and the weights: a certificate has the last word.

    ``curve`` is level 2's: whether more rows would help is not asked of the encoder, which would be tuned for each point.
    """
    said, sure = [], []
    for where, trust in zip(_slices(student.about.labels), trusts, strict=True):
        chosen, confidence = decide(softmax(scores[:, where]), trust)
        said.append(chosen.tolist())
        sure.append(confidence)
    answers = student.answers_of(said)
    agrees = [one == other for one, other in zip(taught, answers, strict=True)]
    counts, times_said = Counter(taught), Counter(answers)
    recalled = Counter(values for values, right in zip(taught, agrees, strict=True) if right)
    return Report(
        level="l3",
        rows=len(numbers),
        left_out=left_out,
        agreement=float(np.mean(agrees)),
        confidence=tuple(joint(sure).tolist()),
        agrees=tuple(agrees),
        answers=tuple(OfAnswer(one, count, recalled[one], times_said[one]) for one, count in counts.most_common()),
        curve=curve,
    )


# -- to a file
# -------------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of its own future, and of lines of the libraries, from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _onnx(encoder: Any, texts: list[str], tokens_max: int) -> bytes:
    """Return the tuned encoder in int8. Raises ``TrainingError`` where its vectors are not what they were."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Vectors(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return _pooled(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state, attention_mask)

    tokens = _tokens(texts, tokens_max)
    ids, mask = _padded(tokens[:2] * 2)
    encoder.eval()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), _quiet():
        whole, small = Path(scratch) / "whole.onnx", Path(scratch) / "small.onnx"
        torch.onnx.export(
            Vectors().eval(),
            (ids, mask),
            str(whole),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={"input_ids": {0: "texts", 1: "tokens"}, "attention_mask": {0: "texts", 1: "tokens"}},
            opset_version=17,
            dynamo=False,
        )
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True)
        model = small.read_bytes()
        before = np.vstack([_vectors(encoder, [one]).numpy() for one in tokens])
    cosine = float((before * minilm.MiniLm(model).embed(texts)).sum(1).mean())
    if cosine < _RIGHT_AT_LEAST:
        raise TrainingError(f"the encoder in int8 is another one (cosine {cosine:.3f}): train with another --seed")
    return model
