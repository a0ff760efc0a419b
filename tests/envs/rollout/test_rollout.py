"""Rollouts: one call for all, the same results on any number of workers, crashes counted apart."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from telic.envs import registry
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.demos import Describe
from telic.envs.rollout.env_worker import EnvChoice
from telic.envs.rollout.pool import ProcessPool
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult, RolloutConfig, run_rollouts
from telic.envs.task import image_specs
from telic.spec import ActionChunk, ActRequest, ArraySpec, Interface

TOY = Interface(
    state=ArraySpec(shape=(2,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


@dataclass(kw_only=True)
class Listening(RandomPolicy):
    """A random policy that keeps what it was asked."""

    asked: list[list[ActRequest]] = field(default_factory=list)

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        self.asked.append(requests)
        return RandomPolicy.act_batch(self, requests)


def outcome(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """Return results in the order of their jobs without what depends on the clock."""
    timeless = [replace(result, policy_latency_ms=[], wall_s=0.0) for result in results]
    return sorted(timeless, key=lambda result: (result.task, result.seed))


def run(jobs: list[EpisodeJob], policy: RandomPolicy, **config: object) -> list[EpisodeResult]:
    return list(run_rollouts(jobs, policy, RolloutConfig(**config)))  # type: ignore[arg-type]


def test_results_do_not_depend_on_the_number_of_workers(toy: str) -> None:
    tasks = registry.expand(["button-press-v3", "reach-v3"])
    jobs = [EpisodeJob(task=task, seed=seed) for task in tasks for seed in range(4)]
    policy = RandomPolicy(interface=registry.make(tasks[0]).interface)
    settings = {"max_steps": 25, "execute_horizon": 4}
    alone = run(jobs, policy, num_workers=0, envs_per_worker=1, **settings)
    several = run(jobs, policy, num_workers=0, envs_per_worker=3, **settings)
    two = run(jobs, policy, num_workers=2, envs_per_worker=3, **settings)
    assert outcome(alone) == outcome(several) == outcome(two)
    assert all(result.steps == 25 and result.crashed is None for result in alone)
    assert all(len(result.policy_latency_ms) == 7 for result in two)  # 6 x 4 + 1 steps


def test_one_call_answers_all_that_need_a_chunk(toy: str) -> None:
    policy = Listening(interface=TOY, action_horizon=5)
    jobs = [EpisodeJob(task=toy, seed=seed, instruction=f"job {seed}") for seed in range(7)]
    results = run(
        jobs, policy, num_workers=0, envs_per_worker=3, stop_on_success=False, max_steps=10
    )
    assert [len(requests) for requests in policy.asked] == [3, 3, 3, 3, 1, 1]
    first = policy.asked[0]
    assert [request.goal.text for request in first] == ["job 0", "job 1", "job 2"]
    assert [request.seed for request in first] == [0, 1, 2]
    assert [request.step for request in policy.asked[1]] == [5, 5, 5]
    assert policy.asked[1][0].observation.t_obs_ns == 250_000_000
    assert len({request.episode for batch in policy.asked for request in batch}) == 7
    assert len(results) == 7


def test_what_is_left_of_a_chunk_comes_with_the_next_request(toy: str) -> None:
    policy = Listening(interface=TOY, action_horizon=5)
    jobs = [EpisodeJob(task=toy, seed=seed) for seed in range(2)]
    shape = {"num_workers": 0, "envs_per_worker": 2, "stop_on_success": False, "max_steps": 10}
    run(jobs, policy, execute_horizon=3, **shape)
    assert [request.prefix for request in policy.asked[0]] == [None, None]
    for before, after in itertools.pairwise(policy.asked):
        chunks = RandomPolicy.act_batch(policy, before)
        for chunk, request in zip(chunks, after, strict=True):
            assert request.prefix is not None
            assert np.array_equal(request.prefix, chunk.actions[3:])
    policy.asked.clear()
    run(jobs, policy, **shape)
    assert [request.prefix for batch in policy.asked for request in batch] == [None] * 4


def test_an_episode_stops_at_success_if_told_to(toy: str) -> None:
    policy = RandomPolicy(interface=TOY)
    jobs = [EpisodeJob(task=toy, seed=seed) for seed in range(8)]
    stopped = outcome(run(jobs, policy, num_workers=0))
    went_on = outcome(run(jobs, policy, num_workers=0, stop_on_success=False))
    assert any(result.success for result in stopped)
    for short, long in zip(stopped, went_on, strict=True):
        assert (short.success, short.first_success_step) == (long.success, long.first_success_step)
        assert short.steps == (short.first_success_step or 20)
        assert long.steps == 20


def test_the_policy_sees_the_last_observations_and_only_those_are_drawn(toy: str) -> None:
    interface = replace(TOY, images=image_specs(["front"], (4, 6)))
    policy = Listening(interface=interface, obs_horizon=3, action_horizon=5)
    job = EpisodeJob(task=toy, seed=1)
    run([job], policy, num_workers=0, max_steps=12, stop_on_success=False)
    begin, after_five, after_ten = [batch[0].observation for batch in policy.asked]
    assert begin.state[:, 0].tolist() == [0, 0, 0]
    assert after_five.state[:, 0].tolist() == [3, 4, 5]
    assert after_ten.images["front"].shape == (3, 4, 6, 3)
    assert after_ten.images["front"][:, 0, 0, 0].tolist() == [80, 90, 100]


BREAKING = {900: "ZeroDivisionError: the toy broke (toy_tasks.py:", 930: "RuntimeError: no start"}
BREAKING |= {
    960: "step 3: the observation's state: entry (1,) is not finite",
    950: "step 3: the observation's state: shape is (3,), expected (2,)",
    940: "step 0: the observation's state: dtype is float64, expected float32",
}
KILLING = {910: "worker process died of SIGKILL", 920: "no answer for 4 s, killed"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_crash_is_counted_apart_and_the_rest_goes_on(toy: str, num_workers: int) -> None:
    broken = BREAKING if num_workers == 0 else BREAKING | KILLING
    policy = RandomPolicy(interface=TOY)
    healthy = [EpisodeJob(task=toy, seed=seed) for seed in range(8)]
    jobs = [*healthy[:4], *(EpisodeJob(task=toy, seed=seed) for seed in broken), *healthy[4:]]
    results = run(jobs, policy, num_workers=num_workers, envs_per_worker=3, timeout_s=4.0)
    crashed = {result.seed: result for result in results if result.crashed is not None}
    assert set(crashed) == set(broken)
    for seed, reason in broken.items():
        assert (crashed[seed].crashed or "").startswith(reason)
        assert not crashed[seed].success
        assert "\n" not in (crashed[seed].crashed or "")
    expected = outcome(run(healthy, policy, num_workers=0))
    assert outcome([result for result in results if result.crashed is None]) == expected


def test_a_worker_killed_from_outside_costs_one_episode(toy: str) -> None:
    policy = RandomPolicy(interface=TOY, action_horizon=1)
    jobs = [EpisodeJob(task=toy, seed=seed) for seed in range(12)]
    config = RolloutConfig(num_workers=2, envs_per_worker=2)
    results: list[EpisodeResult] = []
    with ProcessPool(2, 2, timeout_s=60) as pool:
        for result in run_rollouts(jobs, policy, config, pool):
            if not results:
                pool.worker_processes[0].kill()
            results.append(result)
    crashed = [result for result in results if result.crashed is not None]
    assert [result.crashed for result in crashed] == ["worker process died of SIGKILL"]
    assert sorted(result.seed for result in results) == list(range(12))


def test_few_episodes_are_shared_out_among_the_workers(toy: str) -> None:
    with ProcessPool(3, 4, timeout_s=60) as pool:
        for slot in range(3):
            pool.send(Describe(slot=slot, choice=EnvChoice(task=toy)))
        assert [len(worker.requests) for worker in pool._workers] == [1, 1, 1]
        assert {pool.receive().slot for _ in range(3)} == {0, 1, 2}


def test_a_pool_serves_several_runs(toy: str) -> None:
    policy = RandomPolicy(interface=TOY)
    jobs = [EpisodeJob(task=toy, seed=seed) for seed in range(6)]
    config = RolloutConfig()
    with ProcessPool(1, 2, timeout_s=60) as pool:
        first = run_rollouts(jobs, policy, config, pool)
        next(iter(first))
        first.close()  # type: ignore[attr-defined]
        again = outcome(list(run_rollouts(jobs, policy, config, pool)))
    assert again == outcome(run(jobs, policy, num_workers=0))


SCRIPT = """
import sys
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from toy_tasks import INTERFACE
jobs = [EpisodeJob(task="toy_tasks:toy/sum", seed=seed) for seed in range(10**5)]
for result in run_rollouts(jobs, RandomPolicy(interface=INTERFACE), RolloutConfig(num_workers=2)):
    print("going", flush=True)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(toy: str, stop: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == b"going\n"
        children = Path(f"/proc/{script.pid}/task/{script.pid}/children")
        workers = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
        assert len(workers) == 2
        script.send_signal(stop)
        script.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def alive(process: Path) -> bool:
    """Return whether the process exists and is more than a zombie nobody has asked about."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_does_not_fit_is_one_line(toy: str) -> None:
    job = EpisodeJob(task=toy, seed=0)
    policy = RandomPolicy(interface=TOY)
    with pytest.raises(ValueError, match=r"execute_horizon=9 must be <= the policy's action_hor"):
        run([job], policy, num_workers=0, execute_horizon=9)
    with pytest.raises(ValueError, match="unknown task 'reach-v2'; did you mean reach-v3"):
        run([EpisodeJob(task="reach-v2", seed=0)], policy, num_workers=0)
    wide = replace(TOY, state=ArraySpec(shape=(39,)))
    with pytest.raises(ValueError, match=r"state has shape \(2,\), expected \(39,\)"):
        run([job], RandomPolicy(interface=wide), num_workers=1)
    blind = replace(TOY, images=image_specs(["back"], (8, 8)))
    with pytest.raises(ValueError, match="no camera 'back'"):
        run([job], RandomPolicy(interface=blind), num_workers=0)


def test_an_action_that_is_not_finite_stops_the_run(toy: str) -> None:
    class BrokenPolicy(RandomPolicy):
        def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
            chunks = RandomPolicy.act_batch(self, requests)
            if requests[0].step > 0:
                chunks[0].actions[2] = np.nan
            return chunks

    with pytest.raises(ValueError, match=r"toy/sum seed 3 step 8: action 2 of the policy's chunk"):
        run([EpisodeJob(task=toy, seed=3)], BrokenPolicy(interface=TOY), num_workers=0)
