"""What is to be commanded when: chunks of actions merged on one line of time. Pure functions.

Action i of a chunk is due at t_obs_ns + i * dt_ns. While a chunk was computed time went on, so its
first steps come too late and drop; the others replace the steps that older chunks had planned.
The boundary between two chunks is a ramp, with old and new value of every step that it covers:

    merged(due) = old(due) + w * (new(due) - old(due))

    w  1 |               ________            `boundary_steps` steps still carry some of the old,
         |          o---                     here 2; the ramp begins at the last command, where
         |      o---                         the old plan alone held
       0 |__o---
            |   |   |   |   |  -> due
           last command

At rest no time passes for a chunk: it begins with the step that was due when the robot came to
rest (step 0 where the observation is from later), and all of its steps are due by so much later.
So are those of chunks that come later and whose observation is from that rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from telic.spec import ActionChunk, Array

_LONGEST_WAY_IN = 4.0  # periods


class Motion(Enum):
    """What an action means, which decides how one is made for a time between two steps."""

    absolute = "absolute"  # where to be at its time: interpolated, continued by staying there
    relative = "relative"  # a displacement in one step: commanded just once, undivided


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineRules:
    """How steps become commands.

    `dt_ns` is the time between two steps. Entries of the action in `binary_dims` (a gripper that is
    open or closed) are never blended nor interpolated.
    """

    motion: Motion
    dt_ns: int
    boundary_steps: int = 1
    binary_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.dt_ns > 0:
            raise ValueError(f"the steps of a timeline need time between them, got {self.dt_ns} ns")
        if self.boundary_steps < 0:
            raise ValueError(f"boundary_steps={self.boundary_steps} must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Planned steps, `due_ns` i64 [N] strictly ascending, `actions` f32 [N A].

    `chunk` i64 [N] numbers the chunk that each step came from, -1 for where a boundary begins.
    `t_obs_ns` is when the newest chunk's observation was taken, `shift_ns` by how much its steps
    are due later than t_obs_ns + i * dt_ns. It was begun at rest, which lasted from `rest_ns` to
    `resume_ns`.
    """

    due_ns: Array
    actions: Array
    chunk: Array
    t_obs_ns: int = -1
    shift_ns: int = 0
    rest_ns: int = 0
    resume_ns: int = 0

    def __len__(self) -> int:
        return len(self.due_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """The timeline after a merge, and how many of the chunk's steps were too late to enter it."""

    timeline: Timeline
    late: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What to command: f32 [A], towards the step due at `due_ns` out of chunk number `chunk`."""

    action: Array
    due_ns: int
    chunk: int


def empty(action_size: int) -> Timeline:
    """Return a timeline without a step."""
    return Timeline(
        due_ns=np.zeros(0, np.int64),
        actions=np.zeros((0, action_size), np.float32),
        chunk=np.zeros(0, np.int64),
    )


def merge(
    timeline: Timeline,
    chunk: ActionChunk,
    number: int,
    now_ns: int,
    last: Array,
    last_ns: int,
    rules: TimelineRules,
    rest_ns: int | None = None,
) -> Merged:
    """Return `timeline` with `chunk` in place of what it had planned from now on.

    `now_ns` is the time that the next command is for; `last` [A] is the command given before, at
    `last_ns`; `rest_ns` is since when the robot has been at rest, None if it moves. A chunk from an
    older observation than the newest one merged is late as a whole.
    """
    due = chunk.t_obs_ns + chunk.dt_ns * np.arange(len(chunk.actions), dtype=np.int64)
    begin_ns = now_ns if rest_ns is None else rest_ns
    shift_ns, rested = 0, (timeline.rest_ns, timeline.resume_ns)
    if rest_ns is None:  # what is left of the rest after its observation
        shift_ns = max(0, timeline.resume_ns - max(chunk.t_obs_ns, timeline.rest_ns))
        due = due + shift_ns
    fresh = due > _window(begin_ns, rules)[0] if _once(rules) else due >= begin_ns
    if chunk.t_obs_ns < timeline.t_obs_ns or not fresh.any():
        return Merged(timeline=timeline, late=len(due))
    due, new = due[fresh], np.asarray(chunk.actions[fresh], np.float32)
    if rest_ns is not None:
        first_ns = now_ns if _once(rules) else last_ns + _way_in_ns(chunk.actions, last, new, rules)
        shift_ns = int(first_ns - due[0])
        due = due + shift_ns
        rested = (rest_ns, max(chunk.t_obs_ns, rest_ns) + shift_ns)

    progress = (due - last_ns) / rules.dt_ns
    ramp = (np.round(progress) if _once(rules) else progress) / (rules.boundary_steps + 1)
    old, has_old = _plan_at(timeline, due, last, last_ns, rules)
    blended = has_old & (rest_ns is None)  # from rest there is no plan to go on from
    weight = np.where(blended, np.clip(ramp, 0.0, 1.0), 1.0)[:, None].repeat(new.shape[1], axis=1)
    weight[:, list(rules.binary_dims)] = 1.0
    actions = (old + weight * (new - old)).astype(np.float32)

    # What stays of the old plan: steps well before the first new one (a chunk for the future).
    gap_ns = rules.dt_ns // 2 if _once(rules) else rules.dt_ns
    kept = (timeline.due_ns > last_ns) & (timeline.due_ns <= due[0] - gap_ns)
    begin = slice(0, 0 if _once(rules) else 1)  # an absolute plan begins at the last command
    return Merged(
        timeline=Timeline(
            due_ns=np.concatenate([np.array([last_ns])[begin], timeline.due_ns[kept], due]),
            actions=np.concatenate(
                [last[None].astype(np.float32)[begin], timeline.actions[kept], actions]
            ),
            chunk=np.concatenate(
                [np.array([-1])[begin], timeline.chunk[kept], np.full(len(due), number)]
            ),
            t_obs_ns=chunk.t_obs_ns,
            shift_ns=shift_ns,
            rest_ns=rested[0],
            resume_ns=rested[1],
        ),
        late=int((~fresh).sum()),
    )


def sample(timeline: Timeline, now_ns: int, rules: TimelineRules) -> Sample | None:
    """Return what to command at `now_ns`, or None if the timeline has run dry (or not begun).

    Absolute: the line between the step before and the step after; the last step lasts for half of
    its period. Relative: the one step that is due within half a period.
    """
    if len(timeline) == 0:
        return None
    earliest_ns, latest_ns = _window(now_ns, rules)
    if _once(rules):
        in_time = (timeline.due_ns > earliest_ns) & (timeline.due_ns <= latest_ns)
        if not in_time.any():
            return None
        step = int(np.flatnonzero(in_time)[-1])
        action = timeline.actions[step]
    else:
        if timeline.due_ns[-1] <= earliest_ns:
            return None
        step = min(int(np.searchsorted(timeline.due_ns, now_ns)), len(timeline) - 1)
        action = _line_at(timeline.due_ns, timeline.actions, np.array([now_ns]), rules.binary_dims)[
            0
        ]
    return Sample(action=action, due_ns=int(timeline.due_ns[step]), chunk=int(timeline.chunk[step]))


def trim(timeline: Timeline, now_ns: int, sampled: Sample, rules: TimelineRules) -> Timeline:
    """Return the timeline without what no sample after the one at `now_ns` can need.

    A relative step is gone once it was commanded; of an absolute plan one passed step stays.
    """
    if _once(rules):
        first = int(np.searchsorted(timeline.due_ns, sampled.due_ns, side="right"))
    else:
        first = max(0, int(np.searchsorted(timeline.due_ns, now_ns, side="right")) - 1)
    return replace(
        timeline,
        due_ns=timeline.due_ns[first:],
        actions=timeline.actions[first:],
        chunk=timeline.chunk[first:],
    )


def _once(rules: TimelineRules) -> bool:
    """Return whether each step is one command, no more and no less."""
    return rules.motion is Motion.relative


def _window(now_ns: int, rules: TimelineRules) -> tuple[int, int]:
    """Return the period around `now_ns` (exclusive, inclusive); those of a grid tile the time."""
    earliest_ns = now_ns - rules.dt_ns // 2
    return earliest_ns, earliest_ns + rules.dt_ns


def _way_in_ns(actions: Array, last: Array, new: Array, rules: TimelineRules) -> int:
    """Return how long from rest at `last` [A] to the first step of `new`, no less than a period.

    Longer where the chunk's `actions` [H A] would otherwise be entered faster than they move.
    """
    moving = [entry for entry in range(len(last)) if entry not in rules.binary_dims]
    own = np.abs(np.diff(actions, axis=0))[:, moving].max(initial=0.0)
    way = np.abs(new[0] - last)[moving].max(initial=0.0)
    periods = 1.0 if way <= own else min(way / own, _LONGEST_WAY_IN) if own > 0 else 1.0
    return round(periods * rules.dt_ns)


def _plan_at(
    timeline: Timeline, due: Array, last: Array, last_ns: int, rules: TimelineRules
) -> tuple[Array, Array]:
    """Return what was planned for the times `due`, f32 [N A], and whether anything was, bool [N].

    An absolute plan begins at the last command and stays where it ends.
    """
    if not _once(rules):
        later = timeline.due_ns > last_ns
        times = np.concatenate([[last_ns], timeline.due_ns[later]])
        values = np.concatenate([last[None], timeline.actions[later]])
        return _line_at(times, values, due, rules.binary_dims), np.ones(len(due), bool)
    nearest = np.abs(timeline.due_ns[None] - due[:, None])
    if nearest.shape[1] == 0:
        return np.zeros((len(due), len(last)), np.float32), np.zeros(len(due), bool)
    return timeline.actions[nearest.argmin(axis=1)], nearest.min(axis=1) <= rules.dt_ns // 2


def _line_at(times: Array, values: Array, at: Array, binary_dims: tuple[int, ...]) -> Array:
    """Return `values` [N A] interpolated at the times `at` [M], f32 [M A]; ends are held.

    Entries in `binary_dims` keep the value of the last step that was due.
    """
    index = np.clip(np.searchsorted(times, at, side="right") - 1, 0, max(0, len(times) - 2))
    following = np.minimum(index + 1, len(times) - 1)
    span = np.maximum(times[following] - times[index], 1)
    share = np.clip((at - times[index]) / span, 0.0, 1.0)[:, None]
    line = values[index] + share * (values[following] - values[index])
    if binary_dims:
        columns = list(binary_dims)
        held = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 1)
        line[:, columns] = values[held][:, columns]
    return line.astype(np.float32)
