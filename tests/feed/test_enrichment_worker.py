"""The worker against a real gateway with a fake provider: what is bought once is not bought twice, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.feed_side import NOW_NS, T, feed_server
from support.feed_world import World
from support.keeper_side import until
from support.upeti_process import CONFIG, KEY, UpetiProcess, upeti_process
from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.feed.enrichment import Safety, Source
from upeti.feed.enrichment_store import EnrichmentStore
from upeti.feed.enrichment_worker import FEATURE, EnrichmentWorker, Passed, Settings, WorkerError, batches, cut
from upeti.feed.experiment import is_held_out
from upeti.feed.experiments import Experiments
from upeti.feed.gateway_client import Action, GatewayClient, action_of
from upeti.feed.items import Item, checked_item
from upeti.feed.store import FeedStore
from upeti.feed.worth_data import report

PROGRAM = """
import sys
from pathlib import Path
from test_enrichment_worker import worker_of
worker_of(Path(sys.argv[1]), sys.argv[2], route=sys.argv[3]).run_once()
"""


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    """One gateway for all tests here: the model's name says how the provider behaves."""
    with upeti_process(tmp_path_factory.mktemp("gateway"), CONFIG + STUDENT) as process:
        process.start()
        yield process


STUDENT = """
[[channel]]
name = "own"
kind = "openai_compatible"
base_url = "http://127.0.0.1:{port}/v1"
prices = "sim"

[[route]]
name = "labels-by-student"
candidate = [{{ channel = "own", model = "student" }}]

[[budget]]
name = "little"
limit = "0.002"
feature = "feed-enrichment"
key = "k2"

[[budget]]
name = "none"
limit = "0.000001"
feature = "feed-enrichment"
key = "k3"

[[key]]
id = "k2"
tenant = "acme"
sha256 = "LITTLE"

[[key]]
id = "k3"
tenant = "acme"
sha256 = "NONE"
""".replace("LITTLE", sha256(b"upeti-key-with-little-money").hexdigest()).replace(
    "NONE", sha256(b"upeti-key-with-no-money").hexdigest()
)


def filled(directory: Path, count: int = 20, text: str = "A film about number {n}.") -> FeedStore:
    store = FeedStore(directory)
    films = [Item(f"film {n:03d}", labels={"title": text.format(n=n)}) for n in range(count)]
    store.put_items(T, [checked_item(film, NOW_NS) for film in films])
    return store


def worker_of(directory: Path, url: str, *, key: str = KEY, route: str = "labels", **settings: Any) -> EnrichmentWorker:
    store = FeedStore(directory)
    return EnrichmentWorker(
        store,
        T,
        GatewayClient(f"{url}/v1", key),
        Experiments(store.tenant_dir(T), directory, T),
        Settings(route=route, student_channels=("own",), **settings),
    )


def bill(upeti: UpetiProcess, model: str) -> dict[str, Any]:
    """What the gateway's journal says of a model."""
    lines = json.loads(upeti.command("bill", "--by", "model", "--json").stdout)["lines"]
    (line,) = [one for one in lines if one["model"] == model]
    return dict(line)


def test_items_are_labelled_once_with_provenance_and_exact_costs(upeti: UpetiProcess, tmp_path: Path) -> None:
    store = filled(tmp_path)
    done = worker_of(tmp_path, upeti.gateway, route="once").run_once()
    assert done == Passed(labelled=20, calls=3)
    assert worker_of(tmp_path, upeti.gateway, route="once").run_once() == Passed()
    enrichments = EnrichmentStore(store, T)
    (one,) = enrichments.versions("film 007")
    assert one.tags
    assert one.quality is not None
    assert one.source is Source.PAID
    assert (one.provenance.channel, one.provenance.model) == ("sim", "once")
    ours, calls = enrichments.balance()
    assert ours == calls > 0
    # and by the journal of the gateway, to the last pico
    assert parse_pico(bill(upeti, "once")["cost"]) == calls


def test_a_changed_text_is_read_anew_and_a_known_one_is_copied(upeti: UpetiProcess, tmp_path: Path) -> None:
    store = filled(tmp_path, 4)
    worker_of(tmp_path, upeti.gateway, route="changed").run_once()
    twins = [Item(name, labels={"title": "A new film."}) for name in ("film 000", "twin 1", "twin 2")]
    store.put_items(T, [checked_item(one, NOW_NS) for one in twins])
    store.put_items(T, [checked_item(Item("copy", labels={"title": "A film about number 3."}), NOW_NS)])
    assert worker_of(tmp_path, upeti.gateway, route="changed").run_once() == Passed(labelled=1, copied=3, calls=1)
    enrichments = EnrichmentStore(store, T)
    assert len(enrichments.versions("film 000")) == 2
    (copy,), original = enrichments.versions("copy"), enrichments.versions("film 003")[0]
    assert (copy.cost, copy.tags, copy.provenance) == ("0", original.tags, original.provenance)
    assert enrichments.balance()[0] == enrichments.balance()[1]


def test_a_student_takes_over_by_routing_alone(upeti: UpetiProcess, tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    worker_of(tmp_path, upeti.gateway, route="labels-by-student").run_once()
    (one,) = EnrichmentStore(store, T).versions("film 000")
    assert one.source is Source.STUDENT
    assert (one.provenance.channel, one.provenance.model) == ("own", "student")


def test_held_out_hidden_and_empty_items_are_not_bought(upeti: UpetiProcess, tmp_path: Path) -> None:
    store = filled(tmp_path, 30)
    store.put_items(T, [checked_item(Item("hidden", labels={"title": "x"}, is_hidden=True), NOW_NS)])
    store.put_items(T, [checked_item(Item("empty"), NOW_NS)])
    experiments = Experiments(store.tenant_dir(T), tmp_path, T)
    experiment = msgspec.structs.replace(World().experiment(), item_holdout_share=0.3)
    experiments.put(experiment, "ana", NOW_NS)
    experiments.start(experiment.name, "ana", NOW_NS)
    worker_of(tmp_path, upeti.gateway, route="holdout").run_once()
    bought = set(EnrichmentStore(store, T).latest())
    assert bought == {f"film {n:03d}" for n in range(30) if not is_held_out(experiment, f"film {n:03d}")}
    assert 0 < len(bought) < 30


@pytest.mark.parametrize("behaviour", ["prose", "badjson", "err400"])
def test_what_cannot_be_read_fails_closed_and_its_cost_is_not_lost(
    upeti: UpetiProcess, tmp_path: Path, behaviour: str
) -> None:
    store = filled(tmp_path, 3)
    route = f"fails-{behaviour}"
    first = worker_of(tmp_path, upeti.gateway, route=route).run_once()
    assert first == Passed(tried=3, calls=1)
    second = worker_of(tmp_path, upeti.gateway, route=route).run_once()
    assert second == Passed(tried=3, calls=3)  # each alone, so that one bad text spoils no other
    third = worker_of(tmp_path, upeti.gateway, route=route).run_once()
    assert third == Passed(given_up=3, calls=3)
    assert worker_of(tmp_path, upeti.gateway, route=route).run_once() == Passed()
    enrichments = EnrichmentStore(store, T)
    for versions in enrichments.latest().values():
        assert versions[Source.PAID].safety is Safety.UNKNOWN
        assert versions[Source.PAID].tags == ()
    ours, calls = enrichments.balance()
    assert ours == calls
    assert (calls > 0) == (behaviour != "err400")


def test_an_empty_budget_pauses_the_worker_and_it_goes_on_when_there_is_money(
    upeti: UpetiProcess, tmp_path: Path
) -> None:
    store = filled(tmp_path, 40)
    poor = worker_of(tmp_path, upeti.gateway, key="upeti-key-with-little-money", route="poor", calls_at_once=1)
    done = poor.run_once()
    assert done.pause_s > 0
    assert "budget_exceeded" in done.why
    assert done.labelled < 40
    assert poor.run_once().labelled == 0  # still none
    assert worker_of(tmp_path, upeti.gateway, route="poor").run_once().labelled == 40 - done.labelled
    assert EnrichmentStore(store, T).count() == 40
    ours, calls = EnrichmentStore(store, T).balance()
    assert ours == calls


def test_a_gateway_that_is_down_pauses_it_and_the_pauses_grow(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    worker = worker_of(tmp_path, "http://127.0.0.1:9")
    pauses = [worker.run_once().pause_s for _ in range(3)]
    assert pauses[0] < pauses[1] < pauses[2]
    done = worker_of(tmp_path, "http://127.0.0.1:9").run_once()
    assert "no answer" in done.why
    assert not done.labelled


def test_feeds_go_on_without_gateway_or_money_and_labels_come_when_both_are_back(
    upeti: UpetiProcess, tmp_path: Path
) -> None:
    filled(tmp_path, 30)
    with feed_server(tmp_path) as server:

        def shown() -> list[str]:
            status, body = server.call("GET", "/v1/feed?user=ana&n=30")
            assert status == 200
            return [one["item"] for one in body["items"]]

        catalogue = server.service.tenant(T).feed.state.catalogue
        assert worker_of(tmp_path, "http://127.0.0.1:9", route="back").run_once().pause_s > 0
        assert len(shown()) == 30
        broke = worker_of(tmp_path, upeti.gateway, key="upeti-key-with-no-money", route="back").run_once()
        assert "budget_exceeded" in broke.why
        assert len(shown()) == 30
        assert not any(catalogue.enrichment_version(place) for place in range(30))
        assert worker_of(tmp_path, upeti.gateway, route="back").run_once().labelled == 30
        until(lambda: all(catalogue.enrichment_version(place) for place in range(30)))
        assert len(shown()) == 30


def test_a_provider_that_fails_now_and_then_only_delays(upeti: UpetiProcess, tmp_path: Path) -> None:
    filled(tmp_path, 3)
    done = worker_of(tmp_path, upeti.gateway, route="fails-err500").run_once()
    assert done.pause_s > 0
    assert done.tried == 0


def test_a_wrong_key_stops_it_with_the_cure(upeti: UpetiProcess, tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with pytest.raises(WorkerError, match="look at its key"):
        worker_of(tmp_path, upeti.gateway, key="wrong").run_once()
    with pytest.raises(ConfigError, match="address of a gateway"):
        GatewayClient("localhost:8080", "k")


def test_two_workers_do_not_buy_the_same(upeti: UpetiProcess, tmp_path: Path) -> None:
    filled(tmp_path, 3)
    worker = worker_of(tmp_path, upeti.gateway, route="alone")
    with worker._alone(), pytest.raises(ConfigError, match="another worker"):
        worker_of(tmp_path, upeti.gateway, route="alone").run_once()


def test_it_follows_what_is_new(upeti: UpetiProcess, tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    worker = worker_of(tmp_path, upeti.gateway, route="follows")
    told: list[Passed] = []
    looks = iter(range(4))

    def is_over(pause_s: float) -> bool:
        look = next(looks)
        if look == 1:
            store.put_items(T, [checked_item(Item("late", labels={"title": "It came later."}), time.time_ns())])
        return look == 3

    worker.follow(is_over, told.append)
    assert [one.labelled for one in told] == [3, 1]


@pytest.mark.parametrize("moments", [(16,), pytest.param((4, 8, 16, 24, 32, 40, 48), marks=pytest.mark.slow)])
def test_killed_in_the_middle_it_pays_twice_at_most_for_what_was_under_way(
    upeti: UpetiProcess, tmp_path: Path, moments: tuple[int, ...]
) -> None:
    route = f"killed-{len(moments)}-slow60"
    store = filled(tmp_path, 64)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), upeti.gateway, route]
    enrichments = EnrichmentStore(store, T)
    kills = 0
    for want in moments:
        with subprocess.Popen(command, env=environment) as process:
            until(lambda want=want: enrichments.count() >= want or process.poll() is not None, seconds=30)
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    assert kills == len(moments)
    worker_of(tmp_path, upeti.gateway, route=route).run_once()
    assert enrichments.count() == 64
    assert enrichments.balance()[0] == enrichments.balance()[1]
    # 8 calls label 64 items once; each kill may have cost the 4 that were under way
    data = upeti.data_dir
    experiment = msgspec.structs.replace(World().experiment(), started_ns=NOW_NS, stopped_ns=0)
    found = report(experiment, store, T, time.time_ns(), data_dir=data, feature=FEATURE)
    assert found.journal_pico == found.calls_pico
    assert 8 <= bill(upeti, route)["calls"] <= 8 + 4 * kills


# -- pure -----------------------------------------------------------------------------------------------------------


def test_batches_hold_small_texts_together_and_cut_huge_ones() -> None:
    items = [
        checked_item(Item(f"i{n}", comment="x" * size), NOW_NS) for n, size in enumerate([10] * 5 + [60_000, 900, 900])
    ]
    found = list(batches(items, {}, Settings(items_per_call=4, call_bytes_max=1_000, text_bytes_max=950)))
    assert [[item.id for item in batch.items] for batch in found] == [
        ["i0", "i1", "i2", "i3"],
        ["i4", "i5"],
        ["i6"],
        ["i7"],
    ]
    assert max(len(text) for batch in found for text in batch.texts) == 950
    assert cut("漢字漢字", 7) == "漢字"
    assert Counter(item.id for batch in found for item in batch.items).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, Action.READ),
        (429, Action.WAIT),
        (0, Action.BACK_OFF),
        (500, Action.BACK_OFF),
        (503, Action.BACK_OFF),
        (400, Action.REFUSED),
        (413, Action.REFUSED),
        (401, Action.STOP),
        (404, Action.STOP),
        (302, Action.STOP),
    ],
)
def test_what_follows_from_a_status(status: int, action: Action) -> None:
    assert action_of(status) is action
