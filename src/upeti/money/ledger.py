"""The ledger: double entry over the journal and over what is invoiced and paid.

Rules: a batch of postings sums to zero in every currency, a debit positive, a credit negative; so does the ledger. A
batch is never edited; a correction is another batch. Each names what it stands for (a range of a journal, an invoice, a
payment) and carries the hash of the one before it, so that a chain runs from a call's record to the invoice. A balance
is a fold over postings. Pure: no clock, no store.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from upeti.core.amount import decimal_text

GENESIS: Final = "0" * 64  # what the first batch is chained to
SIMULATION: Final = "simulation, "  # begins the reference of a batch of usage that no journal stands behind


class LedgerError(ValueError):
    """Postings that are no batch: they do not balance."""


class Account(StrEnum):
    """Where a posting stands. Dimensions (tenant, channel) are fields of the posting."""

    MODEL_COST = "model_cost"  # expense: what calls cost us
    CAPACITY_COST = "capacity_cost"  # expense: hours of provisioned throughput
    PROVIDER_PAYABLE = "provider_payable"  # liability: owed to a channel by its own report of usage
    PROVIDER_ESTIMATED = "provider_estimated"  # liability: posted at a bound until the provider reports
    RECEIVABLE = "receivable"  # asset: what a tenant owes us
    REVENUE = "revenue"  # income
    TAX_PAYABLE = "tax_payable"  # liability
    CUSTOMER_CREDIT = "customer_credit"  # liability: prepaid and not used yet
    CASH = "cash"  # asset
    CONVERSION = "conversion"  # both sides of a conversion, so that each currency balances by itself


class BatchKind(StrEnum):
    USAGE = "usage"  # a segment of a journal
    CAPACITY = "capacity"
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"
    PAYMENT = "payment"  # money that came in
    CLOSE = "close"  # a period is closed: no postings


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    account: Account
    amount_pico: int  # debit positive, credit negative
    currency: str
    day: datetime.date  # UTC
    tenant: str = ""
    channel: str = ""
    memo: str = ""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Postings that belong together, and what they stand for."""

    number: int  # from 1, without gaps
    kind: BatchKind
    at_ns: int
    period: str  # "2026-11": the open period that it is posted in
    reference: str = ""  # an invoice's number, a reason
    node: str = ""
    instance: str = ""  # of a journal, for usage …
    segment: int = -1
    segment_bytes: int = 0
    segment_digest: str = ""  # the chain's digest at the segment's end
    document_sha256: str = ""  # of the invoice or the credit note
    postings: tuple[Posting, ...] = ()
    previous: str = GENESIS
    hash: str = ""


def sealed(batch: Batch, previous: str) -> Batch:
    """Return the batch chained to ``previous`` with its hash. Raises ``LedgerError`` when it does not balance."""
    check_balance(batch.postings)
    chained = msgspec.structs.replace(batch, previous=previous, hash="")
    return msgspec.structs.replace(chained, hash=digest_of(chained))


def digest_of(batch: Batch) -> str:
    """Return the SHA-256 of all a batch says but its own hash; amounts as decimal text."""
    content = msgspec.to_builtins(msgspec.structs.replace(batch, hash=""))
    for posting in content["postings"]:
        posting["amount_pico"] = str(posting["amount_pico"])  # JSON readers elsewhere end at 64 bits
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def check_balance(postings: Iterable[Posting]) -> None:
    """Raises ``LedgerError`` when debits and credits differ in any currency."""
    for currency, sum_pico in totals(postings).items():
        if sum_pico:
            raise LedgerError(f"debits and credits differ by {decimal_text(sum_pico)} {currency}")


def totals(postings: Iterable[Posting]) -> dict[str, int]:
    """Return currency → debits less credits in pico units: all zero, in any set of whole batches."""
    sums: dict[str, int] = {}
    for posting in postings:
        sums[posting.currency] = sums.get(posting.currency, 0) + posting.amount_pico
    return sums


def balances(postings: Iterable[Posting]) -> dict[tuple[Account, str], int]:
    """Return (account, currency) → balance in pico units."""
    sums: dict[tuple[Account, str], int] = {}
    for posting in postings:
        key = (posting.account, posting.currency)
        sums[key] = sums.get(key, 0) + posting.amount_pico
    return sums
