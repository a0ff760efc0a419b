"""PlayTable's robot: kinematics, actions as CALVIN's, states that come back as they were."""

import json
from pathlib import Path

import numpy as np
import pytest

from telic.envs.playtable import panda
from telic.envs.playtable.control import InverseKinematics
from telic.envs.playtable.layout import SCENES
from telic.envs.playtable.rotations import euler, matrix, quaternion, wrapped
from telic.envs.playtable.world import World
from telic.spec import Array

_CLEAR = 6  # a seed under which all blocks lie on the shelf, out of the arm's way


def still(gripper: float = 1.0) -> Array:
    return np.array([0, 0, 0, 0, 0, 0, gripper])


def test_angles_and_matrices_agree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        angles = rng.uniform([-3.1, -1.5, -3.1], [3.1, 1.5, 3.1])
        rotation = matrix(angles)
        np.testing.assert_allclose(euler(rotation), angles, atol=1e-9)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        w, x, y, z = quaternion(angles)
        assert rotation[0, 0] == pytest.approx(1 - 2 * (y * y + z * z))
        assert rotation[2, 1] == pytest.approx(2 * (y * z + w * x))
    for upright in (np.pi / 2, -np.pi / 2):
        rotation = matrix(np.array([0.4, upright, 1.1]))
        np.testing.assert_allclose(matrix(euler(rotation)), rotation, atol=1e-9)
    np.testing.assert_allclose(wrapped(np.array([4.0, -4.0])), [4 - 2 * np.pi, 2 * np.pi - 4])


def test_the_neutral_posture_is_calvins() -> None:
    world = World("D")
    world.reset(seed=_CLEAR)
    expected = [0.02587, -0.23131, 0.57128, 3.09045, -0.02909, 1.50014]
    np.testing.assert_allclose(world.tcp(), expected, atol=2e-5)
    hand = world._data.body("hand").xmat.reshape(3, 3)
    np.testing.assert_allclose(hand[:, 1], [0.996, -0.072, 0.051], atol=1e-3)


def test_ten_unit_steps_move_the_tool_as_far_as_calvins() -> None:
    world = World("D")
    world.reset(seed=_CLEAR)
    start = world.tcp()
    for _ in range(10):
        world.step(np.array([1, 0, 0, 0, 0, 0, 1]))
    assert world.tcp()[0] - start[0] == pytest.approx(0.174, rel=0.1)
    for _ in range(20):
        world.step(still())
    assert world.tcp()[0] - start[0] == pytest.approx(0.198, rel=0.02)
    np.testing.assert_allclose(world.tcp()[1:3], start[1:3], atol=2e-3)
    np.testing.assert_allclose(wrapped(world.tcp()[3:] - start[3:]), 0, atol=5e-3)


def test_every_axis_turns_by_its_share() -> None:
    for axis in range(3):
        world = World("D")
        world.reset(seed=_CLEAR)
        start = world.tcp()
        for _ in range(6):
            world.step(turn(axis))
        for _ in range(20):
            world.step(still())
        moved = wrapped(world.tcp()[3:] - start[3:])
        np.testing.assert_allclose(moved, 6 * 0.8 * 0.05 * np.eye(3)[axis], atol=0.01)
        np.testing.assert_allclose(world.tcp()[:3], start[:3], atol=3e-3)


def turn(axis: int) -> Array:
    """Return the action that turns by four fifths of a step about one axis."""
    action = still()
    action[3 + axis] = 0.8
    return action


def test_inverse_kinematics_find_what_forward_ones_say_and_keep_near_neutral() -> None:
    world, solver = World("D"), InverseKinematics()
    rng = np.random.default_rng(2)
    for _ in range(30):
        angles = panda.NEUTRAL + rng.uniform(-0.25, 0.25, 7)
        angles = np.clip(angles, panda.LOW, panda.HIGH)
        world.reset(robot_obs=np.concatenate([np.zeros(6), [0.08], angles, [1]]))
        pose, found = world.tcp(), panda.NEUTRAL
        for _ in range(4):
            found = solver.joints(pose[:3], pose[3:], found)
        world.reset(robot_obs=np.concatenate([np.zeros(6), [0.08], found, [1]]))
        np.testing.assert_allclose(world.tcp()[:3], pose[:3], atol=1e-3)
        np.testing.assert_allclose(matrix(world.tcp()[3:]), matrix(pose[3:]), atol=1e-3)
        assert (found >= panda.LOW).all() and (found <= panda.HIGH).all()
        assert np.abs(found - panda.NEUTRAL).max() < 0.6


def test_the_gripper_opens_and_closes_within_a_third_of_a_second() -> None:
    world = World("D")
    world.reset(seed=_CLEAR)
    for command, width in ((-0.3, 0.0), (0.2, 0.08)):  # only the sign counts
        for _ in range(10):
            world.step(still(command))
        assert world.robot_obs()[6] == pytest.approx(width, abs=2e-3)
        assert world.robot_obs()[14] == np.sign(command)


@pytest.mark.parametrize("scene", SCENES)
def test_any_state_comes_back_as_it_was(scene: str) -> None:
    world, other = World(scene), World("A")
    rng = np.random.default_rng(3)
    for seed in range(5):
        world.reset(seed=seed)
        for _ in range(25):
            world.step(np.append(rng.uniform(-1, 1, 6), rng.choice([-1.0, 1.0])))
        robot, things = world.robot_obs(), world.scene_obs()
        other.reset(robot, things, scene)
        np.testing.assert_allclose(other.robot_obs()[6:], robot[6:], atol=2e-3)
        np.testing.assert_allclose(other.tcp()[:3], world.tcp()[:3], atol=1e-6)
        np.testing.assert_allclose(other.scene_obs()[4:], things[4:], atol=2e-5)
        np.testing.assert_allclose(other.scene_obs()[:4], things[:4], atol=1e-3)
        np.testing.assert_allclose(other.target, other.tcp())


def test_calvins_initial_states_come_back(shared: Path) -> None:
    known = json.loads((shared / "data" / "calvin_initial_states_192.json").read_text())
    world = World("D")
    for state in known["states"][::16]:
        world.reset(np.array(known["robot_obs"]), np.array(state["scene_obs"]))
        np.testing.assert_allclose(world.scene_obs(), state["scene_obs"], atol=2e-5)
        np.testing.assert_allclose(world.robot_obs(), known["robot_obs"], atol=1e-4)
        for _ in range(5):
            world.step(still())
        np.testing.assert_allclose(world.scene_obs(), state["scene_obs"], atol=2e-3)


def test_the_same_actions_give_the_same_world_to_the_last_bit() -> None:
    rng = np.random.default_rng(4)
    actions = np.column_stack([rng.uniform(-1, 1, (40, 6)), rng.choice([-1.0, 1.0], 40)])
    ends = []
    for world in (World("B"), World("B")):
        for _ in range(2):
            world.reset(seed=5)
            for action in actions:
                world.step(action)
            ends.append(np.append(world.robot_obs(), world.scene_obs()))
    assert all(np.array_equal(ends[0], end) for end in ends)


def test_bad_actions_are_refused_in_one_line() -> None:
    world = World("D")
    world.reset(seed=_CLEAR)
    with pytest.raises(ValueError, match=r"action: shape is \(6,\), expected \(7,\): tcp_dx"):
        world.step(np.zeros(6))
    with pytest.raises(ValueError, match="is not finite"):
        world.step_to(np.full(7, np.nan))
