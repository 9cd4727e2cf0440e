"""Small worlds of terms, for tests: two channels, three contracts, moments from 0 to 100."""

from __future__ import annotations

from typing import Any

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

CHANNELS = ("c1", "c2")
CONTRACTS = ("k1", "k2", "licence")
PARTIES = {"k1": "P", "k2": "P", "licence": "Q"}
TENANTS = ("", "acme", "beta")
MODELS = ("", "m1", "m2")
# Few, so that rows meet each other.
SOME_PURPOSES = (SERVE, "classify_internal", "general_model")

moments = st.integers(0, 100)
purposes = st.sampled_from(SOME_PURPOSES)
decisions = st.sampled_from(list(Decision))


@st.composite
def spans(draw: Any) -> tuple[int, int]:
    begin = draw(st.integers(0, 60))
    return begin, draw(st.sampled_from([0, begin + 1, begin + 20, begin + 40]))


@st.composite
def clauses(draw: Any, number: int = 0) -> Clause:
    contract = draw(st.sampled_from([*CONTRACTS, EVERY_CONTRACT]))
    allowed = [Decision.DENY, Decision.ASK] if contract == EVERY_CONTRACT else list(Decision)
    read = draw(st.dictionaries(purposes, st.sampled_from(allowed), min_size=1))
    from_ns, until_ns = draw(st.sampled_from([(0, 0)]) | spans())
    return Clause(
        id=f"{contract}/{number}",
        contract=contract,
        party=PARTIES.get(contract, "own rule"),
        section="",
        document="",
        version="",
        decisions=read,
        quote=draw(st.sampled_from(["", "you may not"])),
        from_ns=from_ns,
        until_ns=until_ns,
        duties=tuple(draw(st.sets(st.sampled_from(["notice:A", "name_prefix:B"])))),
        unless_authorized=contract != EVERY_CONTRACT and draw(st.booleans()),
    )


def _ended(draw: Any, begin: int) -> int:
    return int(draw(st.sampled_from([0, 0, begin + 1, begin + 10, begin + 40])))


@st.composite
def grants(draw: Any, number: int = 0) -> Grant:
    at_ns = draw(moments)
    from_ns, until_ns = draw(spans())
    return Grant(
        id=f"g{number}",
        channel=draw(st.sampled_from(CHANNELS)),
        purpose=draw(purposes),
        party=draw(st.sampled_from(["P", "Q"])),
        evidence_sha256="0" * 64,
        by="Ann",
        why="signed",
        at_ns=at_ns,
        from_ns=from_ns,
        until_ns=until_ns,
        captured_from_ns=draw(st.sampled_from([0, 0, from_ns])),
        tenant=draw(st.sampled_from(TENANTS)),
        models=tuple(draw(st.sets(st.sampled_from(MODELS[1:])))),
        duties=tuple(draw(st.sets(st.sampled_from(["notice:C"])))),
        revoked_ns=_ended(draw, at_ns),
    )


@st.composite
def denials(draw: Any, number: int = 0) -> Denial:
    at_ns = draw(moments)
    return Denial(
        f"d{number}",
        draw(st.sampled_from(CHANNELS)),
        draw(purposes),
        "Ann",
        "no",
        at_ns,
        draw(st.sampled_from(TENANTS)),
        _ended(draw, at_ns),
    )


@st.composite
def reviews(draw: Any, of: Clause, number: int = 0) -> Review:
    stale = draw(st.sampled_from([False, False, True]))
    return Review(
        f"r{number}",
        of.id,
        "another text" if stale else of.digest,
        draw(st.dictionaries(st.sampled_from(sorted(of.decisions)), decisions, min_size=1)),
        "Ann",
        "read it",
        draw(moments),
    )


@st.composite
def bindings(draw: Any, number: int = 0) -> Binding:
    from_ns, until_ns = draw(st.sampled_from([(0, 0)]) | spans())
    signed = draw(st.sampled_from(["", "", "f" * 64]))
    channel, contract = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CONTRACTS))
    return Binding(f"b{number}", channel, contract, from_ns, until_ns, signed)


@st.composite
def worlds(draw: Any) -> Terms:
    """Terms of every shape: overlapping bindings, stale reviews, revoked grants, rules for every contract."""
    includes = draw(st.sampled_from([(), ("licence",)]))
    contracts = (
        Contract("k1", "P", "k", "", "", includes=includes),
        Contract("k2", "P", "k", "", ""),
        Contract("licence", "Q", "l", "", "", includes=draw(st.sampled_from([(), ("k1",)]))),
    )
    made = tuple(draw(clauses(number)) for number in range(draw(st.integers(0, 4))))
    read = [draw(reviews(clause, place)) for place, clause in enumerate(made) if draw(st.booleans())]
    return Terms(
        contracts=contracts,
        clauses=made,
        bindings=tuple(draw(bindings(number)) for number in range(draw(st.integers(0, 4)))),
        reviews=tuple(read),
        grants=tuple(draw(grants(number)) for number in range(draw(st.integers(0, 3)))),
        denials=tuple(draw(denials(number)) for number in range(draw(st.integers(0, 2)))),
        channels=frozenset(draw(st.sets(st.sampled_from(CHANNELS)))),
    )


@st.composite
def origins(draw: Any) -> Origin:
    return Origin(
        draw(st.sampled_from(CHANNELS)),
        draw(st.sampled_from(CONTRACTS)),
        draw(moments),
        draw(st.sampled_from(TENANTS)),
        draw(st.sampled_from(MODELS)),
    )


@st.composite
def any_origins(draw: Any) -> Origin:
    text = st.text(max_size=5)
    number = st.integers()
    return draw(origins() | st.builds(Origin, text, text, number, text, text))


any_purposes = st.sampled_from(sorted(PURPOSES)) | st.text(max_size=9)
