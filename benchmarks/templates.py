"""How fast a call is matched with a prompt template, beside a regular expression of it; and how fast one is found.

    python -m benchmarks.templates

The prompts hold the messages of examples/data/banking77.csv. Both matchers are asked about the same prompts in turns, and
must give the same slots. The time is CPU time of one thread. Writes build/bench-templates.json.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import machine, report
from benchmarks.report import Figure, figure
from upeti.learning.template import Prompt, find_templates, match, template_of, text_in

RESULT: Final = machine.BUILD.parent / "bench-templates.json"
DATA: Final = Path(__file__).parents[1] / "examples" / "data" / "banking77.csv"
TURNS: Final = 21


def prompts() -> list[Prompt]:
    """Messages of a bank's customers between an instruction and 77 labels: 2 KB each."""
    with DATA.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = ", ".join(sorted({row["gold"] for row in rows}))
    shape = "What is the intent of this message?\n\n{}\n\nAnswer with one of: " + labels
    return [Prompt(("user",), (shape.format(row["text"]),)) for row in rows]


def microseconds(work: Callable[[Any], object], on: Sequence[Any]) -> float:
    """Return the CPU time that ``work`` takes for one of ``on``."""
    began = time.process_time()
    for one in on:
        work(one)
    return (time.process_time() - began) * 1e6 / len(on)


def measured() -> list[Figure]:
    everything = prompts()
    began = time.process_time()
    (found,) = find_templates(everything)
    seconds = time.process_time() - began
    template = found.template
    assert template == template_of(everything)
    expression = re.compile("(.*)".join(map(re.escape, template.parts[0])), re.DOTALL)
    bodies = [
        json.dumps({"model": "m", "messages": [{"role": "user", "content": p.texts[0]}]}).encode() for p in everything
    ]

    def of_expression(prompt: Prompt) -> tuple[str, ...] | None:
        matched = expression.fullmatch(prompt.texts[0])
        return None if matched is None else matched.groups()

    assert [match(template, one) for one in everything] == [of_expression(one) for one in everything]
    assert None not in [text_in(template, body) for body in bodies]
    ours, theirs, whole, decoded = [], [], [], []
    for _ in range(TURNS):
        ours.append(microseconds(lambda one: match(template, one), everything))
        theirs.append(microseconds(of_expression, everything))
        whole.append(microseconds(lambda body: text_in(template, body), bodies))
        decoded.append(microseconds(json.loads, bodies))
    peer = "compiled regular expression"
    return [
        figure("a prompt is matched", "µs", median(ours), peer, median(theirs), at_most=20),
        figure(
            "a request's body is read and matched", "µs", median(whole), "json.loads alone", median(decoded), at_most=20
        ),
        figure("a template is found, of 3,080 prompts", "s", seconds),
    ]


def main() -> int:
    figures = measured()
    print(report.table(figures, "Upeti"))
    report.write(RESULT, figures, machine.Description.of_this(), {"turns": TURNS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
