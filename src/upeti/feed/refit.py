"""Learning in the background: ``python -m upeti.feed.refit --data-dir DIR --tenant NAME``, a process of its own.

Rules: the last days are held back; a ranker is trained on the weeks before them and has to be no worse on the held-back
days than the one that serves, or it does not serve (`feed.gate`). What serves changes by replacing one file, after the act
is in the journal. Killed at any moment, it leaves what served and nothing half made. One thread, at low priority.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from upeti.core.errors import UpetiError
from upeti.feed.evaluation import Case, Event, Floats, score, shape
from upeti.feed.experiment import GROUPS, Experiment
from upeti.feed.experiments import Experiments
from upeti.feed.features import NAMES, features_of
from upeti.feed.gate import Entry, Leak, Verdict, find_leaks, judge
from upeti.feed.interactions import is_positive
from upeti.feed.items import Feedback
from upeti.feed.loading import embed_missing, load_state
from upeti.feed.models import ModelStore
from upeti.feed.rank import Ranker, TrainingSet, popularity, train_ranker
from upeti.feed.replay import DAY_NS, EventLog, Night, ReplayedFeed, replay, train_at_night
from upeti.feed.state import FeedState
from upeti.feed.store import FeedStore
from upeti.feed.user_scores import user_scores
from upeti.journal.acts import act, record_acts

TRAIN_DAYS: Final = 20
HELD_BACK_DAYS: Final = 3  # at least
HELD_BACK_FEEDS: Final = 400  # … and so many feeds, where half of the days have them; the gate asks for 200
NIGHTS: Final = 3  # models are trained anew every so many of the replayed days
FEEDS_MAX: Final = 6_000  # to train on; more take longer and gain little
LEAK_EVENTS: Final = 400
LEAK_PROBES: Final = 12
_LISTED: Final = 20  # places of a ranking that are judged
_ACTOR: Final = "refit"


class Refit(NamedTuple):
    """What a refit came to."""

    version: str
    is_live: bool
    reasons: tuple[str, ...]
    trained_on: int  # feeds
    judged_on: int
    ndcg: float  # of the new ranker on the held-back days
    ndcg_live: float  # of the one that served; NaN when there was none
    ndcg_popular: float  # of three-day popularity
    seconds: float


def refit(store: FeedStore, data_dir: Path, tenant: str, *, now_ns: int, embed: bool = True) -> Refit:
    """Train, judge, and let serve what is good enough. Raises ``UpetiError`` when there is too little to learn from."""
    began_s = time.monotonic()
    models = ModelStore(store.tenant_dir(tenant))
    models.clean()
    feedback = [one for one in store.feedback(tenant) if is_positive(one.kind)]
    feedback.sort(key=lambda one: (one.at_ns, one.sequence))
    if not feedback:
        raise UpetiError(f"tenant {tenant} has no feedback yet: nothing can be learned; import some, or wait")
    state, cache = load_state(store, tenant, with_feedback=False)
    if embed:
        embed_missing(state, cache)
    masks = _masks(Experiments(store.tenant_dir(tenant), data_dir, tenant).all())
    last_day = feedback[-1].at_ns // DAY_NS
    night = _night_of(models)
    training, held_back = _replayed(state, feedback, last_day, night)
    night(state, _log_of(state, feedback), last_day + 1)
    version = f"{now_ns // 10**9:012d}"
    ranker = train_ranker(training, masks, version=version) if len(training) else None
    before = models.current()
    live = models.load(before, state.catalogue)[2] if before else None
    models.save(version, state, ranker)
    verdict, judged = _judged(ranker, live, held_back, state, store, tenant, feedback)
    if verdict.is_let_in:
        record_acts(
            data_dir, act(now_ns, _ACTOR, "feed.model_live", f"{tenant}/{version}", "passed the gate", before=before)
        )
        models.make_current(version)
    else:
        reason = "; ".join(verdict.reasons)
        record_acts(data_dir, act(now_ns, _ACTOR, "feed.model_refused", f"{tenant}/{version}", reason, live=before))
    spent_s = time.monotonic() - began_s
    return Refit(version, verdict.is_let_in, verdict.reasons, len(training), len(held_back), *judged, spent_s)


def rollback(
    store: FeedStore, data_dir: Path, tenant: str, *, actor: str, reason: str, now_ns: int, to: str = ""
) -> str:
    """Have an earlier version serve again, the one before the live one unless ``to`` names another; return it.

    Raises ``UpetiError`` when there is none.
    """
    models = ModelStore(store.tenant_dir(tenant))
    current = models.current()
    earlier = [version for version in models.versions() if version < current]
    if not to and not earlier:
        raise UpetiError(f"tenant {tenant} has no version of the models before {current or 'the first'}")
    target = to or earlier[-1]
    if target not in models.versions():
        raise UpetiError(f"there is no version {target}; there are {', '.join(models.versions())}")
    record_acts(data_dir, act(now_ns, actor, "feed.model_rolled_back", f"{tenant}/{target}", reason, before=current))
    models.make_current(target)
    return target


def builder(
    state_of: Callable[[], FeedState],
) -> Callable[[Sequence[Event]], Callable[[str, str, int], dict[str, float]]]:
    """Return what ``find_leaks`` asks for: features as of a moment, from a log that may know more than that."""

    def build(events: Sequence[Event]) -> Callable[[str, str, int], dict[str, float]]:
        state = state_of()
        rest = [Feedback("event", one.user, one.item, one.value, one.at_ns) for one in events]

        def features(user: str, item: str, at_ns: int) -> dict[str, float]:
            known = 0
            while known < len(rest) and rest[known].at_ns < at_ns:
                known += 1
            state.apply(rest[:known])
            del rest[:known]
            state.forget_counts()
            profile = state.profiles.get(user)
            place = state.catalogue.find(item)
            at = np.array([state.catalogue.place(item) if place is None else place], np.int64)
            state.counters.resize(len(state.catalogue))
            row = features_of(state, profile, at, at_ns / 1e9, user_scores(state, profile, at_ns / 1e9))[0]
            return dict(zip(NAMES, row.tolist(), strict=True))

        return features

    return build


def cases_of(
    feeds: Sequence[ReplayedFeed], ids: Sequence[str], rank: Callable[[ReplayedFeed], np.ndarray]
) -> list[Case]:
    """Return what a ranking came to on replayed feeds; what was no candidate counts as missed."""
    cases = []
    for feed in feeds:
        order = np.argsort(-rank(feed), kind="stable")[:_LISTED]
        ranked = tuple(ids[place] for place in feed.places[order])
        taken = frozenset(ids[place] for place in feed.places[feed.taken])
        missed = frozenset(f"\0missed-{number}" for number in range(feed.relevant - len(taken)))
        cases.append(Case(feed.user, feed.day, ranked, taken | missed))
    return cases


def _masks(experiments: Sequence[Experiment]) -> list[frozenset[str]]:
    """Return every mask that a ranker may be asked for."""
    from upeti.feed.serve import NOT_PROFILED

    found = {frozenset(GROUPS), NOT_PROFILED.mask}
    found.update(arm.mask for experiment in experiments for arm in experiment.arms if arm.mask)
    return sorted(found, key=sorted)


def _night_of(models: ModelStore) -> Night:
    """Return what trains before a day, or takes what was trained before it: once a night, however often the ranker is."""

    def night(state: FeedState, log: EventLog, day: int) -> None:
        kept = models.night(day, state.catalogue)
        if kept is None:
            train_at_night(state, log, day)
            models.keep_night(day, state)
            return
        state.counters.resize(len(state.catalogue))
        state.models, state.prior = kept
        state.forget_counts()

    return night


def _replayed(
    state: FeedState, feedback: Sequence[Feedback], last_day: int, night: Night
) -> tuple[TrainingSet, list[ReplayedFeed]]:
    """Play the log; return what to train on and what to judge by."""
    held_from = _held_from(feedback, last_day)
    draw = np.random.default_rng(0)
    from_day = max(held_from - TRAIN_DAYS, feedback[0].at_ns // DAY_NS + 1)
    recent = sum(one.at_ns // DAY_NS >= from_day for one in feedback)
    share = min(1.0, 3 * FEEDS_MAX / max(recent, 1))  # about a third of the events begin a feed
    training = TrainingSet()
    held_back = []
    for feed in replay(
        state, feedback, from_day, nights=NIGHTS, night=night, wanted=lambda _day, _user: bool(draw.random() < share)
    ):
        if feed.day >= held_from:
            held_back.append(feed)
        elif len(training) < FEEDS_MAX:
            training.add(feed.features, feed.taken)
    return training, held_back


def _held_from(feedback: Sequence[Feedback], last_day: int) -> int:
    """Return the first of the days that are held back."""
    users: dict[int, set[str]] = {}
    for one in feedback:
        users.setdefault(one.at_ns // DAY_NS, set()).add(one.user)
    half = last_day - (last_day - min(users)) // 2
    day, feeds = last_day + 1, 0
    while day > half and (last_day - day + 1 < HELD_BACK_DAYS or feeds < HELD_BACK_FEEDS):
        day -= 1
        feeds += len(users.get(day, ()))
    return day


def _log_of(state: FeedState, feedback: Sequence[Feedback]) -> EventLog:
    log = EventLog()
    log.add(state, feedback)
    return log


def _judged(
    ranker: Ranker | None, live: Ranker | None, held_back: Sequence[ReplayedFeed], state: FeedState,
    store: FeedStore, tenant: str, feedback: Sequence[Feedback],
) -> tuple[Verdict, tuple[float, float, float]]:  # fmt: skip
    """Return the gate's verdict and NDCG@10 of the new ranker, the live one and popularity."""
    if ranker is None:
        nothing = "nobody took anything that was proposed: there is nothing to train on"
        return Verdict(False, (nothing,), {}), (np.nan, np.nan, np.nan)
    ids = state.catalogue.ids
    cases = cases_of(held_back, ids, lambda feed: ranker.score(feed.features))
    popular = score(cases_of(held_back, ids, lambda feed: popularity(feed.features)))
    counted = dict(zip(ids, state.counters.total(slice(None)).astype(int).tolist(), strict=True))
    lists = [case.ranked for case in cases]
    found = Entry(ranker.version, score(cases), shape(lists, ids, counted), _leaks(store, tenant, feedback))
    if live is None:
        verdict = judge(found, None)
        if _mean(found.scores.ndcg) < _mean(popular.ndcg):
            reasons = (*verdict.reasons, "it ranks worse than popularity, which serves without a model")
            verdict = Verdict(False, reasons, verdict.gains)
        return verdict, (_mean(found.scores.ndcg), np.nan, _mean(popular.ndcg))
    live_cases = cases_of(held_back, ids, lambda feed: live.score(feed.features))
    against = Entry(live.version, score(live_cases), shape([case.ranked for case in live_cases], ids, counted))
    return judge(found, against), (_mean(found.scores.ndcg), _mean(against.scores.ndcg), _mean(popular.ndcg))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else np.nan


def _leaks(store: FeedStore, tenant: str, feedback: Sequence[Feedback]) -> tuple[Leak, ...]:
    events = [Event(one.user, one.item, one.at_ns, one.value) for one in feedback[-LEAK_EVENTS:]]
    named = {one.item for one in events}
    items = [item for item in store.items(tenant) if item.id in named]

    def state_of() -> FeedState:
        state = FeedState()
        state.put_items(items)
        return state

    return find_leaks(builder(state_of), events, probes=LEAK_PROBES)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the ranker of one tenant and put it before the gate.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--no-embed", action="store_true")
    given = parser.parse_args()
    os.nice(10)
    threadpool_limits(1)
    store = FeedStore(given.data_dir, url=os.environ.get("UPETI_FEED_URL", ""))
    try:
        done = refit(store, given.data_dir, given.tenant, now_ns=time.time_ns(), embed=not given.no_embed)
    except UpetiError as error:
        print(f"upeti: {error}", file=sys.stderr)
        sys.exit(2)
    print(msgspec.json.encode(done._asdict()).decode())


if __name__ == "__main__":
    main()
