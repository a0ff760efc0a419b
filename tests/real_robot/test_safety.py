"""Nothing leaves the envelope; what is not a number does not come near a robot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telic.real_robot.safety import SafetyConfig
from telic.spec import ArraySpec

ACTION = ArraySpec(shape=(3,), minimum=(-1.0, -2.0, 0.0), maximum=(1.0, 2.0, 0.5))
LOW, HIGH = np.array(ACTION.minimum), np.array(ACTION.maximum)

numbers = st.floats(-1e6, 1e6, width=32)
vectors = st.lists(numbers, min_size=3, max_size=3).map(lambda v: np.array(v, np.float32))


@given(actions=st.lists(vectors, min_size=1, max_size=30), elapsed_ns=st.integers(1, 10**8))
def test_bounds_and_rates_hold_over_any_sequence(
    actions: list[np.ndarray], elapsed_ns: int
) -> None:
    envelope = SafetyConfig(max_change_per_s=[1.0, 2.0, 0.5]).build(ACTION)
    last = np.zeros(3, np.float32)
    reach = np.array([1.0, 2.0, 0.5]) * elapsed_ns / 1e9
    for action in actions:
        limited = envelope.limit(action, last, elapsed_ns)
        assert (limited.action >= LOW).all() and (limited.action <= HIGH).all()
        assert (np.abs(limited.action - last) <= reach + 1e-6).all()
        assert limited.clipped == bool(((action < LOW) | (action > HIGH)).any())
        assert limited.action.dtype == np.float32
        last = limited.action


def test_what_is_within_the_limits_passes_unchanged() -> None:
    envelope = SafetyConfig().build(ACTION)
    action = np.array([0.3, -1.9, 0.5], np.float32)
    limited = envelope.limit(action, np.zeros(3, np.float32), 1)
    assert (limited.action == action).all()
    assert not limited.clipped and not limited.slowed


@given(held=vectors, action=vectors, elapsed_ns=st.integers(0, 10**9), change=st.none() | numbers)
def test_bounds_come_last_and_what_is_held_outside_them_is_out_of_reach_or_near(
    held: np.ndarray, action: np.ndarray, elapsed_ns: int, change: float | None
) -> None:
    limit = None if change is None else [abs(change) + 1e-3]
    envelope = SafetyConfig(max_change_per_s=limit).build(ACTION)
    limited = envelope.limit(action, held, elapsed_ns)
    assert (limited.action >= LOW).all() and (limited.action <= HIGH).all()
    if envelope.out_of_reach(held, elapsed_ns) is None and limit is not None:
        jump = np.abs(limited.action.astype(np.float64) - held)
        assert (jump <= limit[0] * elapsed_ns / 1e9).all()


def test_a_robot_held_outside_its_bounds_is_brought_back_only_without_a_jump() -> None:
    outside = np.array([1.05, 0.0, 0.0], np.float32)  # 1 is the bound
    slow = SafetyConfig(max_change_per_s=[1.0]).build(ACTION)
    assert slow.out_of_reach(outside, 10**8) is None, "0.05 in 0.1 s"
    text = slow.out_of_reach(outside, 10**7)
    assert text == (
        "the robot is held at 1.05 in entry 0, outside -1..1; bring it back within its bounds"
    )
    free = SafetyConfig().build(ACTION)
    assert free.out_of_reach(outside, 10**7) is not None, "2.5 % of the range"
    assert free.out_of_reach(np.array([1.01, 0.0, 0.0], np.float32), 10**7) is None, "it sags"


def test_bounds_hold_to_the_last_bit() -> None:
    spec = ArraySpec(shape=(1,), minimum=(-0.1,), maximum=(0.1,))  # single precision has neither
    envelope = SafetyConfig().build(spec)
    for far in (-1.0, 1.0):
        limited = envelope.limit(np.array([far], np.float32), np.zeros(1, np.float32), 1)
        assert spec.problem(limited.action) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    envelope = SafetyConfig().build(ACTION)
    chunk = np.zeros((4, 3), np.float32)
    assert envelope.problem(chunk) is None
    chunk[2, 1] = value
    assert envelope.problem(chunk) == f"step 2 entry 1 is {value}"
    assert envelope.problem(chunk[2]) == f"entry 1 is {value}"
    assert envelope.problem(chunk[:, :2]) == "has the shape (4, 2), expected 3 entries"


def test_ages_are_judged_at_their_limits() -> None:
    envelope = SafetyConfig(max_observation_age_s=0.1, max_chunk_age_s=0.5).build(ACTION)
    assert not envelope.observation_is_stale(0, 10**8)
    assert envelope.observation_is_stale(0, 10**8 + 1)
    assert not envelope.chunk_is_stale(0, 5 * 10**8)
    assert envelope.chunk_is_stale(0, 5 * 10**8 + 1)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_observation_age_s=0"):
        SafetyConfig(max_observation_age_s=0)
    for value in ([1.0, -1.0, 1.0], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="max_change_per_s"):
            SafetyConfig(max_change_per_s=value)
    for age in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="max_chunk_age_s"):
            SafetyConfig(max_chunk_age_s=age)
    for bounds, message in (
        ((1.0, 0.0), r"minimum \(1.0,\) lies above maximum \(0.0,\)"),
        ((float("nan"), 0.0), r"a bound must not be nan"),
    ):
        with pytest.raises(ValueError, match=message):
            SafetyConfig().build(ArraySpec(shape=(1,), minimum=bounds[:1], maximum=bounds[1:]))
    with pytest.raises(ValueError, match="2 entries, expected 1 or 3"):
        SafetyConfig(max_change_per_s=[1.0, 1.0]).build(ACTION)
