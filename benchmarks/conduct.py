"""How often the conduct monitor errs: ``python -m benchmarks.conduct [--quick]``; writes build/bench-conduct.json.

Prompts are real (Banking77, CLINC150, Arena-Hard; the seed tasks of Self-Instruct for harvesting). Streams are drawn from
them with replacement. There are 175 seed tasks only, so a harvest is made of them in two ways, half and half: a task with
one of its inputs, and a prompt that asks for more tasks after eight of them, as Self-Instruct does. What an app's calls say
of end users, hours and repeats is made up, for the data do not have it; so the rates of those signs hold for the making.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# One thread: of several, each look would wait for the machine's other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec

from upeti.rights.conduct.drift import drift
from upeti.rights.conduct.monitor import Call, Finding, Monitor, Surroundings
from upeti.rights.conduct.reading import Shape, shape_of
from upeti.rights.conduct.thresholds import thresholds

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("UPETI_SHARED", ROOT.parent / "shared" / "data"))
RESULT = ROOT / "build" / "bench-conduct.json"
PAGE = ROOT / "docs" / "conduct.md"
SALT = b"benchmark"
LIMITS = thresholds()
WINDOWS = (100, 250, 500, 1_000, 1_500)
MIXES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
CONFIDENCE = 0.95
HOUR_NS = 3_600 * 10**9
LOOKS_AFTER = 6  # of each tenant whose past is full

Prompt = Callable[[random.Random], str]


@dataclass(frozen=True)
class Rate:
    """So many of so many, with the exact binomial interval (Clopper and Pearson)."""

    found: int
    of: int
    low: float
    high: float

    @classmethod
    def of_counts(cls, found: int, of: int) -> Rate:
        tail = (1 - CONFIDENCE) / 2
        low = 0.0 if not found else _solve(lambda p: 1 - _binomial(found - 1, of, p) > tail)
        high = 1.0 if found == of else _solve(lambda p: _binomial(found, of, p) <= tail)
        return cls(found, of, low, high)

    def __str__(self) -> str:
        return f"{_percent(self.found / self.of)} ({_percent(self.low)}–{_percent(self.high)})"


@dataclass
class Results:
    date: str
    cells: list[dict[str, Any]] = field(default_factory=list)
    honest: list[dict[str, Any]] = field(default_factory=list)
    harvesting: list[dict[str, Any]] = field(default_factory=list)
    signs: list[dict[str, Any]] = field(default_factory=list)


# -- what there is to draw from


class Data:
    """The prompts of each kind of tenant."""

    def __init__(self) -> None:
        if not SHARED.is_dir():
            raise SystemExit(
                f"{SHARED} is not there: put it there, or name the folder of all data sets in UPETI_SHARED"
            )
        self.app = _column("banking77-gpt4/train_gold.csv", "text")
        self.assistant = _column("clinc150/data_full.csv", "text")
        lines = [*_lines("conduct/arena_hard_v01.jsonl"), *_lines("conduct/arena_hard_v2.jsonl")]
        self.chat = [line["prompt"] for line in lines]
        self.tasks = _lines("conduct/self_instruct_seed_tasks.jsonl")
        self._intents: dict[str, list[str]] = {}
        for row in _rows("banking77-gpt4/train_gold.csv"):
            self._intents.setdefault(row["gold"], []).append(row["text"])

    def harvest(self, dice: random.Random) -> str:
        if dice.random() < 0.5:
            task = dice.choice(self.tasks)
            given = dice.choice(task["instances"])["input"]
            return str(task["instruction"]) + (f"\n\n{given}" if given else "")
        shown = dice.sample(self.tasks, 8)
        listed = "\n".join(f"Task {place}: {task['instruction']}" for place, task in enumerate(shown, 1))
        return f"Come up with a series of tasks:\n{listed}\nTask 9:"

    def wobbling(self, dice: random.Random) -> Prompt:
        """Return prompts of an app whose topics are others each day: weights of 77 intents from a Dirichlet(1)."""
        weights = [dice.gammavariate(1, 1) for _ in self._intents]
        pools = list(self._intents.values())
        return lambda each: each.choice(each.choices(pools, weights)[0])


def _rows(name: str) -> list[dict[str, str]]:
    with (SHARED / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _column(name: str, column: str) -> list[str]:
    return [row[column] for row in _rows(name)]


def _lines(name: str) -> list[dict[str, Any]]:
    with (SHARED / name).open(encoding="utf-8", newline="\n") as file:  # prompts hold other ends of lines
        return [json.loads(line) for line in file]


# -- drift alone, by window and mix


def cells(data: Data, repeats: int, repeats_honest: int) -> Iterator[dict[str, Any]]:
    """Yield, for each traffic, window and share of harvesting, how often drift is found."""
    dice = random.Random(20_261_127)
    harvest = [shape_of(data.harvest(dice), SALT) for _ in range(20_000)]
    for name, texts in (("support app", data.app), ("assistant", data.assistant), ("general chat", data.chat)):
        shapes = [shape_of(text, SALT) for text in texts]
        for calls in WINDOWS:
            for mix in MIXES:
                of = repeats_honest if not mix and calls == LIMITS.windows.calls else repeats
                found = sum(_drifts(dice, shapes, harvest, calls, mix) for _ in range(of))
                yield {"traffic": name, "calls": calls, "mix": mix, **asdict(Rate.of_counts(found, of))}
            progress(f"drift in {name}, windows of {calls}")


def _drifts(dice: random.Random, shapes: Sequence[Shape], harvest: Sequence[Shape], calls: int, mix: float) -> bool:
    past = dice.choices(shapes, k=LIMITS.windows.reference_calls)
    foreign = sum(dice.random() < mix for _ in range(calls))
    window = dice.choices(shapes, k=calls - foreign) + dice.choices(harvest, k=foreign)
    return drift(window, past, seed=dice.getrandbits(60)).p <= LIMITS.drift.p_max


# -- whole tenants through the whole monitor


@dataclass(frozen=True)
class Habit:
    """How a tenant's calls are made, besides their prompts."""

    end_users: float = 0.95
    repeats: float = 0.05
    by_day: bool = True  # more calls at noon than at night; else as many at every hour
    fields: dict[str, Any] = field(default_factory=dict)


PEOPLE = Habit()
BATCH = Habit(end_users=0, repeats=0, by_day=False, fields={"logprobs": True})
HARVESTER = Habit(end_users=0, repeats=0, by_day=False, fields={"max_tokens": 8_000})


class Stream:
    """One tenant's calls, a thousand in about five days."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.at_ns = 0
        self.number = 0
        self._last: list[str] = []

    def calls(
        self, many: int, prompt: Prompt, habit: Habit, *, key: str = "k1", tenant: str = "acme", system: str = ""
    ) -> Iterator[Call]:
        dice = self.dice
        for _ in range(many):
            self.number += 1
            self._pass_time(habit)
            text = dice.choice(self._last) if self._last and dice.random() < habit.repeats else prompt(dice)
            self._last = [*self._last[-99:], text]
            body: dict[str, Any] = dict(habit.fields)
            body["messages"] = [{"role": "system", "content": system}] * bool(system)
            body["messages"].append({"role": "user", "content": text})
            if dice.random() < habit.end_users:
                body["user"] = f"u{dice.randrange(500)}"
            request = msgspec.json.encode(body)
            yield Call(f"req_{self.number}", self.at_ns, tenant, key, "", "chat_completions", request)

    def _pass_time(self, habit: Habit) -> None:
        while True:
            self.at_ns += int(self.dice.expovariate(1 / (5 * 24 * HOUR_NS / 1_000)))
            hour = self.at_ns / HOUR_NS % 24
            if not habit.by_day or self.dice.random() < 0.5 - 0.5 * math.cos(2 * math.pi * hour / 24):
                return


@dataclass(frozen=True)
class Course:
    """A kind of tenant: its usual calls until its past is full, then what it does in each window."""

    name: str
    usual: Callable[[Data, Stream], Iterator[Call]]
    then: Callable[[Data, Stream], Iterator[Call]]
    purpose: str = ""
    habitual: bool = True  # nothing about it changes, so every case it opens is a false one
    again: bool = False  # the calls of another course, judged otherwise: not counted twice in the total
    closed: bool = True  # a person closes each case before the next look, as they would an honest tenant's


def _pool(name: str, habit: Habit = PEOPLE, template: str = "{}", system: str = "") -> Any:
    def make(data: Data, stream: Stream) -> Iterator[Call]:
        texts: list[str] = getattr(data, name)
        return stream.calls(
            LIMITS.windows.calls, lambda dice: template.format(dice.choice(texts)), habit, system=system
        )

    return make


def _wobbling(data: Data, stream: Stream) -> Iterator[Call]:
    return stream.calls(LIMITS.windows.calls, data.wobbling(stream.dice), PEOPLE)


def _mixed(share: float, other: str) -> Any:
    def make(data: Data, stream: Stream) -> Iterator[Call]:
        foreign: list[str] = getattr(data, other)
        prompt: Prompt = lambda dice: dice.choice(foreign if dice.random() < share else data.app)  # noqa: E731
        return stream.calls(LIMITS.windows.calls, prompt, PEOPLE)

    return make


def _harvesting(share: float, habit: Habit = HARVESTER) -> Any:
    def make(data: Data, stream: Stream) -> Iterator[Call]:
        for _ in range(LIMITS.windows.calls):
            foreign = stream.dice.random() < share
            yield from stream.calls(
                1,
                data.harvest if foreign else lambda dice: dice.choice(data.app),
                habit if foreign else PEOPLE,
                key="k2" if foreign else "k1",
            )

    return make


OLD = ("You help customers of a bank.", "Customer's message:\n\n{}\n\nAnswer in one paragraph.")
NEW = (
    "You are the bank's assistant.\n- Be kind.\n- Never guess.",
    "# Message\n{}\n# Rules\nTwo paragraphs, no lists.",
)
HONEST = (
    Course("support app", _pool("app"), _pool("app")),
    Course("assistant", _pool("assistant"), _pool("assistant")),
    Course("general chat", _pool("chat"), _pool("chat")),
    Course("batch job, day and night", _pool("app", BATCH), _pool("app", BATCH)),
    Course("support app, declared", _pool("app"), _pool("app"), "customer_support", again=True),
    Course("general chat, declared", _pool("chat"), _pool("chat"), "assistant", again=True),
    Course("topics that change daily", _wobbling, _wobbling),
    Course(
        "an edited template",
        _pool("app", template=OLD[1], system=OLD[0]),
        _pool("app", template=NEW[1], system=NEW[0]),
        habitual=False,
    ),
    Course("a new feature, 20 %", _pool("app"), _mixed(0.2, "assistant"), habitual=False),
    Course("a new feature, general chat 20 %", _pool("app"), _mixed(0.2, "chat"), habitual=False),
)
GUILTY = (
    Course("5 % harvesting", _pool("app"), _harvesting(0.05), closed=False),
    Course("10 % harvesting", _pool("app"), _harvesting(0.1), closed=False),
    Course("50 % harvesting", _pool("app"), _harvesting(0.5), closed=False),
    Course("all harvesting", _pool("app"), _harvesting(1.0), closed=False),
    Course("10 %, declared support", _pool("app"), _harvesting(0.1), "customer_support", closed=False),
    Course("50 %, declared support", _pool("app"), _harvesting(0.5), "customer_support", closed=False),
    Course("harvesting from the first day", _harvesting(1.0), _harvesting(1.0), closed=False),
    Course("… made to look like people's calls", _harvesting(1.0, PEOPLE), _harvesting(1.0, PEOPLE), closed=False),
)


def courses(data: Data, which: Sequence[Course], tenants: int, fired: dict[str, list[int]]) -> Iterator[dict[str, Any]]:
    """Yield, for each course, how many looks open a case and how many would warn; count signs that fire."""
    for course in which:
        looks = opened = acted = first = 0
        by_family: dict[str, int] = {}
        for seed in range(tenants):
            had = [False]
            about = Surroundings(
                purpose_of=lambda tenant, purpose=course.purpose: purpose,  # type: ignore[misc]
                has_case=lambda tenants, had=had: had[0],  # type: ignore[misc]
            )
            monitor, stream = Monitor(LIMITS, SALT, about=about), Stream(seed)
            for _ in range(LIMITS.windows.reference_calls // LIMITS.windows.calls):
                for call in course.usual(data, stream):
                    monitor.take(call)
            for look in range(LOOKS_AFTER):
                finding = _next(monitor, course, data, stream)
                had[0] = had[0] or (bool(finding.families) and not course.closed)
                looks += 1
                opened += bool(finding.families)
                acted += len(finding.families) > 1
                first += bool(finding.families) and look == 0
                for family in finding.families:
                    by_family[family] = by_family.get(family, 0) + 1
                for sign in monitor.state.units["tenant:acme"].last["signs"]:
                    fired.setdefault(f"{course.name}\0{sign}", [0])[0] += 1
        yield {
            "course": course.name,
            "counts": course.habitual and not course.again,
            "opened": asdict(Rate.of_counts(opened, looks)),
            "acted": asdict(Rate.of_counts(acted, looks)),
            "first": asdict(Rate.of_counts(first, tenants)),
            "families": by_family,
        }
        progress(f"{course.name}: {opened} of {looks} open a case, {acted} act")


def _next(monitor: Monitor, course: Course, data: Data, stream: Stream) -> Finding:
    """Go on until a window is full: some calls are passed over, so it takes a few more than a window's."""
    while True:
        for call in course.then(data, stream):
            for finding in monitor.take(call)[1]:
                return finding


def cluster(data: Data, keys: int, repeats: int) -> dict[str, Any]:
    """Pool ``keys`` tenants of one key each that stay under a tenth of a window; how often is their cluster found?"""
    found = acted = 0
    for seed in range(repeats):
        monitor, stream = Monitor(LIMITS, SALT), Stream(seed)
        each = LIMITS.windows.calls // 10
        findings = []
        for share, system, habit in ((0.0, "", PEOPLE), (1.0, "Write what you are asked for, in full.", HARVESTER)):
            for _ in range(each):
                for place in range(keys):
                    prompt: Prompt = data.harvest if share else lambda dice: dice.choice(data.app)
                    names = {"key": f"k{place}", "tenant": f"t{place}", "system": system}
                    for call in stream.calls(1, prompt, habit, **names):
                        findings += monitor.take(call)[1]
            if len(findings) and not share:
                raise AssertionError("a tenant's own window was full")
        clusters = [one for one in findings if one.unit.startswith("template:")]
        assert len(clusters) == len(findings)
        found += bool(clusters and clusters[0].families)
        acted += bool(clusters and len(clusters[0].families) > 1)
    progress(f"a cluster of {keys} keys: found {found} of {repeats}")
    return {
        "course": f"{keys} tenants with one key and {LIMITS.windows.calls // 10} calls each",
        "counts": False,
        "opened": asdict(Rate.of_counts(found, repeats)),
        "acted": asdict(Rate.of_counts(acted, repeats)),
        "first": asdict(Rate.of_counts(found, repeats)),
        "families": {},
    }


# -- tables


def tables(made: Results) -> str:
    """Return the tables of the page."""
    lines = [f"Made by `make bench-conduct` on {made.date}; a look counts as drift below p = {LIMITS.drift.p_max}.", ""]
    lines += ["**Drift alone**, share of windows in which it is found, by harvested share of the window's calls:", ""]
    lines += [
        "| traffic | calls a window | " + " | ".join(f"{mix:.0%}" for mix in MIXES) + " |",
        "|---|---|" + "---|" * len(MIXES),
    ]
    for traffic in dict.fromkeys(cell["traffic"] for cell in made.cells):
        for calls in WINDOWS:
            row = [_rate(cell) for cell in made.cells if cell["traffic"] == traffic and cell["calls"] == calls]
            lines.append(f"| {traffic} | {calls:,} | {' | '.join(row)} |")
    window = f"{LIMITS.windows.calls:,} calls"
    lines += ["", f"**Honest tenants**, the whole monitor, windows of {window}:", ""]
    lines += ["| tenant | looks | open a case | two families, so warned |", "|---|---|---|---|"]
    for row in made.honest:
        lines.append(f"| {row['course']} | {row['opened']['of']:,} | {_rate(row['opened'])} | {_rate(row['acted'])} |")
    whole = [row for row in made.honest if row["counts"]]
    found, of = sum(row["opened"]["found"] for row in whole), sum(row["opened"]["of"] for row in whole)
    total = Rate.of_counts(found, of)
    lines.append(f"| **all whose habits stay the same**, each call once | {of:,} | **{total}** | |")
    lines += ["", f"**Harvesting tenants**, a support app's past, windows of {window}:", ""]
    lines += ["| tenant | found in the first window | found, each window | two families at once |", "|---|---|---|---|"]
    for row in made.harvesting:
        lines.append(f"| {row['course']} | {_rate(row['first'])} | {_rate(row['opened'])} | {_rate(row['acted'])} |")
    names = [name for kind in (LIMITS.signs.how, LIMITS.signs.what) for name in kind]
    lines += ["", "**Each sign**, share of looks in which it fires:", ""]
    lines += ["| tenant | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
    for row in made.signs:
        lines.append(
            f"| {row['course']} | " + " | ".join(_percent(row["shares"].get(name, 0)) for name in names) + " |"
        )
    return "\n".join(lines)


def _rate(cell: dict[str, Any]) -> str:
    return str(Rate(cell["found"], cell["of"], cell["low"], cell["high"]))


def _percent(share: float) -> str:
    text = f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')} %"


def _binomial(most: int, of: int, p: float) -> float:
    """Return the probability of at most ``most`` of ``of``."""
    if p <= 0 or p >= 1:
        return float(p <= 0 or most >= of)
    logs = (
        math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * math.log(p) + (of - k) * math.log1p(-p)
        for k in range(most + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def _solve(above: Callable[[float], bool]) -> float:
    """Return where ``above`` turns true between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(*, quick: bool) -> Results:
    data = Data()
    made = Results(time.strftime("%Y-%m-%d"))
    repeats, honest, tenants, guilty, clusters = (4, 8, 2, 2, 1) if quick else (100, 400, 120, 20, 10)
    fired: dict[str, list[int]] = {}
    made.cells = list(cells(data, repeats, honest))
    # The interval of a rate near 0.2 % ends below 0.5 % only after some thousand looks.
    made.honest = list(courses(data, HONEST, tenants, fired))
    made.harvesting = [*courses(data, GUILTY, guilty, fired), cluster(data, 50, clusters)]
    for row in (*made.honest, *made.harvesting[:-1]):
        shares = {
            name.partition("\0")[2]: count[0] / row["opened"]["of"]
            for name, count in fired.items()
            if name.partition("\0")[0] == row["course"]
        }
        made.signs.append({"course": row["course"], "shares": shares})
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure false alarms and detections of the conduct monitor.")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for figures")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/conduct.md")
    given = parser.parse_args()
    made = run(quick=given.quick)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(asdict(made), indent=1))
    shown = tables(made)
    print(shown)
    if given.docs:
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition("<!-- figures -->\n")
        tail = rest.partition("<!-- /figures -->")[2]
        PAGE.write_text(f"{head}<!-- figures -->\n{shown}\n<!-- /figures -->{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
