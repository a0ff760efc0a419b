"""States to begin from: the neutral robot, and blocks put down at random."""

from __future__ import annotations

from functools import cache
from math import hypot, pi

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable import panda
from telic.envs.playtable.layout import Layout, Range
from telic.spec import Array

_NEUTRAL_TCP = (0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585)


@cache
def _neutral() -> Array:
    width = 2 * panda.FINGER_RANGE
    return np.array([*_NEUTRAL_TCP, width, *panda.NEUTRAL, 1.0])


def neutral_robot_obs() -> Array:
    """Return the robot_obs [15] at which CALVIN begins: above the desk, tool down, gripper open."""
    return _neutral().copy()


def calvin_scene_obs(plan: Layout, rng: np.random.Generator) -> Array:
    """Return a scene_obs [24] as CALVIN's reset draws it: parts at zero, each block anywhere.

    Each block picks desk, left or right half of the shelf, a point there and a yaw; all are drawn
    again until none touches another.
    """
    scene = np.zeros(24)
    while True:
        poses = [_placed(plan, rng) for _ in plan.order]
        if apart(poses, [plan.length(colour) for colour in plan.order]):
            scene[6:] = np.concatenate(poses)
            return scene


def _placed(plan: Layout, rng: np.random.Generator) -> Array:
    surface = ("table", "left", "right")[rng.integers(3)]
    if surface == "table":
        return on_surface(plan.table_x, table.BLOCK_Y, 0.46, rng)
    x = plan.left_x if surface == "left" else plan.right_x
    return on_surface(x, table.SHELF_Y, 0.461, rng)


def on_surface(
    x: Range, y: Range, height: float, rng: np.random.Generator, yaw: Range = (-pi, pi)
) -> Array:
    """Return the pose [6] of a block put down somewhere in the rectangle x, y."""
    return np.array([rng.uniform(*x), rng.uniform(*y), height, 0.0, 0.0, rng.uniform(*yaw)])


def apart(poses: list[Array], lengths: list[float], gap: float = 0.002) -> bool:
    """Return whether blocks of these lengths cannot touch, however they are turned."""
    reach = [hypot(length, table.BLOCK_WIDTH) / 2 for length in lengths]
    return all(
        abs(poses[i][2] - poses[j][2]) > table.BLOCK_WIDTH
        or hypot(*(poses[i] - poses[j])[:2]) > reach[i] + reach[j] + gap
        for i in range(len(poses))
        for j in range(i)
    )
