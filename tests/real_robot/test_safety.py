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


def test_a_robot_found_outside_its_bounds_comes_back_no_faster_than_allowed() -> None:
    envelope = SafetyConfig(max_change_per_s=[1.0]).build(ACTION)
    outside = np.array([5.0, 0.0, 0.0], np.float32)
    limited = envelope.limit(np.zeros(3, np.float32), outside, 10**8)
    assert limited.action.tolist() == pytest.approx([4.9, 0.0, 0.0])
    assert limited.slowed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    envelope = SafetyConfig().build(ACTION)
    chunk = np.zeros((4, 3), np.float32)
    assert envelope.problem(chunk) is None
    chunk[2, 1] = value
    assert envelope.problem(chunk) == f"step 2 entry 1 is {value}"
    assert envelope.problem(chunk[2]) == f"entry 1 is {value}"


def test_ages_are_judged_at_their_limits() -> None:
    envelope = SafetyConfig(max_observation_age_s=0.1, max_chunk_age_s=0.5).build(ACTION)
    assert not envelope.observation_is_stale(0, 10**8)
    assert envelope.observation_is_stale(0, 10**8 + 1)
    assert not envelope.chunk_is_stale(0, 5 * 10**8)
    assert envelope.chunk_is_stale(0, 5 * 10**8 + 1)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_observation_age_s=0"):
        SafetyConfig(max_observation_age_s=0)
    with pytest.raises(ValueError, match="max_change_per_s"):
        SafetyConfig(max_change_per_s=[1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="2 entries, expected 1 or 3"):
        SafetyConfig(max_change_per_s=[1.0, 1.0]).build(ACTION)
