"""What is said of each kind of difference, and that the documentation says the same."""

from __future__ import annotations

from pathlib import Path

from upeti.money.reconcile.classify import __doc__ as table
from upeti.money.reconcile.statement import RULE_OF, RULES, Kind

DOCS = Path(__file__).parents[3] / "docs" / "reconciliation.md"


def test_every_kind_has_its_rule() -> None:
    assert set(RULE_OF) == set(Kind)
    assert len(RULES) == len(Kind)
    assert all(kind.value in (table or "") for kind in Kind), "the order of the rules names each"


def test_the_page_has_every_rule() -> None:
    page = DOCS.read_text()
    for rule in RULES:
        assert f"| {rule.kind.value} | {rule.meaning} | {rule.next_step} |" in page
