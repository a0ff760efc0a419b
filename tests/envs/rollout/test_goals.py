"""Pictures as goals: an expert's end from the same start, kept once; pictures out of a store."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from telic.envs.rendering import choose_backend
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.env_worker import EnvChoice
from telic.envs.rollout.goals import EpisodeGoals, GoalChoice, GoalRenderer
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult, RolloutConfig, run_rollouts
from telic.envs.task import image_specs
from telic.spec import ActionChunk, ActRequest, Array, ArraySpec, Goal, Interface

TOY = Interface(
    state=ArraySpec(shape=(2,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
    images=image_specs(["front"], (4, 6)),
)
REACHED = 30  # the grey level of the toy's third step, in which its expert passes 1


@dataclass(kw_only=True)
class Given(RandomPolicy):
    """A random policy that keeps the goals that it is given, by seed of the episode."""

    goals: dict[int, list[Goal]] = field(default_factory=dict)

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        for request in requests:
            self.goals.setdefault(request.seed, []).append(request.goal)
        return RandomPolicy.act_batch(self, requests)


def run(
    toy: str, seeds: list[int], goals: EpisodeGoals | None, num_workers: int = 0
) -> tuple[Given, list[EpisodeResult]]:
    policy = Given(interface=TOY, action_horizon=5)
    config = RolloutConfig(num_workers=num_workers, envs_per_worker=2, stop_on_success=False)
    jobs = [EpisodeJob(task=toy, seed=seed) for seed in seeds]
    results = sorted(run_rollouts(jobs, policy, config, goals=goals), key=lambda r: r.seed)
    return policy, results


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_picture_is_that_of_the_moment_at_which_the_expert_succeeds(
    toy: str, num_workers: int
) -> None:
    policy, results = run(toy, [1, 7], EpisodeGoals(choice=GoalChoice.both), num_workers)
    for goal in policy.goals[1]:
        assert goal.text == "add up"
        assert np.array_equal(goal.images["front"], np.full((4, 6, 3), REACHED, np.uint8))
    assert len({id(goal.images["front"]) for goal in policy.goals[1]}) == 1
    # the expert of seed 7 gives up: it is shown as it left it, 200 steps later, and counted
    assert {int(goal.images["front"][0, 0, 0]) for goal in policy.goals[7]} == {200 * 10 % 256}
    assert [result.goals_unreached for result in results] == [0, 1]
    assert all(result.crashed is None for result in results)


def test_each_choice_gives_what_it_says_and_changes_no_episode(toy: str) -> None:
    outcomes = []
    for choice in GoalChoice:
        policy, results = run(toy, [1, 2], EpisodeGoals(choice=choice))
        goals = [goal for given in policy.goals.values() for goal in given]
        assert all((goal.text is not None) == choice.says for goal in goals)
        assert all(bool(goal.images) == choice.shows for goal in goals)
        outcomes.append([replace(r, policy_latency_ms=[], wall_s=0.0) for r in results])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    policy, _ = run(toy, [1], None)
    assert {(goal.text, len(goal.images)) for goal in policy.goals[1]} == {("add up", 0)}


def test_an_experts_pictures_are_drawn_once(toy: str, tmp_path: Path) -> None:
    folder = tmp_path / "goals"
    goals = EpisodeGoals(choice=GoalChoice.image, cache=folder)
    first, _ = run(toy, [1, 2], goals)
    (one, two) = sorted(folder.iterdir())
    assert one.name.startswith("toy_sum_1_") and two.name.startswith("toy_sum_2_")
    np.savez(one, reached=False, **{"image/front": np.full((4, 6, 3), 9, np.uint8)})
    again, results = run(toy, [1, 2], goals)
    assert {int(goal.images["front"][0, 0, 0]) for goal in again.goals[1]} == {9}
    assert np.array_equal(again.goals[2][0].images["front"], first.goals[2][0].images["front"])
    assert [result.goals_unreached for result in results] == [1, 0]

    one.write_bytes(two.read_bytes()[:50])  # damaged: drawn anew
    np.savez(two, reached=True, **{"image/front": np.zeros((2, 2, 3), np.uint8)})  # another size
    anew, _ = run(toy, [1, 2], goals)
    for seed in (1, 2):
        assert np.array_equal(
            anew.goals[seed][0].images["front"], first.goals[seed][0].images["front"]
        )
    assert sorted(folder.iterdir()) == [one, two]


def test_what_a_picture_depends_on_makes_another_file(toy: str, tmp_path: Path) -> None:
    size = EnvChoice(task=toy, cameras=("front",), image_size=(4, 6), max_steps=20)
    choices = [size, replace(size, image_size=(6, 4)), replace(size, max_steps=3)]
    for choice in choices:
        drawing = GoalRenderer(choice=choice, seed=1, cache=tmp_path)
        env = choice.make()
        env.draw_images = False
        goal = drawing.at_start(env)
        assert goal.reached and goal.images["front"].shape == (*choice.image_size, 3)
    assert len(list(tmp_path.iterdir())) == 2  # a limit on the policy is none on the expert


def test_pictures_out_of_a_store_are_chosen_by_task_and_seed(toy: str) -> None:
    asked: list[tuple[str, int]] = []

    def stored(task: str, number: int) -> dict[str, Array]:
        asked.append((task, number))
        return {"front": np.full((4, 6, 3), number, np.uint8)}

    goals = EpisodeGoals(choice=GoalChoice.image, stored=stored)
    policy, results = run(toy, [3, 4], goals)
    assert asked == [("toy/sum", 3), ("toy/sum", 4)]
    assert {int(goal.images["front"][0, 0, 0]) for goal in policy.goals[4]} == {4}
    assert [result.goals_unreached for result in results] == [0, 0]
    asked.clear()
    run(toy, [3], EpisodeGoals(choice=GoalChoice.text, stored=stored))
    assert not asked


def test_a_task_without_an_expert_is_refused_in_one_line(
    toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_tasks

    from telic.envs.task import TaskEnv

    monkeypatch.setattr(toy_tasks.ToyTask, "expert", TaskEnv.expert)
    with pytest.raises(ValueError, match=r"no scripted expert.*goal_store=STORE") as refused:
        run(toy, [1], EpisodeGoals(choice=GoalChoice.image))
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(choose_backend() is None, reason="nothing to draw pictures with")
def test_an_episode_of_metaworld_begins_as_if_no_goal_had_been_drawn() -> None:
    choice = EnvChoice(task="reach-v3", cameras=("corner2",), image_size=(32, 32))
    env = choice.make()
    env.draw_images = False
    obs, _ = env.reset(seed=5)
    start = env.pictures()["corner2"]
    goal = GoalRenderer(choice=choice, seed=5).at_start(env)
    assert goal.reached and not np.array_equal(goal.images["corner2"], start)
    again, _ = env.reset(seed=5)
    assert np.array_equal(again["state"], obs["state"])
    assert np.array_equal(env.pictures()["corner2"], start)
