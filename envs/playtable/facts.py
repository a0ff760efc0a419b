"""What the predicates of tasks read: poses, joints, lights, and who touches whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from telic.spec import Array

ROBOT: Final = "robot"
BASE: Final = "base"  # desk and shell of the cabinet
PLANK: Final = "plank"  # the shelf
DRAWER: Final = "drawer"
FLOOR: Final = "floor"


def block(colour: str) -> str:
    """Return the name under which a block of that colour touches and is touched."""
    return f"block_{colour}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFacts:
    """One block. position [3] in m, rotation [3 3], speed: linear and angular [6] in m/s, rad/s.

    touches: names of what is within a millimetre (robot, base, plank, drawer, slide, button,
    switch, floor, block_<colour>).
    """

    position: Array
    rotation: Array
    speed: Array
    touches: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One moment. joints: slide, drawer, button and switch in m; blocks by colour."""

    joints: Mapping[str, float]
    lightbulb: bool
    led: bool
    blocks: Mapping[str, BlockFacts]
    robot_touches: frozenset[str]
