"""`upeti budget`: made, changed, shown, released, also while nothing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upeti.cli.main import main
from upeti.cli.state import open_state
from upeti.control.budgets import stored_terms
from upeti.control.ledger import Ask, Hello, Ledger, Return
from upeti.money.budget_terms import BudgetTerms

FILE = """
[[budget]]
name = "everything"
limit = "1000"
window = "month"
zone = "Asia/Jakarta"

[[rate_limit]]
name = "fast"
calls_per_minute = 60
tokens_per_minute = 5000

[[key]]
id = "k1"
tenant = "acme"
sha256 = "{digest}"
limit = "7"
"""


@pytest.fixture
def config(tmp_path: Path, state_url: str) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text(f'data_dir = "data"\n[state]\nurl = "{state_url}"\n' + FILE.format(digest="0" * 64))
    return path


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def one(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(["budget", *arguments, "--config", str(config)])
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return one


def spend(config: Path, budget: str, pico: int, terms: BudgetTerms, **options: Any) -> None:
    ledger = Ledger(open_state(config))
    ledger.set_terms({terms.root: terms})
    ledger.apply([Hello("w", 0, 1, "p", {}), Ask("w", budget, pico, 0, final=True)], {"w"})
    ledger.apply([Return("w", budget, 0, pico, **options)], {"w"})


def test_all_budgets_are_listed_wherever_they_are_from(run: Any) -> None:
    assert run("set", "team", "--limit", "5", "--tenant", "acme").code == 0
    rows = {(row["name"], row["unit"]): row for row in run("list", "--json").json}
    assert {key: row["source"] for key, row in rows.items()} == {
        ("everything", "USD"): "file",
        ("fast", "calls"): "file",
        ("fast", "tokens"): "file",
        ("key:k1", "USD"): "key",
        ("team", "USD"): "state",
    }
    assert rows["fast", "tokens"]["limit"] == "5000"
    shown = run("list").out
    assert "everything@20" in shown
    assert "T00:00:00+07:00" in shown
    assert "tenant acme" in shown


def test_a_change_leaves_the_rest_as_it_was(run: Any, config: Path) -> None:
    made = run("set", "b", "--limit", "5", "--window", "week", "--tenant", "acme", "--feature", "web search")
    assert made.out.startswith("b: 5 USD a week (UTC) for tenant acme, feature web search, hard; 0 is spent until 20")
    changed = run("set", "b", "--limit", "6.5", "--mode", "soft", "--tenant", "", "--alert-shares", "90, 20")
    assert changed.out.startswith("b: 6.5 USD a week (UTC) for feature web search, soft;")
    assert stored_terms(open_state(config)) == [
        BudgetTerms(name="b", limit="6.5", window="week", soft=True, shares=(20, 90), feature="web search")
    ]
    assert run("delete", "b").out == "The budget b is removed.\n"
    assert stored_terms(open_state(config)) == []


def test_a_limit_below_what_is_spent_is_said(run: Any, config: Path) -> None:
    run("set", "b", "--limit", "5")
    spend(config, "b", 3 * 10**12, BudgetTerms(name="b", limit="5"))
    assert "more than the limit" not in run("set", "b", "--limit", "3").out
    lowered = run("set", "b", "--limit", "2").out
    assert "3 is spent." in lowered
    assert "That is more than the limit: calls are refused." in lowered


def test_a_frozen_budget_is_shown_and_released(run: Any, config: Path) -> None:
    run("set", "b", "--limit", "5")
    reason = "req_1-0 to m on up cost 2 USD, above its bound 1"
    spend(config, "b", 10**12, BudgetTerms(name="b", limit="5"), overrun=reason)
    assert f"Frozen: {reason}. `upeti budget release b` lets calls go on." in run("show", "b").out
    assert "frozen" in run("list").out
    assert run("release", "b").out == "The budget b is released.\n"
    assert run("show", "b", "--json").json[0]["frozen"] is None
    again = run("release", "b")
    assert (again.code, "is not frozen" in again.err) == (2, True)


def test_past_windows_are_shown(run: Any, config: Path) -> None:
    run("set", "b", "--limit", "5", "--window", "month")
    spend(config, "b@2026-01", 10**12, BudgetTerms(name="b", limit="5", window="month"))
    present, past = run("show", "b", "--json").json
    assert (present["spent"], past["id"], past["spent"]) == ("0", "b@2026-01", "1")
    assert past["resets_at"] == "2026-02-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "b"], "give --limit to make it"),
        (["set", "b", "--limit", "1e-13"], "more than 12 decimals"),
        (["set", "b", "--limit", "1", "--window", "year"], "Invalid enum value 'year'"),
        (["set", "b", "--limit", "1", "--alert-shares", "half"], "write it like 50,80,100"),
        (["set", "everything", "--limit", "1"], "is in the configuration file: change it there"),
        (["set", "key:k1", "--limit", "1"], "begins the names of keys' own limits"),
        (["show", "b"], "there is no budget `b`: `upeti budget list` shows them"),
        (["delete", "everything"], "the state has no budget `everything`"),
    ],
)
def test_what_cannot_be_done_says_what_can(run: Any, arguments: list[str], message: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert message in ran.err


def test_a_file_with_a_mistake_is_left_out_and_that_is_said(run: Any, config: Path) -> None:
    run("set", "b", "--limit", "5")
    config.write_text(config.read_text().replace('limit = "1000"', 'limit = "a lot"'))
    ran = run("list", "--json")
    assert [row["name"] for row in ran.json] == ["b"]
    assert "are left out, because it has a mistake" in ran.err
