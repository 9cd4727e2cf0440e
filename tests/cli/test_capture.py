"""`upeti capture`: consent, what is kept, its erasure; also while somebody edits the configuration."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from upeti.cli.main import main
from upeti.control import pairs
from upeti.control.store import Store
from upeti.core.events import PairCaptured
from upeti.journal.bodies import bodies_at

WHO = ("--by", "legal", "--why", "letter")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text('data_dir = "data"\n[capture]\nenabled = true\n')
    (tmp_path / "letter.txt").write_text("We agree.")
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setattr("sys.stdin", io.StringIO())  # whoever is asked says nothing

    def one(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["capture", *arguments, "--config", str(config)])
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed
        return printed.out if not code else printed.err

    return one


def keep(config: Path, number: int, tenant: str, user: str) -> str:
    store = Store(config.parent / "data")
    try:
        salt = pairs.salt_of(store, tenant)
        bodies = bodies_at(store.data_dir, "")
        blank: dict[str, Any] = dict.fromkeys(PairCaptured.__struct_fields__, "")
        named = {"pair_id": f"call_{number}-0", "tenant": tenant, "task": "topic", "channel": "sim", "at_ns": number}
        digests = [bodies.put(salt, json.dumps({"said": f"{what} {number} é"}).encode()) for what in ("asked", "told")]
        pairs.keep(
            store,
            [
                PairCaptured(
                    **blank
                    | named
                    | {"user_digest": pairs.user_digest(salt, user), "redactions": {"EMAIL": 2}}
                    | {"request_digest": digests[0], "answer_digest": digests[1], "request_bytes": 1, "answer_bytes": 2}
                )
            ],
        )
        pairs.note_left_out(store, {("2026-11-27", tenant, "sim", "contract_ask"): 4})
    finally:
        store.close()
    return f"call_{number}-0"


def test_a_consent_from_letter_to_withdrawal(run: Any, config: Path) -> None:
    letter = str(config.parent / "letter.txt")
    assert "Nobody has consented" in run("status")
    said = run("consent", "acme", "--evidence", letter, "--purposes", "evaluate, embed", "--features", "a,b", *WHO)
    assert "acme has consented to: embed, evaluate, store." in said
    assert "Nothing is kept yet" not in said
    (shown,) = json.loads(run("status", "--json"))["consents"]
    assert (shown["tenant"], shown["features"], shown["evidence_name"]) == ("acme", ["a", "b"], "letter.txt")
    made = json.loads(run("consent", "beta", "--evidence", letter, "--json", *WHO))
    assert made["purposes"] == ["store"]
    assert made["id"] in run("status")
    config.write_text(config.read_text() + "\n[[nonsense]]\n")  # somebody is editing it
    assert f"{made['id']} is withdrawn. `upeti capture erase --tenant beta`" in run("withdraw", "beta", *WHO)
    assert "has no consent in force" in run("withdraw", "beta", *WHO, code=2)
    assert "is no purpose of what is kept" in run(
        "consent", "acme", "--evidence", letter, "--purposes", "all", *WHO, code=2
    )
    assert "cannot be read" in run("consent", "acme", "--evidence", letter + "x", *WHO, code=2)
    config.write_text('data_dir = "data"\n')
    assert "Nothing is kept yet: write enabled = true" in run("consent", "acme", "--evidence", letter, *WHO)


def test_what_is_kept_is_listed_shown_and_erased(run: Any, config: Path) -> None:
    assert "Nothing is kept that fits" in run("list")
    first, second, third = (keep(config, number, *who) for number, who in enumerate(WHOSE, 1))
    listed = json.loads(run("list", "--json"))
    assert [one["pair_id"] for one in listed] == [first, second, third]
    assert [one["pair_id"] for one in json.loads(run("list", "--tenant", "acme", "-n", "1", "--json"))] == [first]
    assert "EMAIL 2" in run("list", "--task", "topic", "--channel", "sim")
    text = run("status")
    for part in ("Capture is on.", "acme", "nobody has reviewed whether the contract allows storing it"):
        assert part in text
    shown = json.loads(run("show", first))
    assert (shown["request"], shown["answer"]) == ({"said": "asked 1 é"}, {"said": "told 1 é"})
    assert "there is no pair `x`: `upeti capture list`" in run("show", "x", code=2)

    assert run("erase", "--tenant", "acme", "--user", "rina", *WHO) == "1 pairs were erased, 2 bodies with them.\n"
    shown = json.loads(run("show", first))
    assert (shown["request"], shown["answer"], shown["user_digest"]) == (None, None, "")
    assert json.loads(run("erase", "--pair", second, "--json", *WHO)) == {"pairs": [second], "bodies": 2}
    assert "there is no pair" in run("erase", "--pair", second, *WHO, code=2)
    assert "say what to erase" in run("erase", *WHO, code=2)
    assert "--user needs --tenant" in run("erase", "--user", "rina", *WHO, code=2)
    run("erase", "--tenant", "beta", *WHO, code=1)  # asked, and nobody said yes
    assert run("erase", "--tenant", "beta", "--yes", *WHO).startswith("1 pairs")
    assert json.loads(run("list", "--json")) == []
    assert "erased" in run("list", "--erased")
    assert run("rebuild") == "0 pairs were added.\n"


WHOSE = (("acme", "rina"), ("acme", "budi"), ("beta", "rina"))
