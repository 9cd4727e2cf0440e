"""Whether the statistics of experiments keep what they promise: false alarms, coverage, bias, power, by simulation.

    python -m benchmarks.feed_statistics [--quick] [--trials 2000] [--obd FOLDER]

Every figure is a share over so many simulated experiments whose truth is known, so it has itself an error: with 2,000
trials a true 5 % shows as 4 to 6 %. The peer is what one would use without these methods, on the same draws. With ``--obd``
(or UPETI_SHARED) the off-policy estimates are also made on real logs, the Open Bandit Dataset, campaign "men".
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import machine, report
from benchmarks.report import Figure, figure
from upeti.core.amount import parse_pico
from upeti.feed.evaluation import bootstrap
from upeti.feed.experiment import FREE, GROUPS, PAID, STUDENT, Arm, Experiment
from upeti.feed.lift import crossed, lift, rate, variance_removed
from upeti.feed.off_policy import screen
from upeti.feed.sequential import (
    Estimate,
    bounded_sequence,
    fixed_interval,
    mismatch_evidence,
    mismatch_p_value,
    mixture_interval,
)
from upeti.feed.worth import ArmUsers, Outcome, Spent, judge
from upeti.sim.people import LIKING, equal_arms_by_day, market, people

RESULT: Final = machine.BUILD.parent / "bench-feed-statistics.json"
ALPHA: Final = 0.05
IMPRESSIONS: Final = 1_000_000
FREE_ARM: Final = Arm("free", FREE)
STUDENT_ARM: Final = Arm("student", FREE | {STUDENT})
PAID_ARM: Final = Arm("paid", frozenset(GROUPS))


def slack(trials: int) -> float:
    """What a share of 5 % exceeds by chance in one of a thousand runs."""
    return ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / trials)


def false_alarms(trials: int) -> Iterator[Figure]:
    draw = np.random.default_rng(1)
    looks = np.linspace(200, 4000, 20).astype(int)
    always = naive = 0
    for _ in range(trials):
        values = (draw.random((2, 4000)) < LIKING).astype(np.float64)
        means = np.cumsum(values, axis=1)[:, looks - 1] / looks
        variances = (means * (1 - means) / looks).sum(axis=0)
        estimates = [Estimate(*one) for one in zip(means[1] - means[0], variances, looks.tolist(), strict=True)]
        always += any(mixture_interval(one, 4000).excludes_zero for one in estimates)
        naive += any(fixed_interval(one).excludes_zero for one in estimates)
    yield figure(
        "A/A, 20 looks: false alarms", "%", 100 * always / trials, "fixed interval", 100 * naive / trials, at_most=5
    )
    always = naive = 0
    for _ in range(trials // 2):
        daily = [lift(other, one) for one, other in equal_arms_by_day(draw, 500, 28)]
        always += any(mixture_interval(one, 500).excludes_zero for one in daily)
        naive += any(fixed_interval(one).excludes_zero for one in daily)
    name = "A/A, 28 daily looks, users who come back"
    yield figure(name, "%", 200 * always / trials, "fixed interval", 200 * naive / trials, at_most=5)
    alarms = naive = 0
    for _ in range(trials):
        first = np.cumsum(draw.random(4000) < 0.5)
        seen = [(int(first[n - 1]), n - int(first[n - 1])) for n in range(20, 4001, 20)]
        alarms += any(mismatch_evidence(counts, (1, 1)) >= 1 / ALPHA for counts in seen)
        naive += any(mismatch_p_value(counts, (1, 1)) < ALPHA for counts in seen)
    yield figure(
        "sample ratio, 200 looks: false alarms",
        "%",
        100 * alarms / trials,
        "chi-square",
        100 * naive / trials,
        at_most=5,
    )


def coverage(trials: int) -> Iterator[Figure]:
    draw = np.random.default_rng(2)
    limit = 100 * slack(trials)
    missed = dict.fromkeys(("rate", "lift", "lift, CUPED", "impressions as units"), 0)
    removed = []
    for _ in range(trials):
        one, other = people(draw, 900, 1.2), people(draw, 600)
        removed.append(variance_removed(one, other))
        for name, estimate, truth in (
            ("rate", rate(other), LIKING),
            ("lift", lift(one, other, adjusted=False), 0.2 * LIKING),
            ("lift, CUPED", lift(one, other), 0.2 * LIKING),
        ):
            interval = fixed_interval(estimate)
            missed[name] += not interval.low <= truth <= interval.high
        shown = float(other.impressions.sum())
        width = 1.96 * math.sqrt(other.rate() * (1 - other.rate()) / shown)
        missed["impressions as units"] += abs(other.rate() - LIKING) > width
    naive = 100 * missed.pop("impressions as units") / trials
    for name, count in missed.items():
        peer = ("impressions as units", naive) if name == "rate" else ("", None)
        yield figure(f"95 % interval of {name}: missed", "%", 100 * count / trials, *peer, at_most=round(limit + 1, 2))
    yield figure("variance taken out by CUPED", "%", 100 * float(np.mean(removed)))
    always = exact = 0
    for _ in range(trials // 2):
        values = draw.exponential(0.3, 3000)
        sums, squares = np.cumsum(values), np.cumsum(values**2)
        for n in range(100, 3001, 25):
            mean = sums[n - 1] / n
            estimate = Estimate(float(mean), float(squares[n - 1] / n - mean**2) / (n - 1), n)
            interval = mixture_interval(estimate, 2000)
            if not interval.low <= 0.3 <= interval.high:
                always += 1
                break
        limits = bounded_sequence(draw.random(2000) < 0.05)
        exact += bool(np.any((limits[:, 0] > 0.05) | (limits[:, 1] < 0.05)))
    yield figure("mixture sequence, skewed: missed ever", "%", 200 * always / trials, at_most=round(limit, 2))
    yield figure("bounded sequence, rate 5 %: missed ever", "%", 200 * exact / trials, at_most=round(limit, 2))
    yield from _coverage_of_screen(trials)
    clustered = 0
    for _ in range(trials // 2):
        cases = draw.integers(1, 20, 200)
        taste = draw.normal(0.2, 0.3, 200)
        users = np.repeat(np.arange(200), cases)
        interval = bootstrap(taste[users] + draw.normal(0, 0.3, len(users)), list(map(str, users)))
        clustered += not interval.low <= 0.2 <= interval.high
    limit = 100 * slack(trials // 2) + 1
    yield figure("bootstrap by users: missed", "%", 200 * clustered / trials, at_most=round(limit, 2))


def _coverage_of_screen(trials: int) -> Iterator[Figure]:
    draw = np.random.default_rng(3)
    worth = np.array([0.05, 0.08, 0.1, 0.15, 0.3])
    logging = np.array([0.4, 0.25, 0.15, 0.12, 0.08])
    target = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
    model = worth + np.array([0.05, -0.03, 0.02, -0.05, -0.1])
    truth = float(target @ worth)
    missed = dict.fromkeys(("ips", "snips", "dr"), 0)
    for _ in range(trials):
        user = draw.integers(0, 500, 1500)
        action = draw.choice(5, 1500, p=logging)
        mood = draw.beta(2, 2, 500)[user] * 2
        reward = (draw.random(1500) < np.minimum(worth[action] * mood, 1)).astype(float)
        of_target = np.full(1500, target @ model)
        found = screen(
            reward,
            logging[action],
            target[action],
            predicted=model[action],
            predicted_of_target=of_target,
            clusters=user,
        )
        for one in found:
            missed[one.method] += not one.interval.low <= truth <= one.interval.high
    for name, count in missed.items():
        share = 100 * count / trials
        yield figure(f"off-policy {name}: missed", "%", share, at_most=round(100 * slack(trials) + 1, 2))


def sides(trials: int) -> Iterator[Figure]:
    draw = np.random.default_rng(4)
    large = [market(draw, 60_000, 0.1, uses_enrichment=used).rate() for used in (True, False)]
    truth = large[0] - large[1]
    claims, missed = [], 0
    for _ in range(trials // 8):
        treated, control = (market(draw, 800, 0.1, uses_enrichment=used) for used in (True, False))
        found = crossed(treated, control, 0.1)
        interval = fixed_interval(found.total)
        missed += not interval.low <= truth <= interval.high
        claims.append(found.by_items_alone)
    claimed = float(np.mean(claims)) / truth
    yield figure("lift by items alone over the true one", "times", claimed, "crossed", 1.0)
    limit = 100 * slack(trials // 8) + 1
    yield figure("crossed design, 95 % interval: missed", "%", 800 * missed / trials, at_most=round(limit, 2))


def verdicts(trials: int) -> Iterator[Figure]:
    two = Experiment("two", (FREE_ARM, PAID_ARM), event_value="0.01", users_planned=3000)
    three = Experiment("three", (FREE_ARM, STUDENT_ARM, PAID_ARM), event_value="0.01", users_planned=3000)
    cases = (
        ("noise at 0.10 per 1,000", two, (1.0, 1.0), ("100", "0"), Outcome.STOP, {Outcome.PAY, Outcome.REPLACE}),
        ("+20 % worth 0.20 at 0.05", two, (1.0, 1.2), ("50", "0"), Outcome.PAY, {Outcome.STOP, Outcome.REPLACE}),
        ("student +18 %, paid +20 % at 0.15", three, (1.0, 1.18, 1.2), ("150", "2"), Outcome.REPLACE, {Outcome.PAY}),
    )
    for name, experiment, factors, costs, right, wrong in cases:
        spent = {PAID: Spent(parse_pico(costs[0]), 1), STUDENT: Spent(parse_pico(costs[1]), 1)}
        for size in (500, 1000, 2000, 5000):
            found = []
            for seed in range(trials // 8):
                draw = np.random.default_rng(seed)
                arms = [
                    ArmUsers(arm, people(draw, size, factor))
                    for arm, factor in zip(experiment.arms, factors, strict=True)
                ]
                found.append(judge(experiment, arms, spent, IMPRESSIONS).outcome)
            hits = 100 * sum(one is right for one in found) / len(found)
            false = 100 * sum(one in wrong for one in found) / len(found)
            aim = 80 if size == 5000 else None
            yield figure(
                f"{name}, {size:,} users an arm: `{right}`", "%", hits, "opposite verdict", false, at_least=aim
            )
    spent = {PAID: Spent(parse_pico("100"), 1)}
    decided = 0
    for seed in range(trials // 4):
        draw = np.random.default_rng(seed)
        parts = [people(draw, 4000), people(draw, 4000, 1.1)]
        for size in range(400, 4001, 400):
            arms = [
                ArmUsers(arm, part._replace(**{name: getattr(part, name)[:size] for name in part._fields[:3]}))
                for arm, part in zip(two.arms, parts, strict=True)
            ]
            if judge(two, arms, spent, IMPRESSIONS).outcome is not Outcome.UNDECIDED:
                decided += 1
                break
    yield figure("worth exactly its cost, 10 looks: any verdict", "%", 400 * decided / trials, at_most=5)


def open_bandit(folder: Path) -> Iterator[Figure]:
    def log(policy: str) -> dict[str, np.ndarray]:
        text = gzip.decompress((folder / f"{policy}-men.csv.gz").read_bytes()).decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        names = ("item_id", "position", "click", "propensity_score")
        return {name: np.array([float(row[name]) for row in rows]) for name in names}

    random, learned = log("random"), log("bts")
    uniform = np.full(len(learned["click"]), 1 / 34)
    for one in screen(learned["click"], learned["propensity_score"], uniform):
        low, high = (f"{1000 * value:.2f}" for value in one.interval[1:])
        name = f"OBD, uniform from Thompson's log, {one.method} ({low} to {high}; {one.events:.0f} effective clicks)"
        yield figure(
            name, "clicks/1,000", 1000 * one.interval.estimate, "on-policy", 1000 * float(random["click"].mean())
        )


def run(trials: int, obd: Path | None) -> list[Figure]:
    figures: list[Figure] = []
    parts = [false_alarms(trials), coverage(trials), sides(trials), verdicts(trials)]
    for part in [*parts, *([open_bandit(obd)] if obd is not None else [])]:
        for one in part:
            print(f"  {one.name}: {one.figure:g} {one.unit}", file=sys.stderr)
            figures.append(one)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate experiments whose truth is known.")
    parser.add_argument("--quick", action="store_true", help="few: to see that it runs, not for figures")
    parser.add_argument("--trials", type=int, default=2000)
    shared = os.environ.get("UPETI_SHARED")
    parser.add_argument("--obd", type=Path, default=Path(shared) / "obd-men-small" if shared else None)
    given = parser.parse_args()
    trials = 160 if given.quick else given.trials
    figures = run(trials, given.obd)
    print(report.table(figures, "Upeti"))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")  # the machine does not matter here
    print(f"written to {RESULT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
