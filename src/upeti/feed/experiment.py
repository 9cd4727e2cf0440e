"""Experiments: arms are sets of features that the ranker may use, on one service and one training set.

Rules: who is in which arm follows from a hash of the experiment's salt and the user alone, so nothing is stored and the
same person sees the same arm on every node. A share of new items is held out: for them no enrichment is bought, whoever
looks; crossed with the users' arms that tells what enrichment changes from what it only moves between items. What an
experiment compares is fixed once it runs. Pure: no clock, no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from upeti.core.amount import AmountError, parse_pico
from upeti.core.errors import ConfigError

POPULARITY: Final = "popularity"
COLLABORATIVE: Final = "collaborative"
METADATA: Final = "metadata"  # what came with the item: title, genres, year, creator
PAID: Final = "enrichment_paid"  # tags, quality, similarity that a paid model made
STUDENT: Final = "enrichment_student"  # … that a model of one's own made, the packaged embedding among them
GROUPS: Final = (POPULARITY, COLLABORATIVE, METADATA, STUDENT, PAID)
ENRICHMENTS: Final = frozenset({PAID, STUDENT})
FREE: Final = frozenset(GROUPS) - ENRICHMENTS

_HASH_RANGE: Final = 2**64

Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class State(StrEnum):
    DRAFT = "draft"
    RUNNING = "running"
    STOPPED = "stopped"


# state → what happens to it → next state
TRANSITIONS: Final[dict[State, dict[str, State]]] = {
    State.DRAFT: {"started": State.RUNNING, "dropped": State.STOPPED},
    State.RUNNING: {"stopped": State.STOPPED},
    State.STOPPED: {},
}


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to rank: the groups of features that it may use, and its weight in the draw."""

    name: Name
    mask: frozenset[str]
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    experiment: str = ""  # filled in by ``arm_of``: what the impression log notes


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is compared, with whom, and what an engaged event is worth."""

    name: Name
    arms: tuple[Arm, ...]
    traffic_share: Share = 1.0  # of users; the others get the default arm
    item_holdout_share: Share = 0.0  # of new items, for which no enrichment is bought
    event_value: str = "0.001"  # λ: what one extra engaged event is worth, exact decimal text
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    engaged_kinds: tuple[str, ...] = ()  # kinds of feedback that count; empty: all positive ones
    engaged_within_s: Annotated[int, Meta(ge=1)] = 86_400  # after the impression
    error_share: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05  # α of all its statements together, at any time
    users_planned: Annotated[int, Meta(ge=100)] = 10_000  # per arm: where the intervals are tightest
    salt: str = ""  # empty: the name
    interleaved: bool = False  # every user sees both arms in one list: which is preferred, not what it is worth
    state: State = State.DRAFT
    started_ns: int = 0
    stopped_ns: int = 0


DEFAULT_ARM: Final = Arm("default", frozenset(GROUPS))


def check(experiment: Experiment) -> None:
    """Raise ``ConfigError`` for an experiment that cannot tell anything."""
    names = [arm.name for arm in experiment.arms]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"experiment {experiment.name}: give two or more arms, each with a name of its own")
    for arm in experiment.arms:
        unknown = sorted(arm.mask - set(GROUPS))
        if unknown:
            raise ConfigError(
                f"experiment {experiment.name}: arm {arm.name} names {', '.join(unknown)}; "
                f"groups of features are {', '.join(GROUPS)}"
            )
    if len({arm.mask for arm in experiment.arms}) < len(names):
        raise ConfigError(
            f"experiment {experiment.name}: two arms have the same features, so nothing can differ; drop one"
        )
    try:
        value = parse_pico(experiment.event_value)
    except AmountError as error:
        raise ConfigError(f"experiment {experiment.name}: event_value: {error}") from None
    if value <= 0:
        raise ConfigError(
            f"experiment {experiment.name}: event_value says what one more engaged event is worth: over 0"
        )
    if experiment.interleaved and (len(names) > 2 or experiment.item_holdout_share):
        raise ConfigError(f"experiment {experiment.name}: interleave two arms, without an item hold-out")
    if experiment.item_holdout_share > 0.5:
        raise ConfigError(f"experiment {experiment.name}: hold out at most half of the items; 0.05 to 0.1 is usual")


def next_state(state: State, event: str) -> State:
    """Return the state after ``event``. Raises ``ConfigError`` when it cannot happen now."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise ConfigError(f"an experiment that is {state} cannot be {event}")
    return following


def unit_of(*parts: str) -> float:
    """Return a number in [0, 1) that looks drawn at random and is the same for the same ``parts`` everywhere."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / _HASH_RANGE


def user_arm(experiment: Experiment, user: str) -> Arm | None:
    """Return the arm of ``user``, None for one who is not in the experiment."""
    salt = experiment.salt or experiment.name
    if unit_of(salt, "traffic", user) >= experiment.traffic_share:
        return None
    place = unit_of(salt, "arm", user) * sum(arm.weight for arm in experiment.arms)
    for arm in experiment.arms:
        place -= arm.weight
        if place < 0:
            return arm
    return experiment.arms[-1]


def is_held_out(experiment: Experiment, item: str) -> bool:
    """Tell whether no enrichment is bought for ``item``, whoever looks."""
    return unit_of(experiment.salt or experiment.name, "item", item) < experiment.item_holdout_share


def arm_of(experiments: Sequence[Experiment], user: str, item: str = "") -> Arm:
    """Return the arm that ``user`` is in, with what may be used for ``item``; ``experiment`` says of which.

    The first running experiment that takes the user has them; a held-out item has no enrichment in any arm. Without an
    item the mask is the user's alone: a caller with many items takes it once, and ``is_held_out`` of each item once.
    """
    arm = DEFAULT_ARM
    held_out = False
    for experiment in experiments:
        if experiment.state is not State.RUNNING:
            continue
        held_out = held_out or bool(item and is_held_out(experiment, item))
        if not arm.experiment and (found := user_arm(experiment, user)) is not None:
            arm = msgspec.structs.replace(found, experiment=experiment.name)
    return msgspec.structs.replace(arm, mask=arm.mask - ENRICHMENTS) if held_out else arm
