"""The benchmark of guarantees runs; its check of promises passes the rule that is used and fails the usual one."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.guarantee_worlds import World, made, worlds

from benchmarks import guarantee, guarantee_rules
from upeti.learning.audit_plan import Runs
from upeti.learning.bounds import interval
from upeti.learning.target import Kind, Target

ALLOWED = 0.05


def check(world: World, target: Target, rows: int, redraws: int) -> None:
    kept = guarantee.measure(world, target, rows, redraws, {"used": None, "tuned": guarantee_rules.tuned})
    # Broken no oftener than delta, up to what redraws can tell; the usual rule is far beyond that.
    assert kept["used"].broken.low <= ALLOWED, (world.name, target.kind)
    assert kept["tuned"].broken.low > ALLOWED, (world.name, target.kind)
    assert kept["used"].coverage <= kept["used"].best + 0.02


@pytest.mark.parametrize("kind", [Kind.SYSTEM, Kind.CLASS])
def test_a_made_world_tells_kept_promises_from_broken_ones(kind: Kind) -> None:
    world = made(4000)
    check(world, guarantee.target_of(kind, world, 800), 800, 60)


@pytest.mark.slow
def test_promises_on_recorded_answers_of_paid_models() -> None:
    for world in worlds():
        for kind in Kind:
            target = guarantee.target_of(kind, world, 2000)
            if (world.name, kind) == ("made, 4 classes", Kind.ANSWER):
                continue  # every threshold is right there: no rule can break it
            check(world, target, 2000, 400)


@pytest.mark.slow
def test_false_alarms_stay_rare_over_twenty_thousand_audits() -> None:
    for alpha in (0.01, 0.05, 0.2):
        rng, runs = np.random.default_rng(8), Runs(2000, alpha, ALLOWED)
        while runs.audits < 20_000:
            runs.see(rng.random((2000, 500)) < alpha)  # at the edge of the promise, where they are most frequent
        assert interval(int((runs.rang > 0).sum()), 2000).low <= ALLOWED


@pytest.mark.slow
def test_every_table_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    shown, figures = guarantee.tables(guarantee.QUICK)
    assert len(shown) == 9
    assert len(figures["promises"]) == 12
    for table in shown:
        assert all(len(line) == len(table[1]) for line in table[2])
        assert table[0] in guarantee.markdown(table)


def test_rules_that_are_compared_agree_with_the_one_that_is_used() -> None:
    world = made(3000)
    for kind, rule in ((Kind.SYSTEM, guarantee_rules.fine()), (Kind.ANSWER, guarantee_rules.entered([0.1, 0.3]))):
        target = Target(kind, 0.1)
        kept = guarantee.measure(world, target, 600, 20, {"used": None, "flat": rule})
        assert kept["used"] == kept["flat"]
    assert np.isfinite(kept["used"].coverage)
