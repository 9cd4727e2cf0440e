"""Whether promises about students are kept as often as they say, and what they cost: ``python -m benchmarks.guarantee``.

Writes build/bench-guarantee.json; ``--docs`` puts the tables into docs/guarantee.md. Every rate stands beside the usual rule,
"tune on validation", in the same draws; that it fails shows that the check can.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# One thread: of several, each look would wait for the machine's other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks import guarantee_rules as rules
from benchmarks.guarantee_rules import Flat, Rule
from benchmarks.guarantee_worlds import MadeStream, World, worlds
from upeti.learning import stream
from upeti.learning.audit_plan import Runs, delay
from upeti.learning.bounds import Interval, interval, lower_bound, spent, upper_bound
from upeti.learning.gold import Counts, shown_at_any_look, shown_at_one_look
from upeti.learning.target import ClassLimit, Kind, Target
from upeti.learning.threshold import answer_path, certify, class_limits

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "build" / "bench-guarantee.json"
PAGE = ROOT / "docs" / "guarantee.md"
DELTA = 0.05
ROWS = 2_000  # calibration rows of the first table
ALPHA = {Kind.SYSTEM: 0.05, Kind.ANSWER: 0.2, Kind.CLASS: 0.2}  # these students are weak; of class: of each class
OTHERS = 0.05  # of all calls, for classes that are not named


class Size(NamedTuple):
    redraws: int
    audit_runs: int
    audits: int
    streams: int
    quick: bool


FULL = Size(500, 4_000, 20_000, 200, False)
QUICK = Size(40, 100, 1_000, 4, True)

Table = tuple[str, list[str], list[list[str]]]  # title, headers, lines


class Kept(NamedTuple):
    """How a rule did over all redraws."""

    broken: Interval
    coverage: float
    best: float  # coverage of the loosest threshold that is right


def target_of(kind: Kind, world: World, rows: int) -> Target:
    if kind is not Kind.CLASS:
        return Target(kind, ALPHA[kind])
    named = class_limits((row.teacher for row in world.other), rows, ALPHA[kind], DELTA)
    return Target(kind, OTHERS, tuple(ClassLimit(one.label, one.alpha) for one in named))


def measure(
    world: World, target: Target, rows: int, redraws: int, chosen: dict[str, Rule | None], delta: float = DELTA
) -> dict[str, Kept]:
    """Return how rules do on the same redraws; None stands for the rule that is used, whole, on rows."""
    everything, other = Flat.of(world.rows, target), Flat.of(world.other, target)
    sure = np.where(other.eligible, other.confidence, 0.0)
    path = answer_path(sure, rows, target.alpha, delta) if target.kind is Kind.ANSWER else None
    rng = np.random.default_rng(17)
    broken, covered = dict.fromkeys(chosen, 0), dict.fromkeys(chosen, 0.0)
    for _ in range(redraws):
        index = rng.integers(0, len(world.rows), rows)
        flat = everything.at(index)
        for name, rule in chosen.items():
            if rule is not None:
                threshold = rule(flat, other, delta, rng)
            elif target.kind is Kind.ANSWER and path is None:
                threshold = None
            else:
                threshold = certify([world.rows[i] for i in index], target, delta, path).threshold
            broken[name] += bool(np.any(everything.risks(threshold) > everything.alphas))
            covered[name] += everything.coverage(threshold)
    best = everything.coverage(rules.best(everything))
    return {name: Kept(interval(broken[name], redraws), covered[name] / redraws, best) for name in chosen}


def promises(all_worlds: Sequence[World], size: Size) -> tuple[Table, list[dict[str, Any]]]:
    lines, figures = [], []
    for world in all_worlds:
        for kind in Kind:
            target = target_of(kind, world, ROWS)
            made = measure(world, target, ROWS, size.redraws, {"used": None, "tuned": rules.tuned})
            used, tuned = made["used"], made["tuned"]
            figures.append(
                {"world": world.name, "kind": str(kind), **{name: kept._asdict() for name, kept in made.items()}}
            )
            named = f", {len(target.classes)} classes" if target.classes else ""
            lines.append(
                [
                    world.name,
                    f"{kind} {ALPHA[kind]:.0%}{named}",
                    _rate(used.broken),
                    f"{used.coverage:.3f} of {used.best:.3f}",
                    _rate(tuned.broken),
                ]
            )
            progress(" | ".join(lines[-1]))
    title = f"Promises broken, of {size.redraws:,} draws of {ROWS:,} calibration rows, δ = {DELTA:.0%}"
    return (
        title,
        ["data, teacher", "promise", "broken", "answered, of the most possible", "broken when tuned"],
        lines,
    ), figures


def tried(all_worlds: Sequence[World], size: Size) -> Iterator[Table]:
    """What was tried to be less conservative, each on the same draws."""
    redraws = max(size.redraws // 4, 20)
    answer: dict[str, Rule] = {
        "one entry, where a few errors are survived": rules.entered([0]),
        "one entry at 15 % of calls": rules.entered([0.15]),
        "one entry, chosen on labels of other rows": rules.guided(),
        "**two entries, at 10 % and 30 %**": rules.entered([0.1, 0.3]),
        "the same with 25 thresholds": rules.entered([0.1, 0.3], points=25),
        "the same with 400 thresholds": rules.entered([0.1, 0.3], points=400),
        "three entries, 0, 10 %, 30 %": rules.entered([0, 0.1, 0.3]),
        "four entries, 10, 20, 40, 80 %": rules.entered([0.1, 0.2, 0.4, 0.8]),
        "two entries, Hoeffding's bound": rules.entered([0.1, 0.3], test=rules.hoeffding),
        "two entries, betting": rules.entered([0.1, 0.3], test=rules.betting),
    }
    system: dict[str, Rule] = {
        "**every confidence, exact**": rules.fine(),
        "50 quantiles, exact": rules.quantiles(50),
        "20 quantiles, exact": rules.quantiles(20),
        "every confidence, betting": rules.fine(rules.betting),
        "every confidence, Hoeffding's bound": rules.fine(rules.hoeffding),
    }
    classes: dict[str, Rule] = {
        "**one threshold, delta whole**": rules.fine(),
        "delta split over the limits": rules.fine(split=True),
    }
    for kind, chosen in ((Kind.SYSTEM, system), (Kind.ANSWER, answer), (Kind.CLASS, classes)):
        lines: dict[str, list[str]] = {name: [name] for name in chosen}
        heads = ["rule"]
        for rows in (1_000, 2_000):
            for world in all_worlds:
                target = target_of(kind, world, rows)
                if kind is Kind.CLASS and not target.classes:
                    continue
                heads.append(f"{world.name.split(',')[0]}, {rows:,}")
                for name, kept in measure(world, target, rows, redraws, dict(chosen)).items():
                    lines[name].append(f"{kept.coverage:.3f} ({kept.broken.estimate:.1%})")
        progress(f"tried {kind}")
        title = f"Tried for kind *{kind}*, {ALPHA[kind]:.0%}: share answered (promises broken), {redraws} draws"
        yield title, heads, list(lines.values())


def looks(world: World, size: Size) -> Table:
    """What looks cost: the share answered when a look spends its part only, beside a test that may be looked at always."""
    redraws = max(size.redraws // 4, 20)
    lines = []
    for name, delta, rule in (
        ("one look ever", DELTA, rules.fine()),
        ("look 1 of any number", spent(DELTA, 1), rules.fine()),
        ("look 2", spent(DELTA, 2), rules.fine()),
        ("look 5", spent(DELTA, 5), rules.fine()),
        ("look 20", spent(DELTA, 20), rules.fine()),
        ("betting, after every row", DELTA, rules.fine(rules.betting)),
    ):
        line = [name, f"{delta:.4%}"]
        for rows in (500, 1_000, 2_000, 5_000):
            kept = measure(world, Target(Kind.SYSTEM, 0.05), rows, redraws, {"it": rule}, delta)["it"]
            line.append(f"{kept.coverage:.3f}")
        lines.append(line)
    best = f"{kept.best:.3f}"
    return (
        f"What looks cost: share answered, {world.name}, system 5 % (most possible: {best})",
        ["look", "spends", "500 rows", "1,000", "2,000", "5,000"],
        lines,
    )


def false_alarms(size: Size) -> tuple[Table, list[dict[str, Any]]]:
    lines, figures = [], []
    for alpha, risk in ((0.05, 0.05), (0.05, 0.04), (0.01, 0.01), (0.2, 0.2)):
        rng, runs = np.random.default_rng(5), Runs(size.audit_runs, alpha, DELTA)
        while runs.audits < size.audits:
            runs.see(rng.random((size.audit_runs, min(250, size.audits - runs.audits))) < risk)
        rang = interval(int((runs.rang > 0).sum()), size.audit_runs)
        figures.append({"alpha": alpha, "risk": risk, "rang": rang._asdict()})
        lines.append([f"{alpha:.0%}", f"{risk:.0%}", _rate(rang)])
        progress(f"false alarms {lines[-1]}")
    title = f"False alarms ever, in {size.audits:,} audits each, {size.audit_runs:,} runs, δ = {DELTA:.0%}"
    return (title, ["promised", "true risk", "runs that rang"], lines), figures


def delays(size: Size) -> Table:
    runs = 100 if size.quick else 2_000
    before = 300 if size.quick else 2_000
    lines = []
    for risk, earlier in ((0.10, 161), (0.15, 41), (0.25, 17)):
        rng = np.random.default_rng(9)
        at_once = delay(rng, 0.05, DELTA, risk, runs=runs)
        late = delay(rng, 0.05, DELTA, risk, good_audits=before, good_risk=0.03, runs=runs)
        without = delay(rng, 0.05, DELTA, risk, good_audits=before, good_risk=0.03, runs=runs, reserve=False)
        lines.append(
            [
                f"{risk:.0%}",
                f"{at_once.median:.0f}",
                f"{at_once.ninth:.0f}",
                str(earlier),
                f"{late.median:.0f}",
                f"{late.ninth:.0f}",
                f"{without.median:.0f}",
            ]
        )
        progress(f"delays {lines[-1]}")
    heads = [
        "true risk",
        "from the first audit: median",
        "9 of 10",
        "measured before, one bet",
        f"after {before:,} good audits: median",
        "9 of 10",
        "median with all money put down at once",
    ]
    return f"Audited answers until the alarm, promise 5 %, good risk 3 %, {runs:,} runs", heads, lines


def golds(size: Size) -> Table:
    """How often a student as accurate as the teacher is shown to be at most 2 % worse."""
    redraws = 20 if size.quick else 400
    rng = np.random.default_rng(4)
    lines = []
    for wins, losses in ((0.03, 0.03), (0.08, 0.08), (0.03, 0.05)):
        for n in (1_000, 3_000):
            drawn = rng.random((redraws, n))
            counts = [Counts(n, int((row < wins).sum()), int((row > 1 - losses).sum())) for row in drawn]
            test = interval(sum(shown_at_one_look(one, -0.02, DELTA) for one in counts), redraws)
            bet = interval(sum(shown_at_any_look(one, -0.02, DELTA) for one in counts), redraws)
            pair = interval(sum(_two_bounds(one) >= -0.02 for one in counts), redraws)
            asked = float(np.mean([one.wins + one.losses for one in counts]))
            lines.append([f"{wins:.0%} / {losses:.0%}", f"{n:,}", f"{asked:.0f}", _rate(test), _rate(pair), _rate(bet)])
    title = f"Shown to be at most 2 % less accurate, δ = {DELTA:.0%}, {redraws} draws (last two lines: falsely)"
    return (
        title,
        [
            "only student / only teacher right",
            "rows",
            "labels asked",
            "exact test, one look",
            "two exact bounds, one look",
            "betting, any looks",
        ],
        lines,
    )


def _two_bounds(counts: Counts) -> float:
    return lower_bound(counts.wins, counts.n, DELTA / 2) - upper_bound(counts.losses, counts.n, DELTA / 2)


def streams(size: Size) -> Table:
    """The whole loop: what was promised, over all calls."""
    calls, shift = (4_000, 2_000) if size.quick else (20_000, 10_000)
    plan = stream.Plan(Target(Kind.SYSTEM, 0.05), DELTA, learn=1_000, calibrate=1_000, audit_share=0.05)
    lines = []
    for name, turned in (("none", 0.0), ("10 % of answers turn wrong", 0.1), ("25 %", 0.25), ("50 %", 0.5)):
        wrong, issued, paid, falsely, late, over = [], 0, [], 0, [], 0
        for seed in range(size.streams):
            made = MadeStream(seed, calls, shift if turned else calls, turned)
            ran = stream.run(calls, made.train, plan, np.random.default_rng(seed))
            wrong.append(ran.wrong / calls)
            over += ran.wrong / calls > 0.05
            paid.append(ran.to_teacher / calls)
            # A certificate is judged by the calls that it was made from.
            olds = [made.trained[i] for i in range(len(made.trained))]
            for period in ran.periods:
                is_old = period.first <= shift and olds[0]
                issued += made.risk(period.threshold) > 0.05
                if period.alarm:
                    if turned and is_old and period.end > shift:
                        late.append(period.end - shift)
                    else:
                        falsely += 1
        lines.append(
            [
                name,
                _rate(interval(issued, size.streams)),
                _rate(interval(falsely, size.streams)),
                f"{np.median(late):,.0f} ({len(late)} of {size.streams})" if late else "–",
                f"{np.mean(wrong):.2%}, most {np.max(wrong):.2%}",
                _rate(interval(over, size.streams)),
                f"{np.mean(paid):.1%}",
            ]
        )
        progress(f"streams {lines[-1]}")
    title = (
        f"The whole loop: {size.streams} streams of {calls:,} calls, system 5 %, shift at call {shift:,}, 5 % audited"
    )
    heads = [
        "shift",
        "a certificate was false",
        "false alarm",
        "calls until the alarm, median (rang)",
        "wrong of all calls",
        "over 5 % wrong of all calls",
        "went to the teacher",
    ]
    return title, heads, lines


def tables(size: Size) -> tuple[list[Table], dict[str, Any]]:
    all_worlds = list(worlds())
    progress("worlds made")
    promised, kept = promises(all_worlds, size)
    alarms, rang = false_alarms(size)
    shown = [
        promised,
        *tried(all_worlds, size),
        looks(all_worlds[0], size),
        alarms,
        delays(size),
        golds(size),
        streams(size),
    ]
    return shown, {"promises": kept, "false_alarms": rang}


def markdown(table: Table) -> str:
    title, heads, lines = table
    rule = "|" + "---|" * len(heads)
    return "\n".join(
        [f"**{title}**", "", f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )


def _rate(found: Interval) -> str:
    return f"{found.estimate:.1%} ({found.low:.1%}–{found.high:.1%})"


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure whether promises about students are kept, and what they cost."
    )
    parser.add_argument("--quick", action="store_true", help="few repeats: to see that it runs, not for figures")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/guarantee.md")
    given = parser.parse_args()
    shown, figures = tables(QUICK if given.quick else FULL)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), **figures, "tables": shown}, indent=1))
    text = "\n\n".join(map(markdown, shown))
    print(text)
    if given.docs:
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition("<!-- figures -->\n")
        tail = rest.partition("<!-- /figures -->")[2]
        PAGE.write_text(f"{head}<!-- figures -->\n{text}\n<!-- /figures -->{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
