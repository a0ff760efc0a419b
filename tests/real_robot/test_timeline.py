"""Properties of merging chunks on one line of time, for both kinds of motion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telic.real_robot import timeline as line
from telic.real_robot.timeline import Motion, Timeline, TimelineRules
from telic.spec import ActionChunk, Array

DT = 12_500_000
SIZE = 2


def chunk_of(actions: Array, t_obs_ns: int) -> ActionChunk:
    return ActionChunk(actions=actions.astype(np.float32), t_obs_ns=t_obs_ns, dt_ns=DT)


@st.composite
def runs(draw: st.DrawFn, motion: Motion) -> tuple[TimelineRules, int, list[ActionChunk | None]]:
    """Draw rules, a control period, and for each tick the chunk that arrives then, if one does.

    Observations are read at ticks, somewhat late; a chunk comes 0 to 12 ticks after its own.
    """
    period = DT if motion is Motion.relative else draw(st.sampled_from([DT, DT // 2, DT // 5]))
    rules = TimelineRules(
        motion=motion,
        dt_ns=DT,
        boundary_steps=draw(st.integers(0, 3)),
        binary_dims=draw(st.sampled_from([(), (1,)])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrivals: list[ActionChunk | None] = []
    for tick in range(1, draw(st.integers(2, 40))):
        if draw(st.booleans()):
            seen = max(0, tick - draw(st.integers(0, 12)))
            jitter = draw(st.integers(0, DT // 3))
            actions = rng.uniform(-1, 1, (draw(st.integers(1, 8)), SIZE))
            arrivals.append(chunk_of(actions, seen * period + jitter))
        else:
            arrivals.append(None)
    return rules, period, arrivals


def play(
    rules: TimelineRules, period: int, arrivals: list[ActionChunk | None]
) -> list[tuple[int, Timeline, line.Sample | None]]:
    """Return (time, timeline, sample) for every tick, as the loop would have them."""
    plan, last, last_ns = line.empty(SIZE), np.zeros(SIZE, np.float32), 0
    played = []
    for tick, chunk in enumerate(arrivals, start=1):
        now_ns = tick * period
        if chunk is not None:
            merged = line.merge(plan, chunk, tick, now_ns, last, last_ns, rules)
            assert 0 <= merged.late <= len(chunk.actions)
            plan = merged.timeline
        sampled = line.sample(plan, now_ns, rules)
        played.append((now_ns, plan, sampled))
        if sampled is None:
            plan = line.empty(SIZE)  # the loop holds, and plans anew from rest
        else:
            plan = line.trim(plan, now_ns, sampled, rules)
            last = sampled.action
        last_ns = now_ns
    return played


@given(run=st.sampled_from(list(Motion)).flatmap(runs))
def test_time_only_goes_forward_and_late_steps_are_gone(
    run: tuple[TimelineRules, int, list[ActionChunk | None]],
) -> None:
    _, period, arrivals = run
    for (now_ns, plan, _), chunk in zip(play(*run), arrivals, strict=True):
        assert (np.diff(plan.due_ns) > 0).all()
        assert len(plan.due_ns) == len(plan.actions) == len(plan.chunk)
        if chunk is not None and plan.t_obs_ns == chunk.t_obs_ns:
            own = plan.due_ns[plan.chunk == now_ns // period]
            assert (own > now_ns - DT // 2 - 1).all()


@given(run=runs(Motion.relative))
def test_no_step_is_commanded_twice_and_none_is_divided(
    run: tuple[TimelineRules, int, list[ActionChunk | None]],
) -> None:
    used = [sampled.due_ns for _, _, sampled in play(*run) if sampled is not None]
    assert used == sorted(set(used))
    for now_ns, plan, sampled in play(*run):
        if sampled is not None:
            assert abs(sampled.due_ns - now_ns) <= DT // 2 + 1
            assert (plan.actions[plan.due_ns == sampled.due_ns] == sampled.action).all()


@given(run=st.sampled_from(list(Motion)).flatmap(runs))
def test_it_says_when_it_has_run_dry_and_not_before(
    run: tuple[TimelineRules, int, list[ActionChunk | None]],
) -> None:
    for now_ns, plan, sampled in play(*run):
        over = len(plan) == 0 or plan.due_ns[-1] <= now_ns - DT // 2
        assert (sampled is None) == over


@given(run=runs(Motion.absolute))
def test_seams_are_bounded(run: tuple[TimelineRules, int, list[ActionChunk | None]]) -> None:
    """A command never changes faster than a chunk itself does, plus the gap spread over the seam.

    Values lie in [-1, 1], so neither a chunk nor a gap moves by more than 2 per step.
    """
    rules = run[0]
    last, last_ns = np.zeros(SIZE), 0
    for now_ns, _, sampled in play(*run):
        if sampled is not None:
            blended = [i for i in range(SIZE) if i not in rules.binary_dims]
            change = np.abs(sampled.action - last)[blended].max()
            allowed = (2 + 2 / (rules.boundary_steps + 1)) * (now_ns - last_ns) / DT
            assert change <= allowed + 1e-5
            last = sampled.action
        last_ns = now_ns


@given(run=st.sampled_from(list(Motion)).flatmap(runs))
def test_commands_stay_within_what_the_chunks_said(
    run: tuple[TimelineRules, int, list[ActionChunk | None]],
) -> None:
    for _, _, sampled in play(*run):
        assert sampled is None or np.abs(sampled.action).max() <= 1 + 1e-6


def test_a_lone_relative_chunk_is_carried_out_step_by_step() -> None:
    rules = TimelineRules(motion=Motion.relative, dt_ns=DT, boundary_steps=2)
    actions = np.arange(16).reshape(8, 2)
    played = play(rules, DT, [None, chunk_of(actions, DT), *[None] * 9])
    commands = [sampled.action.tolist() for _, _, sampled in played if sampled is not None]
    assert commands == actions[1:].tolist()  # seen at tick 1, there at tick 2: step 0 is late


def test_an_absolute_chunk_is_interpolated_from_the_last_command() -> None:
    rules = TimelineRules(motion=Motion.absolute, dt_ns=10, boundary_steps=0)
    chunk = ActionChunk(actions=np.array([[9.0], [1.0], [3.0]], np.float32), t_obs_ns=0, dt_ns=10)
    last = np.zeros(1, np.float32)
    plan = line.merge(line.empty(1), chunk, 0, 2, last, 0, rules).timeline
    commands = [line.sample(plan, now, rules) for now in (2, 5, 10, 15, 20, 24, 25)]
    values = [None if c is None else round(float(c.action[0]), 6) for c in commands]
    assert values == [0.2, 0.5, 1.0, 2.0, 3.0, 3.0, None]


def test_the_seam_is_a_ramp_from_the_old_plan_to_the_new() -> None:
    rules = TimelineRules(motion=Motion.relative, dt_ns=DT, boundary_steps=2, binary_dims=(1,))
    ones, twos = np.ones((8, 2)), np.full((8, 2), 4.0)
    plan = line.merge(
        line.empty(2), chunk_of(ones, 0), 0, 0, np.zeros(2, np.float32), -DT, rules
    ).timeline
    last = np.ones(2, np.float32)
    merged = line.merge(plan, chunk_of(twos, 2 * DT), 1, 3 * DT, last, 2 * DT, rules)
    assert merged.late == 1
    steps = merged.timeline.actions[merged.timeline.chunk == 1]
    assert steps[:, 0].tolist() == [2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert steps[:, 1].tolist() == [4.0] * 7  # a gripper is not blended


def test_a_chunk_overtaken_by_a_newer_one_is_late_as_a_whole() -> None:
    rules = TimelineRules(motion=Motion.relative, dt_ns=DT)
    rest = np.zeros(2, np.float32)
    newer = line.merge(line.empty(2), chunk_of(np.ones((8, 2)), DT), 1, 2 * DT, rest, DT, rules)
    older = line.merge(newer.timeline, chunk_of(np.ones((8, 2)), 0), 0, 2 * DT, rest, DT, rules)
    assert older.late == 8
    assert older.timeline is newer.timeline


def test_a_chunk_for_later_leaves_the_plan_until_then() -> None:
    rules = TimelineRules(motion=Motion.relative, dt_ns=DT, boundary_steps=0)
    rest = np.zeros(2, np.float32)
    now = line.merge(line.empty(2), chunk_of(np.ones((4, 2)), DT), 0, DT, rest, 0, rules).timeline
    both = line.merge(now, chunk_of(np.full((4, 2), 2.0), 3 * DT), 1, DT, rest, 0, rules).timeline
    assert both.actions[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="time between"):
        TimelineRules(motion=Motion.absolute, dt_ns=0)
    with pytest.raises(ValueError, match="negative"):
        TimelineRules(motion=Motion.absolute, dt_ns=DT, boundary_steps=-1)
