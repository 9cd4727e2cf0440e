"""Terms of budgets: the ids of their windows, and the way back from an id."""

from __future__ import annotations

from upeti.money.budget_terms import BudgetTerms, key_terms, name_of, root_of

NOW_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z, the 24th in Jakarta


def test_each_window_is_a_budget_of_its_own() -> None:
    def id_of(**terms: str) -> str:
        return BudgetTerms(name="b", limit="1", **terms).id_at(NOW_NS)  # type: ignore[arg-type]

    assert id_of() == "b"
    assert id_of(window="month") == "b@2026-11"
    assert id_of(window="week") == "b@2026-W48"
    assert id_of(window="day") == "b@2026-11-23"
    assert id_of(window="day", zone="Asia/Jakarta") == "b@2026-11-24"
    assert id_of(window="month", unit="IDR") == "b+IDR@2026-11"
    assert id_of(window="minute", unit="calls") == "b+calls@2026-11-23T23:40"


def test_an_id_leads_back_to_its_window_and_to_no_other_terms() -> None:
    month = BudgetTerms(name="b", limit="1", window="month", zone="Asia/Jakarta")
    assert month.window_of("b@2026-12") == month.window_at(1_797_000_000 * 10**9)
    for other in ("b", "b@", "b@2026-W48", "b@2026-13", "c@2026-12", "b+IDR@2026-12"):
        assert month.window_of(other) is None
    assert BudgetTerms(name="b", limit="1").window_of("b@") is None
    assert (root_of("b+IDR@2026-12"), name_of("b+IDR@2026-12"), name_of("key:k1")) == ("b+IDR", "b", "key:k1")


def test_a_keys_limit_is_a_budget_of_that_key() -> None:
    terms = key_terms("k1", "12.5")
    assert (terms.root, terms.limit_pico, terms.window, terms.key) == ("key:k1", 12_500_000_000_000, "total", "k1")
