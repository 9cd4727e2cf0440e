"""`upeti tenant`: rows of the file and prepaid credit."""

from __future__ import annotations

import json

import pytest

from cli.test_invoice import Run, run

__all__ = ["run"]  # the fixture


def test_tenants_are_listed_with_their_credit(run: Run) -> None:
    run("tenant", "credit", "orchard", "10.50", "--currency", "usd", "--reference", "bank 1")
    rows = {one["tenant"]: one for one in json.loads(run("tenant", "list", "--json"))}
    assert rows.keys() == {"feed", "orchard", "warung"}
    assert (rows["orchard"]["parent"], rows["orchard"]["pays_in"], rows["orchard"]["credit"]) == (
        "Example Orchard Holdings",
        "JPY",
        "10.5",
    )
    assert "PT Warung Contoh Sejahtera" in run("tenant", "list")


def test_a_tenant_is_shown_with_the_terms_that_are_for_it(run: Run) -> None:
    found = json.loads(run("tenant", "show", "warung", "--json"))
    assert [one["percent"] for one in found["margin"]] == ["12.5", "8", "15"]
    assert found["commitment"][0]["minimum"] == "500"
    shown = run("tenant", "show", "orchard")
    assert "address            1-2-3 Example-cho; Chiyoda-ku, Tokyo 100-0000; Japan" in shown
    assert "percent            15" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "kios"), "there is no tenant kios; the tenants are: feed, orchard, warung"),
        (("credit", "orchard", "5", "--currency", "JPY", "--reference", "b"), "orchard is billed in USD"),
        (("credit", "orchard", "0.001", "--currency", "USD", "--reference", "b"), "at most 2 decimals"),
    ],
)
def test_errors_name_the_cure(run: Run, words: tuple[str, ...], message: str) -> None:
    assert message in run("tenant", *words, status=2)
