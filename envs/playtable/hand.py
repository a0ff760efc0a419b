"""The hand that plans move: what it sees of the world, and the moves that all plans share."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any, Final

import numpy as np

from telic.envs.playtable.experts import (
    CLOSED,
    NEUTRAL_YAW,
    OPEN,
    Manner,
    Plan,
    Waypoint,
    tool,
)
from telic.envs.playtable.facts import ROBOT
from telic.envs.playtable.layout import COLOURS
from telic.envs.playtable.panda import BASE
from telic.envs.playtable.rotations import euler, wrapped
from telic.envs.playtable.world import World
from telic.spec import Array

_SCATTER_ABOVE_M: Final = 0.03
SCATTER_NEAR_M: Final = 0.016  # before a block, which the open fingers must still fit
_HIGH_REACH_M: Final = 0.72  # of a tool that points down from the height of transit
FRONT_Y: Final = -0.10  # m; before the cabinet, clear of its handles
CLOSE_STEPS: Final = 9


class Hand:
    """What plans are made of: the world, this episode's manner, and the simplest moves."""

    def __init__(self, world: World, manner: Manner, rng: np.random.Generator) -> None:
        self.world, self.manner, self.rng = world, manner, rng
        self.plan = world.layout
        self.carried = self.held()  # at first

    def place(self, colour: str) -> Array:
        """Return where a block's middle is."""
        return self.world.facts().blocks[colour].position

    def yaw(self, colour: str) -> float:
        """Return how a block is turned about z."""
        return float(euler(self.world.facts().blocks[colour].rotation)[2])

    def holds(self, colour: str) -> bool:
        """Return whether a block is between the fingers."""
        return ROBOT in self.world.facts().blocks[colour].touches

    def held(self) -> str | None:
        """Return the block between the fingers, or None."""
        return next((colour for colour in COLOURS if self.holds(colour)), None)

    def at(
        self,
        position: Sequence[float] | Array,
        yaw: float,
        gripper: float,
        *,
        lean: float = 0.0,
        **more: Any,
    ) -> Waypoint:
        """Return a waypoint with the tool pointing down, or leaning; `more` as in Waypoint."""
        angles = tool(yaw, self.manner.tilt if lean == 0.0 else None, lean)
        place = np.asarray(position, np.float64)
        return Waypoint(position=place, euler=angles, gripper=gripper, **more)

    def here(self, gripper: float, stay: int = 0) -> Waypoint:
        """Return a waypoint where the tool's target is now."""
        target = self.world.target
        angles = target[3:].copy()
        angles[2] = NEUTRAL_YAW + float(wrapped(angles[2] - NEUTRAL_YAW))
        return Waypoint(position=target[:3].copy(), euler=angles, gripper=gripper, stay=stay)

    def rise(self) -> Plan:
        """Yield the way out of the cabinet and up to the height of transit, the gripper as it is.

        Opening or closing it here would drop a block, or take along one just put down. A block
        between the fingers that still lies on something is let go of before.
        """
        touches = [facts.touches for facts in self.world.facts().blocks.values()]
        if self.world.gripper == CLOSED and any(ROBOT in t and len(t) > 1 for t in touches):
            yield self.here(OPEN, stay=6)
        tool_now = self.world.tcp()
        if tool_now[1] > 0.0 or (tool_now[1] > FRONT_Y + 0.02 and tool_now[2] > 0.5):
            yield self._moved(y=FRONT_Y, z=max(tool_now[2], 0.52))
        if tool_now[2] < self.manner.transit_z - 0.02:
            yield self._moved(z=self.manner.transit_z)

    def _moved(self, **axes: float) -> Waypoint:
        position = self.world.tcp()[:3]
        for axis, value in axes.items():
            position["xyz".index(axis)] = value
        now = self.here(self.world.gripper)
        position = within_reach(position) if "z" in axes else position
        return Waypoint(position=position, euler=now.euler, gripper=now.gripper, within=0.03)

    def above(self, x: float, y: float, yaw: float, gripper: float, lean: float = 0.0) -> Plan:
        """Yield the way to a point at the height of transit, up first."""
        yield from self.rise()
        position = within_reach(np.array([x, y, self.manner.transit_z]))
        yield self.at(position, yaw, gripper, within=0.03, lean=lean, scatter=_SCATTER_ABOVE_M)


def within_reach(position: Array) -> Array:
    """Return the position, nearer to the arm where it could not be reached at transit's height."""
    base = np.array(BASE[:2])
    away = position[:2] - base
    share = min(1.0, _HIGH_REACH_M / float(np.linalg.norm(away)))
    return np.append(base + share * away, position[2])


def nearest(yaw: float, period: float, to: float = NEUTRAL_YAW) -> float:
    """Return the angle nearest to `to` that equals `yaw` up to whole periods."""
    return to + (yaw - to + period / 2) % period - period / 2


def grasp_yaw(hand: Hand, colour: str, around: float = NEUTRAL_YAW) -> float:
    """Return the yaw nearest to `around` at which the fingers fit over a block."""
    yaw = hand.yaw(colour)
    found = [nearest(yaw, pi, around)]
    if hand.plan.length(colour) < 0.06:  # the long side fits between the fingers too
        found.append(nearest(yaw + pi / 2, pi, around))
    return min(
        found,
        key=lambda angle: abs(angle - around) + 10 * (blocking(hand, colour, angle) is not None),
    )


def blocking(hand: Hand, colour: str, yaw: float) -> str | None:
    """Return the other block that is where one of the open fingers would go, if any."""
    aside = 0.05 * np.array([sin(yaw), -cos(yaw)])
    own = hand.place(colour)
    for other in filter(lambda other: other != colour, COLOURS):
        apart = hand.place(other) - own
        if abs(apart[2]) < 0.03 and any(
            np.linalg.norm(apart[:2] - side * aside) < 0.04 for side in (1, -1)
        ):
            return other
    return None


def grasp(hand: Hand, colour: str, yaw: float, height: float, lean: float = 0.0) -> Plan:
    """Yield the way down over a block that lies free, and the closing of the fingers."""
    x, y, _ = hand.place(colour)
    yield from hand.above(x, y, yaw, OPEN, lean)
    x, y, _ = hand.place(colour)
    near = [x, y, height + 0.06]
    yield hand.at(near, yaw, OPEN, lean=lean, speed=0.9, scatter=SCATTER_NEAR_M)
    yield hand.at([x, y, height], yaw, OPEN, lean=lean, within=0.006, speed=0.7)
    yield hand.at([x, y, height], yaw, CLOSED, lean=lean, stay=CLOSE_STEPS)
