"""An invoice as people read it: both languages, both number formats, nothing computed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from money.test_invoice import drawn
from support.invoice_side import row
from upeti.control.invoice_view import Form, Proof, texts_of, view_of
from upeti.core.meters import ALL_METERS
from upeti.money.usage import PER_CALL, UNMETERED

PROOF = Proof("ab" * 32, 7, "cd" * 32)


def view(tenant: str, locale: str, **fields: Any) -> dict[str, Any]:
    document = drawn(tenant, row(tenant, meters={"input": 1_234_567_890, "output": 7}))
    return view_of(msgspec.structs.replace(document, locale=locale, **fields), PROOF)


def test_both_languages_have_the_same_words_and_every_meter() -> None:
    english, indonesian = texts_of("en_US"), texts_of("id_ID")
    assert english.keys() == indonesian.keys()
    assert set(english["meters"]) == set(indonesian["meters"]) == {*ALL_METERS, PER_CALL, UNMETERED}
    for name, text in english.items():
        if isinstance(text, str):
            assert text.count("{") == indonesian[name].count("{"), name


@pytest.mark.parametrize(
    ("locale", "currency", "decimals", "shown"),
    [
        ("id_ID", "IDR", 0, "Rp400.000.000.001"),
        ("id_ID", "IDR", 2, "Rp400.000.000.001,00"),
        ("en_US", "IDR", 0, "IDR\xa0400,000,000,001"),
        ("en_US", "USD", 2, "$400,000,000,001.00"),
        ("en_US", "JPY", 0, "¥400,000,000,001"),
        ("en_US", "KWD", 3, "KWD\xa0400,000,000,001.000"),
        ("id_ID", "USD", 2, "US$400.000.000.001,00"),
    ],
)
def test_money_is_written_as_its_reader_writes_it(locale: str, currency: str, decimals: int, shown: str) -> None:
    assert Form(locale).money("400000000001", currency, decimals) == shown


def test_no_digit_of_a_long_number_is_lost() -> None:
    assert Form("en_US").exact(Decimal("400000000000.123456789012345678")) == "400,000,000,000.123456789012345678"
    assert Form("id_ID").fixed("-400000000000.12", 2) == "-400.000.000.000,12"


def test_the_indonesian_view() -> None:
    made = view("warung", "id_ID", number="UPT-2026-000001", issue_date="2026-11-02", due_date="2026-12-02")
    facts = {fact["label"]: fact["value"] for fact in made["facts"]}
    assert made["title"] == "Tagihan"
    assert facts["Tanggal terbit"] == "2 November 2026"
    assert facts["Periode (UTC)"] == "1 Oktober 2026 – 31 Oktober 2026"
    line = made["groups"][0]["lines"][0]
    assert (line["meter"], line["quantity"], line["unit_price"]) == (
        "Token masukan",
        "1.234.567.890",
        "2,16 USD / 1 jt",
    )
    labels = [one["label"] for one in made["totals"]]
    assert labels == ["Harga sebelum pajak", "Dasar pengenaan pajak (11/12 dari harga)", "PPN 12%", "Total"]
    assert any("1 USD = 16.100 IDR per 1 Januari 2026" in note for note in made["notes"])
    assert any("PMK 131/2024" in note for note in made["notes"])


def test_the_english_view() -> None:
    made = view("orchard", "en_US", number="UPT-2026-000002", issue_date="2026-11-02", due_date="2026-11-16")
    facts = {fact["label"]: fact["value"] for fact in made["facts"]}
    assert facts["Due date"] == "November 16, 2026"
    assert facts["Your reference"] == "PO-2026-0042"
    assert made["due"] == {"label": "Amount due", "value": "$2,839.51"}
    assert made["payment"]["other"] == {"label": "To be paid in JPY", "value": "¥429,476"}
    assert made["payment"]["lines"][0] == "Payable within 14 days of issue."
    assert [one["value"] for one in made["proof"]][:2] == [PROOF.sha256, PROOF.batch_hash]


def test_a_draft_says_so_and_that_nobody_checked_the_tax() -> None:
    made = view("warung", "en_US")
    assert made["draft"] == "DRAFT, not issued"
    assert any("nobody has checked" in note for note in made["notes"])
    assert view("warung", "en_US", number="UPT-2026-000001")["draft"] == ""


def test_a_chargeback_asks_for_no_payment() -> None:
    made = view("feed", "id_ID")
    assert made["title"] == "Pembebanan biaya internal"
    assert not made["bank"]
    assert not made["payment"]["lines"]


def test_amounts_before_conversion_sum_as_shown() -> None:
    usage = [row("warung", f"f{number}", meters={"input": 1_000_003 + number}) for number in range(20)]
    document = msgspec.structs.replace(drawn("warung", *usage), locale="en_US")
    shown = [
        Decimal(line["priced"].replace(",", ""))
        for group in view_of(document, None)["groups"]
        for line in group["lines"]
    ]
    assert sum(shown) == Decimal("500.000000")


def test_what_is_not_billed_is_listed() -> None:
    document = drawn("warung", row("warung", outcome="unpriced", price_id="", cost_pico=0))
    made = view_of(document, None)
    assert made["unbilled"]["rows"] == [
        {
            "feature": "search",
            "model": "gpt-4.1",
            "reason": "harga belum diketahui",
            "attempts": "10",
            "units": "1.200.010",
        }
    ]


def test_a_view_is_texts_only() -> None:
    json.dumps(view("warung", "id_ID"))
