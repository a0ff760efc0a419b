"""States to begin from: as CALVIN draws them, and at random such that a task can be done."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import cos, hypot, pi, sin
from typing import Final

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable import panda
from telic.envs.playtable.control import InverseKinematics
from telic.envs.playtable.layout import COLOURS, Layout, Range
from telic.envs.playtable.preconditions import (
    DRAWER,
    HELD,
    LEFT,
    RIGHT,
    TABLE,
    Precondition,
    preconditions,
)
from telic.envs.playtable.tasks import check_task
from telic.spec import Array

YAW: Final[Range] = (pi / 2 - pi / 4, pi / 2 + pi / 4)  # on the shelf: the long side points inwards

_NEUTRAL_TCP: Final = (0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585)
_TOOL_LOW: Final = np.array([-0.18, -0.34, 0.52, pi - 0.1, -0.1, 1.1])
_TOOL_HIGH: Final = np.array([0.28, -0.14, 0.64, pi + 0.1, 0.1, 1.9])
_SWEEP_M: Final = 0.1  # how far a block must be pushed
_PUSH_REACH_M: Final = 0.8  # of a tool that pushes, from the arm's base
_REACH_M: Final = 0.75  # of a tool that points down onto the desk, from the arm's base
_HAND_M: Final = 0.085  # of the hand to each side of the fingers
_MAX_DRAWS: Final = 1000
_TRIES: Final = 6


def neutral_robot_obs() -> Array:
    """Return the robot_obs [15] at which CALVIN begins: above the desk, tool down, gripper open."""
    width = 2 * panda.FINGER_RANGE
    return np.array([*_NEUTRAL_TCP, width, *panda.NEUTRAL, 1.0])


def calvin_scene_obs(plan: Layout, rng: np.random.Generator, shelf_yaw: Range = (-pi, pi)) -> Array:
    """Return a scene_obs [24] as CALVIN's reset draws it: parts at zero, each block anywhere.

    Each block picks desk, left or right half of the shelf, a point there and a yaw; all are drawn
    again until none touches another. shelf_yaw: of blocks on the shelf, where CALVIN takes any.
    """
    scene = np.zeros(24)
    while True:
        places = [(TABLE, LEFT, RIGHT)[rng.integers(3)] for _ in plan.order]
        yaws = [(-pi, pi) if place == TABLE else shelf_yaw for place in places]
        poses = [_put(plan, place, rng, yaw) for place, yaw in zip(places, yaws, strict=True)]
        if apart(poses, [plan.length(colour) for colour in plan.order]):
            scene[6:] = np.concatenate(poses)
            return scene


def _put(
    plan: Layout, place: str, rng: np.random.Generator, yaw: Range = (-pi, pi), opened: float = 0.0
) -> Array:
    """Return the pose [6] of a block put down somewhere in a place."""
    x, y, height = {
        TABLE: (plan.table_x, table.BLOCK_Y, 0.46),
        LEFT: (plan.left_x, table.SHELF_Y, 0.461),
        RIGHT: (plan.right_x, table.SHELF_Y, 0.461),
        DRAWER: (
            (plan.drawer_x - 0.11, plan.drawer_x + 0.11),
            (-0.11 - opened, -0.06 - opened),
            0.361,
        ),
    }[place]
    return np.array([rng.uniform(*x), rng.uniform(*y), height, 0.0, 0.0, rng.uniform(*yaw)])


def apart(poses: list[Array], lengths: list[float], gap: float = 0.002) -> bool:
    """Return whether blocks of these lengths cannot touch, however they are turned."""
    reach = [hypot(length, table.BLOCK_WIDTH) / 2 for length in lengths]
    return all(
        abs(poses[i][2] - poses[j][2]) > table.BLOCK_WIDTH / 2
        or hypot(*(poses[i] - poses[j])[:2]) > reach[i] + reach[j] + gap
        for i in range(len(poses))
        for j in range(i)
    )


def task_start(task: str, plan: Layout, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return robot_obs [15] and scene_obs [24] drawn such that `task` can be done from there.

    ValueError for a task that PlayTable has not.
    """
    check_task(task)
    for _ in range(_MAX_DRAWS):
        wanted = preconditions()[task](rng)
        scene = _draw_scene(plan, wanted, rng)
        held = next((c for c, places in wanted.places.items() if places == (HELD,)), None)
        robot = _draw_robot(rng, held is not None)
        if held is not None:
            _put_into_hand(scene, plan, held, robot, rng)
        if _possible(scene, plan, wanted, held):
            return robot, scene
    raise AssertionError(f"{task}: no state found to begin from")


def _draw_scene(plan: Layout, wanted: Precondition, rng: np.random.Generator) -> Array:
    """Return a random scene_obs that has the wished parts, lights and places of blocks."""
    scene = np.zeros(24)
    ends = [(0.0, 0.02), (0.98, 1.0)]
    for index, (wished, limit) in enumerate(
        ((wanted.slide, plan.slide_range), (wanted.drawer, table.DRAWER_RANGE))
    ):
        scene[index] = limit * rng.uniform(*(wished or ends[rng.integers(2)]))
    lit = bool(rng.integers(2)) if wanted.lightbulb is None else wanted.lightbulb
    scene[3], scene[4] = lit * table.SWITCH_RANGE, lit
    scene[5] = rng.integers(2) if wanted.led is None else wanted.led
    everywhere = [TABLE, TABLE, LEFT, RIGHT] + [DRAWER] * int(scene[1] > 0.15)
    poses = {}
    for colour in COLOURS:
        places = wanted.places.get(colour, everywhere)
        place = places[rng.integers(len(places))]
        if place == HELD:
            poses[colour] = np.zeros(6)
        else:
            yaw = (-pi, pi) if place in (TABLE, DRAWER) else YAW
            poses[colour] = _put(plan, place, rng, yaw, scene[1])
            if place == TABLE:
                poses[colour][1] = rng.uniform(*wanted.table_y)
    if wanted.stack is not None:
        upper, lower = wanted.stack
        poses[upper] = poses[lower].copy()
        poses[upper][:3] += [*rng.uniform(-0.006, 0.006, 2), table.BLOCK_WIDTH]
        poses[upper][5] += rng.uniform(-0.3, 0.3)
    scene[6:] = np.concatenate([poses[colour] for colour in plan.order])
    return scene


@cache
def _kinematics() -> InverseKinematics:
    return InverseKinematics()


def _draw_robot(rng: np.random.Generator, holding: bool) -> Array:
    """Return the robot_obs of a tool somewhere above the desk, roughly downwards."""
    robot = neutral_robot_obs()
    if holding or rng.random() > 0.25:
        robot[:6] = rng.uniform(_TOOL_LOW, _TOOL_HIGH)
        for _ in range(4):
            robot[7:14] = _kinematics().joints(robot[:3], robot[3:6], robot[7:14])
    if holding:
        robot[6], robot[14] = table.BLOCK_WIDTH, -1.0
    elif rng.random() < 0.3:
        robot[6], robot[14] = 0.0, -1.0
    return robot


def _put_into_hand(
    scene: Array, plan: Layout, colour: str, robot: Array, rng: np.random.Generator
) -> None:
    """Move a block to between the fingers, its short side across them."""
    first = 6 + 6 * plan.order.index(colour)
    lift = rng.uniform(-0.006, 0.0)
    scene[first : first + 6] = [*(robot[:3] + [0, 0, lift]), robot[3] - pi, robot[4], robot[5]]


def _possible(scene: Array, plan: Layout, wanted: Precondition, held: str | None) -> bool:
    """Return whether the blocks lie free of each other and of what the task needs."""
    poses = dict(zip(plan.order, scene[6:].reshape(3, 6), strict=True))
    lengths = [plan.length(colour) for colour in poses]
    if not apart(list(poses.values()), lengths):
        return False
    if any(near_button(plan, colour, pose) for colour, pose in poses.items() if colour != held):
        return False
    if any(not _reaches(pose) for colour, pose in poses.items() if colour != held):
        return False
    return _way_is_free(scene, poses, plan, wanted)


def seems_possible(task: str, scene: Array, plan: Layout, rng: np.random.Generator) -> bool:
    """Return whether `task` has a free way on a table as it lies, by its scene_obs [24].

    Only room is judged, not whether parts, lights and blocks are where the task needs them; `rng`
    draws which blocks a task for any of them is tried with.
    """
    poses = dict(zip(plan.order, scene[6:].reshape(3, 6), strict=True))
    drawn = [preconditions()[task](rng) for _ in range(_TRIES)]
    return any(_way_is_free(scene, poses, plan, wanted) for wanted in drawn)


def _way_is_free(
    scene: Array, poses: Mapping[str, Array], plan: Layout, wanted: Precondition
) -> bool:
    """Return whether the hand has room for what the task moves, and that has room to move."""
    if wanted.reachable is not None and not _within_reach(scene, poses, plan, wanted.reachable):
        return False
    if wanted.grasped is not None and not _fingers_fit(poses, plan, wanted.grasped):
        return False
    for colour in filter(
        None,
        (
            wanted.grasped,
            wanted.over_drawer,
            wanted.push and wanted.push[0],
        ),
    ):
        yaw = poses[colour][5] if colour == wanted.grasped else pi / 2
        if plan.sizes[colour] == "small":  # either pair of its sides will do
            yaw = (yaw - pi / 4) % (pi / 2) + pi / 4
        if _under_handle(poses[colour], plan, scene[0], yaw):
            return False
    if wanted.over_drawer is not None and abs(poses[wanted.over_drawer][0] - plan.drawer_x) > 0.13:
        return False
    return wanted.push is None or _sweep_is_free(poses, plan, *wanted.push)


def _reaches(pose: Array, reach: float = _REACH_M) -> bool:
    """Return whether the arm gets over a block on the desk; shelf and drawer are nearer."""
    return pose[1] > 0.0 or hypot(pose[0] - panda.BASE[0], pose[1] - panda.BASE[1]) < reach


def _under_handle(pose: Array, plan: Layout, slide: float, yaw: float) -> bool:
    """Return whether a handle of the cabinet is in the way of a hand with that yaw over a block."""
    along, across = 0.1 * abs(cos(yaw)), 0.1 * abs(sin(yaw))  # half the hand, along y and x
    handles = ((plan.slide_handle_x(slide), 0.05, -0.05), (plan.switch_x, 0.09, -0.04))
    return bool(
        pose[1] < 0.0
        and any(
            abs(pose[0] - x) < across + wide and pose[1] + along > near for x, wide, near in handles
        )
    )


def _within_reach(scene: Array, poses: Mapping[str, Array], plan: Layout, colour: str) -> bool:
    """Return whether the hand can follow the fingers to a block on the shelf, beside the door."""
    low, high = plan.opening(scene[0])
    x, y, yaw = poses[colour][[0, 1, 5]]
    return low + _HAND_M < x < high - _HAND_M and y < 0.11 and abs(yaw - pi / 2) < 0.65


def _fingers_fit(poses: Mapping[str, Array], plan: Layout, colour: str) -> bool:
    """Return whether no other block is where the open fingers go."""
    own = poses[colour]
    return all(
        abs(other[2] - own[2]) > 0.02
        or hypot(*(other - own)[:2]) > 0.065 + hypot(plan.length(name), table.BLOCK_WIDTH) / 2
        for name, other in poses.items()
        if name != colour
    )


def near_button(plan: Layout, colour: str, pose: Array) -> bool:
    """Return whether a block lies on the button or its bezel."""
    reach = hypot(plan.length(colour), table.BLOCK_WIDTH) / 2 + 0.045
    return pose[2] < 0.5 and hypot(pose[0] - plan.button_x, pose[1] - table.BUTTON_Y) < reach


def _sweep_is_free(poses: Mapping[str, Array], plan: Layout, colour: str, direction: int) -> bool:
    """Return whether a block can be pushed along x: nothing is in the way."""
    pose = poses[colour]
    length, width, yaw = plan.length(colour), table.BLOCK_WIDTH, pose[5]
    along, half = (length * abs(cos(yaw)) + width * abs(sin(yaw))) / 2, hypot(length, width) / 2
    # room for the gripper before it, and for the way
    ahead, behind = along + _SWEEP_M, along + 0.05
    low = pose[0] - (behind if direction > 0 else ahead)
    high = pose[0] + (ahead if direction > 0 else behind)
    if low < -0.43 or high > 0.43 or not _reaches(np.array([high, pose[1]]), _PUSH_REACH_M):
        return False
    bezel = low < plan.button_x + 0.035 and high > plan.button_x - 0.035
    if bezel and abs(pose[1] - table.BUTTON_Y) < half + 0.04:
        return False
    return not any(
        low < other[0] + 0.045
        and high > other[0] - 0.045
        and abs(other[1] - pose[1]) < 0.045 + half
        for name, other in poses.items()
        if name != colour and other[2] > 0.4
    )
