"""The simulated table: restores any state, moves by actions, says and shows what is there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable import panda, starts
from telic.envs.playtable.appearance import set_light
from telic.envs.playtable.control import (
    RATE_HZ,
    STEP_M,
    STEP_RAD,
    InverseKinematics,
    checked_action,
    opening,
)
from telic.envs.playtable.facts import ROBOT, BlockFacts, Facts, block
from telic.envs.playtable.motors import Motors
from telic.envs.playtable.rotations import angles_of, quaternion
from telic.envs.playtable.scene import BULB_RGBA, CONTACT, LED_RGBA, build
from telic.envs.playtable.shadows import ArmShadow
from telic.envs.rendering import SceneRenderer, load_mujoco
from telic.spec import Array, near_misses

ROBOT_OBS: Final = (
    *(f"tcp_{axis}" for axis in ("x", "y", "z", "roll", "pitch", "yaw")),
    "gripper_width",
    *(f"arm_joint_{i}_pos" for i in range(1, 8)),
    "gripper_action",
)
SCENE_OBS: Final = (
    *table.JOINTS,
    "lightbulb",
    "led",
    *(
        f"block{i}_{axis}"
        for i in (1, 2, 3)
        for axis in ("x", "y", "z", "roll", "pitch", "yaw")
    ),
)  # fmt: skip
_SLACK: Final = 0.01  # m or rad by which a recorded joint may lie beyond its limit
_LATE_S: Final = 1 / 240  # of the tool's pose in robot_obs
_MOVES: Final = (
    "target",
    "gripper",
    "_lightbulb",
    "_led",
    "_pressed",
    "_late",
)  # beside MuJoCo's data
_SINK_M: Final = 1e-5  # at a distance of exactly 0, MuJoCo 3.3 throws one box in 100 off another


class World:
    """The table of one scene with its robot, at 30 actions a second.

    A new world must be reset. `target` [6] is the pose that the arm is on its way to: position in
    m and angles about x, y, z in rad, world frame; `gripper` is +1.0 (opening) or -1.0. Pictures
    have the light of CALVIN's renderer "opengl" (its default) or "tiny" (without EGL).
    """

    def __init__(self, scene: str = "D", *, renderer: str = "opengl") -> None:
        self._light = renderer
        self._mujoco = load_mujoco()
        self._ik = InverseKinematics()
        self._renderer: SceneRenderer | None = None
        self._enter(scene)

    def _enter(self, scene: str) -> None:
        """Take up the model of a scene."""
        plan = table.layout(scene)
        self.close()
        self.scene, self.layout = scene, plan
        model: Any = copy.copy(build(scene))
        set_light(model, self._light)
        self._model, self._data = model, self._mujoco.MjData(model)
        address = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self._arm = np.array([address[f"arm_{i}"] for i in range(1, 8)])
        self._fingers = np.array([address["finger_left"], address["finger_right"]])
        self._parts = np.array([address[name] for name in table.JOINTS])
        self._blocks = {colour: address[block(colour)] for colour in table.COLOURS}
        self._block_ids = np.array([model.body(block(c)).id for c in table.COLOURS])
        self._ordered_ids = np.array([model.body(block(c)).id for c in plan.order])
        dofs = [int(model.joint(block(colour)).dofadr[0]) for colour in table.COLOURS]
        self._speeds = np.add.outer(dofs, np.arange(6))
        self._site = model.site("tcp").id
        self._motors = Motors(model, self._mujoco)
        self._lamps = model.geom("bulb").id, model.geom("led").id
        self._owners = _owners(model)

    def reset(
        self,
        robot_obs: Array | None = None,
        scene_obs: Array | None = None,
        scene: str | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Put robot and scene at rest in the states that `robot_obs` and `scene_obs` described.

        robot_obs f [15] (default: the neutral posture), scene_obs f [24] (default: parts at zero,
        blocks drawn from `seed` as CALVIN draws them), scene "A".."D" (default: the one it has).
        The arm is put by its joint angles; the pose in robot_obs follows from them. Raises
        ValueError for another length, what is not finite, or a joint outside its limits.
        """
        plan = self.layout if scene is None else table.layout(scene)
        if robot_obs is None:
            robot_obs = starts.neutral_robot_obs()
        if scene_obs is None:
            scene_obs = starts.calvin_scene_obs(plan, np.random.default_rng(seed))
        robot = _checked_robot(np.asarray(robot_obs, np.float64))
        parts = _checked_scene(np.asarray(scene_obs, np.float64), plan)
        if scene is not None and scene != self.scene:
            self._enter(scene)
        self._mujoco.mj_resetData(self._model, self._data)
        qpos = self._data.qpos
        qpos[self._arm] = np.clip(robot[7:14], panda.LOW, panda.HIGH)
        qpos[self._fingers] = np.clip(robot[6] / 2, 0.0, panda.FINGER_RANGE)
        qpos[self._parts] = np.clip(parts[:4], 0.0, plan.ranges())
        self._lightbulb, self._led = bool(parts[4] > 0.5), bool(parts[5] > 0.5)
        self._pressed = qpos[self._parts[2]] > table.LED_TOGGLES
        for colour, pose in zip(plan.order, parts[6:].reshape(3, 6), strict=True):
            address = self._blocks[colour]
            qpos[address : address + 3] = pose[:3] - [0, 0, _SINK_M]
            qpos[address + 3 : address + 7] = quaternion(pose[3:])
        self.gripper = opening(robot[14])
        self._motors.begin(self.gripper < 0)
        self._command(qpos[self._arm])
        self._mujoco.mj_forward(self._model, self._data)
        self.target = self.tcp()
        self._late = np.zeros(12)

    def step(self, action: Array) -> None:
        """Move the target by a relative action f [7] and simulate a thirtieth of a second.

        Entries 0-2 times 0.02 m and 3-5 times 0.05 rad are added to the target; entry 6 opens the
        gripper above 0 and closes it else. ValueError for another shape or what is not finite.
        """
        action = checked_action(action)
        self.target[:3] += STEP_M * action[:3]
        self.target[3:] += STEP_RAD * action[3:6]
        self._advance(action[6])

    def step_to(self, pose: Array) -> None:
        """Set the target to a pose f [7] (m, rad, gripper) and simulate as `step` does."""
        pose = checked_action(pose)
        self.target = pose[:6].copy()
        self._advance(pose[6])

    def _advance(self, gripper: float) -> None:
        self.gripper = opening(gripper)
        mujoco, model, data = self._mujoco, self._model, self._data
        measured = data.qpos[self._arm]
        wanted = self._ik.joints(self.target[:3], self.target[3:], measured)
        self._command(wanted)
        rate = self._motors.command(self.gripper < 0, data.qvel)
        self._motors.advance(data, round(rate / RATE_HZ))
        before = self._tool()  # when the last step of physics began
        mujoco.mj_kinematics(model, data)  # poses and contacts of the moment reached
        self._late = _LATE_S * rate * (before - self._tool())
        mujoco.mj_collision(model, data)
        pressed = data.qpos[self._parts[2]] > table.LED_TOGGLES
        if pressed and not self._pressed:
            self._led = not self._led
        self._pressed = pressed
        self._lightbulb = bool(data.qpos[self._parts[3]] > table.BULB_ON)

    def _command(self, angles: Array) -> None:
        self._motors.angles = angles.copy()
        self._data.ctrl[:] = panda.FINGER_RANGE if self.gripper > 0 else 0.0

    def tcp(self) -> Array:
        """Return the pose of the tool's point [6], now: m and rad, world frame."""
        return _pose(self._tool())

    def _tool(self) -> Array:
        """Return where the tool's point is and its rotation matrix, in one vector [12]."""
        data, tool = self._data, np.empty(12)
        tool[:3], tool[3:] = data.site_xpos[self._site], data.site_xmat[self._site]
        return tool

    def robot_obs(self) -> Array:
        """Return f64 [15]: tool pose 6, gripper width, joint angles 7, last gripper command.

        The pose is that of 1/240 s before, as CALVIN's: PyBullet's link states are a step old.
        """
        qpos, tool = self._data.qpos, (self._tool() + self._late).tolist()
        width = sum(qpos[self._fingers].tolist())
        arm = qpos[self._arm].tolist()
        return np.array([*tool[:3], *angles_of(tool[3:]), width, *arm, self.gripper])

    def scene_obs(self) -> Array:
        """Return f64 [24]: slide, drawer, button, switch, bulb, LED, three blocks' poses [6]."""
        data, ids = self._data, self._ordered_ids
        places, turns = data.xpos.take(ids, 0).tolist(), data.xmat.take(ids, 0).tolist()
        found = [*data.qpos[self._parts].tolist(), float(self._lightbulb), float(self._led)]
        for place, turn in zip(places, turns, strict=True):
            found += [*place, *angles_of(turn)]
        return np.array(found)

    def facts(self) -> Facts:
        """Return what the predicates of tasks read, now."""
        data, ids = self._data, self._block_ids
        touching = self._touching()
        turns = data.xmat.take(ids, 0).reshape(-1, 3, 3)
        poses = data.xpos.take(ids, 0), turns, data.qvel[self._speeds]
        blocks = {
            colour: BlockFacts(
                position=position,
                rotation=rotation,
                speed=speed,
                touches=frozenset(touching.get(block(colour), ())),
            )
            for colour, position, rotation, speed in zip(table.COLOURS, *poses, strict=True)
        }
        return Facts(
            joints=dict(zip(table.JOINTS, data.qpos[self._parts].tolist(), strict=True)),
            lightbulb=self._lightbulb,
            led=self._led,
            blocks=blocks,
            robot_touches=frozenset(touching.get(ROBOT, ())),
        )

    def _touching(self) -> dict[str, set[str]]:
        """Return who touches whom, by name, both ways."""
        found: dict[str, set[str]] = {}
        contact, owners = self._data.contact, self._owners
        pairs = zip(contact.geom.tolist(), contact.dist.tolist(), strict=True)
        near = {(owners[i], owners[j]) for (i, j), apart in pairs if apart < CONTACT["margin"]}
        for a, b in near:
            found.setdefault(a, set()).add(b)
            found.setdefault(b, set()).add(a)
        return found

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what camera "static" or "gripper" sees, u8 [h w 3], upright, size = (h, w).

        Raises ValueError for another camera, or where nothing can be drawn.
        """
        return self._drawing(camera).picture(self._data, camera, size)

    def depth(self, camera: str, size: tuple[int, int]) -> Array:
        """Return the distance along the camera's axis of what it sees, f32 [h w] in m."""
        return self._drawing(camera).depth(self._data, camera, size)

    def _drawing(self, camera: str) -> SceneRenderer:
        check_camera(camera)
        if self._renderer is None:
            self._renderer = SceneRenderer(self._model, ArmShadow(self._model, self._mujoco).add)
        self._mujoco.mj_camlight(self._model, self._data)
        bulb, led = self._lamps
        self._model.geom_rgba[bulb] = BULB_RGBA[self._lightbulb]
        self._model.geom_rgba[led] = LED_RGBA[self._led]
        return self._renderer

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the table afterwards as it was before, to the last bit, whatever is done meanwhile.

        Steps and pictures are meant; a reset may not go to another scene.
        """
        data, setting = self._data, self._motors.setting
        kept = {name: copy.copy(getattr(self, name)) for name in _MOVES}
        self._data = copy.copy(data)
        try:
            yield
        finally:
            self._data = data
            self._motors.set_again(setting)
            for name, value in kept.items():
                setattr(self, name, value)

    def close(self) -> None:
        """Free the rendering buffer; the next picture makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _pose(tool: Array) -> Array:
    """Return position and angles [6] of a position and a rotation matrix [12]."""
    return np.array([*tool[:3], *angles_of(tool[3:].tolist())])


def check_camera(camera: str) -> None:
    """Raise ValueError for a camera that the table has not."""
    if camera not in table.CAMERAS:
        raise ValueError(
            f"PlayTable has no camera {camera!r}; it has {', '.join(table.CAMERAS)}"
            f"{near_misses(camera, table.CAMERAS)}"
        )


def _owners(model: Any) -> list[str]:
    """Return for each geom the name under which facts know who it belongs to."""
    parts = {"base", "plank", *table.JOINTS, *(block(colour) for colour in table.COLOURS)}
    names = [model.body(int(body)).name for body in model.geom_bodyid]
    return [n if n in parts else "floor" if n == "world" else ROBOT for n in names]


def _check_vector(vector: Array, names: tuple[str, ...], where: str) -> None:
    if vector.shape != (len(names),):
        raise ValueError(f"{where}: shape is {vector.shape}, expected ({len(names)},)")
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: {names[int(np.argmin(np.isfinite(vector)))]} is not finite")


def _checked_robot(vector: Array) -> Array:
    _check_vector(vector, ROBOT_OBS, "robot_obs")
    if problem := panda.arm_limits_problem(vector[7:14], _SLACK):
        raise ValueError(f"robot_obs: {problem}")
    widest = 2 * panda.FINGER_RANGE
    if not -_SLACK <= vector[6] <= widest + _SLACK:
        raise ValueError(f"robot_obs: gripper_width is {vector[6]:.4g}, expected 0 to {widest:g} m")
    return vector


def _checked_scene(vector: Array, plan: table.Layout) -> Array:
    _check_vector(vector, SCENE_OBS, "scene_obs")
    for name, value, limit in zip(table.JOINTS, vector, plan.ranges(), strict=False):
        if not -_SLACK <= value <= limit + _SLACK:
            raise ValueError(f"scene_obs: {name} is {value:.4g}, expected 0 to {limit:g} m")
    return vector
