"""The arm's posture is CALVIN's: its solver beside PyBullet's, its joints along CALVIN's traces."""

from __future__ import annotations

from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.envs.playtable import panda
from telic.envs.playtable.control import STEP_M, STEP_RAD, InverseKinematics
from telic.envs.playtable.rotations import matrix, quaternion
from telic.envs.playtable.world import World
from telic.spec import Array

_SEED = 6  # all blocks on the shelf

# angles [7] to begin from, tool pose [6], and what PyBullet 3.2.7 returns for them as CALVIN asks
PYBULLET = (
    ([-0.8655, 0.8483, 1.8308, -2.2424, -0.9073, 1.8417, 0.7564],
     [0.0306, -0.1258, 0.504, -3.1977, -0.0052, 1.4201],
     [-0.8653, 0.8489, 1.8309, -2.2424, -0.9077, 1.8413, 0.7567]),
    ([-0.6867, 0.8894, 1.5913, -1.9385, -0.9302, 1.77, 0.6139],
     [0.1417, -0.1398, 0.4682, 3.132, 0.0176, 1.3601],
     [-0.6766, 0.9082, 1.5535, -1.9649, -0.9634, 1.8066, 0.6296]),
    ([-0.4468, 0.8379, 1.7961, -2.1452, -0.8418, 1.8214, 0.9132],
     [-0.1396, 0.0, 0.5209, -3.1422, -0.0282, 1.5709],
     [-0.4494, 0.8296, 1.8404, -2.199, -0.8271, 1.8382, 0.9758]),
    ([-0.9138, 0.7496, 1.9321, -2.1441, -0.6981, 1.7413, 0.9239],
     [0.0489, -0.1057, 0.5597, -3.1381, 0.0184, 1.1716],
     [-0.8279, 0.7261, 1.8375, -2.064, -0.7081, 1.7564, 0.8772]),
    ([-0.7415, 0.9623, 1.7126, -1.7691, -0.9145, 1.6575, 0.3024],
     [0.2358, -0.1468, 0.5807, 3.1299, -0.0999, 1.5534],
     [-0.6293, 0.9715, 1.641, -1.6213, -0.9295, 1.6373, 0.2552]),
    ([0.2729, 1.1919, 1.4282, -0.6067, -1.1537, 1.2682, 0.0812],
     [0.2888, 0.0062, 0.496, 3.1416, -0.1, 1.5708],
     [0.2274, 1.2679, 1.4181, -0.6347, -1.2028, 1.4888, 0.0844]),
)  # fmt: skip
# a tool pose asked for, and where PyBullet's joints, begun at the neutral ones, come to rest
RESTS = (
    ([0.08, -0.091, 0.496, 3.285, -0.075, 1.362], [0.0792, -0.0922, 0.4963]),
    ([0.222, -0.21, 0.569, 3.008, 0.101, 1.569], [0.2203, -0.211, 0.5687]),
    ([-0.058, -0.242, 0.605, 3.084, -0.006, 2.365], [-0.0582, -0.2414, 0.6049]),
    ([0.283, -0.141, 0.567, 3.083, -0.136, 2.346], [0.2788, -0.1427, 0.5657]),
    ([0.117, -0.243, 0.621, 3.153, 0.004, 1.955], [0.116, -0.2432, 0.6205]),
    ([-0.083, -0.12, 0.593, 3.236, -0.123, 2.044], [-0.0833, -0.1204, 0.5928]),
)


def _gone(way: Array) -> Array:
    """Return by how much CALVIN's joints turn in an action: in eight steps, at most 2 rad/s."""
    left = way.copy()
    for _ in range(8):
        left -= np.clip(0.1 * left, -2 / 240, 2 / 240)
    return way - left


def test_the_solver_returns_what_pybullet_does() -> None:
    solver = InverseKinematics()
    for start, pose, expected in PYBULLET:
        found = solver.joints(np.array(pose[:3]), np.array(pose[3:]), np.array(start))
        np.testing.assert_allclose(found, expected, atol=2.5e-3)
        unlike = np.abs(found - expected).max() / np.abs(np.subtract(expected, start)).max()
        assert unlike < 0.1


def test_absolute_poses_come_as_near_as_in_pybullet() -> None:
    world = World("D")
    for pose, rest in RESTS:
        world.reset(seed=_SEED)
        for _ in range(45):
            world.step_to(np.append(pose, 1.0))
        np.testing.assert_allclose(world.tcp()[:3], rest, atol=5e-4)
        np.testing.assert_allclose(matrix(world.tcp()[3:]), matrix(np.array(pose[3:])), atol=0.02)


def test_speed_limit_is_that_of_eight_clipped_physics_steps() -> None:
    rng = np.random.default_rng(0)
    for reach in (0.05, 0.1, 0.2, 1.0):
        measured = rng.uniform(-1, 1, 7)
        wanted = measured + rng.uniform(-reach, reach, 7)
        angles = measured.copy()
        for _ in range(8):
            angles += np.clip((wanted - angles) / 10, -2 / 240, 2 / 240)
        reached = measured + _gone(wanted - measured)
        np.testing.assert_allclose(reached, angles, atol=1e-9)


def test_joints_follow_calvins_along_its_traces(shared: Path) -> None:
    """Solver and servo from CALVIN's own joints, each action; where nothing is touched."""
    solver, apart = InverseKinematics(), []
    for actions, robot, _ in _traces(shared)[::6]:
        target = robot[0, :6].copy()
        for step, action in enumerate(actions):
            target += np.repeat([STEP_M, STEP_RAD], 3) * action[:6]
            angles = robot[step, 7:14]
            wanted = solver.joints(target[:3], target[3:], angles)
            angles = angles + _gone(wanted - angles)
            apart.append(np.abs(angles - robot[step + 1, 7:14]).max())
    assert np.percentile(apart, 50) < 5e-4
    assert np.percentile(apart, 90) < 3e-3


def test_episodes_replayed_open_loop_bend_the_elbow_as_calvin(shared: Path) -> None:
    world, apart = World("D"), []
    for actions, robot, scene in _traces(shared)[::6] + _traces(shared, "turn_off_lightbulb"):
        world.reset(robot[0], scene[0])
        for action, after in zip(actions, robot[1:], strict=True):
            world.step(action)
            apart.append(np.abs(world.robot_obs()[7:14] - after[7:14]).max())
    assert np.percentile(apart, 50) < 0.005
    assert np.percentile(apart, 90) < 0.05
    assert np.max(apart) < 0.25  # 1.02 with another null space; the fingers slip off the switch


def _traces(shared: Path, task: str = "") -> list[tuple[Array, Array, Array]]:
    """Return actions [T 7], robot_obs [T+1 15], scene_obs [T+1 24] of episodes of CALVIN."""
    kinds = ("actions", "robot_obs", "scene_obs")
    with np.load(shared / "data" / "calvin_traces.npz") as arrays:
        names = sorted({key.rsplit("/", 1)[0] for key in arrays.files if key.startswith(task)})
        read = [[arrays[f"{name}/{kind}"].astype(np.float64) for kind in kinds] for name in names]
    return [(actions, robot, scene) for actions, robot, scene in read]


def test_it_is_as_near_to_pybullet_itself(tmp_path: Path) -> None:
    bullet = pytest.importorskip("pybullet", reason="PyBullet has wheels for few Python versions")
    client = bullet.connect(bullet.DIRECT)
    try:
        arm = _PyBulletArm(bullet, client, tmp_path / "arm.urdf")
        solver, rng = InverseKinematics(), np.random.default_rng(0)
        for reach, allowed in ((0.0, 1e-6), (0.01, 1e-3), (0.05, 6e-3), (0.2, 0.02)):
            for _ in range(50):
                start = panda.NEUTRAL + rng.uniform(-0.4, 0.4, 7)
                position, euler = arm.pose(start)
                position = position + rng.uniform(-reach, reach, 3)
                euler = euler + rng.uniform(-reach, reach, 3)
                expected = arm.joints(position, euler, start)
                found = solver.joints(position, euler, start)
                np.testing.assert_allclose(found, expected, atol=allowed)
    finally:
        bullet.disconnect(client)


class _PyBulletArm:
    """The Panda in PyBullet, of bare joints, asked as CALVIN asks."""

    def __init__(self, bullet: Any, client: int, path: Path) -> None:
        self._bullet, self._client = bullet, client
        path.write_text(_urdf())
        self._arm = bullet.loadURDF(
            str(path), panda.BASE, useFixedBase=True, physicsClientId=client
        )
        self._tool = bullet.getNumJoints(self._arm, physicsClientId=client) - 1

    def _put(self, angles: Array) -> None:
        for joint, angle in enumerate(angles):
            self._bullet.resetJointState(self._arm, joint, angle, physicsClientId=self._client)

    def pose(self, angles: Array) -> tuple[Array, Array]:
        self._put(angles)
        state = self._bullet.getLinkState(
            self._arm, self._tool, computeForwardKinematics=True, physicsClientId=self._client
        )
        return np.array(state[4]), np.array(self._bullet.getEulerFromQuaternion(state[5]))

    def joints(self, position: Array, euler: Array, start: Array) -> Array:
        self._put(start)
        w, *xyz = quaternion(euler)
        sevens = [7.0] * panda.NUM_JOINTS
        angles = self._bullet.calculateInverseKinematics(
            self._arm, self._tool, list(position), [*xyz, w],
            lowerLimits=[-7.0] * panda.NUM_JOINTS, upperLimits=sevens, jointRanges=sevens,
            restPoses=list(panda.NEUTRAL), physicsClientId=self._client,
        )  # fmt: skip
        return np.clip(angles, panda.LOW, panda.HIGH)


def _urdf() -> str:
    """Return the arm's joints as a URDF, its tool the last link."""
    inertia = (
        '<inertial><mass value="1"/>'
        '<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>'
    )
    frames = [(place, (turn, 0.0, 0.0)) for place, turn, *_ in panda._CHAIN]
    frames.append(((0.0, 0.0, 0.107), (0.0, 0.0, -pi / 4)))  # the hand
    frames.append(((0.0, 0.0, panda.TCP_Z), (0.0, 0.0, 0.0)))
    text = f'<link name="link0">{inertia}</link>'
    for index, (place, turn) in enumerate(frames, start=1):
        kind = "revolute" if index <= panda.NUM_JOINTS else "fixed"
        xyz, rpy = (" ".join(map(str, numbers)) for numbers in (place, turn))
        text += (
            f'<link name="link{index}">{inertia}</link><joint name="joint{index}" type="{kind}">'
            f'<origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="0 0 1"/><parent link="link{index - 1}"/>'
            f'<child link="link{index}"/>'
            '<limit lower="-7" upper="7" effort="200" velocity="2"/></joint>'
        )
    return f'<robot name="panda">{text}</robot>'
