"""A simulated scene and the numpy arm as robots, in a time of their own."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from telic.envs.registry import make
from telic.envs.rendering import choose_backend
from telic.envs.task import image_specs
from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.replay import Timing, replay
from telic.real_robot.robot import ROBOTS, robot_config, robot_schema
from telic.real_robot.simulated import MetaWorldConfig
from telic.real_robot.simulated_arm import ArmConfig, arm_interface
from telic.spec import ActionChunk, ActRequest, Interface

DRAWER = make("drawer-open-v3").interface


class Restless:
    """A policy whose actions are drawn at random within the bounds."""

    obs_horizon, action_horizon = 1, 6

    def __init__(self, interface: Interface) -> None:
        self.interface, self.rng = interface, np.random.default_rng(0)

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        return [
            ActionChunk(
                actions=np.stack([self.interface.action.sample(self.rng) for _ in range(6)]),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=round(NS / self.interface.rate_hz),
            )
            for request in requests
        ]


@pytest.mark.parametrize("name", ROBOTS)
def test_every_robot_does_what_the_loop_relies_on(name: str) -> None:
    clock = FakeClock(t_ns=5 * NS)
    config, needs = robot_schema(name).small()
    robot = config.build(needs, clock)
    needs.require(robot.interface, "the policy", f"robot {name}")
    robot.connect()
    rng = np.random.default_rng(0)
    held = robot.hold()
    assert held.dtype == np.float32 and held.shape == robot.interface.action.shape
    for _ in range(20):
        clock.advance(round(NS / robot.control_hz))
        reading = robot.read()
        assert reading.t_obs_ns == clock.now_ns()
        assert (
            replace(robot.interface.state, minimum=None, maximum=None).problem(reading.state)
            is None
        )
        robot.command(robot.interface.action.sample(rng))
    before = robot.read().state.copy()
    robot.command(robot.interface.action.sample(rng))
    clock.advance(round(NS / robot.control_hz))
    assert (robot.read().state != before).any()
    robot.hold()
    robot.stop()
    assert isinstance(robot.report(), dict)


@pytest.mark.parametrize("name", ROBOTS)
def test_every_robot_is_driven_by_the_control_loop(name: str) -> None:
    clock = FakeClock(t_ns=5 * NS)
    config, needs = robot_schema(name).small()
    robot = config.build(needs, clock)
    timing = Timing(latency_ns=lambda: NS // 50)
    summary = replay(robot, Restless(robot.interface), clock, timing, duration_s=1.0, goal="go")
    assert not summary["ended"]["failed"], summary["ended"]
    assert summary["ticks"] >= robot.control_hz - 1  # and those in which it comes to rest
    assert isinstance(summary["robot"], dict)


def test_the_scene_moves_one_step_per_command_and_starts_anew_when_its_time_is_up() -> None:
    config = MetaWorldConfig(task="drawer-open-v3", seed=7, max_steps=5)
    scene = config.build(DRAWER, FakeClock())
    env = make("drawer-open-v3", max_steps=5)
    scene.connect()
    action = np.array([0.5, -0.5, 0.2, 1.0], np.float32)
    for episode in range(3):
        state = env.reset(seed=7 + episode)[0]["state"]
        for _ in range(5):
            reading = scene.read()
            assert (reading.state == state).all() and reading.episode == episode
            state = env.step(action)[0]["state"]
            scene.command(action)
    report = scene.report()
    assert (report["timeouts"], report["successes"], report["steps"]) == (3, 0, 15)


def test_the_scene_begins_anew_at_success() -> None:
    scene = MetaWorldConfig(task="drawer-open-v3").build(DRAWER, FakeClock())
    scene.connect()
    expert = scene._env.expert()
    while (reading := scene.read()).episode == 0:
        scene.command(expert.act({"state": reading.state}))
    assert scene.report()["successes"] == 1
    assert scene.report()["timeouts"] == 0


def test_holding_moves_no_hand_and_keeps_the_gripper() -> None:
    scene = MetaWorldConfig().build(DRAWER, FakeClock())
    scene.connect()
    scene.command(np.array([1.0, 0.0, 0.0, 0.7], np.float32))
    assert scene.hold().tolist() == pytest.approx([0.0, 0.0, 0.0, 0.7])


def test_a_scene_shows_the_cameras_that_are_needed_one_a_tick() -> None:
    if choose_backend() is None:
        pytest.skip("no library for off-screen rendering is installed")
    full = DRAWER
    images = image_specs(["corner2"], (32, 48)) | image_specs(["gripperPOV"], (24, 24))
    needs = Interface(
        state=make("reach-v3", state="robot").interface.state,
        action=full.action,
        rate_hz=full.rate_hz,
        images=images,
    )
    scene = MetaWorldConfig(task="reach-v3").build(needs, FakeClock())
    needs.require(scene.interface, "the policy", "robot metaworld")
    scene.connect()
    seen = [scene.read()]
    for _ in range(2):
        scene.command(np.array([1.0, 1.0, 1.0, 0.0], np.float32))
        seen.append(scene.read())
    for camera, spec in images.items():
        assert spec.problem(seen[0].images[camera]) is None
        changes = [(a.images[camera] != b.images[camera]).any() for a, b in pairwise(seen)]
        assert sum(changes) == 1  # two ticks, two cameras in turn
    scene.stop()


def test_the_arm_moves_as_a_critically_damped_servo_at_any_rate() -> None:
    def angle_after(rate_hz: int) -> float:
        clock = FakeClock()
        arm = ArmConfig().build(arm_interface(), clock)
        arm.connect()
        arm.command(np.array([1.0, 0.5], np.float32))
        for _ in range(rate_hz // 10):
            clock.advance(NS // rate_hz)
            state = arm.read().state
        return float(state[0])

    w = 2 * np.pi * 4.0
    expected = 1 - (1 + w * 0.1) * np.exp(-w * 0.1)
    assert angle_after(10) == pytest.approx(expected, abs=1e-6)
    assert angle_after(500) == pytest.approx(expected, abs=1e-6)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_steps=0"):
        MetaWorldConfig(max_steps=0)
    with pytest.raises(ValueError, match="did you mean reach-v3"):
        robot_config("metaworld", {"task": "reach-v4"})
