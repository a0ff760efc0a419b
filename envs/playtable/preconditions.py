"""What each task needs of the state it begins in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable.layout import COLOURS, Range

TABLE, LEFT, RIGHT, DRAWER, HELD = "table", "left", "right", "drawer", "held"


@dataclass(frozen=True, kw_only=True, slots=True)
class Precondition:
    """What a task needs of the state it begins in; None and absent colours: anything.

    slide, drawer: parts of their range; lightbulb, led: lit or not; places: colour -> where;
    stack: (upper, lower); push: (colour, direction along x) with a free way; grasped: room for the
    fingers around it; reachable: on the shelf, room for the hand beside the door; over_drawer: it
    falls into the open drawer when it is pulled forwards; table_y: of blocks on the desk.
    """

    slide: Range | None = None
    drawer: Range | None = None
    lightbulb: bool | None = None
    led: bool | None = None
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stack: tuple[str, str] | None = None
    push: tuple[str, int] | None = None
    grasped: str | None = None
    reachable: str | None = None
    over_drawer: str | None = None
    table_y: Range = table.BLOCK_Y


Sampler = Callable[[np.random.Generator], Precondition]


def _steady(precondition: Precondition) -> Sampler:
    return lambda rng: precondition


def _lift_from_shelf(colour: str) -> Sampler:
    def sample(rng: np.random.Generator) -> Precondition:
        if rng.integers(2):
            return Precondition(
                slide=(0.0, 0.02), places={colour: (LEFT,)}, reachable=colour, grasped=colour
            )
        return Precondition(
            slide=(0.98, 1.0), places={colour: (RIGHT,)}, reachable=colour, grasped=colour
        )

    return sample


def _holding(precondition: Precondition) -> Sampler:
    """Return the precondition with a random block in the hand."""

    def sample(rng: np.random.Generator) -> Precondition:
        held = COLOURS[rng.integers(3)]
        return replace(precondition, places={held: (HELD,)})

    return sample


def _stacking(rng: np.random.Generator) -> Precondition:
    held, other, _ = rng.permutation(COLOURS)
    return Precondition(places={str(held): (HELD,), str(other): (TABLE,)}, grasped=str(other))


def _unstacking(rng: np.random.Generator) -> Precondition:
    upper, lower, _ = (str(colour) for colour in rng.permutation(COLOURS))
    return Precondition(places={upper: (TABLE,), lower: (TABLE,)}, stack=(upper, lower))


def _pushing_into_drawer(rng: np.random.Generator) -> Precondition:
    pushed, *others = (str(colour) for colour in rng.permutation(COLOURS))
    places = {pushed: (TABLE,)} | dict.fromkeys(others, (LEFT, RIGHT))
    return Precondition(
        drawer=(0.95, 1.0), places=places, over_drawer=pushed, table_y=(-0.15, -0.07)
    )


@cache
def preconditions() -> dict[str, Sampler]:
    """Return task -> how to draw what it needs."""
    found: dict[str, Sampler] = {
        "move_slider_left": _steady(Precondition(slide=(0.0, 0.25))),
        "move_slider_right": _steady(Precondition(slide=(0.75, 1.0))),
        "open_drawer": _steady(Precondition(drawer=(0.0, 0.25))),
        "close_drawer": _steady(Precondition(drawer=(0.75, 1.0))),
        "place_in_slider": _holding(Precondition()),
        "place_in_drawer": _holding(Precondition(drawer=(0.9, 1.0))),
        "stack_block": _stacking,
        "unstack_block": _unstacking,
        "turn_on_lightbulb": _steady(Precondition(lightbulb=False)),
        "turn_off_lightbulb": _steady(Precondition(lightbulb=True)),
        "turn_on_led": _steady(Precondition(led=False)),
        "turn_off_led": _steady(Precondition(led=True)),
        "push_into_drawer": _pushing_into_drawer,
    }
    for colour in COLOURS:
        on_table = {colour: (TABLE,)}
        for side, direction in (("left", -1), ("right", 1)):
            found[f"rotate_{colour}_block_{side}"] = _steady(
                Precondition(places=on_table, grasped=colour)
            )
            found[f"push_{colour}_block_{side}"] = _steady(
                Precondition(places=on_table, push=(colour, direction))
            )
        found[f"lift_{colour}_block_table"] = _steady(Precondition(places=on_table, grasped=colour))
        found[f"lift_{colour}_block_slider"] = _lift_from_shelf(colour)
        found[f"lift_{colour}_block_drawer"] = _steady(
            Precondition(drawer=(0.9, 1.0), places={colour: (DRAWER,)}, grasped=colour)
        )
    return found
