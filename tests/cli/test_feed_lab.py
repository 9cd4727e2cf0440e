"""`upeti feed experiment`, `worth`, `enrich`: as somebody at a terminal uses them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.feed_side import DAY_NS, NOW_NS
from support.feed_world import World
from support.upeti_process import CONFIG, KEY, UpetiProcess, upeti_process
from upeti.cli.main import main
from upeti.feed.experiments import Experiments
from upeti.journal.acts import read_acts

ENRICHMENT = """
[feed.enrichment]
key = "env:UPETI_TEST_KEY"
route = "{route}"
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text('data_dir = "data"\n')
    return path


def create(config: Path, *more: str) -> int:
    arms = ("--arm", "free=free:2", "--arm", "paid=all", "--arm", "own=free+enrichment_student")
    return run("feed", "experiment", "create", "worth", "--tenant", "acme", *arms, *more, "--config", str(config))


def step(config: Path, name: str, *more: str) -> int:
    return run("feed", "experiment", name, "worth", "--tenant", "acme", *more, "--config", str(config))


def test_the_life_of_an_experiment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(config, "--holdout", "0.1", "--event-value", "0.02", "--currency", "idr") == 0
    assert step(config, "start", "--by", "head of content", "--why", "to know") == 0
    capsys.readouterr()
    assert run("feed", "experiment", "list", "--tenant", "acme", "--json", "--config", str(config)) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["event_value"], found["currency"]) == ("running", "0.02", "IDR")
    assert [(arm["name"], arm["weight"], len(arm["mask"])) for arm in found["arms"]] == [
        ("free", 2, 3),
        ("paid", 1, 5),
        ("own", 1, 4),
    ]
    assert create(config) == 2  # what runs does not change
    assert step(config, "stop") == 0
    assert run("feed", "experiment", "list", "--tenant", "acme", "--config", str(config)) == 0
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "0.02 IDR" in shown
    kinds = [(one.kind, one.actor) for one in read_acts(config.parent / "data")]
    assert kinds == [
        ("experiment.drafted", "cli"),
        ("experiment.started", "head of content"),
        ("experiment.stopped", "cli"),
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--arm", "nonsense"), "is no arm"),
        (("--arm", "x=magic"), "magic"),
        (("--arm", "x=all:0"), "weight"),
        (("--event-value", "-1"), "over 0"),
        (("--error", "0.9"), "error_share"),
    ],
)
def test_mistakes_are_told_with_the_cure(
    config: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], says: str
) -> None:
    assert create(config, *more) == 2
    assert says in capsys.readouterr().err


def test_the_verdict_at_the_terminal_as_json_and_as_a_page(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = config.parent / "data"
    experiment, store = World().run(directory)
    kept = Experiments(store.tenant_dir("acme"), directory, "acme")
    kept.put(experiment, "head of content", NOW_NS)
    kept.start("worth", "head of content", experiment.started_ns)
    kept.stop("worth", "head of content", experiment.stopped_ns)
    asked = ("feed", "worth", "worth", "--tenant", "acme", "--config", str(config))
    assert run(*asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "pay"
    assert found["spent"]["enrichment_paid"]["cost"] == "0.6"
    assert found["books"]["journal"] is None  # no gateway has run here
    page = config.parent / "worth.html"
    assert run(*asked, "--page", str(page)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("PAY\n")
    assert "paid over free" in shown
    assert page.read_text().count("<svg") == 2
    assert run(*asked, "--page", str(config.parent / "no" / "worth.html")) == 2
    assert run("feed", "worth", "other", "--tenant", "acme", "--config", str(config)) == 2
    assert "there are: worth" in capsys.readouterr().err
    assert experiment.stopped_ns - experiment.started_ns == 6 * DAY_NS


# -- with a gateway -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    with upeti_process(tmp_path_factory.mktemp("lab"), CONFIG + ENRICHMENT.format(route="labels")) as process:
        process.start()
        yield process


def enrich(upeti: UpetiProcess, *more: str) -> Any:
    arguments = ("feed", "enrich", "--tenant", "acme", "--url", f"{upeti.gateway}/v1", *more)
    return upeti.command(*arguments, env=os.environ | {"UPETI_TEST_KEY": KEY})


def test_from_a_csv_to_labels_and_what_they_cost(upeti: UpetiProcess) -> None:
    items = upeti.folder / "items.csv"
    items.write_text("item,title\n" + "".join(f"i{n},A film about number {n}\n" for n in range(10)))
    assert upeti.command("feed", "import", "csv", "--tenant", "acme", "--items", str(items)).returncode == 0
    done = enrich(upeti, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labelled"] == 10
    again = enrich(upeti)
    assert "0 labelled in 0 calls" in again.stdout
    bill = json.loads(upeti.command("bill", "--by", "feature", "--json").stdout)
    (line,) = bill["lines"]
    assert (line["feature"], line["calls"]) == ("feed-enrichment", 2)


def test_the_workers_key_may_be_missing_or_wrong(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("feed", "enrich", "--tenant", "acme", "--config", str(config)) == 2
    assert "upeti keys create" in capsys.readouterr().err
    config.write_text('data_dir = "data"\n[feed.enrichment]\nkey = "env:UPETI_NO_SUCH_KEY"\n')
    assert run("feed", "enrich", "--tenant", "acme", "--config", str(config)) == 2
    assert "UPETI_NO_SUCH_KEY" in capsys.readouterr().err
