"""Names with and without dates."""

from __future__ import annotations

import pytest

from upeti.money.reconcile.models import same_models


@pytest.mark.parametrize(
    ("theirs", "ours", "together"),
    [
        (["gpt-4o-2024-08-06"], ["gpt-4o"], [{"gpt-4o-2024-08-06", "gpt-4o"}]),
        (["claude-sonnet-4-5-20250929"], ["claude-sonnet-4-5"], [{"claude-sonnet-4-5-20250929", "claude-sonnet-4-5"}]),
        (["gpt-4o"], ["gpt-4o-2024-08-06"], [{"gpt-4o", "gpt-4o-2024-08-06"}]),
        (["gpt-35-turbo-0125"], ["gpt-3.5-turbo"], [{"gpt-35-turbo-0125", "gpt-3.5-turbo"}]),
        (["gpt-4o-2024-05-13"], ["gpt-4o-2024-08-06"], []),
        (
            ["gpt-4o-2024-08-06", "gpt-4o-2024-05-13"],
            ["gpt-4o", "gpt-4o-2024-05-13"],
            [{"gpt-4o", "gpt-4o-2024-08-06"}],
        ),
        (["gpt-4o"], ["gpt-4o-mini"], []),
    ],
)
def test_models(theirs: list[str], ours: list[str], together: list[set[str]]) -> None:
    names = same_models(theirs, ours)
    groups = {shown: {name for name in names if names[name] == shown} for shown in names.values()}
    assert [group for group in groups.values() if len(group) > 1] == together
