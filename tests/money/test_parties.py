"""Who stands behind a channel, and what a whole amounts to."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from upeti.core.errors import ConfigError
from upeti.money.parties import Parties, Place, clauses, denominators

DAY = datetime.date(2026, 11, 23)

OWN = """
[[party]]
channel = "partner"
from = 2026-01-01
party = "PT Partner"
parent = "Group"
source = "contract 7"
source_date = 2026-01-02

[[party]]
kind = "azure"
from = 2026-06-01
party = "PT Microsoft Indonesia"
parent = "Microsoft Corporation"
source = "contract 8"
source_date = 2026-06-02
"""


def test_models_of_openai_on_azure_are_bought_from_microsoft() -> None:
    parties = Parties.load()
    azure = parties.standing(Place("a", "azure", "name.openai.azure.com"), DAY)
    openai = parties.standing(Place("o", "openai_compatible", "api.openai.com"), DAY)
    assert azure.parent == "Microsoft Corporation"
    assert openai.parent != azure.parent
    assert azure.source
    assert parties.standing(Place("e", "openai_compatible", "EU.api.openai.com"), DAY).parent == openai.parent
    assert parties.standing(Place("n", "anthropic", "api.anthropic.com"), DAY).party == "Anthropic"


@pytest.mark.parametrize("place", [Place("x"), Place("x", "openai_compatible", "llm.example.com")])
def test_nobody_is_guessed(place: Place) -> None:
    found = Parties.load().standing(place, DAY)
    assert (found.party, found.parent, found.source) == ("x", "x", "")


def test_own_rows_come_after_and_the_most_particular_one_holds(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    parties = Parties.load([path])
    assert parties.standing(Place("partner", "azure", "h"), DAY).party == "PT Partner"
    assert parties.standing(Place("other", "azure", "h"), DAY).party == "PT Microsoft Indonesia"
    before = parties.standing(Place("partner", "azure", "h"), datetime.date(2025, 12, 31))
    assert before.party == "Microsoft Azure"


def test_a_row_about_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace('channel = "partner"\n', ""))
    with pytest.raises(ConfigError, match=r"own\.toml:2: row 1: it names no channel, kind or host"):
        Parties.load([path])


def test_every_clause_has_its_source() -> None:
    found = [*clauses("customers"), *clauses("suppliers")]
    assert {"ASC 280-10-50-42", "IFRS 8.34"} <= {one.id for one in found}
    assert all(one.source and one.scope == "company" for one in found)


WHOLE = """
[[denominator]]
name = "NAME"
scope = "company"
month = "2026-10"
amount = "AMOUNT"
currency = "USD"
source = "annual report"
source_date = 2026-11-01
"""


def write(folder: Path, *rows: tuple[str, str]) -> Path:
    path = folder / "wholes.toml"
    path.write_text("".join(WHOLE.replace("NAME", name).replace("AMOUNT", amount) for name, amount in rows))
    return path


def test_wholes_are_read_by_side(tmp_path: Path) -> None:
    path = write(tmp_path, ("group", "400000000000000.5"))
    (found,) = denominators(path, "customers")
    assert (found.name, found.month, found.amount_pico) == ("group", "2026-10", 4000000000000005 * 10**11)
    assert denominators(path, "suppliers") == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("line", "1")], "choose another name"),
        ([("group", "0")], "the amount is zero"),
        ([("group", "1"), ("group", "2")], "in line 2 already"),
        ([("group", "1e3")], "plain decimals"),
    ],
)
def test_wholes_that_are_wrong(tmp_path: Path, rows: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        denominators(write(tmp_path, *rows), "customers")
