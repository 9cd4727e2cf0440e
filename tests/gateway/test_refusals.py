"""What a refusal says: the budget, what is left, when it resets, and only cures that can help."""

from __future__ import annotations

import pytest

from upeti.core.amount import PICO_PER_UNIT
from upeti.core.errors import RateExceeded
from upeti.gateway.holds import Purse
from upeti.gateway.refusals import exceeded

NOW_NS = 1_795_477_200 * 10**9  # 2026-11-23T23:40:00Z
END_NS = 1_796_058_000 * 10**9  # 2026-12-01T00:00:00+07:00


def purse(unit: str = "USD", *, left: int = 1, limit: int = 10, resets_ns: int = END_NS) -> Purse:
    made = Purse("b@2026-11")
    made.unit, made.limit, made.resets_ns, made.zone = unit, limit * PICO_PER_UNIT, resets_ns, "Asia/Jakarta"
    made.left_elsewhere = left * PICO_PER_UNIT
    return made


@pytest.mark.parametrize(
    ("of", "bound", "message", "retry_after_s"),
    [
        (
            purse(),
            2,
            "The budget 'b' has 1 of 10 USD left until 2026-12-01T00:00:00+07:00; this call can cost up to 2. Lower "
            "max_tokens, wait until then, or have the limit raised.",
            580_800,
        ),
        # What is larger than the limit does not fit then either.
        (
            purse(unit="IDR"),
            11,
            "The budget 'b' has 1 of 10 IDR left until 2026-12-01T00:00:00+07:00; this call can cost up to 11. Lower "
            "max_tokens, or have the limit raised.",
            None,
        ),
        (
            purse(left=-3, resets_ns=0),
            2,
            "The budget 'b' has 0 of 10 USD left; this call can cost up to 2. More is spent or held than the limit: it "
            "was lowered. Lower max_tokens, or have the limit raised.",
            None,
        ),
        (
            purse("tokens", resets_ns=NOW_NS + 1),
            2,
            "The rate limit 'b' has 1 of 10 tokens left in this minute; this call can take up to 2. Lower max_tokens, "
            "try again in 1 s, or have the limit raised.",
            1,
        ),
        (
            purse("calls", left=0, resets_ns=NOW_NS + 59 * 10**9),
            1,
            "The rate limit 'b' has 0 of 10 calls left in this minute. Send fewer calls, try again in 59 s, or have the "
            "limit raised.",
            59,
        ),
    ],
)
def test_a_refusal(of: Purse, bound: int, message: str, retry_after_s: int | None) -> None:
    error = exceeded(of, bound * PICO_PER_UNIT, NOW_NS)
    assert (error.message, error.retry_after_s) == (message, retry_after_s)
    assert isinstance(error, RateExceeded) == (of.unit in ("calls", "tokens"))
    assert error.code == ("rate_limit_exceeded" if of.unit in ("calls", "tokens") else "budget_exceeded")
