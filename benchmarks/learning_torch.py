"""What a tuned encoder (level 3) gives beside level 2, on the tasks and splits of ``benchmarks.learning``, and how fast.

    python -m benchmarks.learning_torch [--splits 10] [--only banking|policy] [--held-out 1] [--shared ../shared/data]

*Certified* means what it does there. Training: seconds of one core, vectors at hand; serving: both encoders included. Needs
PyTorch (``make setup-torch``). Writes build/bench-learning-torch.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import learning, machine, report
from benchmarks.learning import Measured, Task
from benchmarks.report import Figure, figure
from upeti.learning.answers import form_of_texts
from upeti.learning.encoder import EncoderOptions, train_encoder
from upeti.learning.student import Student, load
from upeti.learning.train import keep, train

RESULT: Final = machine.BUILD.parent / "bench-learning-torch.json"
TASKS: Final = {
    "banking": lambda shared: learning.banking(shared, "test_llm", "dev_llm"),
    "policy": learning.policy,
}
TIMED: Final = 200


def figures_of(task: Task, count: int, options: EncoderOptions) -> list[Figure]:
    form = form_of_texts(task.teacher)
    learning.vectors(task.texts)
    found: dict[str, list[Measured]] = {"l2": [], "l3": []}
    speeds: dict[str, list[tuple[float, float, float]]] = {"l2": [], "l3": []}
    for seed, (training, calibration, test) in enumerate(learning.splits(task, count)):
        rows = task.examples(training)
        for level in ("l2", "l3"):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / level
                began = time.process_time()
                if level == "l2":
                    made = train(rows, form, level="l2", seed=seed, embed=learning.vectors)
                else:
                    made = train_encoder(rows, form, options=options, seed=seed, embed=learning.vectors)
                    print(made.student.about.trained, flush=True)
                keep(made, folder)
                took = time.process_time() - began
                student = load(folder)
            speeds[level].append((took, *speed(student, [task.texts[place] for place in test][:TIMED])))
            found[level].append(learning.measure(task, student.predict, calibration, test))
            row = " ".join(f"{name} {value:.3f}" for name, value in found[level][-1]._asdict().items())
            print(f"{task.name}: split {seed + 1} of {count}, {level}: {row} {speeds[level][-1]}", flush=True)
    l2, l3 = (Measured(*np.mean(found[level], 0)) for level in ("l2", "l3"))
    (l2_took, l2_rate, l2_one), (l3_took, l3_rate, l3_one) = (
        np.mean(speeds[level], 0).tolist() for level in ("l2", "l3")
    )
    about = f"{task.name}: l3"
    return [
        figure(f"{about}, calls answered, certified 95 %", "%", 100 * l3.answered, "l2", 100 * l2.answered),
        figure(
            f"{about}, calls that got the teacher's answer", "%", 100 * l3.system, "l2", 100 * l2.system, at_least=95
        ),
        figure(f"{about}, agreement if it answered all", "%", 100 * l3.agreement, "l2", 100 * l2.agreement),
        figure(f"{about}, training, core seconds", "s", l3_took, "l2", l2_took),
        figure(f"{about}, texts a second, 32 at once", "1/s", l3_rate, "l2", l2_rate),
        figure(f"{about}, one text", "ms", l3_one, "l2", l2_one),
    ]


def speed(student: Student, texts: list[str]) -> tuple[float, float]:
    """Return texts a second of core time in batches of 32, and milliseconds of core time of one alone."""
    student.predict(texts[:8])
    began = time.process_time()
    for start in range(0, len(texts), 32):
        student.predict(texts[start : start + 32])
    rate = len(texts) / (time.process_time() - began)
    began = time.process_time()
    for text in texts[:100]:
        student.predict([text])
    return rate, (time.process_time() - began) / len(texts[:100]) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--only", choices=tuple(TASKS))
    parser.add_argument("--held-out", type=int, default=EncoderOptions().held_out)
    parser.add_argument("--output", type=Path, default=RESULT)
    default = os.environ.get("UPETI_SHARED", str(Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--shared", type=Path, default=Path(default), help="The folder of all data sets.")
    asked = parser.parse_args()
    figures: list[Figure] = []
    try:
        for name, read in TASKS.items():
            if asked.only in (None, name):
                figures += figures_of(read(asked.shared), asked.splits, EncoderOptions(held_out=asked.held_out))
    except machine.UnfitError as error:
        print(f"benchmarks.learning_torch: {error}", file=sys.stderr)
        return 2
    print(report.table(figures, "l3"))
    report.write(asked.output, figures, machine.Description.of_this(), {"splits": asked.splits, "only": asked.only})
    return int(any(each.met is False for each in figures))


if __name__ == "__main__":
    sys.exit(main())
