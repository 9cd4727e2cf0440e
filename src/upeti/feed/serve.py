"""One tenant's feed: from a request to a list, in memory, with nothing called and nothing waited for.

Rules: retrieve, filter, rank, spread, explore, give a reason; what is returned is what is logged, each item with its
sources, its arm, the probability it had at its place and what the ranker saw. What a user hid never comes back. Without
profiling nothing that describes the user is read; that they saw an item already still keeps it from being shown again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from secrets import token_hex
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from upeti.core.config import Feed as FeedSettings
from upeti.feed.diversify import Chosen, diversify, explore
from upeti.feed.experiment import DEFAULT_ARM, ENRICHMENTS, METADATA, POPULARITY, Arm, Experiment, arm_of, is_held_out
from upeti.feed.features import FEATURES, NAMES, features_of
from upeti.feed.impressions import Impression
from upeti.feed.interleaving import team_draft
from upeti.feed.profile import NOBODY, Profile
from upeti.feed.rank import Ranker, popularity
from upeti.feed.reasons import Reason, Reasons, names
from upeti.feed.retrieval import Candidates, retrieve, sources_of
from upeti.feed.state import FeedState

NUMBER_MAX: Final = 200  # items of one answer; what is past them is another page
NOT_PROFILED: Final = Arm("not_profiled", frozenset({POPULARITY, METADATA}))
_POOL_MAX: Final = 200
_ENRICHED_COLUMNS: Final = np.array([number for number, group in enumerate(FEATURES.values()) if group in ENRICHMENTS])

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]


class FeedRequest(msgspec.Struct, frozen=True):
    """Who wants how much of what."""

    user: str
    n: int = 20
    offset: int = 0
    category: str = ""
    exclude: tuple[str, ...] = ()
    profiling: bool | None = None  # None: as the user's own setting says
    context: dict[str, str] = {}
    session: tuple[str, ...] | None = None  # items of an anonymous session, oldest first, in place of a user's history


class Entry(NamedTuple):
    """One item of an answer."""

    impression_id: str
    item: str
    rank: int
    score: float
    sources: tuple[str, ...]
    reason: Reason
    propensity: float


class FeedAnswer(NamedTuple):
    """A feed, and the rows that are logged of it."""

    request_id: str
    arm: Arm
    profiled: bool
    model_version: str
    entries: list[Entry]
    impressions: list[Impression]


class TenantFeed:
    """Ranks for the users of one tenant."""

    def __init__(self, state: FeedState, settings: FeedSettings, draw: Random | None = None) -> None:
        self.state = state
        self.settings = settings
        self.ranker: Ranker | None = None
        self.experiments: Sequence[Experiment] = ()
        self._draw = draw or Random()  # noqa: S311 - chooses what is tried out, guards nothing
        self._shown: tuple[int, float, Flags] | None = None
        self._held: tuple[tuple[Experiment, ...], int, Flags] | None = None

    def feed(self, request: FeedRequest, now_ns: int) -> FeedAnswer:
        """Return the feed of one user as of ``now_ns``."""
        now_s = now_ns / 1e9
        profile = self._profile(request, now_s)
        profiled = profile.profiling if request.profiling is None else request.profiling and profile.profiling
        arm = arm_of(self.experiments, request.user) if profiled and request.session is None else DEFAULT_ARM
        arm = arm if profiled else NOT_PROFILED
        pair = self._pair(arm)
        if pair is not None:
            arm = Arm("interleaved", pair[0].mask | pair[1].mask, experiment=arm.experiment)
        seen_by = profile if profiled else NOBODY
        allowed = self._allowed(request, profile, now_s)
        found = retrieve(self.state, seen_by, now_s, allowed, arm.mask)
        rows = features_of(self.state, seen_by, found.places, now_s, found.scores)
        self._hide_held_out(rows, found.places)
        if pair is not None:
            chosen, scores, pool = *self._interleave(request, found, rows, pair), np.zeros(0, np.int64)
        else:
            scores = self._score(rows, arm.mask)
            chosen, pool = self._choose(request, found, scores, allowed, now_s)
        request_id = f"feed_{token_hex(10)}"
        version = self.ranker.version if self.ranker is not None else "popularity"
        answer = FeedAnswer(request_id, arm, profiled, version, [], [])
        reasons = Reasons(self.state, seen_by, profiled=profiled)
        for rank, one in enumerate(chosen, start=request.offset):
            self._add(answer, request, now_ns, rank, one, found, scores, rows, pool, reasons)
        return answer

    def explain(self, user: str, item: str, now_ns: int) -> dict[str, Any] | None:
        """Return what speaks for and against an item for a user now, by group of features; None for an unknown item."""
        place = self.state.catalogue.find(item)
        if place is None:
            return None
        now_s = now_ns / 1e9
        profile = self.state.profiles.get(user)
        seen_by = profile if profile.profiling else NOBODY
        arm = arm_of(self.experiments, user) if profile.profiling else NOT_PROFILED
        found = retrieve(self.state, seen_by, now_s, np.ones(len(self.state.catalogue), np.bool_), arm.mask)
        places = np.array([place], np.int64)
        rows = features_of(self.state, seen_by, places, now_s, found.scores)
        at = np.flatnonzero(found.places == place)
        sources = int(found.sources[at[0]]) if len(at) else 0
        reason = Reasons(self.state, seen_by, profiled=profile.profiling).of(place, sources)
        allowed = self._allowed(FeedRequest(user), profile, now_s)
        return {
            "user": user,
            "item": item,
            "arm": arm.name,
            "model_version": self.ranker.version if self.ranker is not None else "popularity",
            "profiling": profile.profiling,
            "can_be_shown": bool(allowed[place]),
            "why_not": self._why_not(profile, place, now_s),
            "sources": names(sources),
            "reason": reason._asdict(),
            "weights": self.ranker.weights(rows, arm.mask) if self.ranker is not None else {POPULARITY: 1.0},
            "features": _known(rows[0]),
        }

    def neighbours(self, item: str, now_ns: int, number: int) -> list[tuple[str, float]]:
        """Return the items that are nearest to one by what people chose together, then by content."""
        place = self.state.catalogue.find(item)
        if place is None:
            return []
        size = len(self.state.catalogue)
        scores = np.zeros(size, np.float32)
        if self.state.models.neighbours is not None:
            near, (similar,) = self.state.models.neighbours.scores(np.array([place]), (np.ones(1, np.float32),))
            scores[near] += similar
        if self.state.catalogue.has_vector[place]:
            scores += 0.5 * self.state.catalogue.vectors @ self.state.catalogue.vectors[place]
        scores[place] = 0
        return self._best(scores, now_ns / 1e9, number)

    def latest(self, now_ns: int, number: int, category: str = "") -> list[tuple[str, float]]:
        """Return the newest items, with when they were published in seconds since 1970."""
        return self._best(self.state.catalogue.at_s, now_ns / 1e9, number, category)

    def popular(self, now_ns: int, number: int, category: str = "") -> list[tuple[str, float]]:
        """Return the most popular items of the last days, with their counters."""
        return self._best(self.state.counts(now_ns / 1e9).decayed[:, 2], now_ns / 1e9, number, category)

    def _best(self, scores: NDArray[Any], now_s: float, number: int, category: str = "") -> list[tuple[str, float]]:
        shown = self._can_be_shown(now_s)
        if category:
            shown = shown & self._in_category(category)
        value = np.where(shown & (scores > 0), scores, -np.inf)
        best = np.argsort(-value, kind="stable")[:number]
        return [(self.state.catalogue.ids[place], float(value[place])) for place in best if np.isfinite(value[place])]

    def _profile(self, request: FeedRequest, now_s: float) -> Profile:
        if request.session is None:
            return self.state.profiles.get(request.user)
        profile = Profile()
        for item in request.session:
            place = self.state.catalogue.find(item)
            if place is not None:
                profile.add(place, now_s, 1.0, positive=True, negative=False)
        return profile

    def _can_be_shown(self, now_s: float) -> Flags:
        kept = self._shown
        version = self.state.catalogue.version
        if (
            kept is None
            or kept[0] != version
            or not 0 <= now_s - kept[1] < 1
            or len(kept[2]) != len(self.state.catalogue)
        ):
            flags = self.state.catalogue.can_be_shown(now_s, safe_only=self.settings.safe_only)
            self._shown = kept = (version, now_s, flags)
        return kept[2]

    def _allowed(self, request: FeedRequest, profile: Profile, now_s: float) -> Flags:
        allowed = self._can_be_shown(now_s).copy()
        if profile.seen:
            allowed[np.fromiter(profile.seen, np.int64, len(profile.seen))] = False
        for item in request.exclude:
            place = self.state.catalogue.find(item)
            if place is not None:
                allowed[place] = False
        return allowed & self._in_category(request.category) if request.category else allowed

    def _in_category(self, category: str) -> Flags:
        flags = np.zeros(len(self.state.catalogue), np.bool_)
        flags[self.state.catalogue.places_of_category(category)] = True
        return flags

    def _hide_held_out(self, rows: NDArray[np.float32], places: Places) -> None:
        """Blind the enrichment of items for which an experiment buys none, whoever looks."""
        running = tuple(one for one in self.experiments if one.item_holdout_share)
        if not running:
            return
        kept = self._held
        if kept is None or kept[0] != running or kept[1] != len(self.state.catalogue):
            ids = self.state.catalogue.ids
            flags = np.array([any(is_held_out(one, item) for one in running) for item in ids], np.bool_)
            self._held = kept = (running, len(ids), flags)
        rows[np.ix_(np.flatnonzero(kept[2][places]), _ENRICHED_COLUMNS)] = np.nan

    def _score(self, rows: NDArray[np.float32], mask: frozenset[str]) -> Floats:
        if not len(rows):
            return np.zeros(0)
        return popularity(rows) if self.ranker is None else self.ranker.score(rows, mask)

    def _choose(
        self, request: FeedRequest, found: Candidates, scores: Floats, allowed: Flags, now_s: float
    ) -> tuple[list[Chosen], Places]:
        listed = self._spread(request, found.places, scores)
        pool = (
            self._pool(found.places[listed], allowed, now_s) if self.settings.explore_share else np.zeros(0, np.int64)
        )
        return explore(listed, len(pool), self.settings.explore_share, self._draw)[request.offset :], pool

    def _spread(self, request: FeedRequest, places: Places, scores: Floats) -> list[int]:
        catalogue = self.state.catalogue
        return diversify(
            scores,
            catalogue.vectors,
            places,
            catalogue.creator[places],
            min(request.n, NUMBER_MAX) + request.offset,
            balance=self.settings.diversity,
            per_creator=self.settings.per_creator_max,
        )

    def _pair(self, arm: Arm) -> tuple[Arm, Arm] | None:
        """Return both arms where the experiment that has the user shows them in one list."""
        for one in self.experiments:
            if one.interleaved and one.name == arm.experiment:
                return one.arms[0], one.arms[1]
        return None

    def _interleave(
        self, request: FeedRequest, found: Candidates, rows: NDArray[np.float32], pair: tuple[Arm, Arm]
    ) -> tuple[list[Chosen], Floats]:
        """Draft a list from the rankings of two arms, each of its own candidates; nothing is tried out in it."""
        rankings: list[list[int]] = []
        scores = np.zeros((2, len(found.places)))
        for team, arm in enumerate(pair):
            own = np.flatnonzero(found.sources & sources_of(arm.mask))
            scores[team, own] = self._score(rows[own], arm.mask)
            rankings.append(own[self._spread(request, found.places[own], scores[team, own])].tolist())
        length = min(request.n, NUMBER_MAX) + request.offset
        drafted = team_draft(rankings[0], rankings[1], length, self._draw)[request.offset :]
        at = np.arange(len(found.places))
        of_team = np.zeros(len(found.places), np.int64)
        of_team[[one.item for one in drafted]] = [one.team for one in drafted]
        return [Chosen(one.item, False, 1.0, pair[one.team].name) for one in drafted], scores[of_team, at]

    def _pool(self, listed: Places, allowed: Flags, now_s: float) -> Places:
        """Return what may be tried out: items that few have chosen yet, the newest of them."""
        rare = self.state.counts(now_s).rare
        for looked_at in (10 * _POOL_MAX, len(rare)):  # the first look is enough unless most are not allowed
            places = rare[:looked_at]
            places = places[allowed[places]]
            places = places[~np.isin(places, listed)]
            if len(places) >= _POOL_MAX:
                break
        return places[:_POOL_MAX]

    def _add(
        self, answer: FeedAnswer, request: FeedRequest, now_ns: int, rank: int, one: Chosen, found: Candidates,
        scores: Floats, rows: NDArray[np.float32], pool: Places, reasons: Reasons,
    ) -> None:  # fmt: skip
        place = int(pool[one.at] if one.is_explored else found.places[one.at])
        bits = 0 if one.is_explored else int(found.sources[one.at])
        score = 0.0 if one.is_explored else float(scores[one.at])
        seen = {} if one.is_explored else _known(rows[one.at])
        sources = ("explore",) if one.is_explored else names(bits)
        item = self.state.catalogue.ids[place]
        reason = reasons.of(place, bits, explored=one.is_explored)
        impression_id = f"{answer.request_id}-{rank}"
        answer.entries.append(Entry(impression_id, item, rank, score, sources, reason, one.propensity))
        answer.impressions.append(
            Impression(
                impression_id,
                answer.request_id,
                now_ns,
                request.user,
                item,
                rank,
                sources,
                one.arm or answer.arm.name,
                answer.arm.experiment,
                one.propensity,
                score,
                seen,
                answer.model_version,
                self.state.catalogue.enrichment_version(place),
                dict(request.context),
            )
        )

    def _why_not(self, profile: Profile, place: int, now_s: float) -> str:
        if place in profile.unwanted:
            return "the user hid it"
        if place in profile.seen:
            return "the user has seen it"
        if self.state.catalogue.item(place) is None:
            return "nobody described it: POST it as an item"
        if not self.state.catalogue.can_be_shown(now_s)[place]:
            return "it is hidden, or not published yet"
        if not self._can_be_shown(now_s)[place]:
            return "no label says that it is safe"
        return ""


def _known(row: NDArray[np.float32]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(NAMES, row.tolist(), strict=True) if value == value}
