"""The table of signals: every row finds its own example, no error has two answers, and any body has at most one."""

from __future__ import annotations

import datetime
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.core.errors import ConfigError
from upeti.providers.signals import LATCHES, MEANS, Meaning, Reaction, Signal, Signals, collide, shipped
from upeti.wire.error_body import Said, read_error

ROWS = shipped().rows
KINDS = ("openai_compatible", "azure", "anthropic", "embedded")


def host_of(row: Signal) -> str:
    """A host that the row is for."""
    name = row.hosts[0] if row.hosts else "models.example"
    return f"bedrock-runtime.eu-central-1{name}" if name.startswith(".") else name


def said_in(row: Signal) -> Said:
    return read_error(row.example.encode(), row.example_headers.get("x-amzn-errortype", "").encode())


def row(name: str, **changes: object) -> Signal:
    fields = {
        "id": name,
        "provider": "somebody",
        "statuses": (400,),
        "meaning": Meaning.BAD_REQUEST,
        "reaction": Reaction.GIVE_BACK,
        "source": "made up",
        "source_date": datetime.date(2026, 11, 27),
        "example": "{}",
    }
    return Signal(**(fields | changes))


@pytest.mark.parametrize("signal", ROWS, ids=[one.id for one in ROWS])
def test_every_row_knows_its_own_example(signal: Signal) -> None:
    for kind in signal.kinds or KINDS:
        for status in signal.statuses:
            assert shipped().find(kind, host_of(signal), status, said_in(signal)) is signal


def test_every_meaning_but_the_unexpected_and_every_reaction_has_a_row() -> None:
    assert {one.meaning for one in ROWS} == set(Meaning) - {Meaning.UNEXPECTED}
    assert {one.reaction for one in ROWS} == set(Reaction)
    assert MEANS.keys() == set(Meaning)


def test_what_latches_on_a_status_that_echoes_has_a_code_or_begins_with_its_phrase() -> None:
    """Nobody can have a channel cut off by writing the words into a request."""
    for signal in ROWS:
        if signal.reaction in LATCHES and {400, 404} & set(signal.statuses) and not signal.codes:
            assert signal.phrase, signal.id
            echoed = Said(said_in(signal).type, "", f"Invalid value: '{signal.phrase}'")
            kind = (signal.kinds or KINDS)[0]
            for status in {400, 404} & set(signal.statuses):
                found = shipped().find(kind, host_of(signal), status, echoed)
                assert found is None or found.reaction not in LATCHES


@given(
    kind=st.sampled_from(KINDS),
    host=st.sampled_from(("api.openai.com", "api.x.ai", "a.amazonaws.com", "", "models.example")),
    status=st.integers(0, 1000) | st.sampled_from((400, 401, 403, 404, 429)),
    said=st.builds(
        Said,
        st.sampled_from([name for one in ROWS for name in one.types]) | st.text(max_size=20),
        st.sampled_from([name for one in ROWS for name in one.codes]) | st.text(max_size=20),
        st.sampled_from([said_in(one).message for one in ROWS]) | st.text(max_size=50),
    ),
)
def test_the_search_is_total_and_no_two_of_the_best_rows_disagree(
    kind: str, host: str, status: int, said: Said
) -> None:
    found = shipped().find(kind, host, status, said)
    fitting = [one for one in ROWS if one.fits(kind, host, status, said)]
    assert (found is None) == (not fitting)
    if found is not None:
        best = max(one.weight for one in fitting)
        assert found.weight == best
        assert len({one.reaction for one in fitting if one.weight == best}) == 1


def test_a_table_that_is_ambiguous_is_refused() -> None:
    one = row("one-row", codes=("x",))
    other = row("other-row", codes=("x", "y"), reaction=Reaction.LATCH_CHANNEL, meaning=Meaning.ACCOUNT_CUT)
    assert collide(one, other)
    with pytest.raises(ConfigError, match="`one-row` and `other-row`"):
        Signals([one, other])
    with pytest.raises(ConfigError, match="two rows have the id"):
        Signals([one, one])
    # What keeps them apart: another status, kind, host, type, code; or one of them says more.
    for changes in ({"statuses": (401,)}, {"kinds": ("azure",)}, {"types": ("t",)}, {"codes": ("z",)}):
        Signals([one, msgspec.structs.replace(other, **changes)])


def test_hosts_stand_for_themselves_or_for_all_below() -> None:
    signal = row("a-row", hosts=("api.example", ".cloud.example"))
    fits = [
        signal.fits("azure", host, 400, Said())
        for host in ("api.example", "x.cloud.example", "cloud.example", "b.api.example")
    ]
    assert fits == [True, True, False, False]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"type":"t","code":"c","message":"m"}}', Said("t", "c", "m")),
        (b'{"type":"error","error":{"type":"t","message":"m"}}', Said("t", "", "m")),
        (b'{"error":{"code":"DeploymentNotFound","message":"m"}}', Said("", "DeploymentNotFound", "m")),
        (
            b'[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}]',
            Said("RESOURCE_EXHAUSTED", "429", "m"),
        ),
        (b'{"error":{"status":"S","details":[{"reason":"R"}],"message":"m"}}', Said("S", "R", "m")),
        (b'{"error":{"type":"t","details":{"error_code":"e"},"message":"m"}}', Said("t", "e", "m")),
        (b'{"code":"permission-denied","error":"m"}', Said("", "permission-denied", "m")),
        (b'{"message":"m"}', Said("Amazon", "", "m")),
        (b'{"__type":"com.amazon#Other","message":"m"}', Said("Other", "", "m")),
        (b'{"detail":"m"}', Said("Amazon", "", "m")),
        (b"<html>blocked</html>", Said("Amazon", "", "<html>blocked</html>")),
        (b"", Said("Amazon", "", "")),
        (b"null", Said("Amazon", "", "None")),
        (b'{"error":null}', Said("Amazon", "", "")),
        (b'{"error":{"message":["x"],"type":true}}', Said("Amazon", "", "")),
    ],
)
def test_errors_of_every_shape_are_read(body: bytes, said: Said) -> None:
    amazon = b"Amazon:http://internal" if said.type in ("Amazon", "Other") else b""
    assert read_error(body, amazon) == said


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(("error", "message", "code", "type", "details", "reason", "status")), inner
                )
            ),
        ),
    )
)
def test_any_body_can_be_read(body: bytes) -> None:
    said = read_error(body)
    assert all(isinstance(part, str) for part in (said.type, said.code, said.message))
    shipped().find("openai_compatible", "h", 400, said)
