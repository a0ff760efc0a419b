"""Goals of PlayTable by picture: an expert goes ahead, and the episode does not notice."""

from typing import Any

import numpy as np
import pytest

from telic.envs import registry
from telic.envs.playtable.protocol import evaluation_chains
from telic.envs.playtable.world import World
from telic.envs.rollout.goals import EpisodeGoals, GoalChoice
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from telic.envs.task import GoalPictures, image_specs
from telic.spec import Array

from .test_chain_task import doable

SIZE = (48, 48)


def test_what_is_done_aside_leaves_no_trace() -> None:
    def after(aside: bool) -> list[Array]:
        world = World("D")
        world.reset(seed=3)
        rng = np.random.default_rng(0)
        states = []
        for step in range(60):
            if aside and step % 20 == 10:
                with world.aside():
                    for _ in range(30):  # closes and opens the gripper, presses on
                        world.step(
                            np.append(rng_aside.uniform(-1, 1, 6), rng_aside.choice([-1, 1]))
                        )
            world.step(np.append(rng.uniform(-1, 1, 6), 1.0 if step < 30 else -1.0))
            states += [world.robot_obs(), world.scene_obs(), world.target.copy()]
        return states

    rng_aside = np.random.default_rng(1)
    for one, other in zip(after(aside=False), after(aside=True), strict=True):
        assert np.array_equal(one, other)


def roll(env: Any, number: int, draw: bool) -> tuple[Array, list[GoalPictures], bool]:
    """Return the states of a chain done by its expert, and each goal's pictures if they are."""
    env.draw_images = False
    obs, info = env.reset(seed=number)
    expert, states, goals = env.expert(), [], []
    for _ in range(env.max_steps):
        if draw and env.goals_reached == len(goals):
            goals.append(env.draw_goal())
        obs, _, _, _, info = env.step(expert.act(obs))
        states.append(obs["state"])
        if info["success"]:
            break
    return np.stack(states), goals, bool(info["success"])


@pytest.mark.usefixtures("pictures")
def test_a_chain_is_the_same_with_and_without_its_goals_drawn() -> None:
    env = registry.make("playtable/lh_mtlc", cameras=("static", "gripper"), image_size=SIZE)
    plain, _, done = roll(env, 5, draw=False)
    seen, goals, _ = roll(env, 5, draw=True)
    assert done and np.array_equal(plain, seen)
    assert [goal.reached for goal in goals] == [True] * 5
    assert all(goal.images[c].shape == (*SIZE, 3) for goal in goals for c in ("static", "gripper"))
    _, again, _ = roll(env, 5, draw=True)
    for one, other in zip(goals, again, strict=True):
        assert all(np.array_equal(one.images[c], other.images[c]) for c in one.images)


@pytest.mark.usefixtures("pictures")
def test_the_picture_of_a_task_shows_it_done() -> None:
    env: Any = registry.make("playtable/turn_on_led", cameras=("static",), image_size=(200, 200))
    env.reset(seed=1)
    before = env.world.scene_obs()
    start = env.picture("static", (200, 200))
    goal = env.draw_goal()
    assert goal.reached
    assert np.array_equal(env.world.scene_obs(), before) and not env.world.facts().led
    assert np.array_equal(env.picture("static", (200, 200)), start)
    env.world.reset(env.world.robot_obs(), np.concatenate([before[:5], [1.0], before[6:]]))
    lit = env.picture("static", (200, 200)).astype(int)
    changed = np.abs(lit - start.astype(int)).max(2) > 60  # the LED alone
    assert 2 < changed.sum() < 400
    shown = goal.images["static"].astype(int)
    assert np.abs(shown - lit)[changed].mean() < np.abs(shown - start)[changed].mean() / 4


def test_each_link_is_given_a_picture_of_its_own(chains: str) -> None:
    import symbolic_table

    interface = symbolic_table.INTERFACE
    policy = symbolic_table.WaitAndDoPolicy()
    policy.interface = type(interface)(
        state=interface.state,
        action=interface.action,
        rate_hz=interface.rate_hz,
        images=image_specs(["static"], (8, 8)),
    )
    whole = next(number for number in range(13) if doable(number) == 5)
    given_up = next(number for number in range(13) if doable(number) < 5)
    jobs = [EpisodeJob(task=chains, seed=number) for number in (whole, given_up)]
    config = RolloutConfig(num_workers=0, envs_per_worker=1, max_steps=8)
    goals = EpisodeGoals(choice=GoalChoice.both)
    results = {r.seed: r for r in run_rollouts(jobs, policy, config, goals=goals)}
    assert len(results[whole].goal_steps) == 5
    first = [request for request in policy.requests if request.seed == whole]
    shown = [int(request.goal.images["static"][0, 0, 0]) for request in first]
    assert shown == [1, 2, 3, 4, 5]  # the table counts what was done on it
    assert [result.goals_unreached for result in results.values()] == [0, 1]
    asked: list[str] = []
    stored = EpisodeGoals(
        choice=GoalChoice.both,
        stored=lambda task, number: asked.append(task) or {},  # type: ignore[func-returns-value]
    )
    list(run_rollouts(jobs[:1], policy, config, goals=stored))
    assert asked == [f"playtable/{task}" for task in evaluation_chains()[whole].tasks]
