"""Azure's exports: four shapes of the same bill say the same."""

from __future__ import annotations

import datetime
import io
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from upeti.money.reconcile import azure
from upeti.money.reconcile.detect import open_report
from upeti.money.reconcile.lines import Nature, Report, ReportError, ReportLine

FIXTURES = Path(__file__).parents[2] / "fixtures" / "reconcile"
SHAPES = ["azure_ea.csv", "azure_mca.csv", "azure_focus_1_0.csv", "azure_focus_1_2_preview.csv"]


def read(path: Path) -> tuple[Report, list[ReportLine]]:
    report = open_report([path])
    return report, list(report.lines)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_says_the_same(shape: str) -> None:
    report, lines = read(FIXTURES / shape)
    usage = [
        (one.day.day, one.model, one.meter, one.tier, one.context, one.zone, one.quantity, one.cost_pico)
        for one in lines
        if one.nature is Nature.USAGE
    ]
    assert usage == [
        (1, "gpt-4o-2024-08-06", "input", "", "short", "global", 1_200_000, 3 * 10**12),
        (1, "gpt-4o-2024-08-06", "output", "", "short", "global", 80_500, 805 * 10**9),
        (1, "gpt-5.4-mini", "input", "", "short", "global", 2_500_000, 1_875 * 10**9),
        (1, "gpt-5.4-mini", "input_cached", "", "short", "global", 400_000, 3 * 10**10),
        (2, "gpt-4.1-mini", "output", "batch", "short", "data_zone", 10_000, 88 * 10**8),
        (2, "gpt-5.5", "output", "", "long", "data_zone", 1_000, 54 * 10**9),
        (2, "text-embedding-3-small", "input", "", "short", "data_zone", 50_000, 11 * 10**8),
    ]
    others = {(one.nature, one.name) for one in lines if one.nature is not Nature.USAGE}
    expected = {
        (Nature.CAPACITY, "Provisioned Managed Global Unit"),
        (Nature.UNMAPPED, "Code-Interpreter-global Session"),
        (Nature.UNMAPPED, "gpt-4o-mini-tts-aud-out-glbl Tokens"),
        (Nature.ADJUSTMENT, ""),
    }
    assert others == expected | ({(Nature.TAX, "")} if "1_2" in shape else set())
    assert {one.currency for one in lines} == {"USD"}, "the pricing currency, where there is one"
    assert all("demo-openai" in one.accounts for one in lines)
    assert all("00000000-0000-4000-8000-00000000aaaa" in one.accounts for one in lines)
    assert report.notes == {"lines of other services, not compared": 1}
    assert (report.first_day, report.last_day) == (datetime.date(2026, 11, 1), datetime.date(2026, 11, 3))


def test_parquet_is_the_same_as_csv(tmp_path: Path) -> None:
    names = (FIXTURES / SHAPES[3]).read_text().splitlines()[0].split(",")
    texts = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
    table = pa_csv.read_csv(FIXTURES / SHAPES[3], convert_options=texts)
    for name, kind in (("BilledCost", pa.decimal128(38, 12)), ("PricingQuantity", pa.float64())):
        table = table.set_column(names.index(name), name, table[name].cast(kind))
    table = table.set_column(
        names.index("ChargePeriodStart"),
        "ChargePeriodStart",
        table["ChargePeriodStart"].cast(pa.timestamp("us", "UTC")),
    )
    pq.write_table(table, tmp_path / "focus.parquet")
    _, lines = read(tmp_path / "focus.parquet")
    _, expected = read(FIXTURES / SHAPES[3])
    facts = [(one.day, one.model, one.meter, one.nature, one.quantity, one.cost_pico) for one in lines]
    assert facts == [(one.day, one.model, one.meter, one.nature, one.quantity, one.cost_pico) for one in expected]


def test_partitions_of_an_export_are_one_report(tmp_path: Path) -> None:
    text = (FIXTURES / "azure_ea.csv").read_text("utf-8-sig").splitlines(keepends=True)
    (tmp_path / "part_0.csv").write_text("".join(text[:4]))
    (tmp_path / "part_1.csv").write_text("".join([text[0], *text[4:]]))
    report = open_report([tmp_path / "part_0.csv", tmp_path / "part_1.csv"])
    lines = list(report.lines)
    whole, expected = read(FIXTURES / "azure_ea.csv")
    assert [one.cost_pico for one in lines] == [one.cost_pico for one in expected]
    assert (report.notes, report.first_day, report.last_day) == (whole.notes, whole.first_day, whole.last_day)
    assert lines[0].place == "part_0.csv: line 2"


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (FIXTURES / "azure_ea.csv").read_text("utf-8-sig")
    assert old in text
    path = tmp_path / "changed.csv"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("CostInBillingCurrency", "CostInDoubloons", "columns are missing (cost:"),
        ("11/02/2026", "13/02/2026", "'13/02/2026' is no day"),
        ("0.805", "0,805", "56 fields under 55 columns"),
        ("0.805", "n/a", "'n/a' is not a number"),
        ("0.805", "NaN", "not a finite number"),
        (",0.805,", ",,", "'' is not a number"),
        (",USD,", ",,", "an amount without a currency"),
    ],
)
def test_a_shape_that_changed_is_said(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ReportError) as raised:
        read(changed(tmp_path, old, new))
    assert says in str(raised.value)


def test_what_is_new_is_said_and_not_guessed(tmp_path: Path) -> None:
    report, _ = read(changed(tmp_path, "AvailabilityZone", "MoodOfTheDay"))
    assert "column MoodOfTheDay is not one that is documented; it is not read" in report.notes
    report, lines = read(changed(tmp_path, "Refund", "Gift"))
    assert [one.nature for one in lines if one.cost_pico == -1_250_000_000_000] == [Nature.UNMAPPED]
    assert any("'Gift'" in note for note in report.notes)
    report, lines = read(changed(tmp_path, "5.4 mini Inp Gl 1M Tokens", "9.9 mini Inp Gl 1M Tokens"))
    assert [one.model for one in lines][2] == "gpt-9.9-mini", "a new model by the same naming rules"
    assert any("not in the price list" in note for note in report.notes)


def test_amounts_finer_than_pico_are_rounded_and_told(tmp_path: Path) -> None:
    report, lines = read(changed(tmp_path, ",0.805,", ",0.80500000000004999,"))
    assert lines[1].cost_pico == 805_000_000_000
    assert lines[1].cost_error_pico == 1, "a double's noise"
    assert (
        report.residue_note()
        == "amounts finer than 12 decimals were rounded; together that is less than 0.000000000001"
    )


def test_a_large_export_is_read_in_little_memory() -> None:
    """Rows are read one by one: what is kept does not grow with them."""
    header, first, *_ = (FIXTURES / "azure_ea.csv").read_text("utf-8-sig").splitlines(keepends=True)

    class Endless(io.RawIOBase):
        """10,000 rows, made as they are asked for."""

        def __init__(self) -> None:
            self.left = iter([header] + [first] * 10_000)
            self.rest = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            while len(self.rest) < len(buffer) and (text := next(self.left, None)) is not None:
                self.rest += text.encode()
            taken, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
            buffer[: len(taken)] = taken
            return len(taken)

    report = azure.read_csv(azure.open_text(io.BufferedReader(Endless())))
    next(report.lines)  # the list of meters is loaded once
    tracemalloc.start()
    total = sum(one.quantity or Decimal(0) for one in report.lines)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 9_999 * 1_200_000
    assert peak < 1_000_000, f"{peak:,} bytes for {10_000 * len(first):,}"
