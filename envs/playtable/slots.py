"""The words that differ between tasks of one family: colours, sides, ways to turn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Final

from telic.envs.playtable.rules import COLOURS, SIDES, TASK_RULES

TURNS: Final = {"right": "clockwise", "left": "counterclockwise"}


def members(family: str) -> dict[str, dict[str, str]]:
    """Return the tasks of "push_{colour}_block_{side}" and the like, and the words of each.

    colour: the task's block, other and third: the remaining ones; side and opposite; turn and
    unturn: clockwise is to the right. ValueError for a family without a task.
    """
    found = {
        family.format(colour=colour, side=side): _words(colour, side)
        for colour, side in product(COLOURS, SIDES)
    }
    if unknown := [task for task in found if task not in TASK_RULES]:
        raise ValueError(f"{family}: {unknown[0]} is no task of PlayTable")
    return found


def in_order(tasks: Iterable[str]) -> list[str]:
    """Return the tasks in their order; ValueError unless they are all 34."""
    if missing := [task for task in TASK_RULES if task not in (known := set(tasks))]:
        raise ValueError(f"no sentences for {missing[0]}, expected all {len(TASK_RULES)} tasks")
    return [task for task in TASK_RULES if task in known]


def _words(colour: str, side: str) -> dict[str, str]:
    first = COLOURS.index(colour)
    other, third = (COLOURS[(first + step) % len(COLOURS)] for step in (1, 2))
    opposite = next(each for each in SIDES if each != side)
    return {
        "colour": colour,
        "other": other,
        "third": third,
        "side": side,
        "opposite": opposite,
        "turn": TURNS[side],
        "unturn": TURNS[opposite],
    }
