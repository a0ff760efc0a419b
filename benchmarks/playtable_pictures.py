"""PlayTable's pictures beside CALVIN's: mean absolute difference and brightness, side by side.

    python benchmarks/playtable_pictures.py CALVIN_PICTURES [--renderer tiny] [--out pictures.png]

CALVIN_PICTURES is a folder with calvin_scenes_ABCD_static.png (A, B over C, D; 200 x 200 pixels
each, enlarged threefold) and calvin_scene_D_rgb_gripper.png (84 x 84, enlarged to 600 x 600), both
of the neutral posture, drawn by PyBullet's TinyRenderer. Differences are in grey levels of 255.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import imageio.v3 as imageio
import numpy as np
from rich.console import Console
from rich.table import Table

from telic.envs.playtable.appearance import LIGHTS
from telic.envs.playtable.layout import CAMERAS, SCENES
from telic.envs.playtable.world import World
from telic.spec import Array

SCALE: Final = 3  # of the static camera's pictures
# x, y and yaw of the blocks that CALVIN's pictures show, read off them; height 0.46 m
BLOCKS: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "A": {"pink": (-0.1855, -0.1334, 0.92), "blue": (-0.1607, 0.0998, 0.78)},
    "B": {"red": (-0.3342, -0.1329, 0.83), "blue": (0.0471, 0.113, -1.80)},
    "C": {"blue": (0.0103, -0.1322, -0.72)},
    "D": {"red": (0.0106, -0.1326, -0.72), "blue": (-0.1616, 0.100, -0.72)},
}
AWAY: Final = (0.3, 3.0, 0.0)  # of a block that is in no picture: behind the table
Pair = tuple[str, str, Array, Array]  # scene, camera, CALVIN's picture and ours, u8 [h w 3]


def calvins(folder: Path) -> dict[tuple[str, str], Array]:
    """Return CALVIN's pictures u8 [h w 3] by scene and camera, at their own size."""
    sheet = imageio.imread(folder / "calvin_scenes_ABCD_static.png")[..., :3]
    side = SCALE * CAMERAS["static"].size[0]
    found = {}
    for index, scene in enumerate("ABCD"):
        row, column = side * (index // 2), side * (index % 2)
        enlarged = sheet[row : row + side, column : column + side]
        found[scene, "static"] = enlarged[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    gripper = imageio.imread(folder / "calvin_scene_D_rgb_gripper.png")[..., :3]
    height = CAMERAS["gripper"].size[0]
    middles = ((np.arange(height) + 0.5) * len(gripper) / height).astype(int)
    found["D", "gripper"] = gripper[np.ix_(middles, middles)]
    return found


def ours(scene: str, renderer: str) -> World:
    """Return the table in the state of CALVIN's pictures of a scene."""
    world = World(scene, renderer=renderer)
    vector = np.zeros(24)
    for index, colour in enumerate(SCENES[scene].order):
        x, y, yaw = BLOCKS[scene].get(colour, (AWAY[0], AWAY[1] + index, AWAY[2]))
        vector[6 + 6 * index : 12 + 6 * index] = [x, y, 0.46, 0, 0, yaw]
    world.reset(scene_obs=vector)
    return world


def pairs(folder: Path, renderer: str) -> list[Pair]:
    """Return CALVIN's pictures and ours of the same states."""
    found = []
    for (scene, camera), picture in calvins(folder).items():
        world = ours(scene, renderer)
        found.append((scene, camera, picture, world.picture(camera, CAMERAS[camera].size)))
        world.close()
    return found


def differences(calvin: Array, own: Array) -> tuple[float, float]:
    """Return the mean absolute difference of two pictures and how much brighter ours is."""
    apart = own.astype(float) - calvin
    return float(np.abs(apart).mean()), float(apart.mean())


def side_by_side(found: list[Pair]) -> Array:
    """Return all pictures in one, u8 [h w 3]: CALVIN's on the left, ours on the right."""
    rows = []
    for _, _, calvin, own in found:
        both = np.concatenate([calvin, own], axis=1)
        size = max(1, round(400 / len(calvin)))
        both = both.repeat(size, axis=0).repeat(size, axis=1)
        rows.append(np.pad(both, ((0, 0), (0, max(0, 840 - both.shape[1])), (0, 0)))[:, :840])
    return np.concatenate(rows)


def main() -> None:
    """Print the table and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="CALVIN's pictures")
    parser.add_argument("--renderer", default="tiny", choices=LIGHTS, help="whose light is drawn")
    parser.add_argument("--out", type=Path, help="write all pictures side by side to this file")
    arguments = parser.parse_args()
    found = pairs(arguments.folder, arguments.renderer)
    table = Table("scene", "camera", "mean absolute difference", "ours brighter by")
    for scene, camera, calvin, own in found:
        apart, brighter = differences(calvin, own)
        table.add_row(scene, camera, f"{apart:.1f}", f"{brighter:+.1f}")
    Console().print(table)
    if arguments.out:
        imageio.imwrite(arguments.out, side_by_side(found))


if __name__ == "__main__":
    main()
