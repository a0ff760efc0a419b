"""How near PlayTable is to the real CALVIN: recorded traces replayed, grip and mechanics measured.

    python benchmarks/playtable_fidelity.py TRACES.npz [--scene D] [--by-task]

TRACES holds, of each episode NAME recorded in CALVIN: `NAME/actions` f [T 7], `NAME/robot_obs`
f [T+1 15], `NAME/scene_obs` f [T+1 24]. Each is put into its first state and given its actions,
open loop; the first table has the absolute differences over all steps. Without TRACES only grip
and mechanics are measured. CALVIN's figures: calvin_env 797142c on PyBullet 3.2.7, 2026-11-28.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from telic.envs.playtable import layout as table
from telic.envs.playtable import panda, starts
from telic.envs.playtable.control import InverseKinematics
from telic.envs.playtable.environment import PlayTableTask
from telic.envs.playtable.facts import ROBOT, block
from telic.envs.playtable.rotations import wrapped
from telic.envs.playtable.world import World
from telic.spec import Array

QUANTILES: Final = (50, 95, 99, 100)
WIDTHS: Final = (38.5, 39.4, 39.8, 40.0, 40.1)  # mm, CALVIN's, by step of closing
ABOVE: Final = np.array([0.05, -0.15, 0.60, np.pi, 0.0, np.pi / 2])  # a pose to hold a block at
LIFTS: Final = tuple(
    f"lift_{c}_block_{p}" for c in table.COLOURS for p in ("table", "slider", "drawer")
)
STROKE: Final = 9  # steps of each of the four strokes
NEWTONS: Final = np.arange(0.1, 12.0, 0.1)

Series = dict[str, Array]


# traces ---------------------------------------------------------------------------------------


def replay(world: World, actions: Array, robot: Array, scene: Array) -> Series:
    """Return what differs from a recorded episode, quantity -> [T]; m and rad."""
    world.reset(robot[0], scene[0])
    found = []
    for action in actions:
        world.step(action)
        found.append(np.concatenate([world.robot_obs(), world.scene_obs()]))
    ours, real = np.array(found), np.concatenate([robot, scene], axis=1)[1:]
    apart = np.abs(ours - real)
    blocks = (ours - real)[:, 21:].reshape(-1, 3, 6)[:, :, :3]
    return {
        "joints, worst of seven (rad)": np.abs(wrapped((ours - real)[:, 7:14])).max(1),
        "gripper width (mm)": 1000 * apart[:, 6],
        "tcp (mm)": 1000 * np.linalg.norm((ours - real)[:, :3], axis=1),
        **{f"{name} (mm)": 1000 * apart[:, 15 + i] for i, name in enumerate(table.JOINTS)},
        "blocks, worst of three (mm)": 1000 * np.linalg.norm(blocks, axis=2).max(1),
    }


def episodes(path: Path) -> dict[str, tuple[Array, Array, Array]]:
    """Return name -> actions [T 7], robot_obs [T+1 15], scene_obs [T+1 24] of a trace file."""
    with np.load(path) as arrays:
        names = sorted({key.rsplit("/", 1)[0] for key in arrays.files})
        kinds = ("actions", "robot_obs", "scene_obs")
        if not names or any(f"{name}/{kind}" not in arrays for name in names for kind in kinds):
            raise SystemExit(f"{path}: expected NAME/actions, NAME/robot_obs and NAME/scene_obs")
        read = {name: [arrays[f"{name}/{kind}"] for kind in kinds] for name in names}
    return {n: (a.astype(float), r.astype(float), s.astype(float)) for n, (a, r, s) in read.items()}


def replay_all(path: Path, scene: str) -> dict[str, Series]:
    """Return what differs in each episode of a trace file."""
    world = World(scene)
    return {name: replay(world, *arrays) for name, arrays in episodes(path).items()}


def print_traces(found: dict[str, Series], console: Console) -> None:
    """Print the quantiles over all steps of the episodes given."""
    table = Table(
        "differs from CALVIN by",
        *("max" if q == 100 else f"p{q}" for q in QUANTILES),
        title=f"{len(found)} episodes, open loop",
    )
    for quantity in next(iter(found.values())):
        values = np.concatenate([series[quantity] for series in found.values()])
        digits = 3 if "rad" in quantity else 1
        table.add_row(quantity, *(f"{v:.{digits}f}" for v in np.percentile(values, QUANTILES)))
    console.print(table)


# grip -----------------------------------------------------------------------------------------


def robot_at(pose: Array, width: float, gripper: float) -> Array:
    """Return the robot_obs [15] of a tool at `pose` [6], by the arm's inverse kinematics."""
    robot, kinematics = starts.neutral_robot_obs(), InverseKinematics()
    for _ in range(20):
        robot[7:14] = kinematics.joints(pose[:3], pose[3:], robot[7:14])
    robot[:6], robot[6], robot[14] = pose, width, gripper
    return robot


def closing_widths(colour: str = "blue", steps: int = 15) -> Array:
    """Return the gripper's width in mm at each step of closing on a block on the desk."""
    world = World("D")
    scene, plan = starts.calvin_scene_obs(world.layout, np.random.default_rng(3)), world.layout
    pose = ABOVE.copy()
    pose[2] = 0.466
    first = 6 + 6 * plan.order.index(colour)
    for index in range(3):  # the others far from it
        scene[6 + 6 * index : 12 + 6 * index] = [0.2 + 0.1 * index, -0.05, 0.46, 0, 0, np.pi / 2]
    scene[first : first + 6] = [*pose[:2], 0.46, 0, 0, pose[5]]
    world.reset(robot_at(pose, 0.08, 1.0), scene)
    for _ in range(5):
        world.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    widths = []
    for _ in range(steps):
        world.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
        widths.append(1000 * world.robot_obs()[6])
    return np.array(widths)


def holding(colour: str) -> World:
    """Return a world whose hand has held a block in the air for half a second."""
    world = World("D")
    scene = starts.calvin_scene_obs(world.layout, np.random.default_rng(3))
    first = 6 + 6 * world.layout.order.index(colour)
    scene[first : first + 6] = [*ABOVE[:3], 0, 0, ABOVE[5]]
    world.reset(robot_at(ABOVE, table.BLOCK_WIDTH, -1.0), scene)
    for _ in range(15):
        world.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    return world


def in_hand(world: World, colour: str) -> Array:
    """Return where a block's middle is in the frame of the hand, m."""
    data = world._data
    hand = data.body("hand")
    place: Array = hand.xmat.reshape(3, 3).T @ (data.body(block(colour)).xpos - hand.xpos)
    return place


def strokes(colour: str, axis: int, speed: float) -> tuple[bool, float]:
    """Return whether a block is held through four strokes, and how far it slipped at most, mm.

    axis 1: across the fingers; 0: along the way in which they close.
    """
    world = holding(colour)
    before, slip = in_hand(world, colour), 0.0
    for direction in (-1, 1, -1, 1):  # to the front first, where nothing is
        action = np.array([0, 0, 0, 0, 0, 0, -1.0])
        action[axis] = direction * speed
        for _ in range(STROKE):
            world.step(action)
            slip = max(slip, 1000 * float(np.linalg.norm(in_hand(world, colour) - before)))
    return ROBOT in world.facts().blocks[colour].touches, slip


def lifts(scene: str, each: int = 5) -> list[tuple[float, float]]:
    """Return of expert lifts: smallest width while the block is held, and at success, mm."""
    found = []
    for task in LIFTS:
        env = PlayTableTask(task, scene=scene)
        colour = task.split("_")[1]
        for seed in range(each):
            obs, _ = env.reset(seed=seed)
            act, widths = env.expert().act, []
            for _ in range(env.max_steps):
                obs, _, _, over, info = env.step(act(obs))
                if ROBOT in env.world.facts().blocks[colour].touches and env.world.gripper < 0:
                    widths.append(1000 * float(env.world.robot_obs()[6]))
                if over or info["success"]:
                    break
            if info["success"]:
                found.append((min(widths), widths[-1]))
    return found


def opening_steps() -> int:
    """Return after how many steps closed fingers are 90 % open."""
    world = World("D")
    world.reset(robot_at(ABOVE, 0.0, -1.0))
    for step in range(1, 30):
        world.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
        if world.robot_obs()[6] >= 0.9 * 2 * panda.FINGER_RANGE:
            return step
    return 30


# mechanics ------------------------------------------------------------------------------------


def _table_with(**values: float) -> World:
    """Return a world with the blocks on the shelf and joints as given, the arm out of the way."""
    world = World("D")
    scene = np.zeros(24)
    for index, x in enumerate((-0.32, -0.24, 0.08)):
        scene[6 + 6 * index : 12 + 6 * index] = [x, 0.09, 0.461, 0, 0, np.pi / 2]
    for name, value in values.items():
        scene[table.JOINTS.index(name)] = value
    world.reset(scene_obs=scene)
    return world


HOLD: Final = np.array([0, 0, 0, 0, 0, 0, 1.0])


def pushed(world: World, joint: str, newtons: float, steps: int) -> tuple[Array, Array]:
    """Return a joint's positions and speeds [steps] under a steady force."""
    dof = world._model.joint(joint).dofadr[0]
    world._data.qfrc_applied[dof] = newtons
    places, speeds = [], []
    for _ in range(steps):
        world.step(HOLD)
        places.append(world.facts().joints[joint])
        speeds.append(float(world._data.qvel[dof]))
    return np.array(places), np.array(speeds)


def ramp(world: World, joint: str, direction: int, far: float) -> float:
    """Return the force at which a joint has moved so far, N; it grows by 0.1 N a step from 0."""
    start = world.facts().joints[joint]
    for newtons in NEWTONS:
        place = pushed(world, joint, direction * float(newtons), 1)[0][-1]
        if direction * (place - start) >= far:
            return float(newtons)
    return float("inf")


def break_away(direction: int) -> float:
    """Return the growing force that moves the switch by 1 mm up (1) or down (-1), N."""
    return ramp(_table_with(switch=0.04), "switch", direction, 0.001)


def press() -> float:
    """Return the growing force that presses the button to 10 mm, N."""
    return ramp(_table_with(), "button", 1, 0.01)


def top_speed(joint: str, newtons: float = 6.0) -> float:
    """Return the highest speed, m/s, that a steady force gives a joint from 0 to its other end."""
    return float(pushed(_table_with(), joint, newtons, 45)[1].max())


def coast(joint: str, speed: float = 0.3) -> float:
    """Return how far, in mm, a joint goes on alone."""
    world = _table_with(**{joint: 0.05})
    world._data.qvel[world._model.joint(joint).dofadr[0]] = speed
    return 1000 * float(pushed(world, joint, 0.0, 45)[0][-1] - 0.05)


def rest_height(place: str) -> float:
    """Return the height of a block's middle at rest on "desk", "shelf" or in "drawer", m."""
    world = World("D")
    scene = np.zeros(24)
    scene[1] = 0.2
    for index, pose in enumerate(((0.1, -0.08, 0.461), (0.18, -0.26, 0.363), (-0.24, 0.09, 0.462))):
        scene[6 + 6 * index : 12 + 6 * index] = [*pose, 0, 0, np.pi / 2]
    world.reset(scene_obs=scene)
    for _ in range(60):
        world.step(HOLD)
    return float(world.scene_obs()[8 + 6 * ("desk", "drawer", "shelf").index(place)])


def touch_range() -> float:
    """Return the largest gap above the desk, in mm by tenths, at which a block touches it."""
    reach = 0.0
    for gap in np.arange(0.1, 2.0, 0.1):
        world, scene = World("D"), np.zeros(24)
        for index in range(3):
            scene[6 + 6 * index : 12 + 6 * index] = [0.1 * index, -0.05, 0.46, 0, 0, 0]
        scene[8] += gap / 1000
        world.reset(scene_obs=scene)
        if world.facts().blocks[world.layout.order[0]].touches:
            reach = float(gap)
    return reach


def _strokes_row(axis: int, speed: float) -> str:
    found = [strokes(colour, axis, speed) for colour in table.COLOURS]
    return f"{sum(h for h, _ in found)} of 3, {max(slip for _, slip in found):.1f}"


def _lifts_row() -> str:
    found = lifts("D")
    smallest = min(width for width, _ in found)
    middle = np.median(found, axis=0)
    return f"{smallest:.1f}; {middle[0]:.1f} / {middle[1]:.1f} ({len(found)})"


ROWS: Final[dict[str, tuple[str, Callable[[], str]]]] = {
    "closing on a 40 mm block, mm by step": (
        " ".join(map(str, WIDTHS)),
        lambda: " ".join(f"{w:.1f}" for w in closing_widths(steps=5)),
    ),
    "full-speed strokes across the fingers: held, slip mm": (
        "3 of 3, 2",
        lambda: _strokes_row(1, 1.0),
    ),
    "the same, along their way": ("", lambda: _strokes_row(0, 1.0)),
    "across, 0.6 of the speed: held, slip mm": ("3 of 3, 0.9", lambda: _strokes_row(1, 0.6)),
    "45 lifts: smallest; median of smallest / at success, mm": ("; 39.9 / 40.5", _lifts_row),
    "opening to 90 %, steps": ("4", lambda: str(opening_steps())),
    "switch breaks away, N up / down": (
        "6.3 / 2.2",
        lambda: f"{break_away(1):.1f} / {break_away(-1):.1f}",
    ),
    "drawer, slider: m/s under 6 N": (
        "0.43 / 0.80",
        lambda: f"{top_speed('drawer'):.2f} / {top_speed('slide'):.2f}",
    ),
    "drawer, slider: coast from 0.3 m/s, mm": (
        "46 / 17",
        lambda: f"{coast('drawer'):.0f} / {coast('slide'):.0f}",
    ),
    "button at 10 mm, N": ("2.8", lambda: f"{press():.1f}"),
    "block at rest: desk, shelf, drawer, m": (
        ".4600 .4610 .3623",
        lambda: " ".join(f"{rest_height(p):.4f}"[1:] for p in ("desk", "shelf", "drawer")),
    ),
    "a touch reaches, mm": ("0.6 to 0.8", lambda: f"{touch_range():.1f}"),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, nargs="?")
    parser.add_argument("--scene", default="D", help="of the traces")
    parser.add_argument(
        "--by-task", action="store_true", help="a table for each task of the traces"
    )
    arguments = parser.parse_args()
    console = Console()
    if arguments.traces is not None:
        found = replay_all(arguments.traces, arguments.scene)
        print_traces(found, console)
        tasks = sorted({name.split("/")[0] for name in found}) if arguments.by_task else []
        for task in tasks:
            console.print(f"[bold]{task}")
            print_traces({n: s for n, s in found.items() if n.split("/")[0] == task}, console)
    table = Table("grip and mechanics", "CALVIN", "PlayTable")
    for name, (real, measure) in ROWS.items():
        table.add_row(name, real, measure())
    console.print(table)


if __name__ == "__main__":
    main()
