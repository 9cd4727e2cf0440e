"""What students of recorded paid models can answer, under a certificate and beside published figures, and how fast.

    python -m benchmarks.learning [--only certified|ocats|online|speed] [--splits 10] [--quick] [--shared ../shared/data]

*certified*: the rows of a task are split at random into rows to train on, to calibrate on and to measure on; the student is
trained on the teacher's answers, its threshold certified (at most 5 % of all calls answered differently from the teacher,
delta 5 %), and what it then does measured on the third part; ten times. Gold labels only measure accuracy. *ocats*: the stream
of "Cache me if you Can" (Findings of EMNLP 2023): 231 examples to begin with, then every call is the student's or
GPT-4's, whose answers are learned. *online*: from no row at all, in one pass, certified. *speed*: beside scikit-learn's own
pipeline, on one core. Writes build/bench-learning.json.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import machine, report
from benchmarks.report import Figure, figure
from upeti.learning.answers import AnswerForm, form_of_texts
from upeti.learning.calibration import Row
from upeti.learning.examples import Example
from upeti.learning.linear import Floats
from upeti.learning.student import Level, Predicted, Student, save
from upeti.learning.threshold import Kind, Target, certify
from upeti.learning.train import train
from upeti.providers.minilm import MiniLm

RESULT: Final = machine.BUILD.parent / "bench-learning.json"
CACHE: Final = machine.BUILD / "learning-vectors"
ALPHA: Final = 0.05
DELTA: Final = 0.05
TARGET: Final = Target(Kind.SYSTEM, ALPHA)
OCATS_SHARE: Final = 0.25  # of the calls go to the teacher
# Shares of the rows to train on and to calibrate on; the rest measures.
SHARES: Final = (0.69, 0.165)


class Task(NamedTuple):
    """Rows of a task: texts, the teacher's answers, gold labels."""

    name: str
    texts: list[str]
    teacher: list[str]
    gold: list[str]

    def examples(self, places: Sequence[int]) -> list[Example]:
        return [Example(str(place), self.texts[place], (self.teacher[place],)) for place in places]


class Measured(NamedTuple):
    """What one student did on rows that neither training nor calibration saw."""

    agreement: float  # of the student, if it answered all
    answered: float
    system: float  # share of all rows that got the teacher's answer
    accuracy: float  # of the cascade
    teacher: float
    alone: float
    quarter: (
        float  # accuracy of the cascade that leaves about a quarter of the calls to the teacher, without a certificate
    )


# -- data
# -------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        raise machine.UnfitError(
            f"{path} is not there: put it there, or name the folder of all data sets in UPETI_SHARED"
        ) from None


def _task(name: str, rows: list[dict[str, str]], teacher: str) -> Task:
    # Of the same text the first answer counts; a second look at a teacher would only show its noise.
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        first.setdefault(" ".join(row["text"].casefold().split()), row)
    kept = list(first.values())
    return Task(name, [row["text"] for row in kept], [row[teacher] for row in kept], [row["gold"] for row in kept])


def banking(shared: Path, *names: str) -> Task:
    """Return GPT-4's answers to customers of a bank, 77 intents."""
    rows = [row for name in names for row in _read(shared / "banking77-gpt4" / f"{name}.csv")]
    return _task("Banking77, GPT-4", rows, "gpt4")


def policy(shared: Path) -> Task:
    """Return GPT-4o's topics of titles of British laws, 21 topics."""
    rows = _read(shared / "textclass-llm-labels" / "test_llm" / "policy_EN.csv")
    return _task("policy EN, gpt-4o-2024-11-20", rows, "gpt-4o-2024-11-20")


@cache
def _encoder() -> MiniLm:
    return MiniLm()


_known: dict[str, Floats] = {}


def vectors(texts: Sequence[str]) -> Floats:
    """Return the encoder's vectors, of each text made once and kept between runs."""
    missing = list(dict.fromkeys(text for text in texts if text not in _known))
    if missing:
        CACHE.mkdir(parents=True, exist_ok=True)
        path = CACHE / f"{hashlib.sha256(repr(missing).encode()).hexdigest()[:32]}.npy"
        if not path.exists():
            print(f"vectors of {len(missing):,} texts …", flush=True)
            np.save(path, _encoder().embed(missing))
        _known.update(zip(missing, np.load(path), strict=True))
    return np.array([_known[text] for text in texts], np.float32)


# -- under a certificate
# -------------------------------------------------------------------------------------------------------------


Predict = Callable[[Sequence[str]], Predicted]


def student(task: Task, places: Sequence[int], level: Level, seed: int) -> Predict:
    """Return a student of the task, trained as Upeti trains it."""
    form = form_of_texts(task.teacher)
    return _trained(form, task.examples(places), level, seed).predict


def _trained(form: AnswerForm, examples: list[Example], level: Level, seed: int) -> Student:
    return train(examples, form, level=level, seed=seed, embed=vectors if level == "l2" else None).student


def plain(task: Task, places: Sequence[int]) -> Predict:
    """Return the peer: scikit-learn's TF-IDF beside the encoder's vector, logistic regression, highest probability."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)

    def seen(texts: Sequence[str]) -> Any:
        grams = [words.transform(texts), letters.transform(texts)]
        return sparse.hstack([*grams, sparse.csr_matrix(vectors(texts))]).tocsr()

    texts = [task.texts[place] for place in places]
    words.fit(texts)
    letters.fit(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: it gets as many steps as the student's
        model = LogisticRegression(C=10, max_iter=150, tol=1e-3).fit(
            seen(texts), [task.teacher[place] for place in places]
        )

    def predict(texts: Sequence[str]) -> Predicted:
        probabilities = model.predict_proba(seen(texts))
        answers = [(str(model.classes_[one]),) for one in probabilities.argmax(1)]
        return Predicted(answers, probabilities.max(1).astype(np.float32), np.ones(len(texts), np.bool_))

    return predict


def rows_of(task: Task, places: Sequence[int], predicted: Predicted) -> list[Row]:
    return [
        Row(str(place), min(1.0, float(sure)), said, (task.teacher[place],), bool(inside))
        for place, said, sure, inside in zip(places, *predicted, strict=True)
    ]


def measure(task: Task, predict: Predict, calibration: Sequence[int], test: Sequence[int]) -> Measured:
    """Certify a threshold on the calibration rows and look at what it does on the test rows."""
    calibrated = predict([task.texts[place] for place in calibration])
    found = certify(rows_of(task, calibration, calibrated), TARGET, DELTA)
    predicted = predict([task.texts[place] for place in test])
    said = np.array([answer[0] for answer in predicted.answers])
    teacher = np.array([task.teacher[place] for place in test])
    gold = np.array([task.gold[place] for place in test])
    serves = np.zeros(len(test), np.bool_)
    if found.threshold is not None:
        serves = (predicted.confidence >= found.threshold) & predicted.in_scope
    given = np.where(serves, said, teacher)
    surer = predicted.confidence >= np.quantile(calibrated.confidence, OCATS_SHARE)
    return Measured(
        float((said == teacher).mean()),
        float(serves.mean()),
        float((given == teacher).mean()),
        float((given == gold).mean()),
        float((teacher == gold).mean()),
        float((said == gold).mean()),
        float((np.where(surer, said, teacher) == gold).mean()),
    )


def splits(task: Task, count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Return the places to train on, to calibrate on and to measure on, drawn anew ``count`` times."""
    made = []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(len(task.texts)).tolist()
        first = round(SHARES[0] * len(order))
        second = first + round(SHARES[1] * len(order))
        made.append((order[:first], order[first:second], order[second:]))
    return made


def certified(shared: Path, count: int) -> list[Figure]:
    figures = []
    aims = {"Banking77, GPT-4": 0.72}
    for task in (banking(shared, "test_llm", "dev_llm"), policy(shared)):
        vectors(task.texts)
        found: dict[str, list[Measured]] = {"l1": [], "l2": [], "plain": []}
        for seed, (training, calibration, test) in enumerate(splits(task, count)):
            found["plain"].append(measure(task, plain(task, training), calibration, test))
            for level in ("l1", "l2"):
                found[level].append(measure(task, student(task, training, level, seed), calibration, test))
            print(f"{task.name}: split {seed + 1} of {count}", flush=True)
        sizes = [len(part) for part in splits(task, 1)[0]]
        print(f"{task.name}: {sizes[0]} rows to train on, {sizes[1]} to calibrate on, {sizes[2]} to measure on")
        mean = {name: Measured(*np.mean(rows, 0).tolist()) for name, rows in found.items()}
        for name, row in mean.items():
            over = sum(one.system < 1 - ALPHA for one in found[name])
            print(f"  {name:6}" + "  ".join(f"{key} {value:.3f}" for key, value in row._asdict().items()), over)
        peer = "TF-IDF+MiniLM+LR"
        other = mean["plain"]
        for level in ("l1", "l2"):
            row = mean[level]
            aim = aims.get(task.name) if level == "l2" else None
            about = f"{task.name}: {level}"
            figures += [
                figure(
                    f"{about}, calls answered, certified 95 %",
                    "%",
                    100 * row.answered,
                    peer,
                    100 * other.answered,
                    at_least=None if aim is None else 100 * aim,
                ),
                figure(
                    f"{about}, calls that got the teacher's answer",
                    "%",
                    100 * row.system,
                    peer,
                    100 * other.system,
                    at_least=100 * (1 - ALPHA),
                ),
                figure(f"{about}, accuracy with the teacher", "%", 100 * row.accuracy, "teacher", 100 * row.teacher),
                figure(
                    f"{about}, accuracy with a quarter of the calls", "%", 100 * row.quarter, peer, 100 * other.quarter
                ),
                figure(f"{about}, agreement if it answered all", "%", 100 * row.agreement, peer, 100 * other.agreement),
            ]
    return figures


# -- streams
# -------------------------------------------------------------------------------------------------------------

_OCATS_FIRST: Final = 0.5  # of the budget: spent on the first calls, whatever the student says
_LEARN_EVERY: Final = 400
_RECENT: Final = 400


def ocats(shared: Path, orders: int) -> list[Figure]:
    """A budget of a quarter of GPT-4's calls: half of it at once, the rest for the calls that the student is least sure of."""
    task = banking(shared, "test_llm")
    vectors(task.texts)
    first = [
        Example(f"few-{number}", row["text"], (row["gold"],))
        for number, row in enumerate(_read(shared / "banking77-gpt4" / "fewshot_gold.csv"))
    ]
    found = []
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(task.texts)).tolist()
        found.append(_ocats_run(task, first, order, seed))
        print(f"ocats: order {seed + 1} of {orders}: accuracy {found[-1][0]:.4f} with {found[-1][1]:.4f}", flush=True)
    accuracy, calls = np.mean(found, 0).tolist()
    teacher = np.mean([said == gold for said, gold in zip(task.teacher, task.gold, strict=True)])
    return [
        figure("OCaTS stream: accuracy", "%", 100 * accuracy, "OCaTS", 82.7, at_least=83.5),
        figure("OCaTS stream: accuracy", "%", 100 * accuracy, "GPT-4 alone", 100 * float(teacher)),
        figure("OCaTS stream: calls of GPT-4", "%", 100 * calls, at_most=100 * OCATS_SHARE),
    ]


def _ocats_run(task: Task, first: list[Example], order: list[int], seed: int) -> tuple[float, float]:
    form = form_of_texts(task.teacher)
    budget = int(OCATS_SHARE * len(order))
    known = list(first)
    at_once = int(_OCATS_FIRST * budget)
    known += task.examples(order[:at_once])
    right = [task.teacher[place] == task.gold[place] for place in order[:at_once]]
    spent = at_once
    recent: list[float] = []
    for start in range(at_once, len(order), _LEARN_EVERY):
        now = _trained(form, known, "l2", seed)
        block = order[start : start + _LEARN_EVERY]
        predicted = now.predict([task.texts[place] for place in block])
        if not recent:
            recent = predicted.confidence.tolist()
        for number, place in enumerate(block):
            share = (budget - spent) / (len(order) - start - number)
            sure = float(predicted.confidence[number])
            if spent < budget and sure <= np.quantile(recent[-_RECENT:], min(1.0, share)):
                spent += 1
                known += task.examples([place])
                right.append(task.teacher[place] == task.gold[place])
            else:
                right.append(predicted.answers[number][0] == task.gold[place])
            recent.append(sure)
    return float(np.mean(right)), spent / len(order)


_ONLINE_LOOK: Final = 1_200  # calls after which a student is trained and certified
_ONLINE_CALIBRATION: Final = 0.35  # of these calls
_ONLINE_AUDIT: Final = 0.05  # of the calls after them


def online(shared: Path, orders: int) -> list[Figure]:
    """One pass from nothing: the teacher first, then a certified student, audits counted in.

    Two promises. *Each call*: of the calls after the look at most 5 % are answered differently. *The stream*: of all its calls,
    those that the teacher got included, so that more may differ after the look; that needs to know how many calls will come.
    """
    task = banking(shared, "test_llm")
    vectors(task.texts)
    whole = len(task.texts)
    alphas = {"each call": ALPHA, "the stream": ALPHA * whole / (whole - _ONLINE_LOOK)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in alphas}
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(whole).tolist()
        held = [place for place in order[:_ONLINE_LOOK] if _drawn(seed, place) < _ONLINE_CALIBRATION]
        taught = [place for place in order[:_ONLINE_LOOK] if _drawn(seed, place) >= _ONLINE_CALIBRATION]
        predict = student(task, taught, "l2", seed)
        rows = rows_of(task, held, predict([task.texts[place] for place in held]))
        rest = order[_ONLINE_LOOK:]
        said = rows_of(task, rest, predict([task.texts[place] for place in rest]))
        for name, alpha in alphas.items():
            threshold = certify(rows, Target(Kind.SYSTEM, alpha), DELTA).threshold
            served = [
                row
                for row in said
                if threshold is not None
                and row.in_scope
                and row.confidence >= threshold
                and _drawn(seed, int(row.id)) >= _ONLINE_AUDIT
            ]
            differing = sum(not row.agrees for row in served)
            among = whole if name == "the stream" else len(rest)
            found[name].append((1 - len(served) / whole, differing / among))
        print(f"online: order {seed + 1} of {orders}: {[rows[-1] for rows in found.values()]}", flush=True)
    figures = []
    for name, pairs in found.items():
        calls, differing = np.mean(pairs, 0).tolist()
        about = f"online from nothing, promised of {name}"
        figures += [
            figure(f"{about}: calls of GPT-4", "%", 100 * calls, "before", 65, at_most=55),
            figure(f"{about}: got GPT-4's answer", "%", 100 * (1 - differing), at_least=95),
        ]
    return figures


def _drawn(seed: int, place: int) -> float:
    """Return a number in [0, 1) that is drawn for a call before anybody looks at it."""
    return random.Random(f"{seed} {place}").random()


# -- speed
# -------------------------------------------------------------------------------------------------------------

_SPEED_ROWS: Final = 10_000


def speed(shared: Path) -> list[Figure]:
    """Training on 10,000 rows and predicting, beside scikit-learn's own pipeline of the same n-grams.

    Time is CPU time of one thread: what else runs on the machine counts less.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    folder = shared / "banking77-gpt4"
    # Gold labels stand for answers here: only time is measured, and nobody recorded answers to so many rows.
    rows = (_read(folder / "train_gold.csv") + _read(folder / "test_llm.csv"))[:_SPEED_ROWS]
    examples = [Example(str(number), row["text"], (row["gold"],)) for number, row in enumerate(rows)]
    texts = [row["text"] for row in rows]
    form = form_of_texts([row["gold"] for row in rows])
    vectors(texts)
    took: dict[str, float] = {}
    made: dict[str, Student] = {}
    for level in ("l1", "l2"):
        start = time.process_time()
        made[level] = _trained(form, examples, level, 0)  # type: ignore[arg-type]
        took[level] = time.process_time() - start
    start = time.process_time()
    peer = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
        ),
        LogisticRegression(C=30, max_iter=150, tol=1e-3),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(texts, [row["gold"] for row in rows])
    peer_took = time.process_time() - start
    some = texts[:2_000]
    ours = _best(lambda: [made["l1"].predict([text]) for text in some[:500]]) / 500
    theirs = _best(lambda: [peer.predict_proba([text]) for text in some[:500]]) / 500
    ours_batch = len(some) / _best(lambda: made["l1"].predict(some))
    theirs_batch = len(some) / _best(lambda: peer.predict_proba(some))
    encoder = _encoder()
    l2 = Student(made["l2"].about, made["l2"].arrays, encoder.embed)
    both = _best(lambda: [l2.predict([text]) for text in some[:100]]) / 100
    name = "scikit-learn"
    return [
        figure("l1: train on 10,000 rows", "s", took["l1"], name, peer_took, at_most=10),
        figure("l2: train on 10,000 rows, vectors at hand", "s", took["l2"], name, peer_took, at_most=10),
        figure("l1: one text", "ms", 1000 * ours, name, 1000 * theirs, at_most=0.2),
        figure("l1: texts a second, many at once", "1/s", ours_batch, name, theirs_batch, at_least=5_000),
        figure("l2: one text, its vector included", "ms", 1000 * both, at_most=15),
        figure("l1: memory of a process with it", "MB", _memory_mb(made["l1"]), at_most=400),
        figure("l2: memory of a process with it", "MB", _memory_mb(made["l2"]), at_most=400),
    ]


def _best(run: Callable[[], object], times: int = 5) -> float:
    """Return CPU seconds of the fastest of some runs: the others were disturbed by something else."""
    took = []
    for _ in range(times):
        start = time.process_time()
        run()
        took.append(time.process_time() - start)
    return min(took)


_SERVE: Final = """import os, sys
from pathlib import Path
from upeti.learning.student import load
student = load(Path(sys.argv[1]))
student.predict(["where is my card"])
student.predict(["where is my card"] * 500)
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
"""


def _memory_mb(student: Student) -> float:
    """Return the memory of a process that has loaded the student and predicted many texts at once."""
    with tempfile.TemporaryDirectory() as place:
        save(student, Path(place) / "student")
        command = [sys.executable, "-c", _SERVE, str(Path(place) / "student")]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("certified", "ocats", "online", "speed"))
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="Two splits; figures are less certain.")
    default = os.environ.get("UPETI_SHARED", str(Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--shared", type=Path, default=Path(default), help="The folder of all data sets.")
    given = parser.parse_args()
    count = 2 if given.quick else given.splits
    figures: list[Figure] = []
    threadpool_limits(1)  # one core is measured
    try:
        for name, run in (
            ("speed", lambda: speed(given.shared)),
            ("certified", lambda: certified(given.shared, count)),
            ("ocats", lambda: ocats(given.shared, count)),
            ("online", lambda: online(given.shared, count)),
        ):
            if given.only in (None, name):
                figures += run()
    except machine.UnfitError as error:
        print(f"benchmarks.learning: {error}", file=sys.stderr)
        return 2
    print(report.table(figures, "upeti"))
    report.write(RESULT, figures, machine.Description.of_this(), {"splits": count, "only": given.only})
    return int(any(each.met is False for each in figures))


if __name__ == "__main__":
    sys.exit(main())
