"""Currencies: which there are, and how many decimals an amount in one is written with.

Babel's data are CLDR's, which follow ISO 4217 for the currencies that trade is done in: two for the rupiah, none for
the yen, three for the Kuwaiti dinar. What a company writes in place of that (whole rupiah) is its tenants file's to say.
"""

from __future__ import annotations

from babel.numbers import get_currency_precision, list_currencies


def is_currency(code: str) -> bool:
    return code in list_currencies()


def decimals_of(code: str) -> int:
    """Return how many decimals an amount in ``code`` has."""
    return int(get_currency_precision(code))
