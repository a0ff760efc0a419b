"""Chains on the simulated table: their starts stand, and experts do the tasks in a row."""

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from telic.envs import registry
from telic.envs.playtable.chain_start import SCENE_STARTS, start_obs
from telic.envs.playtable.facts import BASE, PLANK
from telic.envs.playtable.layout import layout
from telic.envs.playtable.protocol import evaluation_chains, initial_states
from telic.envs.playtable.rules import COLOURS, TASK_RULES
from telic.envs.playtable.starts import seems_possible
from telic.envs.playtable.tasks import TASKS
from telic.envs.playtable.world import World
from telic.envs.rendering import choose_backend
from telic.envs.rollout.demos import expert_results
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig
from telic.envs.rollout.video import Camera, Film

WAIT = np.array([0, 0, 0, 0, 0, 0, 1.0])


def test_rules_and_predicates_are_of_the_same_tasks() -> None:
    assert list(TASK_RULES) == list(TASKS)


@pytest.mark.parametrize("scene", SCENE_STARTS)
def test_starts_stand_where_the_symbols_say(scene: str) -> None:
    world = World(scene)
    for state in initial_states()[::3]:
        robot_obs, scene_obs = start_obs(state, scene)
        world.reset(robot_obs, scene_obs)
        for _ in range(15):
            world.step(WAIT)
        np.testing.assert_allclose(world.scene_obs(), scene_obs, atol=0.002)  # 2 mm, 2 mrad
        facts = world.facts()
        assert (facts.led, facts.lightbulb) == (bool(state.led), bool(state.lightbulb))
        assert not facts.robot_touches
        for colour in COLOURS:
            on_table = getattr(state, f"{colour}_block") == "table"
            assert facts.blocks[colour].touches == {BASE if on_table else PLANK}


@pytest.mark.parametrize("scene", SCENE_STARTS)
def test_demonstrations_may_begin_where_chains_do(scene: str) -> None:
    for chain in evaluation_chains(200):
        _, scene_obs = start_obs(chain.initial_state, scene)
        rng = np.random.default_rng(0)
        assert seems_possible(chain.tasks[0], scene_obs, layout(scene), rng), chain


def test_experts_do_tasks_in_a_row() -> None:
    jobs = [EpisodeJob(task="playtable/lh_mtlc", seed=number) for number in range(4)]
    results = list(expert_results(jobs, RolloutConfig(num_workers=0, max_steps=360)))
    assert all(result.crashed is None for result in results)
    assert np.mean([len(result.goal_steps) for result in results]) >= 4


def test_a_film_of_a_chain_shows_the_table(tmp_path: Path) -> None:
    if choose_backend() is None:
        pytest.skip("no library for off-screen rendering is installed")
    env = registry.make("playtable/lh_mtlc")
    env.reset(seed=0)
    path, size = tmp_path / "chain.mp4", (96, 128)
    camera = Camera(Film(path=path, camera=None, size=size, every=2, fps=15.0), env)
    for _ in range(4):
        camera.step()
        env.step(WAIT)
    camera.close()
    _, *frames = imageio_ffmpeg.read_frames(str(path))
    assert len(frames) == 2
    seen = env.picture(env.film_camera, size).astype(int)
    assert np.abs(np.frombuffer(frames[-1], np.uint8).reshape(*size, 3) - seen).mean() < 10


def test_bad_settings_are_one_line() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"scene": "E"}, "'E'"),
        ({"cameras": ("top",)}, "no camera 'top'"),
        ({"language_file": "nowhere.yaml"}, "nowhere.yaml"),
    ]
    for kwargs, says in bad:
        with pytest.raises(ValueError, match=says) as error:
            registry.make("playtable/lh_mtlc", **kwargs)
        assert "\n" not in str(error.value)
