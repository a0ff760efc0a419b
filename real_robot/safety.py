"""The envelope around every command: what may reach the robot, and when nothing may.

Bounds of the action spec, finite values, how fast a command may change, and how old an observation
or a chunk may be. Pure functions of numbers and times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telic.ranges import require_range
from telic.real_robot.clock import NS
from telic.spec import Array, ArraySpec

# Without a rate limit: by how much of its range an entry may stand outside its bounds and still be
# brought back at once, as an arm that sags at its limit must be.
_SAG = 0.01


@dataclass(kw_only=True, slots=True)
class SafetyConfig:
    """Limits that an operator sets; the bounds come from the robot's action spec."""

    max_observation_age_s: float = 0.2  # of the newest reading, when a command is given
    max_chunk_age_s: float = 1.0  # of the observation that the commanded step was computed from
    # how much each entry may change in a second, in the action's unit: one number for all entries
    # or one for each; none: not limited
    max_change_per_s: list[float] | None = None

    def __post_init__(self) -> None:
        require_range(
            self, "max_observation_age_s", "max_chunk_age_s", above=0, at_most=1e6, prefix="safety."
        )
        if self.max_change_per_s is not None and not all(
            0 < x < np.inf for x in self.max_change_per_s
        ):
            raise ValueError(
                f"safety.max_change_per_s={self.max_change_per_s} must be more than 0 and finite; "
                "null: not limited"
            )

    def build(self, action: ArraySpec) -> Envelope:
        """Return the envelope for a robot whose commands are `action` [A]."""
        size = action.shape[0] if len(action.shape) == 1 else None
        if size is None:
            raise ValueError(f"the robot's action has the shape {action.shape}, expected (A,)")
        change = np.full(size, np.inf)
        if self.max_change_per_s is not None:
            if len(self.max_change_per_s) not in (1, size):
                raise ValueError(
                    f"safety.max_change_per_s has {len(self.max_change_per_s)} entries, expected "
                    f"1 or {size}, one for each entry of the action"
                )
            change = np.broadcast_to(np.asarray(self.max_change_per_s, np.float64), (size,))
        unbounded = np.full(size, np.inf)
        low = -unbounded if action.minimum is None else np.asarray(action.minimum, np.float64)
        high = unbounded if action.maximum is None else np.asarray(action.maximum, np.float64)
        low, high = _single_bounds(low, high)
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
    """The limits as numbers. low, high f32 [A], change_per_s [A]; infinite: no limit."""

    low: Array
    high: Array
    change_per_s: Array
    max_observation_age_ns: int
    max_chunk_age_ns: int

    def limit(self, action: Array, last: Array, elapsed_ns: int) -> Limited:
        """Return the nearest allowed command to `action` [A], `elapsed_ns` after `last` [A].

        Bounds come last: from a `last` that is `out_of_reach` they are kept, and the rate is not.
        `action` must be finite: `problem` tells.
        """
        bounded = np.clip(action, self.low, self.high)
        reach = self._reach(elapsed_ns)
        slow = np.clip(bounded, *_single_bounds(last - reach, last + reach))
        return Limited(
            action=np.clip(slow, self.low, self.high).astype(np.float32),
            clipped=bool((bounded != action).any()),
            slowed=bool((slow != bounded).any()),
        )

    def out_of_reach(self, held: Array, elapsed_ns: int) -> str | None:
        """Return why no command can follow `held` [A] without a jump, or None.

        A robot held outside its bounds is brought back only where the rate limit allows it in one
        step of `elapsed_ns`; without such a limit, where it stands outside by 1 % of the range.
        """
        span = np.where(np.isfinite(self.high - self.low), self.high - self.low, 0.0)
        reach = np.where(
            np.isfinite(self.change_per_s), self._reach(elapsed_ns), _SAG * span.astype(np.float64)
        )
        outside = (held - reach > self.high) | (held + reach < self.low)
        if not outside.any():
            return None
        entry = int(np.flatnonzero(outside)[0])
        return (
            f"the robot is held at {held[entry]:.6g} in entry {entry}, outside "
            f"{self.low[entry]:.6g}..{self.high[entry]:.6g}; bring it back within its bounds"
        )

    def problem(self, actions: Array) -> str | None:
        """Return what makes `actions` [A] or [H A] unfit for any robot, or None."""
        if actions.shape[-1:] != self.low.shape:
            return f"has the shape {actions.shape}, expected {len(self.low)} entries"
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

    def _reach(self, elapsed_ns: int) -> Array:
        """Return how far each entry may go in `elapsed_ns`, f64 [A]."""
        unlimited = np.isinf(self.change_per_s)
        change = np.where(unlimited, 0.0, self.change_per_s) * (max(0, elapsed_ns) / NS)
        return np.where(unlimited, np.inf, change)


def _single_bounds(low: Array, high: Array) -> tuple[Array, Array]:
    """Return `low` and `high` f64 in single precision, rounded towards each other."""
    low_32, high_32 = low.astype(np.float32), high.astype(np.float32)
    infinity = np.float32(np.inf)
    return (
        np.where(low_32 < low, np.nextafter(low_32, infinity), low_32),
        np.where(high_32 > high, np.nextafter(high_32, -infinity), high_32),
    )
