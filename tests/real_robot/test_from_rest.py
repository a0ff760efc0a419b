"""From rest no plan is caught up with: it begins at its beginning and is no faster than it says."""

from dataclasses import replace

import numpy as np
import pytest

from telic.real_robot.clock import NS
from telic.real_robot.loop import Inputs, LoopRules, LoopState, NumberedChunk, step
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.timeline import Motion, TimelineRules
from telic.spec import ActionChunk, ArraySpec
from telic.tests.real_robot.replay import Replay, largest_change

MS = 1_000_000
SPEED = 0.2  # rad/s


def ramp(
    latency_ms: int = 300,
    first_step: int = 0,
    blind_s: tuple[float, float] = (0, 0),
    **settings: float,
) -> Replay:
    """Return a run whose every chunk goes on at `SPEED` from where the arm was told to be."""
    run = Replay(latency_ns=lambda: latency_ms * MS, **settings)

    def change(chunk: ActionChunk) -> ActionChunk:
        angle = run.policy.asked[-1].observation.state[-1, :2]
        steps = np.arange(first_step, first_step + 8)[:, None]
        return replace(chunk, actions=(angle + SPEED * 0.05 * steps).astype(np.float32))

    def sensor(reading: Reading) -> Reading:
        told = run.arm.told[-1][2] if run.arm.told else np.zeros(2)
        state = np.concatenate([told, reading.state[2:]]).astype(np.float32)
        if blind_s[0] <= reading.t_obs_ns / NS < blind_s[1]:
            state[:] = np.nan
        return replace(reading, state=state, episode=0)

    run.policy.change, run.arm.sensor = change, sensor
    return run


def fastest(run: Replay) -> float:
    """Return the highest speed commanded, rad/s; no tick was missed."""
    return largest_change(run.arm.told) * run.control_hz


@pytest.mark.parametrize("first_step", [0, 1], ids=["begins here", "begins a step ahead"])
@pytest.mark.parametrize("latency_ms", [10, 120, 300, 380])
def test_a_plan_that_comes_late_is_begun_late(latency_ms: int, first_step: int) -> None:
    run = ramp(latency_ms, first_step, duration_s=0.9)
    summary = run.play()
    assert summary["steps"]["used"] > 4
    leap = 0.6 * first_step  # what is a step ahead of the arm is so again at a seam of two steps
    assert SPEED * 0.95 < fastest(run) < SPEED * (1.05 + leap)


def test_after_a_hold_nothing_is_caught_up_with() -> None:
    run = ramp(duration_s=3.0, blind_s=(1.8, 2.3))
    summary = run.play()
    assert summary["hold_s"]["bad observation"] == pytest.approx(0.5, abs=0.1)
    assert SPEED * 0.95 < fastest(run) < SPEED * 1.15  # a tick is made up for at a seam


def test_after_a_chunk_that_was_missed_the_next_goes_on_from_where_the_arm_came_to_rest() -> None:
    run = ramp(100, duration_s=3.0)
    run.latency_ns = lambda: (600 if 2.0 < run.clock.now_ns() / NS < 2.1 else 100) * MS
    summary = run.play()
    assert summary["hold_s"]["no fresh chunk"] > 0.1
    assert fastest(run) < SPEED * 1.35  # a step at most is made up for, over the two of a seam


def test_a_slow_first_call_is_not_caught_up_with_nor_claimed_of_later_ones() -> None:
    run = ramp(duration_s=3.0)
    run.latency_ns = lambda: (600 if not run.policy.asked[1:] else 20) * MS
    run.play()
    assert fastest(run) == pytest.approx(SPEED, rel=0.05)
    delays = [request.inference_delay for request in run.policy.asked]
    assert len(delays) > 20 and max(delays) <= 1
    second = run.policy.asked[1]
    assert second.prefix is not None and len(second.prefix) >= 7, "it has hardly begun"


RELATIVE = LoopRules(
    timeline=TimelineRules(motion=Motion.relative, dt_ns=50 * MS, boundary_steps=0),
    envelope=SafetyConfig().build(ArraySpec(shape=(2,))),
    stop_hold_ns=0,
)


def moved(chunks: dict[int, tuple[int, np.ndarray]], blind: range = range(0)) -> list[list[float]]:
    """Return every displacement commanded. chunks: tick -> (tick of its observation, actions)."""
    state, rest = LoopState.begin(0, np.zeros(2, np.float32)), np.zeros(2, np.float32)
    told = []
    for tick in range(1, 40):
        now_ns = tick * 50 * MS
        arrived = []
        if tick in chunks:
            seen, actions = chunks[tick]
            chunk = ActionChunk(actions=actions, t_obs_ns=seen * 50 * MS, dt_ns=50 * MS)
            arrived.append(NumberedChunk(number=tick, episode=0, chunk=chunk))
        problem = "blind" if tick in blind else None
        inputs = Inputs(t_obs_ns=now_ns, held=rest, chunks=arrived, problem=problem)
        state, command = step(state, inputs, now_ns, RELATIVE)
        if command.action is not None:
            told.append(command.action.tolist())
    return told


def corner() -> np.ndarray:
    """Return displacements that tell their number; the way turns after four of them."""
    actions = np.zeros((8, 2), np.float32)
    actions[:4, 0], actions[4:, 1] = 1 + np.arange(4), 5 + np.arange(4)
    return actions


def test_from_rest_no_displacement_is_lost() -> None:
    assert moved({7: (1, corner())}) == corner().tolist()
    assert (
        moved({7: (1, corner()), 8: (7, corner())}) == corner()[:1].tolist() + corner().tolist()[1:]
    )
    told = moved({7: (1, corner()), 9: (4, corner())})
    assert told == corner().tolist(), "seen while it rested, and there after two steps"


def test_after_a_hold_the_displacements_go_on_where_they_were_broken_off() -> None:
    first, later = corner(), corner() + 10
    assert moved({2: (2, first), 12: (10, later)}, range(4, 12)) == [
        *first[:2].tolist(),
        *later.tolist(),
    ], "seen at rest: from the beginning"
    assert moved({2: (2, first), 12: (3, later)}, range(4, 12)) == [
        *first[:2].tolist(),
        *later[1:].tolist(),
    ], "seen one step before the hold: that step was carried out"


def test_no_chunk_is_begun_anew_that_is_too_old() -> None:
    assert moved({25: (1, corner())}) == [], "its observation is 1.2 s old"


def test_while_it_moves_time_counts() -> None:
    """Two steps were carried out while the second chunk was computed."""
    first, second = corner(), corner() + 10
    told = moved({2: (2, first), 5: (3, second)})
    assert told == [*first[:3].tolist(), *second[2:].tolist()]
