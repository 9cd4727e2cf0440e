"""Rights as they are shown: what a changed contract touches, which terms are published for a host, what ends when."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import insert

from upeti.control import rights
from upeti.control.config_file import parse
from upeti.control.pairs import Pair
from upeti.control.rights_view import change_of, explain, published, rights_of_channels
from upeti.control.store import Store
from upeti.control.tables_capture import pairs
from upeti.core.config import Channel

OpenStore = Callable[[], Store]
CONFIG = '[[channel]]\nname = "main"\nkind = "openai_compatible"\n'
ANN = {"by": "Ann Lee", "why": "read it"}


def pair(number: int, channel: str, contract: str, erased_ns: int = 0) -> Pair:
    return Pair(
        f"pr_{number}", number, "call", "acme", "", "k", "f", "t", "", "r", channel, "m", "chat_completions", contract,
        "", "", "", {}, "", "", 0, 0, erased_ns,
    )  # fmt: skip


def test_a_changed_contract_counts_what_was_captured_under_the_old_one(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    old = "llama-3.1-community"
    rows = [
        pair(1, "gpu", old),
        pair(2, "gpu", old),
        pair(3, "cloud", old),
        pair(4, "gpu", old, 9),
        pair(5, "gpu", "x"),
    ]
    with store.writing() as connection:
        connection.execute(insert(pairs), [msgspec.to_builtins(row) for row in rows])
    terms = rights.terms_in_force(store, parse(CONFIG, tmp_path / "upeti.toml").config)
    (found,) = change_of(store, terms, old, "llama-3-community")
    assert found.pairs == {"cloud": 1, "gpu": 2}
    assert found.lost == ("task_generative", "general_model")
    (back,) = change_of(store, terms, "llama-3-community", old)
    assert (back.pairs, back.lost) == ({}, ())


@pytest.mark.parametrize(
    ("kind", "url", "contracts"),
    [
        ("openai_compatible", "", ["openai-services-2026-01-01"]),
        ("openai_compatible", "https://eu.api.openai.com/v1", ["openai-services-2026-01-01"]),
        ("openai_compatible", "https://openai.com.example/v1", []),
        ("openai_compatible", "https://api.deepseek.com/v1", ["deepseek-platform-2026-04-29"]),
        ("anthropic", "", ["anthropic-commercial-2025-06-17"]),
        ("azure", "https://x.openai.azure.com", ["azure-openai-unread"]),
        ("embedded", "", ["smollm2-apache-2.0"]),
        ("openai_compatible", "http://127.0.0.1:8000/v1", []),
    ],
)
def test_terms_that_are_published_for_a_host(kind: str, url: str, contracts: list[str], tmp_path: Path) -> None:
    terms = rights.terms_of_files(parse("", tmp_path / "upeti.toml").config)
    channel = msgspec.convert({"name": "c", "kind": kind, "base_url": url}, Channel)
    assert [one.id for one in published(terms, channel)] == contracts


def test_an_explanation_says_when_the_decision_changes_by_date(open_store: OpenStore, tmp_path: Path) -> None:
    store, config = open_store(), parse(CONFIG, tmp_path / "upeti.toml").config
    rights.bind(store, rights.terms_in_force(store, config), "main", "openai-services-2026-01-01", from_ns=1, **ANN)
    until_ns = time.time_ns() // 10**9 * 10**9 + 3600 * 10**9
    letter = rights.Document("letter.txt", b"yes")
    terms = rights.terms_in_force(store, config)
    rights.grant(store, terms, "main", "resell", letter, until_ns=until_ns, **ANN)
    terms, now_ns = rights.terms_in_force(store, config), time.time_ns()
    found = explain(terms, config, terms.origin_now("main", now_ns), "resell", now_ns)
    assert (found.decision, found.speaking[0].reading, found.published) == ("allow", "deny", ())
    assert found.grants[0]["evidence_name"] == "letter.txt"
    (channel,) = rights_of_channels(terms, now_ns)
    assert channel.ends == {"resell": found.ends}
    later = explain(terms, config, terms.origin_now("main", until_ns), "resell", until_ns)
    assert (later.decision, later.ends, later.grants) == ("deny", "", ())
