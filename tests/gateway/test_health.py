"""The breaker, as a script of times."""

from __future__ import annotations

from upeti.gateway.health import Breaker


def test_it_opens_after_failures_in_a_row_and_closes_with_a_success() -> None:
    breaker = Breaker(failures_max=3, pause_s=10)
    for at in (1.0, 2.0):
        breaker.failed(at)
        assert breaker.usable(at)
    breaker.succeeded()
    breaker.failed(3.0)
    breaker.failed(4.0)
    assert breaker.usable(4.0)
    assert not breaker.is_open
    breaker.failed(5.0)
    assert breaker.is_open
    assert not breaker.usable(5.0)
    assert not breaker.usable(14.9)
    assert breaker.usable(15.0)
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.usable(15.0)


def test_half_open_one_call_tries_it_and_the_others_wait_for_its_answer() -> None:
    breaker = Breaker(failures_max=1, pause_s=10)
    breaker.failed(0.0)
    assert breaker.usable(10.0)
    breaker.trying(10.0)
    assert not breaker.usable(10.0)
    assert not breaker.usable(19.9)
    breaker.failed(12.0)  # the trial failed: the pause begins anew
    assert not breaker.usable(21.9)
    assert breaker.usable(22.0)
    breaker.trying(22.0)
    breaker.succeeded()
    assert breaker.usable(22.0)


def test_a_trial_that_never_ends_lets_another_call_try_after_a_pause() -> None:
    breaker = Breaker(failures_max=1, pause_s=10)
    breaker.failed(0.0)
    breaker.trying(10.0)
    assert not breaker.usable(15.0)
    assert breaker.usable(20.0)


def test_a_call_that_goes_there_although_it_is_open_is_no_trial() -> None:
    breaker = Breaker(failures_max=1, pause_s=10)
    breaker.failed(0.0)
    breaker.trying(5.0)  # every channel was open
    assert breaker.usable(10.0)
