"""The control loop's body: `step(state, inputs, now) -> state, command`. Pure, so it replays.

    IDLE    on, at rest, no chunk of this episode has come yet
    ACTIVE  following the timeline
    HOLD    staying where it is, for a reason; back to ACTIVE by itself when the reason has gone,
            except when the run is ending
    STOP    the end; the robot has been let go of

A run ends through HOLD, so that the robot is at rest before it is let go of. Time does not count at
rest: what follows begins with the step that was due when the robot came to rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

from telic.real_robot import timeline as line
from telic.real_robot.safety import Envelope
from telic.real_robot.stamps import AHEAD_NS, Stamps, judge
from telic.real_robot.timeline import Timeline, TimelineRules
from telic.spec import ActionChunk, Array


class Phase(IntEnum):
    """What the loop is doing."""

    IDLE = 0
    ACTIVE = 1
    HOLD = 2
    STOP = 3


class Cause(Enum):
    """Why the loop is in its phase; the reason's text says more."""

    START = "start"
    NEW_EPISODE = "new episode"
    FRESH_CHUNK = "fresh chunk"
    NO_CHUNK = "no fresh chunk"
    STALE_OBSERVATION = "stale observation"
    BAD_OBSERVATION = "bad observation"
    BAD_HOLD = "bad hold"
    BAD_ACTION = "bad action"
    FAULT = "fault"
    ORDERED = "ordered to stop"
    FINISHED = "time is up"


@dataclass(frozen=True, slots=True)
class Reason:
    """A cause and, where there is more to say, the detail."""

    cause: Cause
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.cause.value}: {self.detail}" if self.detail else self.cause.value


FAULTS = (Cause.BAD_ACTION, Cause.FAULT)  # a run that ends for one of these has failed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRules:
    """What does not change during a run."""

    timeline: TimelineRules
    envelope: Envelope
    stop_hold_ns: int  # how long to hold before the robot is let go of
    duration_ns: int | None = None  # None: until ordered to stop


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberedChunk:
    """A chunk, its number in the run and the episode that its observation is from."""

    number: int
    episode: int
    chunk: ActionChunk


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What is known at a tick.

    `t_obs_ns`, `episode` and `problem` are about the newest reading, which came at `read_ns` (None:
    at the time of the tick) and `wall_ns` of the wall clock; `held` [A] is the command that keeps
    the robot where it is now, unless `held_problem` says what is wrong with it; a robot that no
    longer `holds` is let go of at once. `fault` and `order` end the run and say why.
    """

    t_obs_ns: int
    held: Array
    episode: int = 0
    problem: str | None = None
    read_ns: int | None = None
    wall_ns: int | None = None
    held_problem: str | None = None
    holds: bool = True
    chunks: Sequence[NumberedChunk] = ()
    fault: str | None = None
    order: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopState:
    """Everything that one tick leaves to the next.

    `rest_ns` is when the robot last came to rest, 0 where it was from the start of the episode.
    """

    phase: Phase
    reason: Reason
    start_ns: int  # when the run began
    since_ns: int  # when the phase began
    episode: int
    timeline: Timeline
    last: Array  # the command of the tick before, f32 [A]
    last_ns: int
    rest_ns: int = 0
    stamps: Stamps = field(default_factory=Stamps)
    ending: Reason | None = None  # why the run ends, once it does
    ending_ns: int = 0  # since when

    @classmethod
    def begin(cls, now_ns: int, held: Array) -> LoopState:
        """Return the state before the first tick, of a robot at rest."""
        return cls(
            phase=Phase.IDLE,
            reason=Reason(Cause.START),
            start_ns=now_ns,
            since_ns=now_ns,
            episode=0,
            timeline=line.empty(len(held)),
            last=held,
            last_ns=now_ns,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What the robot is to do in this tick, and what became of chunks on the way to it.

    `action` f32 [A], or None to hold. `due_ns` and `chunk` name the step that it serves (chunk -1:
    none). `late_steps` came too late to be used; `refused` are chunks of another episode, or that
    came while holding for another reason than the lack of them. `observed`: the reading is new and
    sound, so the policy may have it.
    """

    action: Array | None = None
    due_ns: int = 0
    chunk: int = -1
    clipped: bool = False
    slowed: bool = False
    merged: tuple[int, ...] = ()
    late_steps: int = 0
    refused: int = 0
    observed: bool = False


def step(
    state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules
) -> tuple[LoopState, Command]:
    """Return the next state, and the command for the time `now_ns`."""
    if state.phase is Phase.STOP:
        return state, Command(refused=len(inputs.chunks))
    state, doubt, observed = _check_reading(state, inputs, now_ns, rules)
    state = _enter_episode(state, inputs, now_ns)
    away = Command(refused=len(inputs.chunks), observed=observed)
    ending = state.ending or _why_end(state, inputs, now_ns, rules)
    if ending is not None:
        return _end(state, inputs, now_ns, rules, ending), away
    doubt = doubt or _why_unheld(state, inputs, now_ns, rules)
    if doubt is not None:
        return _hold(state, inputs, now_ns, doubt), away
    state, command = _follow(state, inputs, now_ns, rules)
    return state, replace(command, observed=observed)


def _check_reading(
    state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules
) -> tuple[LoopState, Reason | None, bool]:
    """Return the state that knows the reading, why it must not be acted upon, whether it is new."""
    if inputs.problem is not None:
        return state, Reason(Cause.BAD_OBSERVATION, inputs.problem), False
    judged = judge(
        state.stamps,
        inputs.t_obs_ns,
        now_ns if inputs.read_ns is None else inputs.read_ns,
        rules.envelope,
        inputs.wall_ns,
    )
    state = replace(state, stamps=judged.stamps)
    if judged.bad is not None:
        return state, Reason(Cause.BAD_OBSERVATION, judged.bad), False
    if judged.stale is not None:
        return state, Reason(Cause.STALE_OBSERVATION, judged.stale), False
    return state, None, judged.new


def _enter_episode(state: LoopState, inputs: Inputs, now_ns: int) -> LoopState:
    """A scene put to a new start: nothing planned before is of use."""
    if inputs.episode == state.episode:
        return state
    state = replace(state, episode=inputs.episode, timeline=line.empty(len(state.last)), rest_ns=0)
    if state.phase is Phase.IDLE or state.ending is not None:
        return state
    return replace(
        state,
        phase=Phase.IDLE,
        reason=Reason(Cause.NEW_EPISODE, f"number {inputs.episode}"),
        since_ns=now_ns,
    )


def _why_end(state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules) -> Reason | None:
    if inputs.fault is not None:
        return Reason(Cause.FAULT, inputs.fault)
    if inputs.order is not None:
        return Reason(Cause.ORDERED, inputs.order)
    for numbered in inputs.chunks:
        if (problem := _chunk_problem(numbered.chunk, inputs, now_ns, rules)) is not None:
            return Reason(Cause.BAD_ACTION, f"chunk {numbered.number} {problem}")
    if rules.duration_ns is not None and now_ns - state.start_ns >= rules.duration_ns:
        return Reason(Cause.FINISHED)
    return None


def _end(
    state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules, ending: Reason
) -> LoopState:
    """HOLD for as long as the robot needs to come to rest, if it can, then STOP."""
    if state.ending is None:
        state = replace(state, ending=ending, ending_ns=now_ns)
    if not inputs.holds or now_ns - state.ending_ns >= rules.stop_hold_ns:
        return replace(state, phase=Phase.STOP, reason=ending, since_ns=now_ns)
    return _hold(state, inputs, now_ns, ending)


def _chunk_problem(chunk: ActionChunk, inputs: Inputs, now_ns: int, rules: LoopRules) -> str | None:
    """Return what makes a chunk unfit for this run, or None."""
    if (problem := rules.envelope.problem(chunk.actions)) is not None:
        return problem
    dt_ns, read_ns = rules.timeline.dt_ns, inputs.read_ns or now_ns
    if abs(chunk.dt_ns - dt_ns) > dt_ns // 100:
        return f"has steps of {chunk.dt_ns / 1e6:g} ms, expected {dt_ns / 1e6:g} ms"
    if chunk.t_obs_ns - read_ns > AHEAD_NS:
        return f"is dated {(chunk.t_obs_ns - read_ns) / 1e6:.0f} ms ahead"
    return None


def _why_unheld(state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules) -> Reason | None:
    """Why nothing can be commanded from rest without a jump, or None."""
    if state.phase is Phase.ACTIVE:
        return None
    problem = inputs.held_problem
    if problem is None:
        problem = rules.envelope.out_of_reach(inputs.held, now_ns - state.last_ns)
    return None if problem is None else Reason(Cause.BAD_HOLD, problem)


def _hold(state: LoopState, inputs: Inputs, now_ns: int, reason: Reason) -> LoopState:
    """Return the state of holding. What was planned is dropped: it would resume with a jump."""
    since_ns = state.since_ns if state.phase is Phase.HOLD else now_ns
    same = state.phase is Phase.HOLD and state.reason.cause is reason.cause
    return replace(
        state,
        phase=Phase.HOLD,
        reason=state.reason if same else reason,
        since_ns=since_ns,
        timeline=line.empty(len(state.last)),
        last=inputs.held,
        last_ns=now_ns,
        rest_ns=now_ns if state.phase is Phase.ACTIVE else state.rest_ns,
    )


def _follow(
    state: LoopState, inputs: Inputs, now_ns: int, rules: LoopRules
) -> tuple[LoopState, Command]:
    """Merge what came, take what is due. Nothing due: HOLD, or IDLE before the first chunk."""
    active = state.phase is Phase.ACTIVE
    last, rest_ns = (state.last, None) if active else (inputs.held, state.rest_ns)
    plan, merged, late = state.timeline, [], 0
    for numbered in inputs.chunks:
        if numbered.episode == inputs.episode:
            outcome = line.merge(
                plan,
                numbered.chunk,
                numbered.number,
                now_ns,
                last,
                state.last_ns,
                rules.timeline,
                rest_ns,
            )
            plan, late = outcome.timeline, late + outcome.late
            merged.append(numbered.number)
    command = Command(
        merged=tuple(merged), late_steps=late, refused=len(inputs.chunks) - len(merged)
    )
    due = line.sample(plan, now_ns, rules.timeline)
    if due is None or rules.envelope.chunk_is_stale(plan.t_obs_ns, now_ns):
        if state.phase is Phase.IDLE:
            return replace(state, last=inputs.held, last_ns=now_ns), command
        age_ms = (now_ns - plan.t_obs_ns) / 1e6
        newest = f"the newest began {age_ms:.0f} ms ago" if plan.t_obs_ns >= 0 else ""
        reason = Reason(Cause.NO_CHUNK, newest)
        return _hold(state, inputs, now_ns, reason), command
    if (problem := rules.envelope.problem(due.action)) is not None:
        reason = Reason(Cause.BAD_ACTION, f"the command's {problem}")
        return _end(state, inputs, now_ns, rules, reason), command
    limited = rules.envelope.limit(due.action, last, now_ns - state.last_ns)
    state = replace(
        state,
        phase=Phase.ACTIVE,
        reason=state.reason if active else Reason(Cause.FRESH_CHUNK),
        since_ns=state.since_ns if active else now_ns,
        timeline=line.trim(plan, now_ns, due, rules.timeline),
        last=limited.action,
        last_ns=now_ns,
    )
    return state, replace(
        command,
        action=limited.action,
        due_ns=due.due_ns,
        chunk=due.chunk,
        clipped=limited.clipped,
        slowed=limited.slowed,
    )
