"""Rights as they are shown: what a changed contract touches, which terms are published for a host, what ends when."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, insert

from upeti.cli.rights_show import changes
from upeti.control import rights
from upeti.control.config_file import parse
from upeti.control.pairs import Pair
from upeti.control.rights_view import change_of, explain, published, rights_of_channels
from upeti.control.store import Store
from upeti.control.tables_capture import pairs
from upeti.control.tables_lineage import dataset_rows, datasets, model_datasets, models
from upeti.core.config import Channel

OpenStore = Callable[[], Store]
CONFIG = '[[channel]]\nname = "main"\nkind = "openai_compatible"\n'


def _blank(table: Table, **values: Any) -> dict[str, Any]:
    """A row with nothing in it, of each column's kind."""
    kinds = {column.name: column.type.python_type for column in table.columns}
    return {name: {str: "", int: 0, bool: False}.get(kind, []) for name, kind in kinds.items()} | values


DATASET, ROW = _blank(datasets, purpose="general_model", version=1), _blank(dataset_rows)
MODEL = _blank(models, purpose="general_model")
ANN = {"by": "head of risk", "why": "read it"}


def pair(number: int, channel: str, contract: str, erased_ns: int = 0) -> Pair:
    return Pair(
        f"pr_{number}", number, "call", "acme", "", "k", "f", "t", "", "r", channel, "m", "chat_completions", contract,
        "", "", "", {}, "", "", 0, 0, erased_ns,
    )  # fmt: skip


def test_a_changed_contract_names_what_was_made_under_the_old_one(
    open_store: OpenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
        for name, contract in (("topics@1", old), ("words@1", "x")):
            connection.execute(insert(datasets), [DATASET | {"id": name, "name": name}])
            connection.execute(insert(dataset_rows), [ROW | {"dataset": name, "contract": contract}])
            connection.execute(insert(models), [MODEL | {"id": f"student-{name}", "name": name}])
            connection.execute(insert(model_datasets), [{"model": f"student-{name}", "dataset": name}])
    terms = rights.terms_in_force(store, parse(CONFIG, tmp_path / "upeti.toml").config)
    (found,) = change_of(store, terms, old, "llama-3-community")
    assert found.pairs == {"cloud": 1, "gpu": 2}
    assert found.lost == ("task_generative", "general_model")
    assert (found.datasets, found.models) == ({"topics@1": "general_model"}, {"student-topics@1": "general_model"})
    (back,) = change_of(store, terms, "llama-3-community", old)
    assert (back.pairs, back.datasets, back.models, back.lost) == ({}, {}, {}, ())
    changes([found])
    assert "model student-topics@1 for general_model, which could not be made so again" in capsys.readouterr().out


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
