"""`upeti rights`: what may be done, on which sentence, and who said so; also while somebody edits the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upeti.cli.main import main
from upeti.journal.acts import read_acts

CONFIG = """data_dir = "data"
[[channel]]
name = "main"
kind = "openai_compatible"
[[channel]]
name = "gpu"
kind = "openai_compatible"
base_url = "http://gpu.example:8000/v1"
[[contract]]
channel = "gpu"
contract = "llama-3.1-community"
from = 2026-01-01
until = 2026-09-01
"""
CONTRACT = "openai-services-2026-01-01"
WHO = ("--by", "head of risk", "--why", "read it")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text(CONFIG)
    (tmp_path / "letter.txt").write_text("You may.")
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def one(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["rights", *arguments, "--config", str(config)])
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.err
        return printed.out if not code else printed.err

    return one


def test_an_explanation_says_the_clause_its_words_and_the_cure(run: Any) -> None:
    text = run("explain", "main", "classify_internal")
    assert text.startswith("DENY: classify_internal with answers of main")
    assert "`upeti rights bind main CONTRACT --from DATE` says" in text
    assert f"for the users of this host: {CONTRACT}" in text
    run("bind", "main", CONTRACT, "--from", "2026-01-01", *WHO)
    text = run("explain", "main", "classify_internal")
    assert text.startswith("ASK: ")
    for part in (
        f"clause     {CONTRACT}/permitted-exception-a: ask (the file reads: allow)",
        "quote      “primarily intended to categorize, classify, or organize data",
        "document   OpenAI Services Agreement, version 2026-01-01, definition of Permitted Exception, (a)",
        "source     https://openai.com/policies/services-agreement/",
        "reviewed   nobody",
        "duties     not_distributed",
        f"`upeti rights review {CONTRACT}/permitted-exception-a` does",
    ):
        assert part in text
    run("review", f"{CONTRACT}/permitted-exception-a", "--decision", "confirm", *WHO)
    text = run("explain", "main", "classify_internal")
    assert text.startswith("ALLOW: ")
    assert "reviewed   head of risk, 20" in text


def test_it_can_be_asked_about_any_day(run: Any) -> None:
    """The contract of the capture counts, and the channel serves until its contract has ended."""
    found = json.loads(run("explain", "gpu", "general_model", "--captured", "2026-03-01", "--json"))
    assert (found["contract"], found["decision"]) == ("llama-3.1-community", "ask")
    assert [one["clause"] for one in found["speaking"]] == ["llama-3.1-community/1.b.i", "llama-3.1-community/2"]
    assert found["duties"] == ["name_prefix:Llama", "notice:Built with Llama", "users_monthly_max:700000000"]
    assert json.loads(run("explain", "gpu", "general_model", "--json"))["contract"] == ""
    served = {day: run("explain", "gpu", "serve", "--at", day).split(":")[0] for day in ("2026-08-31", "2026-09-01")}
    assert served == {"2026-08-31": "ALLOW", "2026-09-01": "DENY"}
    assert "its contract `llama-3.1-community` has ended" in run("explain", "gpu", "serve", "--at", "2026-09-01")


def test_a_grant_with_its_evidence_until_it_is_revoked(run: Any, config: Path) -> None:
    run("bind", "main", CONTRACT, *WHO)
    letter = str(config.with_name("letter.txt"))
    made = json.loads(
        run("grant", "main", "general_model", "--evidence", letter, "--tenant", "acme", "--models", "a, b",
            "--duty", "notice:With permission", "--json", *WHO)
    )  # fmt: skip
    assert (made["tenant"], made["models"], made["duties"]) == ("acme", ["a", "b"], ["notice:With permission"])
    ask = ("explain", "main", "general_model", "--tenant", "acme", "--model")
    text = run(*ask, "a")
    assert text.startswith("ALLOW: ")
    assert f"evidence   letter.txt, SHA-256 {made['evidence_sha256']}" in text
    assert "With permission" in text
    assert run(*ask, "c").startswith("DENY: ")
    assert "is revoked: general_model on main" in run("revoke", made["id"], *WHO)
    assert run(*ask, "a").startswith("DENY: ")
    assert "is revoked already, by head of risk" in run("revoke", made["id"], *WHO, code=2)


def test_what_takes_a_right_away_works_while_the_file_is_broken(run: Any, config: Path) -> None:
    run("bind", "main", CONTRACT, "--until", "2999-01-01", *WHO)
    binding = json.loads(run("list", "--json"))["bindings"][-1]["id"]
    whole = config.read_text()
    config.write_text(whole + '[[route]]\nname = "m"\n')  # a route without a candidate
    assert "candidate" in run("list", code=2)
    denial = json.loads(run("deny", "main", "serve", "--json", *WHO))["id"]
    assert "there is no channel `mine`" in run("deny", "mine", "serve", *WHO, code=2)
    assert f"{CONTRACT} ends for the channel main" in run("end", binding, *WHO)
    config.write_text(whole)
    assert run("explain", "main", "serve").startswith("DENY: ")
    run("lift", denial, *WHO)
    assert "has ended" in run("explain", "main", "serve")
    kinds = [done.kind for done in read_acts(config.with_name("data"))]
    assert kinds == ["rights.bound", "rights.denied", "rights.contract_ended", "rights.lifted"]


def test_lists(run: Any, config: Path) -> None:
    run("bind", "main", CONTRACT, *WHO)
    run("grant", "main", "resell", "--evidence", str(config.with_name("letter.txt")), "--until", "2999-01-01", *WHO)
    run("deny", "main", "store", "--tenant", "acme", *WHO)
    text = run("list")
    for part in ("allow until 2999-01-01T00:00:00Z", "configuration", "head of risk", "acme", "grt_", "dny_", "bnd_"):
        assert part in text
    found = json.loads(run("list", "--json"))
    assert {one["channel"]: one["decisions"]["resell"] for one in found["channels"]} == {"main": "allow", "gpu": "deny"}
    assert "Anthropic Usage Policy" in run("contracts")
    assert len(json.loads(run("contracts", "--json"))) >= 20
    text = run("clauses", "--contract", "anthropic-commercial-2025-06-17")
    assert "anthropic-usage-policy-2025-09-15/training" in text
    assert CONTRACT not in text
    run("review", f"{CONTRACT}/4.1", "--decision", "allow", "--purpose", "store", *WHO)
    unread = run("clauses", "--contract", CONTRACT, "--unreviewed")
    assert f"{CONTRACT}/4.1" not in unread
    assert f"{CONTRACT}/3.3e" in unread
    assert "head of risk, " in run("clauses", "--contract", CONTRACT)
    (whole,) = [one for one in json.loads(run("clauses", "--json")) if one["id"] == f"{CONTRACT}/4.1"]
    assert whole["review"]["decisions"] == {"store": "allow"}


def test_two_texts_are_compared(run: Any, tmp_path: Path) -> None:
    text = run("diff", "llama-3.1-community", "llama-3-community")
    assert "general_model         ask → deny (narrower)" in text
    assert "- If you use the Llama Materials" in text
    assert "+ You will not use the Llama Materials" in text
    assert "duties -" in text
    row = (
        '[[contract]]\nid = "x"\nparty = "P"\nfamily = "x"\ndocument = "D"\nversion = "1"\nfrom = 2026-01-01\n'
        'source = "s"\nsource_date = 2026-01-01\n[[clause]]\nid = "x/1"\ncontract = "x"\nallow = ["store"]\n'
        'quote = "You may keep it."\nsource = "s"\nsource_date = 2026-01-01\n'
    )
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(row)
    new.write_text(row.replace('allow = ["store"]', 'deny = ["store"]').replace("may keep", "may not keep"))
    (found,) = json.loads(run("diff", str(old), str(new), "--json"))
    assert found["lost"] == ["store"]
    assert found["changes"]["clauses"][0]["words"] == ["- You may keep it.", "+ You may not keep it."]
    assert "Nothing changed." in run("diff", str(old), str(old))
    assert "is neither a contract nor a file of terms" in run("diff", "nothing", str(new), code=2)


def test_mistakes_name_their_cure(run: Any) -> None:
    assert "did you mean" in run("bind", "main", "openai-services-2026", *WHO, code=2)
    assert "there are: classify_distributed" in run("explain", "main", "nonsense")
    assert "give --by and --why" in run("deny", "main", "store", "--by", "", "--why", "x", code=2)
