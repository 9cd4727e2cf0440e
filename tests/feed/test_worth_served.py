"""The verdict through the real feed: its ranker, trained on a real log, serves the arms to people whose tastes are known.

Every day brings new items. What the paid model says of them is their true topic, or noise; the free facts say nothing.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from support.feed_side import DAY_NS, NOW_NS, T
from upeti.core.config import Feed
from upeti.feed.enrichment import Enrichment, Provenance, Safety, Source
from upeti.feed.enrichment_store import Call, EnrichmentStore
from upeti.feed.experiment import FREE, PAID, STUDENT, Arm, Experiment, State
from upeti.feed.experiments import Experiments
from upeti.feed.impressions import ImpressionLog
from upeti.feed.items import Feedback, Item, checked_feedback, checked_item
from upeti.feed.loading import load_state
from upeti.feed.models import ModelStore
from upeti.feed.refit import refit
from upeti.feed.serve import FeedRequest, TenantFeed
from upeti.feed.store import FeedStore
from upeti.feed.worth import Outcome, Worth
from upeti.feed.worth_data import report

TOPICS, NEW_A_DAY, SLATE = 10, 50, 6
PAST_DAYS, DAYS = 12, 5
ARMS = (Arm("free", FREE), Arm("paid", FREE | {PAID}), Arm("student", FREE | {STUDENT}))


def served(directory: Path, *, paid: float, cost: str, student: float | None = None, users: int = 400) -> Worth:
    """Return the verdict where the paid model gets the topic of so many items right, the student of so many."""
    draw = np.random.default_rng(1)
    arms = ARMS if student is not None else ARMS[:2]
    planned = users // len(arms)
    drafted = Experiment("served", arms, event_value="0.01", users_planned=planned)
    store = FeedStore(directory)
    experiments = Experiments(store.tenant_dir(T), directory, T)
    experiments.put(drafted, "ana", NOW_NS)
    first_ns = NOW_NS // DAY_NS * DAY_NS - PAST_DAYS * DAY_NS
    topic = draw.integers(0, TOPICS, NEW_A_DAY * (PAST_DAYS + DAYS))
    taste = draw.dirichlet(np.full(TOPICS, 0.25), users)
    items = make_items(store, len(topic), first_ns)
    label(store, items, said_of(draw, topic, paid), Source.PAID, cost)
    if student is not None:
        label(store, items, said_of(draw, topic, student), Source.STUDENT, "0.00001")
    for day in range(PAST_DAYS):  # before there was a feed: people find some of the day's items by themselves
        today = np.arange(day * NEW_A_DAY, (day + 1) * NEW_A_DAY)
        store.add_feedback(T, likes_of(draw, taste, topic, today, first_ns + day * DAY_NS))
    now_ns = first_ns + PAST_DAYS * DAY_NS
    fitted = refit(store, directory, T, now_ns=now_ns, embed=False)
    assert fitted.is_live, fitted
    experiment = experiments.start(drafted.name, "ana", now_ns)
    state, _ = load_state(store, T)
    feed = TenantFeed(state, Feed(embed=False), Random(1))
    feed.ranker = ModelStore(store.tenant_dir(T)).load(fitted.version, state.catalogue)[2]
    feed.experiments = [experiment]
    log = ImpressionLog(store.tenant_dir(T))
    for day in range(DAYS):
        for user in draw.permutation(users):
            at_ns = now_ns + day * DAY_NS + int(draw.integers(DAY_NS // 4, DAY_NS))
            answer = feed.feed(FeedRequest(f"u{user}", n=SLATE), at_ns)
            log.append(answer.impressions)
            liked = [
                Feedback("like", f"u{user}", one.item, 1.0, at_ns + 10**9)
                for one in answer.entries
                if draw.random() < 0.02 + 0.6 * taste[user][topic[int(one.item[1:])]]
            ]
            if liked:
                after = state.sequence
                store.add_feedback(T, [checked_feedback(one, at_ns + 2 * 10**9) for one in liked])
                state.apply(store.feedback(T, after=after))
    log.close()
    end_ns = now_ns + (DAYS + 1) * DAY_NS
    return report(msgspec.structs.replace(experiment, state=State.RUNNING), store, T, end_ns).worth


def make_items(store: FeedStore, count: int, first_ns: int) -> list[Item]:
    days = [first_ns + number // NEW_A_DAY * DAY_NS for number in range(count)]
    items = [
        checked_item(Item(f"i{number}", labels={"title": f"i{number}"}, at_ns=at_ns), NOW_NS * 2)
        for number, at_ns in enumerate(days)
    ]
    store.put_items(T, items)
    return items


def said_of(draw: np.random.Generator, topic: np.ndarray, right: float) -> np.ndarray:
    return np.where(draw.random(len(topic)) < right, topic, draw.integers(0, TOPICS, len(topic)))


def label(store: FeedStore, items: list[Item], said: np.ndarray, source: Source, cost: str) -> None:
    enrichments = EnrichmentStore(store, T)
    for item, topic in zip(items, said.tolist(), strict=True):
        name = f"{source.value[11:]}-{item.id}"
        provenance = Provenance(name, "sim", "m", "labels-1")
        version = Enrichment(
            *(item.id, name, (f"topic {topic}",), None, Safety.SAFE, None, provenance, cost, "USD", item.at_ns),
            *(source, source.value, item.digest),
        )
        enrichments.record(Call(name, item.at_ns, source.value, "read", 1, cost, "USD"), [version])


def likes_of(
    draw: np.random.Generator, taste: np.ndarray, topic: np.ndarray, today: np.ndarray, day_ns: int
) -> list[Feedback]:
    found = []
    for user in range(len(taste)):
        looked = draw.choice(today, 12, replace=False)
        for item in looked[draw.random(12) < 0.02 + 0.6 * taste[user][topic[looked]]]:
            at_ns = day_ns + int(draw.integers(DAY_NS // 4, DAY_NS))
            found.append(checked_feedback(Feedback("like", f"u{user}", f"i{item}", 1.0, at_ns), NOW_NS * 2))
    return sorted(found, key=lambda one: one.at_ns)


@pytest.mark.slow
def test_a_true_lift_is_paid_for(tmp_path: Path) -> None:
    found = served(tmp_path, paid=1.0, cost="0.001")
    assert found.outcome is Outcome.PAY, found


@pytest.mark.slow
def test_noise_is_not(tmp_path: Path) -> None:
    found = served(tmp_path, paid=0.0, cost="0.03")
    assert found.outcome is Outcome.STOP, found


@pytest.mark.slow
def test_a_student_that_keeps_most_of_it_replaces_the_paid_model(tmp_path: Path) -> None:
    found = served(tmp_path, paid=1.0, cost="0.04", student=0.95, users=900)
    assert found.outcome is Outcome.REPLACE, found
