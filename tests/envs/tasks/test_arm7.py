"""The seven-joint arm: kinematics and servos against known truths, its experts, its refusals."""

import numpy as np
import pytest

from telic.envs import registry
from telic.envs.tasks.arm7 import HIGH, HOME, LOW, POSES, flange, servo


def test_the_flange_is_where_the_links_put_it() -> None:
    upright = np.zeros(7)
    np.testing.assert_allclose(
        flange(upright), [0.088, 0, 0.333 + 0.316 + 0.384 - 0.107], atol=1e-12
    )
    turned = np.array([np.pi / 2, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(flange(turned), [0, 0.088, 0.926], atol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(20):  # the last joint only turns the flange; the first one the whole arm
        angle = rng.uniform(LOW, HIGH)
        other = angle + np.eye(7)[6]
        np.testing.assert_allclose(flange(angle), flange(other), atol=1e-12)
        around = flange(angle + 0.3 * np.eye(7)[0])
        assert np.hypot(*around[:2]) == pytest.approx(np.hypot(*flange(angle)[:2]))


def test_servos_do_not_depend_on_the_tick() -> None:
    angle, speed, target = HOME, np.ones(7), np.zeros(7)
    whole = servo(angle, speed, target, 0.1)
    for _ in range(4):
        angle, speed = servo(angle, speed, target, 0.025)
    np.testing.assert_allclose(angle, whole[0])
    np.testing.assert_allclose(speed, whole[1])
    np.testing.assert_allclose(servo(angle, speed, target, 10.0)[0], target, atol=1e-9)


@pytest.mark.parametrize("name", POSES)
def test_experts_take_the_pose(name: str) -> None:
    env = registry.make(f"arm7/{name}")
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        expert = env.expert()
        success = False
        for _ in range(env.max_steps):
            obs, _, _, truncated, info = env.step(expert.act(obs))
            success = success or info["success"]
        assert success and truncated, seed


def test_poses_differ_and_lie_within_limits() -> None:
    poses = [np.array(pose) for pose, _ in POSES.values()]
    for pose in poses:
        assert (pose > LOW).all() and (pose < HIGH).all()
        assert sum(np.abs(pose - other).max() < 0.5 for other in poses) == 1
    sentences = [sentence for _, known in POSES.values() for sentence in known]
    assert len(set(sentences)) == len(sentences)


def test_refusals_are_one_line() -> None:
    with pytest.raises(ValueError, match="arm7 has no camera 'corner2'; it is not drawn"):
        registry.make("arm7/raise", cameras=["corner2"])
    with pytest.raises(ValueError, match="max_steps=0 must be at least 1"):
        registry.make("arm7/raise", max_steps=0)
    with pytest.raises(ValueError, match=r"unknown task 'arm7/raised'; did you mean arm7/raise"):
        registry.make("arm7/raised")
