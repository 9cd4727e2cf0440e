"""A small world with a known truth: people with tastes, items with topics, and models that understand topics or do not.

What is real: the arms, the impression log, the store, enrichments with their costs, the join and the verdict. What stands in
is the ranker: it expects that somebody likes an item by how well the topic it knows of it fits, and shows the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from support.feed_side import DAY_NS, NOW_NS, T
from upeti.core.amount import decimal_text, parse_pico
from upeti.feed.enrichment import Enrichment, Provenance, Safety, Source, version_of
from upeti.feed.enrichment_store import Call, EnrichmentStore
from upeti.feed.experiment import FREE, GROUPS, PAID, STUDENT, Arm, Experiment, State, arm_of, is_held_out
from upeti.feed.impressions import Impression, ImpressionLog
from upeti.feed.items import Feedback, Item, checked_item
from upeti.feed.store import FeedStore

TOPICS = 12
DAYS = 6
FREE_ARM = Arm("free", FREE)
STUDENT_ARM = Arm("student", FREE | {STUDENT})
PAID_ARM = Arm("paid", frozenset(GROUPS))


@dataclass
class World:
    """What is true. Shares are of items whose topic a model gets right; metadata gets some right for nothing."""

    paid_right: float = 0.9
    student_right: float | None = None  # None: there is no student arm
    metadata_right: float = 0.3
    paid_cost: str = "0.002"  # for an item
    student_cost: str = "0.00001"
    event_value: str = "0.01"
    item_holdout_share: float = 0.0
    users: int = 900
    items: int = 300
    slate: int = 5
    seed: int = 1

    def experiment(self) -> Experiment:
        arms = (FREE_ARM, PAID_ARM) if self.student_right is None else (FREE_ARM, STUDENT_ARM, PAID_ARM)
        return Experiment(
            "worth",
            arms,
            event_value=self.event_value,
            item_holdout_share=self.item_holdout_share,
            users_planned=max(100, self.users // len(arms)),
            state=State.RUNNING,
            started_ns=NOW_NS,
            stopped_ns=NOW_NS + DAYS * DAY_NS,
        )

    def run(self, directory: Path) -> tuple[Experiment, FeedStore]:
        """Let the experiment happen; everything is on disk afterwards."""
        draw = np.random.default_rng(self.seed)
        experiment = self.experiment()
        store = FeedStore(directory)
        topic = draw.integers(0, TOPICS, self.items)
        names = [f"item {number}" for number in range(self.items)]
        labels = [{"title": name, "creator": f"studio {number % 20}"} for number, name in enumerate(names)]
        items = [Item(name, labels=one) for name, one in zip(names, labels, strict=True)]
        store.put_items(T, [checked_item(item, NOW_NS) for item in items])
        held = np.array([is_held_out(experiment, name) for name in names])
        known = {
            "metadata": _guesses(draw, topic, self.metadata_right),
            STUDENT: _guesses(draw, topic, self.student_right or 0.0),
            PAID: _guesses(draw, topic, self.paid_right),
        }
        versions = self._buy(store, names, held)
        log = ImpressionLog(store.tenant_dir(T))
        people = [f"user {number}" for number in range(self.users)]
        taste = draw.dirichlet(np.full(TOPICS, 0.3), self.users)
        past = [
            Feedback("like", people[user], f"old {n}", 1.0, NOW_NS - DAY_NS * (n + 1))
            for user in range(self.users)
            for n in range(int(draw.poisson(3 * taste[user].max())))
        ]
        store.add_feedback(T, past)
        for day in range(DAYS):
            rows: list[Impression] = []
            feedback: list[Feedback] = []
            for user in np.flatnonzero(draw.random(self.users) < 0.6):
                arm = arm_of([experiment], people[user])
                source = next((one for one in (PAID, STUDENT) if one in arm.mask), None)
                guess = known["metadata"] if source is None else np.where(held, known["metadata"], known[source])
                fresh = draw.choice(self.items, 60, replace=False)
                score = taste[user][guess[fresh]] + draw.normal(0, 0.02, len(fresh))
                at_ns = NOW_NS + day * DAY_NS + int(draw.integers(0, DAY_NS // 2))
                for rank, item in enumerate(fresh[np.argsort(-score)][: self.slate]):
                    version = "" if source is None or held[item] else versions[source]
                    rows.append(
                        Impression(
                            *(f"{day}-{user}-{rank}", f"{day}-{user}", at_ns, people[user], names[item], rank),
                            *(("content",), arm.name, arm.experiment, 1.0, float(score[rank])),
                            enrichment_version=version,
                        )
                    )
                    if draw.random() < 0.02 + 0.5 * taste[user][topic[item]]:
                        feedback.append(Feedback("like", people[user], names[item], 1.0, at_ns + 10**9 * (rank + 1)))
            log.append(rows)
            store.add_feedback(T, feedback)
        log.close()
        return experiment, store

    def _buy(self, store: FeedStore, names: list[str], held: np.ndarray) -> dict[str, str]:
        enrichments = EnrichmentStore(store, T)
        made = {}
        for source, cost, used in (
            (Source.PAID, self.paid_cost, True),
            (Source.STUDENT, self.student_cost, self.student_right is not None),
        ):
            version = version_of("text", "labels-1", source, "m")
            made[source.value] = version
            if not used:
                continue
            bought = [name for name, out in zip(names, held, strict=True) if not out]
            whole = decimal_text(parse_pico(cost) * len(bought))
            call = Call(f"call of {source}", NOW_NS + 1, source, "read", len(bought), whole, "USD")
            provenance = Provenance(call.call_id, "sim", "m", "labels-1")
            enrichments.record(
                call,
                [
                    Enrichment(
                        name, version, ("t",), 0.5, Safety.SAFE, None, provenance, cost, "USD", NOW_NS + 1, source
                    )
                    for name in bought
                ],
            )
        return made


def with_noise(world: World) -> World:
    """The same world, where what the paid model says has nothing to do with the item."""
    return World(**{**msgspec.to_builtins(world.__dict__), "paid_right": 0.0})


def _guesses(draw: np.random.Generator, topic: np.ndarray, right: float) -> np.ndarray:
    return np.where(draw.random(len(topic)) < right, topic, draw.integers(0, TOPICS, len(topic)))
