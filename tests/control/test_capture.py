"""Capture end to end: real workers, a real process that keeps, a provider that plays along."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from support.capture_side import bodies, capturing, consent, kept
from support.keeper_side import until
from support.upeti_process import KEY, UpetiProcess, sim_provider
from upeti.control import consents, pairs
from upeti.control.store import Store
from upeti.journal.verify import verify

KEY_2 = "upeti-second-key-of-the-tests"
ANTHROPIC = """
[[channel]]
name = "claude"
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "env:UPETI_TEST_KEY"
prices = "sim"

[[contract]]
channel = "claude"
contract = "sim-terms"
from = 2026-01-01

[[route]]
name = "claude"
candidate = [{{ channel = "claude" }}]
"""


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    folder = tmp_path_factory.mktemp("capture")
    os.environ["UPETI_TEST_KEY_2"] = KEY_2
    with sim_provider(folder / "provider.log") as port:
        process = capturing(folder, port)
        process.config.write_text(process.config.read_text() + ANTHROPIC.format(port=port))
        process.start()
        consent(process.data_dir, "acme")
        # A reload reaches workers, and the process that keeps is started: the first kept pair shows both.
        client = openai.OpenAI(base_url=process.gateway + "/v1", api_key=KEY, max_retries=0)

        def one_is_kept() -> bool:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "first"}], max_tokens=2)
            return bool(kept(process.data_dir))

        until(one_is_kept, seconds=30, what="the first pair")
        yield process
        assert process.stop() == 0
        result = verify(process.data_dir)
        assert result.sound, result.findings


def client(upeti: UpetiProcess, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=upeti.gateway + "/v1", api_key=key, max_retries=0)


def kept_of(upeti: UpetiProcess, feature: str, count: int = 1) -> list[tuple[pairs.Pair, Any, Any]]:
    """Return the pairs of a feature with their question and answer, once there are ``count``."""
    found = until(
        lambda: (some := kept(upeti.data_dir, feature=feature)) and len(some) >= count and some,
        what=f"{count} pairs of {feature}",
    )
    store = Store(upeti.data_dir)
    try:
        whole = [pairs.body(store, bodies(upeti.data_dir), pair) for pair in found]
    finally:
        store.close()
    return [(pair, *map(json.loads, body)) for pair, body in zip(found, whole, strict=True) if body is not None]


def tagged(feature: str, **more: str) -> dict[str, str]:
    return {"x-upeti-feature": feature, **more}


def test_a_pair_carries_where_it_came_from_and_no_person(upeti: UpetiProcess) -> None:
    client(upeti).chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Mail siti@example.com: is 0812 3456 7890 mine?"}],
        max_tokens=3,
        user="siti-4711",
        extra_headers=tagged("mail", **{"x-upeti-task": "topic"}),
    )
    ((pair, asked, answered),) = kept_of(upeti, "mail")
    assert (pair.tenant, pair.channel, pair.model, pair.wire, pair.task) == (
        "acme",
        "sim",
        "m",
        "chat_completions",
        "topic",
    )
    assert (pair.contract, pair.clause, pair.grant) == ("sim-terms", "sim-terms/1", "")
    assert pair.consent == kept(upeti.data_dir)[0].consent
    assert pair.redactions == {"EMAIL": 1, "PHONE": 1}
    assert asked["messages"][0]["content"] == "Mail [EMAIL_1]: is [PHONE_1] mine?"
    assert "user" not in asked
    assert pair.user_digest
    assert "4711" not in pair.user_digest
    assert answered["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_every_wire_is_kept_whole(upeti: UpetiProcess, stream: bool) -> None:
    headers = tagged(f"wires-{stream}")
    one = client(upeti)
    chat = one.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=stream, extra_headers=headers
    )
    response = one.responses.create(model="m", input="hi", max_output_tokens=4, stream=stream, extra_headers=headers)
    text = one.completions.create(model="m", prompt="hi", max_tokens=4, stream=stream, extra_headers=headers)
    claude = anthropic.Anthropic(base_url=upeti.gateway, api_key=KEY, max_retries=0)
    message = claude.messages.create(
        model="claude",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=4,
        stream=stream,
        metadata={"user_id": "u-1"},
        extra_headers=headers,
    )
    if stream:
        for events in (chat, response, text, message):
            for _ in events:
                pass
    found = {pair.wire: (asked, answered) for pair, asked, answered in kept_of(upeti, f"wires-{stream}", 4)}
    said = "Halo dunia, café 漢字 "
    assert found["chat_completions"][1]["choices"][0]["message"]["content"] == said
    assert found["responses"][1]["output"][0]["content"][0]["text"] == said
    assert found["completions"][1]["choices"][0]["text"] == said
    assert found["messages"][1]["content"][0]["text"] == said
    assert found["messages"][0]["metadata"] == {}


def test_who_has_not_consented_is_not_kept(upeti: UpetiProcess) -> None:
    ask = {"model": "m", "messages": [{"role": "user", "content": "theirs"}], "max_tokens": 2}
    client(upeti, KEY_2).chat.completions.create(**ask, extra_headers=tagged("theirs"))
    client(upeti).chat.completions.create(**ask, extra_headers=tagged("ours"))
    kept_of(upeti, "ours")
    assert kept(upeti.data_dir, tenant="beta") == []


def test_two_tenants_never_share_a_body(upeti: UpetiProcess) -> None:
    consent(upeti.data_dir, "beta")
    ask = {"model": "m", "messages": [{"role": "user", "content": "the same words"}], "max_tokens": 2}
    until(
        lambda: (
            client(upeti, KEY_2).chat.completions.create(**ask, extra_headers=tagged("shared"))
            and kept(upeti.data_dir, tenant="beta", feature="shared")
        ),
        what="a pair of beta",
    )
    for _ in range(2):
        client(upeti).chat.completions.create(**ask, extra_headers=tagged("shared"))
    until(lambda: len(kept(upeti.data_dir, tenant="acme", feature="shared")) == 2, what="two pairs of acme")
    ours = kept(upeti.data_dir, tenant="acme", feature="shared")
    theirs = kept(upeti.data_dir, tenant="beta", feature="shared")
    assert ours[0].request_digest == ours[1].request_digest, "the same body is kept once for a tenant"
    assert {one.request_digest for one in ours}.isdisjoint({one.request_digest for one in theirs})
    store = Store(upeti.data_dir)
    try:
        there = bodies(upeti.data_dir)
        swapped = pairs.Pair(**{**{f: getattr(theirs[0], f) for f in theirs[0].__struct_fields__}, "tenant": "acme"})
        with pytest.raises(Exception, match="not what was kept"):
            pairs.body(store, there, swapped)  # another tenant's digest opens nothing
        pairs.erase(store, there, tenant="acme", pair_id=ours[0].pair_id, by="legal", why="asked for")
        assert pairs.body(store, there, ours[1]) is not None, "another pair of the tenant has the same body"
        assert pairs.body(store, there, theirs[0]) is not None
        consents.withdraw(store, "beta", by="legal", why="letter")
    finally:
        store.close()


def test_a_person_is_erased_and_the_chain_stays(upeti: UpetiProcess) -> None:
    for user in ("rina", "budi"):
        client(upeti).chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": f"I am {user}"}],
            max_tokens=2,
            user=user,
            extra_headers=tagged("people"),
        )
    kept_of(upeti, "people", 2)
    store = Store(upeti.data_dir)
    try:
        erased = pairs.erase(store, bodies(upeti.data_dir), tenant="acme", user="rina", by="legal", why="her request")
        assert len(erased.pairs) == 1
        ((_, asked, _),) = kept_of(upeti, "people")
        assert asked["messages"][0]["content"] == "I am budi"
        # The table can be made again from the journal, and what was erased does not come back.
        before = {pair.pair_id: pair.erased_ns > 0 for pair in pairs.find(store, erased=None)}
        with store.writing() as connection:
            connection.exec_driver_sql("DELETE FROM pairs")
        assert pairs.rebuild(store, upeti.data_dir, bodies(upeti.data_dir)) == len(before)
        assert {pair.pair_id: pair.erased_ns > 0 for pair in pairs.find(store, erased=None)} == before
    finally:
        store.close()
    assert verify(upeti.data_dir).sound


def test_a_killed_process_costs_no_call_and_comes_back(upeti: UpetiProcess) -> None:
    def pid() -> int:
        return int((upeti.data_dir / "run" / "capture.lock").read_text())

    ask = {"model": "m", "messages": [{"role": "user", "content": "during"}], "max_tokens": 2}
    first = pid()
    os.kill(first, signal.SIGKILL)
    for _ in range(20):
        client(upeti).chat.completions.create(**ask, extra_headers=tagged("killed"))
    until(lambda: pid() != first, seconds=20, what="another process")
    until(
        lambda: (
            client(upeti).chat.completions.create(**ask, extra_headers=tagged("after"))
            and kept(upeti.data_dir, feature="after")
        ),
        seconds=20,
        what="a pair after the kill",
    )


def test_a_withdrawn_consent_ends_it(upeti: UpetiProcess) -> None:
    store = Store(upeti.data_dir)
    try:
        consents.withdraw(store, "acme", by="legal", why="letter")
    finally:
        store.close()
    ask = {"model": "m", "messages": [{"role": "user", "content": "no more"}], "max_tokens": 2}
    until(lambda: not (upeti.data_dir / "run" / "capture.sock").exists() or _gone(upeti), what="the end of capture")
    client(upeti).chat.completions.create(**ask, extra_headers=tagged("withdrawn"))
    assert kept(upeti.data_dir, feature="withdrawn", erased=None) == []


def _gone(upeti: UpetiProcess) -> bool:
    pid = int((upeti.data_dir / "run" / "capture.lock").read_text())
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
