"""How long a run takes is said once, soon after its first step, whatever a step takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from telic.training.time_estimate import TimeEstimate, duration, rate

Said = tuple[float, int, str]  # seconds after the first step, step number, line


def lines(estimate: TimeEstimate, steps_s: Iterator[float], start: int, stop: int) -> list[Said]:
    """Return what is said over the steps start + 1 to stop under a fake clock."""
    clock_s, found = 0.0, []
    for step in range(start + 1, stop + 1):
        step_s = next(steps_s)
        clock_s += step_s if step > start + 1 else 0
        line = estimate.after_step(step, step_s)
        if line is not None:
            found.append((clock_s, step, line))
    return found


def seconds(first_s: float, others_s: float) -> Iterator[float]:
    """Yield the time of the first step, then that of every other."""
    yield first_s
    while True:
        yield others_s


@pytest.mark.parametrize(
    ("first_s", "others_s", "step", "says"),
    [
        (2.0, 0.5, 11, "5000 steps: about 42 min and 5 validations on this machine at 2.0 steps/s"),
        (2.0, 0.01, 21, "5000 steps: about 50 s and 5 validations on this machine at 100.0 steps"),
        (2.0, 4.0, 3, "5000 steps: about 5 h 33 min and 5 validations on this machine at 4.0 s pe"),
        (4.0, 9.0, 2, "(measured over 1 step)"),
        (30.0, 20.0, 1, "at 30.0 s per step (measured over the first, slowest step)"),
    ],
)
def test_it_is_said_once_within_ten_seconds_of_the_first_step(
    first_s: float, others_s: float, step: int, says: str
) -> None:
    estimate = TimeEstimate(5000, validate_every=1000, checkpoint_every=1000)
    ((after_s, at, line),) = lines(estimate, seconds(first_s, others_s), 0, 200)
    assert after_s < 10 and at == step
    assert says in line
    assert line.endswith("every 1000 steps; stop with Ctrl-C, go on with resume=true")


def test_a_resumed_run_says_what_is_left() -> None:
    estimate = TimeEstimate(1000, 600, validate_every=300, checkpoint_every=50)
    ((_, step, line),) = lines(estimate, seconds(0.2, 0.1), 600, 1000)
    assert step == 621
    assert line.startswith("379 of 1000 steps left: about 38 s and 2 validations on")


def test_a_short_run_says_nothing() -> None:
    estimate = TimeEstimate(10, validate_every=5, checkpoint_every=5)
    assert lines(estimate, seconds(0.1, 0.1), 0, 10) == []
    assert estimate.after_validation(5, 3.0) is None


def test_the_first_validation_is_counted_into_what_is_left() -> None:
    estimate = TimeEstimate(1000, validate_every=400, checkpoint_every=1000)
    lines(estimate, seconds(0.5, 0.5), 0, 400)
    # 600 steps of 0.5 s, and validations after steps 800 and 1000
    says = "validation took 30 s: about 6 min left with 2 more of them"
    assert estimate.after_validation(400, 30.0) == says
    assert estimate.after_validation(800, 30.0) is None


def test_without_validation_but_the_last() -> None:
    estimate = TimeEstimate(1000, validate_every=0, checkpoint_every=1000)
    ((_, _, line),) = lines(estimate, seconds(0.5, 0.5), 0, 1000)
    assert "about 8 min and 1 validation on" in line
    assert estimate.after_validation(1000, 1.0) is None


def test_times_and_rates_are_written_as_people_say_them() -> None:
    times = {0.42: "0.4 s", 42.4: "42 s", 89.0: "89 s", 90.0: "2 min", 2530.0: "42 min"}
    times |= {7200.0: "2 h 0 min", 11_400.0: "3 h 10 min", 187_200.0: "2 days 4 h"}
    assert {seconds: duration(seconds) for seconds in times} == times
    assert [rate(s) for s in (0.5, 1.0, 2.5)] == ["2.0 steps/s", "1.0 steps/s", "2.5 s per step"]
