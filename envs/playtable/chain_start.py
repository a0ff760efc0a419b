"""Where a chain begins: the vectors to which the simulator is reset for a symbolic state.

The places of the blocks and their turns are drawn from a seed that is a hash of the state, so a
state begins the same way in every run, as it does in CALVIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from telic.envs.playtable.rules import BLOCKS, SHELF, State
from telic.spec import Array

NEUTRAL_ROBOT_OBS: Final = (
    (0.02586889, -0.2313129, 0.5712808)  # tool, m
    + (3.09045411, -0.02908596, 1.50013585)  # its turn, euler xyz, rad
    + (0.07999963,)  # gripper width, m
    + (-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928)
    + (1.0,)  # last gripper action: open
)
OPEN_DRAWER_M: Final = 0.22
SWITCH_ON_M: Final = 0.088
YAW_RAD: Final = (np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)
_TABLE_YZ: Final = ((-0.120000177, 0.459990009), (-0.11999514, 0.45999001))  # as CALVIN recorded
_SHELF_YZ: Final = (0.092404469, 0.460990009)


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneStart:
    """What differs between the scenes. D's figures are CALVIN's, the others' their counterparts."""

    table_x: tuple[float, float]  # the two places on the table, m
    shelf_x: tuple[float, float]  # at the right and at the left on the shelf, m
    door_left: float  # joint position of the door pushed to the left, m
    blocks: tuple[str, ...] = BLOCKS  # in the order of scene_obs


_TABLE_ACD: Final = (0.05000009, 0.229995412)
_SHELF_AD, _SHELF_BC = (0.070341633, -0.240851662), (0.250341633, -0.060851662)
SCENE_STARTS: Final = {
    "A": SceneStart(
        table_x=_TABLE_ACD,
        shelf_x=_SHELF_AD,
        door_left=0.28,
        blocks=("pink_block", "blue_block", "red_block"),
    ),
    "B": SceneStart(table_x=(-0.23, -0.05), shelf_x=_SHELF_BC, door_left=0.304),
    "C": SceneStart(
        table_x=_TABLE_ACD,
        shelf_x=_SHELF_BC,
        door_left=0.24,
        blocks=("blue_block", "red_block", "pink_block"),
    ),
    "D": SceneStart(table_x=_TABLE_ACD, shelf_x=_SHELF_AD, door_left=0.28),
}


def state_seed(state: State) -> int:
    """Return the 32-bit seed of a symbolic state.

    FNV-1 with offset basis 0 over the UTF-16-LE bytes of the printed values: what CALVIN's hash
    library makes of them.
    """
    return fnv1_32(f"dict_values({list(state)})".encode("utf-16-le"))


def fnv1_32(data: bytes) -> int:
    """Return the FNV-1 hash of `data`, 32 bits, with offset basis 0 instead of the standard's."""
    value = 0
    for byte in data:
        value = (value * 0x01000193) & 0xFFFFFFFF ^ byte
    return value


def require_scene(scene: str) -> None:
    """Raise ValueError for a scene that is not one of the four."""
    if scene not in SCENE_STARTS:
        raise ValueError(f"scene={scene} is not one of PlayTable's: {', '.join(SCENE_STARTS)}")


def start_obs(state: State, scene: str = "D") -> tuple[Array, Array]:
    """Return robot_obs f64 [15] and scene_obs f64 [24] (m, rad) with which `state` begins.

    ValueError for an unknown scene and for blocks elsewhere than the protocol begins with: one or
    two on the table, the others on the shelf, one a side.
    """
    require_scene(scene)
    places = [getattr(state, block) for block in BLOCKS]
    on_table = places.count("table")
    at_home = set(places) <= {"table", *SHELF} and max(map(places.count, SHELF)) < 2
    if on_table not in (1, 2) or not at_home:
        raise ValueError(
            f"initial state: blocks at {', '.join(places)}, expected one or two on the table and "
            "the others one each at slider_right and slider_left"
        )
    where = SCENE_STARTS[scene]
    rng = np.random.RandomState(state_seed(state))
    table = [(x, *yz) for x, yz in zip(where.table_x, _TABLE_YZ, strict=True)]
    rng.shuffle(table)
    shelf = {place: (x, *_SHELF_YZ) for place, x in zip(SHELF, where.shelf_x, strict=True)}
    poses: dict[str, tuple[float, ...]] = {}
    for number, block in enumerate(BLOCKS):
        place = getattr(state, block)
        slot = 0 if number == 0 or (number == 1 and state.red_block != "table") else 1
        position = table[slot] if place == "table" else shelf[place]
        poses[block] = (*position, 0.0, 0.0, rng.uniform(*YAW_RAD))
    joints = (
        where.door_left * (state.slider == "left"),
        OPEN_DRAWER_M * (state.drawer == "open"),
        0.0,
        SWITCH_ON_M * state.lightbulb,
    )
    lights = (state.lightbulb, state.led)
    blocks = [entry for block in where.blocks for entry in poses[block]]
    return np.array(NEUTRAL_ROBOT_OBS), np.array([*joints, *lights, *blocks], np.float64)
