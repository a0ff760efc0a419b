"""The scripted experts at work: a plan's waypoints, followed by relative actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Final

import numpy as np

from telic.envs.playtable.control import NUM_ACTIONS, STEP_M, STEP_RAD
from telic.envs.playtable.rotations import wrapped
from telic.envs.playtable.world import World
from telic.envs.task import DictObs
from telic.spec import Array

NEUTRAL_YAW: Final = 1.5  # the fingers close along x; yaws are counted within half a turn of it
OPEN, CLOSED = 1.0, -1.0
_SCATTER_RAD_PER_M: Final = 8.0  # of the yaw, for each metre of scatter

Plan = Iterator["Waypoint"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waypoint:
    """A pose of the tool to go to, straight, and to stay at.

    position [3] in m, euler [3] in rad, world frame; gripper OPEN or CLOSED on the way and there;
    stay: steps to wait there; within: how near the tool must have come, m; patience: steps after
    which it is near enough; speed: of the fastest that an action allows; scatter: how precisely it
    need not be met, std in m of x and y; the yaw is then as free.
    """

    position: Array
    euler: Array
    gripper: float
    stay: int = 0
    within: float = 0.012
    patience: int = 12
    speed: float = 1.0
    scatter: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How one episode of an expert differs from the next."""

    transit_z: float  # m, of the ways across the table
    speed: float  # of the fastest
    offset: float  # -1..1: where on a handle, from which side
    tilt: Array  # rad, of roll and pitch of a tool that points down
    noise: float  # std of an action's entries while under way
    care: float  # 1: waypoints are met exactly; 0: with all of their scatter

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Manner:
        """Return a manner drawn at random."""
        return cls(
            transit_z=rng.uniform(0.55, 0.62),
            speed=rng.uniform(0.7, 1.0),
            offset=rng.uniform(-1.0, 1.0),
            tilt=rng.uniform(-0.06, 0.06, 2),
            noise=rng.uniform(0.0, 0.1),
            care=rng.uniform(0.0, 1.0),
        )


class Follower:
    """Turns a plan into actions; the plan looks at the world whenever it is asked to go on."""

    def __init__(self, world: World, plan: Plan, manner: Manner, rng: np.random.Generator) -> None:
        self._world, self._plan, self._manner, self._rng = world, plan, manner, rng
        self._waypoint = self._next()
        self._waited = 0

    def act(self, obs: DictObs) -> Array:
        """Return the next relative action, f32 [7], each within [-1, 1]; `obs` is not needed."""
        while self._is_there():
            self._waypoint = self._next()
            self._waited = 0
        return self._towards()

    def _next(self) -> Waypoint:
        """Return the plan's next waypoint, missed by its scatter.

        The way from there to the one after it is what shows a policy how to come back from beside.
        """
        waypoint = next(self._plan)
        spread = waypoint.scatter * (1.0 - self._manner.care)
        if not spread:
            return waypoint
        aside = self._rng.normal(0.0, spread, 3)
        return replace(
            waypoint,
            position=waypoint.position + [aside[0], aside[1], 0.0],
            euler=waypoint.euler + [0.0, 0.0, _SCATTER_RAD_PER_M * aside[2]],
        )

    def _missing(self) -> tuple[Array, Array]:
        """Return what the target lacks to the waypoint, position [3] and angles [3]."""
        target, goal = self._world.target, self._waypoint
        angles = wrapped(goal.euler - target[3:])
        yaw = NEUTRAL_YAW + wrapped(target[5] - NEUTRAL_YAW)
        angles[2] = goal.euler[2] - yaw
        return goal.position - target[:3], angles

    def _is_there(self) -> bool:
        position, angles = self._missing()
        if np.abs(position).max() > 1e-3 or np.abs(angles).max() > 1e-2:
            return False
        goal = self._waypoint
        distance = np.linalg.norm(self._world.tcp()[:3] - goal.position)
        near = distance < goal.within or self._waited >= goal.patience
        return bool(near and self._waited >= goal.stay)

    def _towards(self) -> Array:
        position, angles = self._missing()
        speed = self._waypoint.speed * self._manner.speed
        distance, turn = float(np.linalg.norm(position)), float(np.abs(angles).max())
        share = min(1.0, STEP_M * speed / max(distance, 1e-9), STEP_RAD * speed / max(turn, 1e-9))
        action = np.empty(NUM_ACTIONS)
        action[:3] = share * position / STEP_M
        action[3:6] = share * angles / STEP_RAD
        if distance > 2 * STEP_M:
            action[:6] += self._rng.normal(0.0, self._manner.noise, 6)
        elif share == 1.0:
            self._waited += 1
        action[6] = self._waypoint.gripper
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def tool(yaw: float, tilt: Array | None = None, lean: float = 0.0) -> Array:
    """Return the Euler angles of a tool that points down, its fingers closing along x at pi/2.

    yaw in rad; tilt: small changes [2] of roll and pitch; lean: by how much it points forwards,
    into the cabinet at pi/2, across the plane in which the fingers close.
    """
    roll, pitch = (0.0, 0.0) if tilt is None else tilt
    return np.array([pi + roll, pitch - lean, yaw])
