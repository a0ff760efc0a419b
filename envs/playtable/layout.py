"""The numbers of the table, its four scenes, its blocks and its cameras.

Metres, world frame: x to the right along the table, y away from its front edge into the cabinet,
z up; the table stands on the origin. The measures are those of CALVIN's scenes (Mees et al. 2022,
RA-L), after its global scaling of 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from telic.spec import Array, near_misses

Range = tuple[float, float]
Rgb = tuple[float, float, float]

COLOURS: Final = ("red", "blue", "pink")
BLOCK_RGB: Final[dict[str, Rgb]] = {"red": (1, 0, 0), "blue": (0, 0, 1), "pink": (1, 0, 1)}
BLOCK_LENGTHS: Final = {"small": 0.04, "middle": 0.056, "big": 0.08}  # along the block's own x
BLOCK_WIDTH: Final = 0.04  # along its y and z
BLOCK_KG: Final = 1.0

SURFACE_Z: Final = 0.44  # of the desk
SHELF_Z: Final = 0.4412  # as high as CALVIN's convex parts carry a block; drawn there it is 0.44
DRAWER_FLOOR_Z: Final = 0.3425  # likewise; 0.34
BLOCK_Y: Final[Range] = (-0.15, -0.03)  # where a reset puts blocks on the desk
SHELF_Y: Final[Range] = (0.05, 0.12)  # and on the shelf

# the front of the cabinet leans back by 30 degrees: up the slope, and out of it
UP: Final = np.array([0.0, 0.5, np.sqrt(0.75)])
OUT: Final = np.array([0.0, -np.sqrt(0.75), 0.5])
SLOPE_FOOT: Final = (0.02, 0.44)  # y, z
SLOPE_TOP: Final = (0.14, 0.648)
CAVITY_BACK_Y: Final = 0.16
PLANK_HALF_X: Final = 0.26

SLIDE_YZ: Final = (0.075, 0.5353)
SWITCH_YZ: Final = (0.0609, 0.4949)
BUTTON_Y: Final = -0.12
DOOR_WIDTH: Final = 0.28
SLIDE_HANDLE_X: Final = 0.14  # the middle of the handle, from the door's frame
HANDLE_OUT: Final = 0.07  # its bar, out of the slope
DRAWER_HANDLE_YZ: Final = (-0.25, 0.36)

# joint -> its upper limit; the lower one is 0. The door's is the scene's.
DRAWER_RANGE: Final = 0.22
BUTTON_RANGE: Final = 0.02
SWITCH_RANGE: Final = 0.088
BULB_ON: Final = SWITCH_RANGE / 2  # the bulb burns while the switch is above
LED_TOGGLES: Final = 0.01  # the LED changes when the button goes below, down from rest

JOINTS: Final = ("slide", "drawer", "button", "switch")  # order of scene_obs


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What differs between the scenes. x of parts; blocks by colour; colours of the wood."""

    button_x: float
    switch_x: float
    slide_x: float  # the door's left edge where it is fully to the right
    slide_range: float
    drawer_x: float
    plank_x: float
    table_x: Range  # where a reset puts blocks
    left_x: Range
    right_x: Range
    sizes: dict[str, str]  # colour -> key of BLOCK_LENGTHS
    order: tuple[str, str, str]  # of the blocks in scene_obs
    wood: Rgb
    parts: Rgb  # door and drawer

    def ranges(self) -> Array:
        """Return the upper limits of slide, drawer, button and switch, f64 [4] in m."""
        return np.array([self.slide_range, DRAWER_RANGE, BUTTON_RANGE, SWITCH_RANGE])

    def length(self, colour: str) -> float:
        """Return the long side of a block, m."""
        return BLOCK_LENGTHS[self.sizes[colour]]

    def opening(self, slide: float) -> Range:
        """Return the wider of the two parts of the shelf, from x to x, beside the door."""
        left, right = self.plank_x - PLANK_HALF_X, self.plank_x + PLANK_HALF_X
        door = self.slide_x - slide
        before, behind = (left, min(door, right)), (max(door + DOOR_WIDTH, left), right)
        return max(before, behind, key=lambda part: part[1] - part[0])

    def slide_handle_x(self, slide: float) -> float:
        """Return where the middle of the door's handle is."""
        return self.slide_x + SLIDE_HANDLE_X - slide


def _rgb(red: int, green: int, blue: int) -> Rgb:
    return red / 255, green / 255, blue / 255


_DARK = _rgb(121, 70, 46)
_LIGHT = _rgb(244, 196, 140)

SCENES: Final[dict[str, Layout]] = {
    "A": Layout(
        button_x=-0.28, switch_x=0.30, slide_x=-0.10, slide_range=0.28, drawer_x=0.10,
        plank_x=-0.10, table_x=(-0.20, 0.35), left_x=(-0.32, -0.16), right_x=(-0.05, 0.13),
        sizes={"red": "middle", "blue": "big", "pink": "small"},
        order=("pink", "blue", "red"), wood=_DARK, parts=_DARK,
    ),
    "B": Layout(
        button_x=0.28, switch_x=-0.32, slide_x=0.088, slide_range=0.304, drawer_x=0.18,
        plank_x=0.08, table_x=(-0.35, 0.15), left_x=(-0.12, 0.06), right_x=(0.15, 0.33),
        sizes={"red": "small", "blue": "big", "pink": "middle"},
        order=("red", "blue", "pink"), wood=_LIGHT, parts=_LIGHT,
    ),
    "C": Layout(
        button_x=-0.12, switch_x=-0.32, slide_x=0.06, slide_range=0.24, drawer_x=0.10,
        plank_x=0.08, table_x=(0.0, 0.35), left_x=(-0.12, 0.06), right_x=(0.15, 0.30),
        sizes={"red": "big", "blue": "small", "pink": "middle"},
        order=("blue", "red", "pink"), wood=_rgb(159, 108, 64), parts=_DARK,
    ),
    "D": Layout(
        button_x=-0.12, switch_x=0.30, slide_x=-0.10, slide_range=0.28, drawer_x=0.18,
        plank_x=-0.10, table_x=(0.0, 0.35), left_x=(-0.32, -0.16), right_x=(-0.05, 0.13),
        sizes={"red": "middle", "blue": "small", "pink": "big"},
        order=("red", "blue", "pink"), wood=_rgb(156, 117, 78), parts=_rgb(156, 117, 78),
    ),
}  # fmt: skip


def layout(scene: str) -> Layout:
    """Return the layout of scene "A", "B", "C" or "D"; ValueError for another."""
    if scene not in SCENES:
        raise ValueError(
            f"PlayTable has no scene {scene!r}; it has {', '.join(SCENES)}"
            f"{near_misses(str(scene).upper(), SCENES)}"
        )
    return SCENES[scene]


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraFacts:
    """A pinhole camera: vertical field of view in degrees, size (h, w) as in CALVIN."""

    fovy: float
    size: tuple[int, int]


CAMERAS: Final = {
    "static": CameraFacts(fovy=10.0, size=(200, 200)),
    "gripper": CameraFacts(fovy=75.0, size=(84, 84)),
}
STATIC_EYE: Final = (2.871459, -2.166602, 2.555160)
STATIC_LOOK_AT: Final = (-0.026242, -0.030233, 0.392000)
STATIC_UP: Final = (0.404140, 0.226298, 0.886262)
GRIPPER_EYE: Final = (-0.10, 0.0, 0.0)  # on the hand
GRIPPER_RPY: Final = (1.3, 0.0, -1.57)  # frame on the hand: looks along its y, its z down
