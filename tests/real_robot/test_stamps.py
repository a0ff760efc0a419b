"""Stamps that cannot be believed are named: ahead, back, standing still, of another clock."""

import time
from dataclasses import replace

import pytest

from telic.real_robot.clock import NS
from telic.real_robot.loop import Cause, Inputs, LoopRules, LoopState, Phase, step
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.stamps import AHEAD_NS, Judged, Stamps, judge
from telic.real_robot.timeline import Motion, TimelineRules
from telic.spec import ArraySpec
from telic.tests.real_robot.replay import Replay
from telic.tests.real_robot.test_loop import REST, numbered, reasons

MS = 1_000_000
NOW = 50_000 * NS
WALL = 1_800_000_000 * NS
ENVELOPE = SafetyConfig().build(ArraySpec(shape=(1,)))


def first(t_obs_ns: int) -> Judged:
    return judge(Stamps(), t_obs_ns, NOW, ENVELOPE, WALL)


def test_a_stamp_is_believed_up_to_a_small_lead() -> None:
    assert first(NOW) == Judged(stamps=Stamps(newest_ns=NOW, came_ns=NOW), new=True)
    assert first(NOW + AHEAD_NS).new
    assert first(NOW - 200 * MS).new
    late = first(NOW - 300 * MS)
    assert late.stale == "the newest is 300 ms old, limit 200 ms"
    ahead = first(NOW + 10 * NS)
    assert (ahead.new, ahead.bad) == (False, "it is dated 10000 ms ahead")
    assert ahead.stamps.newest_ns is None, "what is sound is not measured by it"


@pytest.mark.parametrize(
    ("t_obs_ns", "name"),
    [
        (WALL + NS, "the robot stamps with wall-clock time; use now_ns() of the clock given"),
        (WALL // NS, "the robot stamps with wall-clock time in seconds; use now_ns()"),
        (WALL // MS, "the robot stamps with wall-clock time in milliseconds; use now_ns()"),
        (NOW // NS, "the robot stamps in seconds, not nanoseconds; use now_ns()"),
        (NOW // 1000, "the robot stamps in microseconds, not nanoseconds; use now_ns()"),
    ],
)
def test_stamps_of_another_clock_or_unit_are_named(t_obs_ns: int, name: str) -> None:
    judged = first(t_obs_ns)
    assert name in (judged.bad or judged.stale or "")
    assert judged.bad is None or not judged.new


def test_a_clock_that_goes_back_is_not_followed_until_it_has_caught_up() -> None:
    stamps = first(NOW).stamps
    back = judge(stamps, NOW - 30 * MS, NOW + 10 * MS, ENVELOPE)
    assert back.bad == "its clock went back: it is dated 30 ms before the one before"
    assert not back.new and back.stamps == stamps
    assert judge(back.stamps, NOW + MS, NOW + 50 * MS, ENVELOPE).new


def test_a_stamp_that_stands_still_is_old_and_says_so() -> None:
    stamps = first(NOW - 10 * MS).stamps
    same = judge(stamps, NOW - 10 * MS, NOW + 100 * MS, ENVELOPE)
    assert (same.new, same.bad, same.stale) == (False, None, None), "the sensor may be slower"
    stale = judge(stamps, NOW - 10 * MS, NOW + 250 * MS, ENVELOPE).stale
    expected = "the newest is 260 ms old, limit 200 ms; its stamp has stood still for 250 ms"
    assert stale == expected


def test_waiting_does_not_make_a_stamp_from_the_future_true() -> None:
    stamps = first(NOW + NS).stamps
    judged = judge(stamps, NOW + NS, NOW + NS, ENVELOPE)
    assert judged.bad == "it has the stamp of a reading that was dated ahead of its time"


def test_one_reading_from_the_future_costs_one_tick() -> None:
    run = Replay(duration_s=3.0)
    run.policy.gain = 0.02

    def sensor(reading: Reading) -> Reading:
        ahead = 2.0 <= reading.t_obs_ns / NS < 2.005
        return replace(reading, t_obs_ns=reading.t_obs_ns + 10 * NS) if ahead else reading

    run.arm.sensor = sensor
    summary = run.play()
    assert "bad observation: it is dated 10000 ms ahead" in reasons(summary)
    assert summary["hold_s"]["bad observation"] == pytest.approx(0.01)
    assert max(request.observation.t_obs_ns for request in run.policy.asked) < 5 * NS


def test_a_robot_that_stamps_with_wall_clock_time_is_never_moved() -> None:
    run = Replay(duration_s=2.0)
    run.arm.sensor = lambda reading: replace(reading, t_obs_ns=time.time_ns() + reading.t_obs_ns)
    summary = run.play()
    assert "the robot stamps with wall-clock time; use now_ns() of the clock" in reasons(summary)
    assert summary["phase_s"]["ACTIVE"] == 0.0 and not run.policy.asked


def test_without_new_readings_the_last_chunk_is_followed_no_longer_than_a_reading_may_be_old() -> (
    None
):
    run = Replay(duration_s=5.0)
    run.policy.gain = 0.02
    run.arm.sensor = lambda reading: replace(reading, t_obs_ns=min(reading.t_obs_ns, 2 * NS))
    summary = run.play()
    assert summary["phase_s"]["ACTIVE"] == pytest.approx(1.2, abs=0.1)
    assert "its stamp has stood still for" in reasons(summary)


def test_a_chunk_from_the_future_ends_the_run() -> None:
    rules = LoopRules(
        timeline=TimelineRules(motion=Motion.relative, dt_ns=10), envelope=ENVELOPE, stop_hold_ns=20
    )
    inputs = Inputs(t_obs_ns=NOW, held=REST, chunks=[numbered(0, NOW + NS)])
    state, command = step(LoopState.begin(NOW, REST), inputs, NOW, rules)
    assert command.action is None and state.phase is Phase.HOLD
    assert state.ending is not None and state.ending.cause is Cause.BAD_ACTION
    assert str(state.ending) == "bad action: chunk 0 is dated 1000 ms ahead"
    other = numbered(1, NOW)
    wrong = replace(other, chunk=replace(other.chunk, dt_ns=0))
    state, _ = step(
        LoopState.begin(NOW, REST), Inputs(t_obs_ns=NOW, held=REST, chunks=[wrong]), NOW, rules
    )
    assert "chunk 1 has steps of 0 ms, expected 1e-05 ms" in str(state.ending)
