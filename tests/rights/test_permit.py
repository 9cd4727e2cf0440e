"""What is not granted is denied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.gateway.snapshot import ChannelView
from upeti.rights.permit import PURPOSES, SERVE, permit


@given(st.sets(st.sampled_from(sorted(PURPOSES)) | st.text(max_size=9)), st.sampled_from(sorted(PURPOSES)) | st.text())
def test_a_purpose_is_allowed_when_it_is_known_and_granted_and_only_then(granted: set[str], purpose: str) -> None:
    assert permit(granted, purpose) is (purpose in granted and purpose in PURPOSES)


@pytest.mark.parametrize("purpose", sorted(PURPOSES))
def test_an_ordinary_channel_grants_serving_and_nothing_else(purpose: str) -> None:
    view = ChannelView("up", "openai_compatible", "127.0.0.1", 1, False, "/v1")
    assert permit(view.purposes, purpose) is (purpose == SERVE)


def test_an_unknown_purpose_is_denied_even_where_it_is_granted() -> None:
    assert not permit({"everything", "*", ""}, "everything")
    assert not permit({"everything", "*", ""}, "*")
    assert not permit({"everything", "*", ""}, "")
