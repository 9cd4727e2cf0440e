"""Small worlds of terms, for tests: two channels, three contracts, moments from 0 to 100.

Rows are drawn from pools that are made once from a seed: whole worlds are then quick to draw, and shrink by losing rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from upeti.rights.terms import (
    EVERY_CONTRACT,
    PURPOSES,
    SERVE,
    Binding,
    Clause,
    Contract,
    Decision,
    Denial,
    Grant,
    Origin,
    Review,
    Terms,
)

# The first of each name comes up most: else rows seldom meet, and hardly anything is ever allowed.
CHANNELS: Final = ("c1", "c2")
PARTIES: Final = {"k1": "P", "k2": "P", "licence": "Q"}
TENANTS: Final = ("", "acme", "beta")
MODELS: Final = ("m1", "m2")
# Few, so that rows meet each other.
SOME_PURPOSES: Final = (SERVE, "classify_internal", "general_model")

_POOL: Final = 300
T = TypeVar("T")


def _pool(make: Callable[[Random, int], T], seed: int) -> st.SearchStrategy[T]:
    random = Random(seed)
    return st.sampled_from([make(random, number) for number in range(_POOL)])


def _mostly(random: Random, names: Iterable[T]) -> T:
    """Return the first of ``names`` three times in four, else any of the others."""
    first, *others = names
    return first if random.random() < 0.75 else random.choice(others)


def _some(random: Random, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if random.random() < 0.3)


def _span(random: Random) -> tuple[int, int]:
    if random.random() < 0.75:
        return 0, 0
    begin = random.randrange(60)
    return begin, random.choice([0, begin + 1, begin + 20, begin + 40])


def _end(random: Random, begin: int) -> int:
    return _mostly(random, [0, begin + 1, begin + 10, begin + 40])


def _clause(random: Random, number: int) -> Clause:
    contract = _mostly(random, [*PARTIES, EVERY_CONTRACT])
    own = contract == EVERY_CONTRACT
    readings = [Decision.DENY, Decision.ASK] if own else list(Decision)
    purposes = _some(random, SOME_PURPOSES) or ("classify_internal",)
    from_ns, until_ns = _span(random)
    return Clause(
        id=f"{contract}/{number}",
        contract=contract,
        party=PARTIES.get(contract, "own rule"),
        section="",
        document="",
        version="",
        decisions={purpose: random.choice(readings) for purpose in purposes},
        quote=random.choice(["", "you may not"]),
        from_ns=from_ns,
        until_ns=until_ns,
        duties=_some(random, ("notice:A", "name_prefix:B")),
        unless_authorized=not own and random.random() < 0.5,
    )


def _grant(random: Random, number: int) -> Grant:
    at_ns = random.randrange(50)
    from_ns, until_ns = _span(random)
    return Grant(
        id=f"g{number}",
        channel=_mostly(random, CHANNELS),
        purpose=random.choice(SOME_PURPOSES),
        party=_mostly(random, ["P", "Q"]),
        evidence_sha256="0" * 64,
        by="Ann",
        why="signed",
        at_ns=at_ns,
        from_ns=from_ns,
        until_ns=until_ns,
        captured_from_ns=random.choice([0, 0, from_ns]),
        tenant=_mostly(random, TENANTS),
        models=_mostly(random, [(), ("m1",), MODELS]),
        duties=_some(random, ("notice:C",)),
        revoked_ns=_end(random, at_ns),
    )


def _denial(random: Random, number: int) -> Denial:
    at_ns = random.randrange(100)
    channel, purpose = random.choice(CHANNELS), random.choice(SOME_PURPOSES)
    return Denial(f"d{number}", channel, purpose, "Ann", "no", at_ns, random.choice(TENANTS), _end(random, at_ns))


def _binding(random: Random, number: int) -> Binding:
    from_ns, until_ns = _span(random)
    signed = random.choice(["", "", "f" * 64])
    return Binding(f"b{number}", _mostly(random, CHANNELS), _mostly(random, PARTIES), from_ns, until_ns, signed)


def _contracts(random: Random, _number: int) -> tuple[Contract, ...]:
    return (
        Contract("k1", "P", "k", "", "", includes=_mostly(random, [(), ("licence",)])),
        Contract("k2", "P", "k", "", ""),
        Contract("licence", "Q", "l", "", "", includes=random.choice([(), ("k1",)])),
    )


def _origin(random: Random, _number: int) -> Origin:
    channel, contract = _mostly(random, CHANNELS), _mostly(random, PARTIES)
    return Origin(channel, contract, random.randrange(100), random.choice(TENANTS), random.choice(["", *MODELS]))


clauses = _pool(_clause, 1)
grants = _pool(_grant, 2)
denials = _pool(_denial, 3)
bindings = _pool(_binding, 4)
contracts = _pool(_contracts, 5)
origins = _pool(_origin, 6)
moments = st.integers(0, 100)
purposes = st.sampled_from(SOME_PURPOSES)
learning = st.sampled_from(SOME_PURPOSES[1:])  # without serving, for which other rules hold
any_purposes = st.sampled_from(sorted(PURPOSES)) | st.text(max_size=9)
any_origins = origins | st.builds(Origin, st.text(max_size=5), st.text(max_size=5), st.integers())


def _several(rows: st.SearchStrategy[Any], least: int, most: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(rows, min_size=least, max_size=most, unique_by=lambda row: row.id)


def review_of(clause: Clause, seed: int) -> Review:
    """Return a review of ``clause``: of its text or of another one, at any moment."""
    random = Random(seed)
    purposes = _some(random, tuple(clause.decisions)) or tuple(clause.decisions)
    decisions = {purpose: _mostly(random, Decision) for purpose in purposes}
    digest = "another text" if random.random() < 0.2 else clause.digest
    return Review(f"r{seed}", clause.id, digest, decisions, "Ann", "read it", random.randrange(60))


@st.composite
def worlds(draw: Any) -> Terms:
    """Terms of every shape: overlapping bindings, stale reviews, revoked grants, rules for every contract."""
    made = draw(_several(clauses, 1, 4))
    seeds = draw(st.lists(st.integers(1, _POOL), max_size=4, unique=True))
    return Terms(
        contracts=draw(contracts),
        clauses=tuple(made),
        bindings=tuple(draw(_several(bindings, 2, 5))),
        reviews=tuple(review_of(made[seed % len(made)], seed) for seed in seeds),
        grants=tuple(draw(_several(grants, 0, 3))),
        denials=tuple(draw(_several(denials, 0, 1))),
        channels=frozenset(CHANNELS[: draw(st.integers(1, 2))]),
    )


def a_world(random: Random) -> Terms:
    """Terms drawn without Hypothesis, where each is used for many things."""
    made = tuple(_clause(random, number) for number in range(3))
    return Terms(
        contracts=_contracts(random, 0),
        clauses=made,
        bindings=tuple(_binding(random, number) for number in range(3)),
        reviews=tuple(review_of(clause, random.randrange(9999)) for clause in made if random.random() < 0.6),
        grants=tuple(_grant(random, number) for number in range(3)),
        denials=tuple(_denial(random, number) for number in range(random.randrange(2))),
        channels=frozenset(CHANNELS),
    )
