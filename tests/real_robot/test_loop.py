"""The loop replayed under a fake clock: delays, jitter, drops, faults; and its step alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telic.real_robot.clock import NS
from telic.real_robot.loop import (
    Cause,
    Inputs,
    LoopRules,
    LoopState,
    NumberedChunk,
    Phase,
    step,
)
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.summary import Jerk
from telic.real_robot.timeline import Motion, TimelineRules
from telic.spec import ActionChunk, ActRequest, ArraySpec
from telic.tests.real_robot.replay import Replay, largest_change

MS = 1_000_000


def phases(summary: dict[str, Any]) -> list[str]:
    return [event["phase"] for event in summary["events"]]


def reasons(summary: dict[str, Any]) -> str:
    return "; ".join(event["reason"] for event in summary["events"])


def test_a_policy_in_time_keeps_the_arm_active_until_the_time_is_up() -> None:
    summary = Replay(duration_s=20.0).play()
    assert summary["ended"] == {"failed": False, "cause": "time is up", "reason": "time is up"}
    assert summary["hold_s"] == {"time is up": pytest.approx(0.25)}
    assert phases(summary)[-2:] == ["HOLD", "STOP"]
    assert summary["missed_ticks"] == 0
    assert summary["rate_hz"] == pytest.approx(100.0)
    assert summary["latency_ms"]["median"] == pytest.approx(30, rel=0.02)
    assert summary["robot"]["successes"] >= 10
    assert sum(summary["phase_s"].values()) == pytest.approx(summary["duration_s"])
    assert sum(summary["phase_s"].values()) == pytest.approx(20.25, abs=0.02)


def test_a_policy_that_is_too_slow_is_followed_as_far_as_its_chunks_go() -> None:
    slow = Replay(duration_s=5.0, latency_ns=lambda: 500 * MS)  # chunks last 8 * 50 ms
    slow.policy.gain = 0.02  # so that the goal is not reached, which would begin a new episode
    summary = slow.play()
    assert summary["chunks"]["delivered"] > 5
    assert phases(summary)[:4] == ["ACTIVE", "HOLD"] * 2, "from rest its chunks begin at action 0"
    assert summary["phase_s"]["ACTIVE"] > 1.0
    assert sum(summary["steps"].values()) <= 8 * summary["chunks"]["merged"]

    hopeless = Replay(duration_s=5.0, latency_ns=lambda: 1100 * MS)  # chunks may be 1 s old
    summary = hopeless.play()
    assert summary["chunks"]["delivered"] > 2 and summary["steps"]["used"] == 0
    assert all(kind == "hold" for _, kind, _ in hopeless.arm.told)

    gaps = Replay(duration_s=5.0, latency_ns=lambda: 250 * MS).play()
    assert gaps["hold_s"].get("no fresh chunk", 0) > 0.3
    assert gaps["phase_s"]["ACTIVE"] > 1.0
    assert "no fresh chunk: the newest began" in reasons(gaps)


def test_chunks_that_stop_coming_end_in_hold_with_a_reason() -> None:
    replay = Replay(duration_s=3.0)
    replay.policy.gain = 0.02  # so that the goal is not reached, which would begin a new episode
    replay.latency_ns = lambda: 30 * MS if replay.clock.now_ns() < 2 * NS else -30 * MS
    summary = replay.play()
    assert phases(summary)[-3:] == ["HOLD", "HOLD", "STOP"]
    assert "no fresh chunk" in reasons(summary)
    held = [value for t, kind, value in replay.arm.told if kind == "hold" and t > 3 * NS]
    assert np.ptp(held, axis=0).max() == 0.0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    mean_ms=st.integers(1, 300),
    drop=st.floats(0, 0.5),
    oversleep_ms=st.floats(0, 40),
    boundary_steps=st.integers(0, 3),
    control_hz=st.sampled_from([20.0, 50.0, 100.0, 250.0]),
)
def test_whatever_the_timing_the_arm_moves_smoothly_and_the_books_balance(
    seed: int,
    mean_ms: int,
    drop: float,
    oversleep_ms: float,
    boundary_steps: int,
    control_hz: float,
) -> None:
    rng = np.random.default_rng(seed)

    def latency_ns() -> int:
        sign = -1 if rng.random() < drop else 1
        return sign * (1 + round(rng.exponential(mean_ms) * MS))

    replay = Replay(
        duration_s=2.0,
        control_hz=control_hz,
        boundary_steps=boundary_steps,
        latency_ns=latency_ns,
        oversleep_ns=lambda: round(rng.exponential(oversleep_ms) * MS),
    )
    summary = replay.play()
    assert summary["ended"]["cause"] == "time is up"
    chunks, steps = summary["chunks"], summary["steps"]
    assert chunks["merged"] + chunks["refused"] == chunks["delivered"]
    assert 0 <= chunks["used"] <= chunks["merged"]
    assert steps["used"] + steps["late"] <= 8 * chunks["merged"]
    assert sum(summary["phase_s"].values()) == pytest.approx(summary["duration_s"], abs=1e-6)
    # A chunk moves by at most 40 % of the way (3.5 rad) in a step, a gap is at most 3.5 rad.
    ticks_away = 1 + max(summary["lag_ms"]["max"] / 1e3 * control_hz, 1.0)
    per_tick = 3.5 * (0.4 + 1 / (boundary_steps + 1)) * 20.0 / control_hz
    assert largest_change(replay.arm.told) <= per_tick * ticks_away + 1e-5


def going_on(run: Replay) -> list[ActRequest]:
    """Return the requests that had a chunk to go on from; each episode's first has none."""
    return [request for request in run.policy.asked if request.prefix is not None]


def test_requests_tell_the_steps_that_chunks_lately_came_too_late_for() -> None:
    """130 ms are three steps of 50 ms: the observation's own and two; 30 ms are its own."""
    steady = Replay(latency_ns=lambda: 130 * MS)
    summary = steady.play()
    assert [request.inference_delay for request in steady.policy.asked[:2]] == [0, 0]
    delays = [request.inference_delay for request in going_on(steady)]
    assert delays[:2] == [0, 0], "none had come while it moved"
    assert delays[2:] == [3] * (len(delays) - 2) and len(delays) > 10
    begun = phases(summary).count("ACTIVE")  # from rest, where none is late
    assert summary["steps"]["late"] == 3 * (summary["chunks"]["merged"] - begun)

    faster = Replay(duration_s=6.0)
    faster.latency_ns = lambda: (130 if faster.clock.t_ns < 4 * NS else 30) * MS
    faster.play()
    delays = [request.inference_delay for request in going_on(faster)]
    assert delays[2:12] == [3] * 10 and delays[-10:] == [1] * 10, "not the longest of all times"


def test_jerk_is_counted_at_boundaries_and_inside_and_not_across_a_hold() -> None:
    jerk = Jerk()
    assert jerk.medians() == {"at_boundaries": None, "inside": None}
    line = np.array([3.0, 4.0], np.float32)
    for place, chunk in ((0, 1), (1, 1), (2, 1), (3, 1), (6, 2), (11, 2), (16, 2)):
        jerk.add(place * line, chunk)  # 2, 3, 6 and 3, 6, 11 bend by two steps of length 5
    medians = jerk.medians()
    assert medians["inside"] == pytest.approx(0, abs=1e-5)
    assert medians["at_boundaries"] == pytest.approx(10, rel=0.01)
    jerk.add(None, -1)
    for place in (0, 5):
        jerk.add(place * line, 3)
    assert jerk.medians() == medians


def test_the_same_run_replays_to_the_same_commands() -> None:
    def told(seed: int) -> list[tuple[int, str, list[float]]]:
        rng = np.random.default_rng(seed)
        replay = Replay(latency_ns=lambda: round(rng.uniform(5, 200) * MS))
        replay.play()
        return [(t, kind, value.tolist()) for t, kind, value in replay.arm.told]

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_chunk_that_is_not_finite_ends_the_run_in_hold() -> None:
    replay = Replay()

    def poison(chunk: ActionChunk) -> ActionChunk:
        if replay.clock.now_ns() > 2 * NS:
            chunk.actions[3, 1] = np.nan
        return chunk

    replay.policy.change = poison
    summary = replay.play()
    assert summary["ended"]["failed"] is True
    assert summary["ended"]["reason"].startswith("bad action: chunk ")
    assert summary["ended"]["reason"].endswith("step 3 entry 1 is nan")
    assert phases(summary)[-2:] == ["HOLD", "STOP"]
    assert all(np.isfinite(value).all() for _, _, value in replay.arm.told)


def test_a_blind_sensor_means_hold_and_sight_means_active_again_without_a_jump() -> None:
    replay = Replay(duration_s=4.0)

    def sensor(reading: Reading) -> Reading:
        if 2.0 < reading.t_obs_ns / NS < 2.3:
            return replace(reading, state=np.full(6, np.nan, np.float32))
        if 3.0 < reading.t_obs_ns / NS < 3.6:
            return replace(reading, t_obs_ns=3 * NS)
        return reading

    replay.arm.sensor = sensor
    summary = replay.play()
    assert "bad observation: state entry (0,) is not finite" in reasons(summary)
    assert "stale observation: the newest is" in reasons(summary)
    assert summary["hold_s"]["bad observation"] == pytest.approx(0.3, abs=0.1)
    assert summary["hold_s"]["stale observation"] == pytest.approx(0.4, abs=0.1)
    assert summary["ended"]["failed"] is False
    assert largest_change(replay.arm.told) < 3.5 * (0.4 + 0.5) * 0.2 + 1e-5


def test_a_fault_of_the_robot_and_an_order_end_the_run_through_hold() -> None:
    replay = Replay()
    replay.arm.sensor = lambda reading: (
        replace(reading, fault="joint 1 overheated") if reading.t_obs_ns > 2 * NS else reading
    )
    summary = replay.play()
    assert summary["ended"] == {
        "failed": True,
        "cause": "fault",
        "reason": "fault: joint 1 overheated",
    }
    assert summary["duration_s"] == pytest.approx(1.25, abs=0.02)

    ordered = Replay(watch=lambda now_ns: (None, "SIGINT" if now_ns > 2 * NS else None)).play()
    assert ordered["ended"] == {
        "failed": False,
        "cause": "ordered to stop",
        "reason": "ordered to stop: SIGINT",
    }
    assert phases(ordered)[-2:] == ["HOLD", "STOP"]


def test_a_rate_limit_slows_commands_down_and_is_counted() -> None:
    limit = 1.0  # rad/s
    replay = Replay(safety=SafetyConfig(max_change_per_s=[limit]))
    summary = replay.play()
    assert summary["commands"]["slowed"] > 20
    assert largest_change(replay.arm.told) <= limit / 100 + 1e-6


# The step function alone.

RULES = LoopRules(
    timeline=TimelineRules(motion=Motion.relative, dt_ns=10, boundary_steps=0),
    envelope=SafetyConfig(max_observation_age_s=1.0, max_chunk_age_s=35e-9).build(
        ArraySpec(shape=(1,))
    ),
    stop_hold_ns=20,
)
REST = np.zeros(1, np.float32)


def numbered(number: int, t_obs_ns: int, episode: int = 0) -> NumberedChunk:
    actions = np.arange(1, 9, dtype=np.float32)[:, None]
    chunk = ActionChunk(actions=actions, t_obs_ns=t_obs_ns, dt_ns=10)
    return NumberedChunk(number=number, episode=episode, chunk=chunk)


def test_stop_is_for_good() -> None:
    state = replace(LoopState.begin(0, REST), phase=Phase.STOP)
    inputs = Inputs(t_obs_ns=10, held=REST, chunks=[numbered(0, 10)])
    after, command = step(state, inputs, 10, RULES)
    assert after is state
    assert command.action is None and command.refused == 1


def test_the_first_reason_to_end_is_the_one_that_is_told() -> None:
    state = LoopState.begin(0, REST)
    state, _ = step(state, Inputs(t_obs_ns=10, held=REST, order="SIGINT"), 10, RULES)
    state, _ = step(state, Inputs(t_obs_ns=20, held=REST, fault="late fault"), 20, RULES)
    assert (state.phase, str(state.ending)) == (Phase.HOLD, "ordered to stop: SIGINT")
    state, command = step(state, Inputs(t_obs_ns=30, held=REST), 30, RULES)
    assert (state.phase, command.action) == (Phase.STOP, None)


def test_chunks_of_another_episode_are_refused_and_a_new_one_waits_in_idle() -> None:
    state = LoopState.begin(0, REST)
    state, command = step(
        state, Inputs(t_obs_ns=10, held=REST, chunks=[numbered(0, 10)]), 10, RULES
    )
    assert state.phase is Phase.ACTIVE and command.action is not None
    inputs = Inputs(t_obs_ns=20, held=REST, episode=1, chunks=[numbered(1, 15, episode=0)])
    state, command = step(state, inputs, 20, RULES)
    assert (state.phase, state.reason.cause) == (Phase.IDLE, Cause.NEW_EPISODE)
    assert command.action is None and command.refused == 1
    inputs = Inputs(t_obs_ns=30, held=REST, episode=1, chunks=[numbered(2, 20, episode=1)])
    state, command = step(state, inputs, 30, RULES)
    assert state.phase is Phase.ACTIVE and command.action is not None
    assert (command.chunk, command.due_ns, float(command.action[0])) == (2, 30, 1.0)


def test_a_chunk_is_not_followed_beyond_its_age_limit() -> None:
    state = LoopState.begin(0, REST)
    inputs = Inputs(t_obs_ns=10, held=REST, chunks=[numbered(0, 10)])
    commands = []
    for now_ns in range(10, 70, 10):
        state, command = step(state, inputs, now_ns, RULES)
        commands.append(None if command.action is None else float(command.action[0]))
        inputs = Inputs(t_obs_ns=now_ns, held=REST)
    assert commands == [1.0, 2.0, 3.0, 4.0, None, None]
    assert (state.phase, state.reason.cause) == (Phase.HOLD, Cause.NO_CHUNK)
