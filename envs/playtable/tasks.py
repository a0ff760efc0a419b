"""The 34 tasks: each a predicate on what holds when a subtask begins and what holds now.

Predicates, thresholds and order are those of CALVIN (Mees et al. 2022, RA-L). Left is -x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from telic.envs.playtable.facts import BASE, DRAWER, PLANK, ROBOT, BlockFacts, Facts, block
from telic.envs.playtable.layout import COLOURS
from telic.envs.playtable.rotations import euler
from telic.spec import near_misses

Predicate = Callable[[Facts, Facts], bool]

_ROTATE_DEG: Final = 60.0
_TILT_DEG: Final = 30.0
_ROTATE_M: Final = 0.1  # a turned block may move by so much
_PUSH_M: Final = 0.1
_DOOR_M: Final = 0.15
_DRAWER_M: Final = 0.12
_LIFT_M: Final = {BASE: 0.05, PLANK: 0.03, DRAWER: 0.05}
_REST: Final = 1.0  # m/s and rad/s, of each component
_BLOCKS: Final = frozenset(block(colour) for colour in COLOURS)


def rotated(colour: str, degrees: float) -> Predicate:
    """Return whether a block has been turned about z by more than `degrees` and still lies."""

    def holds(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[colour], now.blocks[colour]
        x, y, z = np.rad2deg(euler(after.rotation @ before.rotation.T))
        lies = bool(after.touches - {ROBOT})
        stayed = np.linalg.norm(after.position - before.position) <= _ROTATE_M
        turned = degrees < z < 180 if degrees > 0 else degrees > z > -180
        return bool(lies and stayed and turned and max(abs(x), abs(y)) < _TILT_DEG)

    return holds


def pushed(colour: str, metres: float) -> Predicate:
    """Return whether a block lies `metres` further along x, on what it lay on."""

    def holds(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[colour], now.blocks[colour]
        support = before.touches - {ROBOT}
        moved = after.position[0] - before.position[0]
        far = moved > metres if metres > 0 else moved < metres
        return bool(support and support <= after.touches and far)

    return holds


def moved(joint: str, metres: float) -> Predicate:
    """Return whether a joint is further than `metres` from where it was, in that direction."""

    def holds(start: Facts, now: Facts) -> bool:
        change = now.joints[joint] - start.joints[joint]
        return change > metres if metres > 0 else change < metres

    return holds


def lifted(colour: str, surface: str) -> Predicate:
    """Return whether a block that lay on `surface` is in the gripper, and touches nothing else."""

    def holds(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[colour], now.blocks[colour]
        rise = after.position[2] - before.position[2]
        return bool(
            rise > _LIFT_M[surface] and after.touches == {ROBOT} and surface in before.touches
        )

    return holds


def placed(surface: str) -> Predicate:
    """Return whether the one block that was in the gripper is out of it and on `surface`."""

    def holds(start: Facts, now: Facts) -> bool:
        held = held_block(start)
        if held is None:
            return False
        touches = now.blocks[held].touches
        return ROBOT not in touches and surface in touches

    return holds


def held_block(facts: Facts) -> str | None:
    """Return the colour of the block that the robot holds and nothing else touches, or None."""
    for colour in COLOURS:
        alone = facts.blocks[colour].touches == {ROBOT}
        if alone and facts.robot_touches == {block(colour)}:
            return colour
    return None


def pushed_into(source: str, target: str) -> Predicate:
    """Return whether a block that lay on `source` alone is in `target`, and not in the hand."""

    def went(before: BlockFacts, after: BlockFacts) -> bool:
        return before.touches == {source} and target in after.touches and ROBOT not in after.touches

    return lambda start, now: any(went(start.blocks[c], now.blocks[c]) for c in COLOURS)


def stacked(start: Facts, now: Facts) -> bool:
    """Return whether a block rests on blocks alone that touched no block before."""
    return any(
        not start.blocks[c].touches & _BLOCKS
        and now.blocks[c].touches
        and now.blocks[c].touches <= _BLOCKS
        and _rests(now.blocks[c])
        for c in COLOURS
    )


def unstacked(start: Facts, now: Facts) -> bool:
    """Return whether a block that rested on blocks alone touches none any more."""
    return any(
        bool(start.blocks[c].touches)
        and start.blocks[c].touches <= _BLOCKS
        and _rests(start.blocks[c])
        and not now.blocks[c].touches & _BLOCKS
        for c in COLOURS
    )


def _rests(facts: BlockFacts) -> bool:
    return bool((np.abs(facts.speed) < _REST).all())


def light_turned(light: str, on: bool) -> Predicate:
    """Return whether a light (a bool of Facts) was the other way and is now as wanted."""
    return lambda start, now: getattr(start, light) is not on and getattr(now, light) is on


def _table() -> dict[str, Predicate]:
    tasks: dict[str, Predicate] = {}
    for colour in COLOURS:
        tasks[f"rotate_{colour}_block_right"] = rotated(colour, -_ROTATE_DEG)
        tasks[f"rotate_{colour}_block_left"] = rotated(colour, _ROTATE_DEG)
    for colour in COLOURS:
        tasks[f"push_{colour}_block_right"] = pushed(colour, _PUSH_M)
        tasks[f"push_{colour}_block_left"] = pushed(colour, -_PUSH_M)
    tasks["move_slider_left"] = moved("slide", _DOOR_M)
    tasks["move_slider_right"] = moved("slide", -_DOOR_M)
    tasks["open_drawer"] = moved("drawer", _DRAWER_M)
    tasks["close_drawer"] = moved("drawer", -_DRAWER_M)
    for colour in COLOURS:
        for place, surface in (("table", BASE), ("slider", PLANK), ("drawer", DRAWER)):
            tasks[f"lift_{colour}_block_{place}"] = lifted(colour, surface)
    tasks["place_in_slider"] = placed(PLANK)
    tasks["place_in_drawer"] = placed(DRAWER)
    tasks["stack_block"] = stacked
    tasks["unstack_block"] = unstacked
    tasks["turn_on_lightbulb"] = light_turned("lightbulb", True)
    tasks["turn_off_lightbulb"] = light_turned("lightbulb", False)
    tasks["turn_on_led"] = light_turned("led", True)
    tasks["turn_off_led"] = light_turned("led", False)
    tasks["push_into_drawer"] = pushed_into(BASE, DRAWER)
    return tasks


TASKS: Final[dict[str, Predicate]] = _table()  # in CALVIN's order


def check_task(task: str) -> None:
    """Raise ValueError, with the nearest names, for a task that PlayTable has not."""
    if task not in TASKS:
        raise ValueError(f"PlayTable has no task {task!r}{near_misses(task, TASKS)}")


def success(task: str, start: Facts, now: Facts) -> bool:
    """Return whether `task`, begun when `start` held, is done now; ValueError for no task."""
    check_task(task)
    return bool(TASKS[task](start, now))
