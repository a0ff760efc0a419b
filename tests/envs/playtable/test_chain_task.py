"""Chains as an environment: who is asked what when, and what is reached."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from telic.envs import registry
from telic.envs.playtable.instructions import Phrases, instructions
from telic.envs.playtable.protocol import evaluation_chains, initial_states
from telic.envs.playtable.rules import TASK_RULES, State
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult, RolloutConfig, run_rollouts
from telic.spec import ActRequest

TASKS = list(TASK_RULES)
CAN = range(13)  # chains before the one that breaks the table


def act(task: str) -> np.ndarray:
    return np.array([TASKS.index(task) + 1], np.float32)


def doable(number: int) -> int:
    """Return how many of a chain's tasks come before one that the experts give up on."""
    import symbolic_table

    done = 0
    for task in evaluation_chains()[number].tasks:
        if not symbolic_table.does(task):
            break
        done += 1
    return done


def test_a_chain_goes_on_without_a_reset(chains: str) -> None:
    env: Any = registry.make(chains, max_steps=4)
    with warnings.catch_warnings():  # its advice on ranges
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
    for number in (0, 7, 999):
        chain = evaluation_chains()[number]
        resets = env._table.resets
        obs, info = env.reset(seed=number)
        assert env._table.state == chain.initial_state
        assert (obs["state"].shape, obs["state"].dtype) == ((39,), np.float32)
        for index, task in enumerate(chain.tasks):
            assert info["instruction"] == instructions(task, Phrases.held_out)[0]
            for _ in range(3):
                _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
                assert not (terminated or truncated)
            _, reward, _, truncated, info = env.step(act(task))
            assert (reward, truncated, info["goals_reached"]) == (1.0, False, index + 1)
        assert info["success"]
        assert env._table.resets == resets + 1


def test_the_limit_is_one_of_each_task(chains: str) -> None:
    env: Any = registry.make(chains, max_steps=3)
    chain = evaluation_chains()[0]
    env.reset(seed=0)
    env.step(act(chain.tasks[1]))  # of use only when it is its turn
    env.step(act(chain.tasks[0]))
    truncated = [env.step(np.zeros(1, np.float32))[3] for _ in range(3)]
    assert truncated == [False, False, True]


def test_chains_of_ones_own_and_chains_that_are_none(chains: str) -> None:
    env: Any = registry.make(chains)
    start = initial_states()[0]._asdict()
    tasks = ["open_drawer", "close_drawer", "open_drawer"]
    _, info = env.reset(seed=0, options={"initial_state": start, "tasks": tasks})
    for task in tasks:
        info = env.step(act(task))[4]
    assert info["success"]
    with pytest.raises(ValueError, match="task 1 \\(close_drawer\\) needs drawer=open"):
        env.reset(options={"initial_state": start, "tasks": ["close_drawer"]})
    with pytest.raises(ValueError, match="chain 1000 does not exist, expected 0 to 999"):
        env.reset(seed=1000)
    with pytest.raises(ValueError, match="expected one or two on the table"):
        places = State(0, 0, "left", "open", "table", "table", "table")
        env.reset(options={"initial_state": places, "tasks": tasks[1:]})


def roll(
    chains: str, numbers: Sequence[int], num_workers: int = 0, execute_horizon: int | None = None
) -> tuple[list[EpisodeResult], list[ActRequest]]:
    """Return how the policy of the symbolic table does, by number of the chain; its requests."""
    import symbolic_table

    config = RolloutConfig(
        num_workers=num_workers, envs_per_worker=4, max_steps=8, execute_horizon=execute_horizon
    )
    jobs = [EpisodeJob(task=chains, seed=number) for number in numbers]
    policy = symbolic_table.WaitAndDoPolicy()
    results = sorted(run_rollouts(jobs, policy, config), key=lambda result: result.seed)
    return results, policy.requests


@pytest.mark.parametrize("num_workers", [0, 2])
def test_chunks_end_where_a_task_is_done(chains: str, num_workers: int) -> None:
    results, _ = roll(chains, CAN, num_workers)
    lengths = [len(result.goal_steps) for result in results]
    assert lengths == [doable(number) for number in CAN]
    assert 5 in lengths and min(lengths) < 5
    for result in results:
        assert result.goal_steps == [3 * (n + 1) for n in range(len(result.goal_steps))]
        assert result.success == (len(result.goal_steps) == 5)
        assert result.steps == (15 if result.success else 3 * len(result.goal_steps) + 8)


def test_each_task_is_asked_for_anew(chains: str) -> None:
    number = next(number for number in CAN if doable(number) == 5)
    _, asked = roll(chains, [number])
    assert [request.goal.text for request in asked] == [
        instructions(task, Phrases.held_out)[0] for task in evaluation_chains()[number].tasks
    ]
    assert len({request.episode for request in asked}) == 5  # no memory of the last task
    for count, request in enumerate(asked):
        assert request.step == 3 * count
        assert request.observation.state[:, 0].tolist() == [count, count]  # nor a look back


def test_what_is_left_of_a_chunk_is_not_for_the_next_task(chains: str) -> None:
    number = next(number for number in CAN if doable(number) == 5)
    _, asked = roll(chains, [number], execute_horizon=3)
    assert len(asked) == 5  # one action of each chunk is left
    assert all(request.prefix is None for request in asked)


def test_a_broken_table_is_a_crash_with_its_reason(chains: str) -> None:
    ((result,), _) = roll(chains, [13])
    assert result.crashed is not None and "the table broke" in result.crashed
    assert not result.success
