"""The pages that are sent: the PDF's text and fonts, the HTML in a real browser, the lines as files."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pypdfium2
import pytest

from money.test_invoice import drawn
from support.invoice_side import row
from upeti.control import invoice_pages
from upeti.control.invoice_view import Proof
from upeti.money.invoice import Document

PROOF = Proof("ab" * 32, 7, "cd" * 32)
A4 = (595.28, 841.89)  # points


def document(lines: int, tenant: str = "warung", **fields: Any) -> Document:
    features = [(number // 6, number // 2 % 3) for number in range(0, lines, 2)]
    usage = [
        row(
            tenant, f"feature-{feature:02d}", f"gpt-4.1-{model}", meters={"input": 10**9 + number, "output": 7 + number}
        )
        for number, (feature, model) in enumerate(features)
    ]
    issued = {
        "number": "UPT-2026-000001",
        "issued_at": "2026-11-02T03:04:05Z",
        "issue_date": "2026-11-02",
        "due_date": "2026-12-02",
    }
    return msgspec.structs.replace(drawn(tenant, *usage), **{**issued, **fields})


def pages(data: bytes) -> list[str]:
    read = pypdfium2.PdfDocument(data)
    try:
        assert all(abs(size - wanted) < 1 for page in read for size, wanted in zip(page.get_size(), A4, strict=True))
        return [page.get_textpage().get_text_bounded().replace("\r\n", "\n") for page in read]
    finally:
        read.close()


def test_a_short_invoice_is_one_page_with_all_that_finance_needs() -> None:
    made = document(3)
    (text,) = pages(invoice_pages.pdf(made, PROOF))
    for wanted in (
        *("Tagihan", "UPT-2026-000001", "PT Contoh Awan Nusantara", "PT Warung Contoh Sejahtera", "2 Desember 2026"),
        *("Token masukan", "1.000.000.000", "Harga sebelum pajak", "PPN 12%", "Jumlah yang harus dibayar"),
        *("1 USD = 16.100 IDR", "PMK 131/2024", "Halaman 1 dari 1", PROOF.sha256, PROOF.batch_hash, "Bank Contoh"),
    ):
        assert wanted in text, wanted
    due = f"Rp{int(made.totals.due.billing):,}".replace(",", ".")
    assert due in text


@pytest.mark.parametrize("locale", ["id_ID", "en_US"])
def test_a_long_invoice_repeats_its_head_and_numbers_its_pages(locale: str) -> None:
    made = pages(invoice_pages.pdf(document(300, "orchard", locale=locale), PROOF))
    assert len(made) > 5
    quantity, page = ("Kuantitas", "Halaman {} dari {}") if locale == "id_ID" else ("Quantity", "Page {} of {}")
    for number, text in enumerate(made, 1):
        assert page.format(number, len(made)) in text
    assert all(quantity in text for text in made[:-1])
    # No feature's name stands alone at the foot of a page.
    for text in made[:-1]:
        last = [line for line in text.splitlines() if line.strip()][-2]  # above the footer
        assert not re.fullmatch(r"feature-\d\d", last.strip()), last
    assert sum(text.count("Output tokens" if locale == "en_US" else "Token keluaran") for text in made) == 150


def test_the_pdf_is_an_archive_with_its_fonts_and_always_the_same() -> None:
    made = document(3)
    data = invoice_pages.pdf(made, PROOF)
    assert data == invoice_pages.pdf(made, PROOF)
    assert b"pdfaid:part" in data  # PDF/A, which wants every font embedded
    assert b"/FontFile" in data


def test_names_are_text_whatever_they_hold() -> None:
    hostile = '<script>alert(1)</script> #panic() $x$ {{ 7*7 }} "\\'
    made = document(3)
    made = msgspec.structs.replace(made, customer=msgspec.structs.replace(made.customer, legal_name=hostile))
    page = invoice_pages.html(made, PROOF)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; #panic() $x$ {{ 7*7 }}" in page
    (text,) = pages(invoice_pages.pdf(made, PROOF))
    assert "<script>alert(1)</script> #panic() $x$ {{ 7*7 }}" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        started = running.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


def test_a_browser_shows_the_page_within_its_width_and_prints_it_on_a4(browser: Any, tmp_path: Path) -> None:
    made = document(3)
    file = tmp_path / "invoice.html"
    file.write_text(invoice_pages.html(made, PROOF), encoding="utf-8")
    page = browser.new_page(viewport={"width": 900, "height": 1200})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]  # nothing is fetched
    assert page.locator("h1").inner_text() == "Tagihan"
    assert page.locator("html").get_attribute("lang") == "id"
    cells = page.locator("tr.usage td.n:last-child").all_inner_texts()
    discount = page.locator("tr.discount td.n:last-child").all_inner_texts()
    amounts = [int(text.replace(".", "")) for text in (*cells, *discount)]
    assert sum(amounts) == int(made.totals.net.billing)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    overflowing = "[...document.querySelectorAll('td,th')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.evaluate(overflowing) == 0
    (text,) = pages(page.pdf(prefer_css_page_size=True))
    assert "Halaman 1 dari 1" in text
    page.close()


@pytest.mark.parametrize(("library", "make"), [("jinja2", invoice_pages.html), ("typst", invoice_pages.pdf)])
def test_a_missing_library_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, library: str, make: Callable[..., object]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(
        invoice_pages.ReportsMissing, match=rf'{library} is not installed: pip install "upeti\[reports\]"'
    ):
        make(document(3), PROOF)


def test_lines_as_csv_rows_and_as_parquet_are_exact() -> None:
    made = document(7)
    rows = list(invoice_pages.rows(made))
    assert [tuple(one) for one in rows] == [invoice_pages.COLUMNS] * len(made.lines)
    assert sum(Decimal(one["amount"]) for one in rows) == Decimal(made.totals.net.billing)
    table = pyarrow.parquet.read_table(io.BytesIO(invoice_pages.parquet(made)))
    assert table.column_names == list(invoice_pages.COLUMNS)
    assert sum(table.column("amount").to_pylist()) == Decimal(made.totals.net.billing)
    assert [Decimal(one["priced"]) for one in rows] == table.column("priced").to_pylist()
    assert {type(value) for one in rows for value in one.values()} <= {str, int, type(None)}
