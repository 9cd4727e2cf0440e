"""Where data may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.rights.data_policy import DataPolicy, objection

EU = DataPolicy("eu-only", tenant="acme", regions=frozenset({"eu"}))
SHORT = DataPolicy("short", feature="medical", retention_days_max=0)
NOT_THERE = DataPolicy("not-there", channels_denied=frozenset({"far"}))


@pytest.mark.parametrize(
    ("policy", "region", "days", "why"),
    [
        (EU, "eu", None, ""),
        (EU, "us", None, "its region is us"),
        (EU, "", None, "its region is not known"),
        (SHORT, "", 0, ""),
        (SHORT, "", 30, "it keeps data for 30 days"),
        (SHORT, "", None, "nobody knows how long it keeps data"),
        (NOT_THERE, "", None, "it is denied by name"),
    ],
)
def test_what_is_not_known_does_not_fit(policy: DataPolicy, region: str, days: int | None, why: str) -> None:
    assert policy.objection("far", region, days) == why
    assert (objection([policy], "far", region, days) is None) == (not why)


def test_a_policy_concerns_calls_that_have_all_its_selectors() -> None:
    assert EU.concerns("acme", "p", "k", "f")
    assert not EU.concerns("other", "p", "k", "f")
    assert NOT_THERE.concerns("other", "p", "k", "")
    assert not DataPolicy("x", tenant="acme", feature="f").concerns("acme", "p", "k", "")


names = st.sampled_from(("", "eu", "us", "id"))
policies = st.builds(
    DataPolicy,
    st.just("p"),
    regions=st.frozensets(names.filter(bool)),
    retention_days_max=st.none() | st.integers(0, 40),
    channels_denied=st.frozensets(st.sampled_from(("a", "b"))),
)


@given(
    st.lists(policies, max_size=4), policies, st.sampled_from(("a", "b", "c")), names, st.none() | st.integers(0, 50)
)
def test_another_policy_never_widens(
    some: list[DataPolicy], more: DataPolicy, channel: str, region: str, days: int | None
) -> None:
    if objection(some, channel, region, days) is not None:
        assert objection([*some, more], channel, region, days) is not None
