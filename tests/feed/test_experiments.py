"""Experiments on disk: every decision is an act, and what runs does not change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from support.feed_world import World
from upeti.core.errors import ConfigError, JournalError
from upeti.feed.experiment import State
from upeti.feed.experiments import Experiments
from upeti.journal.acts import acts_dir, read_acts

DRAFT = msgspec.structs.replace(World().experiment(), state=State.DRAFT, started_ns=0, stopped_ns=0)


@pytest.fixture
def experiments(tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, tmp_path / "data", "acme")


def test_the_life_of_an_experiment(experiments: Experiments, tmp_path: Path) -> None:
    assert experiments.all() == []
    assert experiments.stamp == 0
    experiments.put(msgspec.structs.replace(DRAFT, event_value="1"), "ana", 1)
    assert experiments.put(DRAFT, "ana", 2, "a typing mistake") == DRAFT
    assert experiments.running() == []
    started = experiments.start("worth", "ana", 3, "to know")
    assert experiments.running() == [started] == [msgspec.structs.replace(DRAFT, state=State.RUNNING, started_ns=3)]
    stopped = experiments.stop("worth", "ben", 4)
    assert Experiments(tmp_path, tmp_path / "data", "acme").all() == [stopped]
    acts = [(one.at_ns, one.actor, one.kind, one.subject, one.reason) for one in read_acts(tmp_path / "data")]
    assert acts == [
        (1, "ana", "experiment.drafted", "acme/worth", ""),
        (2, "ana", "experiment.drafted", "acme/worth", "a typing mistake"),
        (3, "ana", "experiment.started", "acme/worth", "to know"),
        (4, "ben", "experiment.stopped", "acme/worth", ""),
    ]


def test_what_runs_or_has_run_does_not_change(experiments: Experiments) -> None:
    experiments.put(DRAFT, "ana", 1)
    experiments.start("worth", "ana", 2)
    for change in (lambda: experiments.put(DRAFT, "ana", 3), lambda: experiments.drop("worth", "ana", 3)):
        with pytest.raises(ConfigError):
            change()
    experiments.stop("worth", "ana", 4)
    with pytest.raises(ConfigError, match="stopped"):
        experiments.start("worth", "ana", 5)
    assert [one.state for one in experiments.all()] == [State.STOPPED]


def test_users_are_in_one_experiment_at_a_time(experiments: Experiments) -> None:
    for name in ("one", "two"):
        experiments.put(msgspec.structs.replace(DRAFT, name=name), "ana", 1)
    experiments.start("one", "ana", 2)
    with pytest.raises(ConfigError, match="stop it first"):
        experiments.start("two", "ana", 3)
    experiments.drop("two", "ana", 4)
    with pytest.raises(ConfigError, match="there are: one, two"):
        experiments.get("three")


def test_nothing_takes_effect_that_nobody_signed_for(experiments: Experiments, tmp_path: Path) -> None:
    acts_dir(tmp_path / "data").parent.mkdir()
    acts_dir(tmp_path / "data").write_text("in the way")
    with pytest.raises(JournalError):
        experiments.put(DRAFT, "ana", 1)
    assert experiments.all() == []


def test_a_damaged_file_is_named(experiments: Experiments, tmp_path: Path) -> None:
    (tmp_path / "experiments.json").write_text("[{]")
    with pytest.raises(ConfigError, match=r"experiments\.json cannot be read"):
        experiments.all()
