"""The envelope around every command: what may reach the robot, and when nothing may.

First version: bounds of the action spec, finite values, how fast a command may change, and how
old an observation or a chunk may be. Pure functions of numbers and times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telic.real_robot.clock import NS
from telic.spec import Array, ArraySpec


@dataclass(kw_only=True, slots=True)
class SafetyConfig:
    """Limits that an operator sets; the bounds come from the robot's action spec."""

    max_observation_age_s: float = 0.2  # of the newest reading, when a command is given
    max_chunk_age_s: float = 1.0  # of the observation that the commanded step was computed from
    # how much each entry may change in a second, in the action's unit: one number for all entries
    # or one for each; none: not limited
    max_change_per_s: list[float] | None = None

    def __post_init__(self) -> None:
        for name in ("max_observation_age_s", "max_chunk_age_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"safety.{name}={getattr(self, name)} must be more than 0")
        if self.max_change_per_s is not None and not all(x > 0 for x in self.max_change_per_s):
            raise ValueError(f"safety.max_change_per_s={self.max_change_per_s} must be more than 0")

    def build(self, action: ArraySpec) -> Envelope:
        """Return the envelope for a robot whose commands are `action` [A]."""
        (size,) = action.shape
        assert size is not None
        change = np.full(size, np.inf)
        if self.max_change_per_s is not None:
            if len(self.max_change_per_s) not in (1, size):
                raise ValueError(
                    f"safety.max_change_per_s has {len(self.max_change_per_s)} entries, expected "
                    f"1 or {size}, one for each entry of the action"
                )
            change = np.broadcast_to(np.asarray(self.max_change_per_s, np.float64), (size,))
        unbounded = np.full(size, np.inf)
        low = -unbounded if action.minimum is None else np.asarray(action.minimum)
        high = unbounded if action.maximum is None else np.asarray(action.maximum)
        return Envelope(
            low=np.broadcast_to(low, (size,)),
            high=np.broadcast_to(high, (size,)),
            change_per_s=change,
            max_observation_age_ns=round(self.max_observation_age_s * NS),
            max_chunk_age_ns=round(self.max_chunk_age_s * NS),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Limited:
    """A command within the envelope, f32 [A], and which limits it met."""

    action: Array
    clipped: bool
    slowed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """The limits as numbers. low, high, change_per_s: [A], infinite where there is no limit."""

    low: Array
    high: Array
    change_per_s: Array
    max_observation_age_ns: int
    max_chunk_age_ns: int

    def limit(self, action: Array, last: Array, elapsed_ns: int) -> Limited:
        """Return the nearest allowed command to `action` [A], `elapsed_ns` after `last` [A].

        `action` must be finite: `problem` tells.
        """
        reach = self.change_per_s * (elapsed_ns / NS)
        within = np.clip(action, self.low, self.high)
        slow = np.clip(within, last - reach, last + reach)
        # A last command outside the bounds may be too far away to come back in one step.
        return Limited(
            action=slow.astype(np.float32),
            clipped=bool((within != action).any()),
            slowed=bool((slow != within).any()),
        )

    def problem(self, actions: Array) -> str | None:
        """Return what makes `actions` [A] or [H A] unfit for any robot, or None."""
        if np.isfinite(actions).all():
            return None
        entry = np.argwhere(~np.isfinite(actions))[0]
        where = f"step {entry[0]} entry {entry[1]}" if actions.ndim == 2 else f"entry {entry[0]}"
        return f"{where} is {actions[tuple(entry)]}"

    def observation_is_stale(self, t_obs_ns: int, now_ns: int) -> bool:
        """Return whether the newest reading is too old to act upon."""
        return now_ns - t_obs_ns > self.max_observation_age_ns

    def chunk_is_stale(self, t_obs_ns: int, now_ns: int) -> bool:
        """Return whether a chunk from an observation at `t_obs_ns` is too old to follow."""
        return now_ns - t_obs_ns > self.max_chunk_age_ns
