"""The monitor as a sink: off until it is turned on, over restarts, and when the state is away."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from support.conduct_side import body, question, task
from upeti.control import conduct
from upeti.control.cases import all_cases
from upeti.control.conduct import ConductSink, Files, pairs_taken, standing
from upeti.control.store import Store
from upeti.control.tables_lineage import dataset_rows, datasets
from upeti.core.config import Conduct, Config
from upeti.gateway.capture import Exchange
from upeti.gateway.log import Log
from upeti.rights.terms import Terms

WINDOW = 60


class Scene:
    def __init__(self, folder: Path, store: Store) -> None:
        shipped = Path(__file__).parents[2] / "src/upeti/rights/conduct/thresholds.toml"
        text = shipped.read_text().replace("calls = 1000 ", f"calls = {WINDOW} ")
        (folder / "thresholds.toml").write_text(text.replace("= 3000 ", f"= {2 * WINDOW} "))
        self.config = Config(conduct=Conduct(enabled=True, thresholds_file=str(folder / "thresholds.toml")))
        self.folder, self.store = folder, store
        self.now_s = 0.0
        self.lines: list[str] = []
        self.dice = random.Random(3)
        self.number = 0

    def sink(self, config: Config | None = None) -> ConductSink:
        log = Log("capture", lambda: 0)
        log._write = lambda level, event, message, fields: self.lines.append(f"{event}: {message}")  # type: ignore[method-assign]
        made = ConductSink(self.folder / "data", self.store, log, clock_s=lambda: self.now_s)
        made.learn(config or self.config, Terms())
        return made

    def exchange(self, text: str, **fields: Any) -> Exchange:
        self.number += 1
        return Exchange(
            call_id=f"req_{self.number}",
            attempt=0,
            at_ns=self.number * 10**9,
            tenant="acme",
            project="",
            key="k1",
            feature="",
            task="",
            user="",
            route="m",
            channel="sim",
            model="m",
            wire="chat_completions",
            stream=False,
            status=200,
            request=body(text, **fields),
            answer=b"{}",
            keep=False,
            watch=True,
        )

    def send(
        self, sink: ConductSink, calls: int, make: Callable[[random.Random], str] = question, **fields: Any
    ) -> None:
        for _ in range(calls):
            sink.take(self.exchange(make(self.dice), **fields))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    store = Store(tmp_path / "data")
    yield Scene(tmp_path, store)
    store.close()


def test_off_nothing_is_looked_at_or_kept(scene: Scene) -> None:
    sink = scene.sink(Config())
    scene.send(sink, 2 * WINDOW)
    sink.flush()
    sink.close()
    assert not (scene.folder / "data" / "conduct").exists()
    assert standing(scene.folder / "data") == []


def test_what_is_not_watched_is_not_looked_at(scene: Scene) -> None:
    sink = scene.sink()
    sink.take(msgspec.structs.replace(scene.exchange("hi"), watch=False))
    sink.close()
    assert standing(scene.folder / "data") == []


def test_a_window_goes_on_after_a_restart(scene: Scene) -> None:
    first = scene.sink()
    scene.send(first, 2 * WINDOW + 30, user="u1")
    first.flush()
    first.close()
    (unit,) = standing(scene.folder / "data")
    assert (unit["unit"], unit["calls_in_window"], unit["looks"]) == ("tenant:acme", 30, 2)
    again = scene.sink()
    scene.send(again, 30, user="u1")
    again.close()
    (unit,) = standing(scene.folder / "data")
    assert (unit["calls_in_window"], unit["looks"], unit["last"]["families"]) == (0, 3, [])
    assert unit["last"]["p"] is not None


def test_it_is_written_now_and_then(scene: Scene) -> None:
    sink = scene.sink()
    scene.send(sink, 5)
    sink.flush()
    assert standing(scene.folder / "data") == []
    scene.now_s = 31
    sink.flush()
    assert standing(scene.folder / "data")[0]["calls_in_window"] == 5


def test_a_case_that_cannot_be_written_now_is_written_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = scene.sink()
    scene.send(sink, 3 * WINDOW, user="u1")
    scene.send(sink, WINDOW, task, max_tokens=8000, n=2)

    def away(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(conduct, "see", away)
        with pytest.raises(OSError, match="the disk is full"):
            sink.flush()
    assert all_cases(scene.store) == []
    sink.flush()
    (case,) = all_cases(scene.store)
    assert (case.kind, case.state, case.families) == ("conduct", "warned", ("drift", "signs"))
    assert any(line.startswith("case: a look at tenant:acme has found drift, signs") for line in scene.lines)
    sink.flush()
    assert len(all_cases(scene.store)) == 1


def test_thresholds_that_cannot_be_used_change_nothing(scene: Scene) -> None:
    sink = scene.sink()
    scene.send(sink, 10)
    (scene.folder / "thresholds.toml").write_text("[windows]\ncalls = 5\n")
    sink.learn(scene.config, Terms())
    assert scene.lines[-1].startswith("conduct_refused: ")
    sink.close()
    assert standing(scene.folder / "data")[0]["calls_in_window"] == 10


def test_a_file_of_another_form_begins_anew(scene: Scene) -> None:
    sink = scene.sink()
    scene.send(sink, 10)
    sink.close()
    for path in (scene.folder / "data" / "conduct").rglob("*.msgpack"):
        path.write_bytes(b"\x93\x01")
    assert list(Files(scene.folder / "data").units()) == []
    again = scene.sink()
    scene.send(again, 3)
    again.close()
    assert standing(scene.folder / "data")[0]["calls_in_window"] == 3


def test_pairs_that_left_the_store_are_counted_by_tenant_purpose_and_time(scene: Scene) -> None:
    def build(number: int, purpose: str, built_ns: int, pairs: list[tuple[str, str]]) -> None:
        dataset = {"id": f"d@{number}", "name": "d", "version": number, "purpose": purpose, "built_ns": built_ns}
        rest = {"built_by": "legal", "filters": {}, "directory": "", "rows": len(pairs), "left_out": 0, "duties": []}
        texts = ("sha256", "call_id", "channel", "contract", "model", "clause", "grant", "consent")
        with scene.store.writing() as connection:
            connection.execute(insert(datasets).values(**dataset, **rest, manifest_sha256=""))
            for place, (tenant, pair) in enumerate(pairs):
                row = {"dataset": f"d@{number}", "number": place, "pair_id": pair, "tenant": tenant, "captured_ns": 0}
                connection.execute(insert(dataset_rows).values(**row, **dict.fromkeys(texts, "")))

    build(1, "general_model", 100, [("acme", "p1"), ("acme", "p2"), ("beta", "p3"), ("acme", "")])
    build(2, "general_model", 200, [("acme", "p1"), ("acme", "p4")])
    build(3, "evaluate", 200, [("acme", "p5")])
    assert pairs_taken(scene.store, ["acme"], 100) == 3
    assert pairs_taken(scene.store, ["acme"], 150) == 2
    assert pairs_taken(scene.store, ["acme", "beta"], 0) == 4
    assert pairs_taken(scene.store, ["gamma"], 0) == 0
