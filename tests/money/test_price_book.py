"""The price book: what is shipped is sourced and parses; what is loaded is read strictly and only adds."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upeti.core import meters as m
from upeti.core.amount import parse_pico
from upeti.core.errors import ConfigError
from upeti.money.price import bound_of, cost_of, price_at
from upeti.money.price_book import ANY_MODEL, ModelFacts, PriceBook, Row

SHIPPED = PriceBook.shipped()
# No later than the newest row, so that these tests do not depend on today.
READ = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)

ROW = """
[[price]]
models = ["gpt-house"]
from = 2026-01-01
currency = "USD"
per_million = { input = "2.50", output = "10.00" }
source = "contract 17, annex B"
source_date = 2025-12-01
"""


def nanoseconds(at: datetime.datetime) -> int:
    return int(at.timestamp()) * 10**9


def per_million(part: str, model: str) -> dict[str, str]:
    price = price_at(SHIPPED.prices(part, model), nanoseconds(READ))
    assert price is not None
    return {meter: f"{pico / 10**6:.6g}" for meter, pico in price.pico.items()}


def book_of(folder: Path, *texts: str) -> PriceBook:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"prices-{number}.toml"
        path.write_text(text)
        paths.append(path)
    return PriceBook.load(paths)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        book_of(folder, text)
    return str(caught.value)


# -- what is shipped ----------------------------------------------------------------------------------------------


def test_every_kind_of_channel_has_its_part() -> None:
    assert SHIPPED.parts() == ["anthropic", "azure", "local", "openai"]


@pytest.mark.parametrize(
    "row", SHIPPED.rows, ids=lambda row: f"{row.part}-{row.models[0]}-{row.tier}-{row.zone}-{row.effective}"
)
def test_every_shipped_row_is_sourced_dated_and_priced(row: Row) -> None:
    assert row.price.source.strip()
    assert datetime.date(2026, 8, 1) <= row.source_date <= READ.date()
    assert row.effective <= READ.date()
    assert row.price.currency == "USD"
    assert row.price.pico.keys() <= set(m.ALL_METERS)
    assert row.file == f"{row.part}.toml"
    ours = row.part == "local" or row.tier == "provisioned"
    assert (ANY_MODEL in row.models) == ours
    free = [meter for meter, pico in row.price.pico.items() if pico == 0]
    assert bool(free) == ours, f"only our own machine and what is paid by the hour are free, not {free}"
    assert row.tier in ("", "batch", "flex", "priority", "fast", "us", "provisioned")
    assert row.zone in ("", "data_zone_eu", "data_zone_us", "data_zone_apac")
    for cliff in row.price.cliffs:
        assert all(cliff.pico[meter] >= pico for meter, pico in row.price.pico.items())


def test_every_row_can_be_found_by_the_id_that_bills_name() -> None:
    assert len({row.price.id for row in SHIPPED.rows}) == len(SHIPPED.rows)
    for row in SHIPPED.rows:
        assert SHIPPED.row(row.price.id) is row
    assert SHIPPED.row("0" * 16) is None


@pytest.mark.parametrize(
    ("part", "model", "prices"),
    [
        ("openai", "gpt-4o", {"input": "2.5", "input_cached": "1.25", "output": "10"}),
        ("openai", "gpt-4o-2024-08-06", {"input": "2.5", "input_cached": "1.25", "output": "10"}),
        ("openai", "gpt-4o-mini", {"input": "0.15", "input_cached": "0.075", "output": "0.6"}),
        ("openai", "gpt-4.1", {"input": "2", "input_cached": "0.5", "output": "8"}),
        ("openai", "o3", {"input": "2", "input_cached": "0.5", "output": "8"}),
        ("openai", "gpt-5", {"input": "1.25", "input_cached": "0.125", "output": "10"}),
        (
            "openai",
            "gpt-6-sol",
            {"input": "2", "input_cached": "0.2", "input_cache_write": "2.5", "output": "10"},
        ),
        ("openai", "text-embedding-3-small", {"input": "0.02"}),
        ("openai", "text-embedding-3-large", {"input": "0.13"}),
        ("openai", "text-embedding-ada-002", {"input": "0.1"}),
        ("openai", "gpt-3.5-turbo", {"input": "0.5", "output": "1.5"}),
        ("openai", "whisper-1", {"audio_seconds": "100"}),  # 0.006 USD a minute
        ("openai", "gpt-audio", {"input": "2.5", "input_audio": "32", "output": "10", "output_audio": "64"}),
        ("azure", "gpt-4o", {"input": "2.5", "input_cached": "1.25", "output": "10"}),
        ("azure", "gpt-35-turbo", {"input": "0.5", "output": "1.5"}),
        ("azure", "gpt-audio", {"input": "2.5", "input_audio": "40", "output": "10", "output_audio": "80"}),
        (
            "anthropic",
            "claude-sonnet-4-20250514",
            {
                "input": "3",
                "input_cached": "0.3",
                "input_cache_write_5m": "3.75",
                "input_cache_write_1h": "6",
                "output": "15",
            },
        ),
        (
            "anthropic",
            "claude-opus-5-5",
            {
                "input": "4",
                "input_cached": "0.2",
                "input_cache_write_5m": "5",
                "input_cache_write_1h": "8",
                "output": "20",
            },
        ),
    ],
)
def test_prices_that_everybody_knows(part: str, model: str, prices: dict[str, str]) -> None:
    found = per_million(part, model)
    assert {meter: found[meter] for meter in prices} == prices


@pytest.mark.parametrize("row", [row for row in SHIPPED.rows if row.part == "anthropic"], ids=lambda row: row.models[0])
def test_anthropic_writes_to_its_cache_at_a_quarter_more_and_at_twice_the_input(row: Row) -> None:
    for cells in (row.price.pico, *(cliff.pico for cliff in row.price.cliffs)):
        assert cells[m.INPUT_CACHE_WRITE_5M] * 4 == cells[m.INPUT] * 5
        assert cells[m.INPUT_CACHE_WRITE_1H] == cells[m.INPUT] * 2


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("input_max", [0, 100_000, 100_001, 272_000, 272_001, 1_050_000])
def test_no_usage_of_any_shipped_price_costs_more_than_its_bound(input_max: int, choices: int) -> None:
    for row in SHIPPED.rows:
        bound = bound_of(row.price, input_tokens_max=input_max, output_tokens_max=1_000, choices=choices)
        for read in (*m.INPUT_METERS, m.AUDIO_SECONDS):
            for written in m.OUTPUT_METERS:
                meters = {read: input_max * choices, written: 1_000 * choices}
                cost = cost_of(row.price, meters)
                assert cost is None or cost <= bound, (row.models, meters)


def test_a_price_that_fell_is_two_rows() -> None:
    prices = SHIPPED.prices("anthropic", "claude-opus-4-6")
    before, after = (
        price_at(prices, nanoseconds(datetime.datetime(2026, 3, day, tzinfo=datetime.UTC))) for day in (12, 13)
    )
    assert before is not None
    assert after is not None
    long_prompt = {m.INPUT: 300_000, m.OUTPUT: 1_000}
    assert cost_of(before, long_prompt) == parse_pico("3.0375")
    assert cost_of(after, long_prompt) == parse_pico("1.525")
    assert price_at(prices, nanoseconds(datetime.datetime(2026, 2, 4, tzinfo=datetime.UTC))) is None


def test_past_the_cliff_of_a_long_context_model() -> None:
    price = SHIPPED.prices("openai", "gpt-6-sol")[-1]
    assert cost_of(price, {m.INPUT: 272_000, m.OUTPUT: 1_000}) == parse_pico("0.554")
    assert cost_of(price, {m.INPUT: 272_001, m.OUTPUT: 1_000}) == parse_pico("1.103004")


def test_a_model_that_is_not_in_the_book_has_no_price() -> None:
    assert SHIPPED.prices("openai", "gpt-of-next-year") == ()
    assert SHIPPED.prices("azure", "gpt-6-sol") == (), "OpenAI's list is not Azure's"
    assert SHIPPED.prices("nobody", "gpt-4o") == ()
    assert SHIPPED.models("nobody") == []


def test_every_model_of_our_own_machine_costs_nothing_on_any_day() -> None:
    (price,) = SHIPPED.prices("local", "SmolLM2-135M-Instruct")
    assert price_at((price,), 0) is price
    assert cost_of(price, dict.fromkeys(m.ALL_METERS, 10**9)) == 0
    assert bound_of(price, input_tokens_max=10**9, output_tokens_max=10**9) == 0


def test_facts_that_bound_a_call() -> None:
    assert SHIPPED.facts("openai", "gpt-4o") == ModelFacts(context_tokens=128_000, output_tokens_max=16_384)
    assert SHIPPED.facts("openai", "text-embedding-3-small") == ModelFacts()
    assert SHIPPED.facts("openai", "gpt-of-next-year") == ModelFacts()
    assert "gpt-4o" in SHIPPED.models("openai")


# -- files of one's own -------------------------------------------------------------------------------------------


def test_a_file_adds_a_part(tmp_path: Path) -> None:
    book = book_of(tmp_path, 'part = "house"' + ROW)
    (price,) = book.prices("house", "gpt-house")
    assert price.pico == {m.INPUT: 2_500_000, m.OUTPUT: 10_000_000}
    assert price.effective_ns == nanoseconds(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    assert price.source == "contract 17, annex B"
    assert book.rows[: len(SHIPPED.rows)] == SHIPPED.rows
    assert "house" not in SHIPPED.parts()


def test_a_later_file_wins_for_the_same_day_and_both_rows_stay(tmp_path: Path) -> None:
    shipped = SHIPPED.prices("openai", "gpt-4o")[-1]
    own = ROW.replace("gpt-house", "gpt-4o").replace("2026-01-01", "2024-11-20").replace("2.50", "2.25")
    book = book_of(tmp_path, 'part = "openai"' + own)
    (price,) = book.prices("openai", "gpt-4o")
    assert price.pico[m.INPUT] == 2_250_000
    assert book.row(shipped.id) is not None
    assert book.prices("openai", "gpt-4o-2024-11-20") == (shipped,), "other names of the shipped row keep it"
    assert book.facts("openai", "gpt-4o") == ModelFacts(), "facts come from the rows that hold"


def test_rows_come_out_by_date_whatever_their_order(tmp_path: Path) -> None:
    later = ROW.replace("2026-01-01", "2026-07-01").replace("2.50", "2.00")
    book = book_of(tmp_path, 'part = "house"' + later + ROW)
    assert [price.pico[m.INPUT] for price in book.prices("house", "gpt-house")] == [2_500_000, 2_000_000]


def test_facts_come_from_the_newest_row_that_states_them(tmp_path: Path) -> None:
    first = ROW + "context_tokens = 1000\noutput_tokens_max = 10\n"
    second = ROW.replace("2026-01-01", "2026-07-01") + "output_tokens_max = 20\n"
    book = book_of(tmp_path, 'part = "house"' + first + second)
    assert book.facts("house", "gpt-house") == ModelFacts(context_tokens=1_000, output_tokens_max=20)


def test_the_star_stands_for_what_has_no_row_of_its_own(tmp_path: Path) -> None:
    star = ROW.replace("gpt-house", "*").replace("2.50", "9.00")
    book = book_of(tmp_path, 'part = "house"' + ROW + star)
    assert book.prices("house", "gpt-house")[0].pico[m.INPUT] == 2_500_000
    assert book.prices("house", "anything")[0].pico[m.INPUT] == 9_000_000
    assert book.models("house") == ["*", "gpt-house"]


def test_an_id_hashes_what_a_row_says_and_not_how_it_is_written(tmp_path: Path) -> None:
    (price,) = book_of(tmp_path, 'part = "house"' + ROW).prices("house", "gpt-house")
    content = {
        "cliffs": [],
        "context_tokens": None,
        "currency": "USD",
        "from": "2026-01-01",
        "models": ["gpt-house"],
        "output_tokens_max": None,
        "part": "house",
        "per_call": "0",
        "pico": {"input": 2_500_000, "output": 10_000_000},
        "remark": "",
        "source": "contract 17, annex B",
        "source_date": "2025-12-01",
    }
    canonical = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    assert price.id == hashlib.sha256(canonical).hexdigest()[:16]

    spelled = ROW.replace('"2.50"', '"2.5"') + "# a comment\n"
    assert book_of(tmp_path, 'part = "house"' + spelled).prices("house", "gpt-house")[0].id == price.id
    others = [
        'part = "home"' + ROW,
        'part = "house"' + ROW.replace("2.50", "2.51"),
        'part = "house"' + ROW.replace("annex B", "annex C"),
        'part = "house"' + ROW + 'per_call = "0.01"\n',
        'part = "house"' + ROW + 'remark = "signed"\n',
    ]
    ids = {book_of(tmp_path, text).rows[-1].price.id for text in others}
    assert len(ids | {price.id}) == len(others) + 1


def test_a_price_per_call_and_cliffs(tmp_path: Path) -> None:
    text = """
part = "house"

[[price]]
models = ["gpt-house"]
from = 2026-01-01
currency = "USD"
per_million = { input = "1", output = "2" }
cliffs = [
    { above_input_tokens = 10, per_million = { input = "2", output = "4" } },
    { above_input_tokens = 20, per_million = { input = "3", output = "6" } },
]
per_call = "0.5"
source = "contract"
source_date = 2026-01-01
"""
    (price,) = book_of(tmp_path, text).prices("house", "gpt-house")
    assert cost_of(price, {m.INPUT: 10}) == parse_pico("0.50001")
    assert cost_of(price, {m.INPUT: 20}) == parse_pico("0.50004")
    assert cost_of(price, {m.INPUT: 21}) == parse_pico("0.500063")


@settings(max_examples=50)
@given(st.decimals(0, 10**6, places=8))
def test_a_price_per_million_is_exact_per_unit_or_refused(price: Decimal) -> None:
    exact = Fraction(price) * 10**6  # pico units per unit
    with TemporaryDirectory() as folder:
        text = 'part = "house"' + ROW.replace("2.50", format(price, "f"))
        if exact.denominator == 1:
            found = book_of(Path(folder), text).prices("house", "gpt-house")[0].pico[m.INPUT]
            assert found == exact
        else:
            assert "finer than" in refused(Path(folder), text)


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "wrong", "message"),
    [
        ("per_million", "per_milion", "per_milion"),
        ("per_million", "per_milion", "the fields are: models, from, currency, per_million"),
        ('"2.50"', "2.50", "write it in quotes"),
        ('"2.50"', '"2,50"', "plain decimals"),
        ('"2.50"', '"-2.50"', "plain decimals"),
        ('"2.50"', '"0.0000001"', "finer than 10⁻¹² for one unit"),
        ('"2.50"', '"0.00000000000001"', "more than 12 decimals"),
        ("input =", "inputs =", "inputs is not a meter; the meters are: input, input_cached"),
        ("per_million = {", "per_million = {} #", "length >= 1"),
        ('source = "contract 17, annex B"', "", "missing required field `source`; add it"),
        ('source = "contract 17, annex B"', 'source = " "', "source"),
        ("source_date = 2025-12-01", "", "missing required field `source_date`; add it"),
        ("from = 2026-01-01", "", "missing required field `from`; add it"),
        ("from = 2026-01-01", 'from = "January"', "write dates as 2026-01-31"),
        ('currency = "USD"', 'currency = "dollars"', "three capitals"),
        ('["gpt-house"]', "[]", "length >= 1"),
        ('["gpt-house"]', '["gpt-house", "gpt-house"]', "gpt-house has a price from 2026-01-01"),
        ('["gpt-house"]', '["gpt-house", "*"]', "give it a row of its own"),
        ("[[price]]", "[[price]]\noutput_tokens_max = 0", ">= 1"),
    ],
)
def test_a_wrong_row_is_refused_with_file_line_and_cure(tmp_path: Path, was: str, wrong: str, message: str) -> None:
    assert was in ROW
    text = refused(tmp_path, 'part = "house"\n' + ROW.replace("2026-01-01", "2025-01-01") + ROW.replace(was, wrong))
    assert message in text
    assert text.startswith(f"{tmp_path / 'prices-0.toml'}:11: row 2: ")


@pytest.mark.parametrize(
    ("cliffs", "message"),
    [
        ('[{ above_input_tokens = 10, per_million = { input = "3" } }]', "needs exactly the meters"),
        (
            '[{ above_input_tokens = 10, per_million = { input = "3", output = "3" } }, '
            '{ above_input_tokens = 10, per_million = { input = "4", output = "4" } }]',
            "must ascend",
        ),
        ('[{ above = 10, per_million = { input = "3", output = "3" } }]', "unknown field `above`"),
    ],
)
def test_a_wrong_cliff_is_refused(tmp_path: Path, cliffs: str, message: str) -> None:
    assert message in refused(tmp_path, 'part = "house"' + ROW + f"cliffs = {cliffs}\n")


def test_the_same_model_and_day_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    assert "in line 3 already; keep one of them" in refused(tmp_path, 'part = "house"\n' + ROW + ROW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW, "missing required field `part`"),
        ('part = "house"\nvendor = "x"' + ROW, "unknown field `vendor`"),
        ('part = "a house"' + ROW, "above the rows"),
    ],
)
def test_a_file_says_which_part_it_is(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prices\.toml: cannot be read .*; check the path and its permissions"):
        PriceBook.load([tmp_path / "prices.toml"])


# -- tiers and zones -----------------------------------------------------------------------------------------------


def row_of(models: str, per_input: str, **more: str) -> str:
    extra = "\n".join(f'{name} = "{text}"' for name, text in more.items())
    return f"""
[[price]]
models = ["{models}"]
from = 2026-01-01
currency = "USD"
per_million = {{ input = "{per_input}", output = "10.00" }}
source = "contract 17"
source_date = 2025-12-01
{extra}
"""


def test_a_tier_is_a_price_of_its_own_and_never_stands_for_another(tmp_path: Path) -> None:
    text = (
        'part = "house"' + row_of("m", "2") + row_of("m", "4", tier="priority") + row_of("*", "0", tier="provisioned")
    )
    book = book_of(tmp_path, text)
    assert [price.pico[m.INPUT] for price in book.prices("house", "m")] == [2_000_000]
    assert [price.pico[m.INPUT] for price in book.prices("house", "m", "priority")] == [4_000_000]
    assert book.prices("house", "m", "flex") == ()
    assert [price.tier for price in book.all_tiers("house", "m")] == ["", "priority", "provisioned"]
    assert [price.tier for price in book.all_tiers("house", "other")] == ["provisioned"]
    assert book.prices("house", "other") == ()
    assert book.models("house") == ["*", "m"]


def test_a_model_with_zones_has_in_a_zone_only_the_price_of_that_zone(tmp_path: Path) -> None:
    text = 'part = "house"' + row_of("m", "2") + row_of("m", "2.2", zone="data_zone_eu") + row_of("same", "7")
    book = book_of(tmp_path, text)
    assert [price.pico[m.INPUT] for price in book.prices("house", "m")] == [2_000_000]
    assert [price.pico[m.INPUT] for price in book.prices("house", "m", zone="data_zone_eu")] == [2_200_000]
    assert book.prices("house", "m", zone="data_zone_apac") == (), "unknown, not the price of another zone"
    assert [price.pico[m.INPUT] for price in book.prices("house", "same", zone="data_zone_apac")] == [7_000_000]


def test_tier_and_zone_are_part_of_the_id_only_where_they_say_something(tmp_path: Path) -> None:
    texts = [{}, {"tier": "flex"}, {"zone": "regional"}, {"tier": "flex", "zone": "regional"}]
    ids = {book_of(tmp_path, 'part = "house"' + row_of("m", "2", **more)).rows[-1].price.id for more in texts}
    assert len(ids) == 4
    empty = book_of(tmp_path, 'part = "house"' + row_of("m", "2", tier="", zone="")).rows[-1].price.id
    assert empty in ids
    # As bills name it since before there were tiers.
    assert SHIPPED.row("2fccddabd14b2ed2") is SHIPPED.rows[0]


def test_as_of_a_day(tmp_path: Path) -> None:
    book = book_of(tmp_path, 'part = "house"' + ROW + ROW.replace("2026-01-01", "2026-06-01").replace("2.50", "2.00"))
    days = [datetime.date(2025, 12, 31), datetime.date(2026, 5, 31), datetime.date(2026, 6, 1)]
    found = [book.as_of(day, "house", "gpt-house") for day in days]
    assert [row and row.price.pico[m.INPUT] for row in found] == [None, 2_500_000, 2_000_000]


def test_the_same_tier_and_zone_twice_from_one_day_is_refused(tmp_path: Path) -> None:
    twice = row_of("m", "2", tier="flex") * 2
    assert "has a price from 2026-01-01 in line 2 already" in refused(tmp_path, 'part = "house"' + twice)
    assert "tier" in refused(tmp_path, 'part = "house"' + row_of("m", "2", tier="Flex!"))


def test_the_price_files_in_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "prices.md").read_text()
    contract, rented = re.findall(r"<!-- a price file -->\n```\n(.*?)```", page, re.DOTALL)
    book = book_of(tmp_path, contract, rented)
    row = book.as_of(datetime.date(2026, 12, 1), "azure", "gpt-4.1", zone="data_zone_eu")
    assert row is not None
    assert row.price.pico[m.INPUT] == 1_980_000
    assert [one.name for one in book.capacity] == ["chat-ptu"]
