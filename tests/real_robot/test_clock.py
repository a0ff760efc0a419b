"""Deadlines are absolute, lag is measured, missed deadlines are skipped and counted."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telic.real_robot.clock import NS, FakeClock, MonotonicClock, Pacer


@given(
    rate_hz=st.sampled_from([1.0, 29.97, 30.0, 80.0, 125.0, 333.3, 1000.0]),
    late=st.lists(st.integers(0, 3 * NS // 80), min_size=1, max_size=60),
)
def test_ticks_stay_on_their_grid_however_late_the_loop_is(rate_hz: float, late: list[int]) -> None:
    delays = iter(late)
    clock = FakeClock(t_ns=17, oversleep=lambda: next(delays))
    pacer = Pacer(clock, rate_hz)
    before = -1
    for delay_ns in late:
        tick = pacer.wait()
        assert tick.due_ns == 17 + round(tick.number * NS / rate_hz)
        assert tick.number == before + 1 + tick.missed
        assert tick.lag_ns >= delay_ns
        assert tick.due_ns <= clock.now_ns() < 17 + round((tick.number + 1) * NS / rate_hz)
        before = tick.number


def test_a_pause_that_was_meant_costs_no_deadlines() -> None:
    clock = FakeClock()
    pacer = Pacer(clock, 100.0)
    pacer.wait()
    clock.advance(NS)
    pacer.forgive()
    tick = pacer.wait()
    assert (tick.missed, tick.lag_ns) == (0, 0)
    pacer.forgive()  # nothing passed: the grid stays
    assert pacer.wait().due_ns == tick.due_ns + NS // 100


def test_the_monotonic_clock_is_never_early() -> None:
    clock = MonotonicClock()
    for _ in range(20):
        due_ns = time.monotonic_ns() + 2_000_000
        clock.sleep_until(due_ns)
        assert time.monotonic_ns() >= due_ns


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="0 Hz"):
        Pacer(FakeClock(), 0.0)
