"""The pillar: where it is touched, two ways round it, and what a rollout tells of them."""

from collections import Counter

import numpy as np
import pytest

from telic.envs import registry
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from telic.envs.tasks.detour import GOAL, PILLAR_M, START, touches
from telic.spec import ActionChunk, ActRequest, Interface


def test_a_way_touches_what_it_passes_through() -> None:
    assert touches(START, GOAL) and touches(np.zeros(2), np.zeros(2))
    for x, meets in ((PILLAR_M - 0.01, True), (PILLAR_M + 0.01, False)):
        assert touches(np.array([x, -0.8]), np.array([x, 0.8])) is meets
        assert touches(np.array([-0.8, x]), np.array([0.8, x])) is meets
    assert not touches(START, np.array([0.0, -PILLAR_M - 0.01]))


def test_experts_arrive_by_both_ways_from_the_same_starts() -> None:
    ways = Counter()
    starts = {"left": [], "right": []}
    for seed in range(60):
        env = registry.make("detour/pillar")
        obs, _ = env.reset(seed=seed)
        start = obs["state"]
        expert, success = env.expert(), False
        for _ in range(env.max_steps):
            obs, _, _, _, info = env.step(expert.act(obs))
            success = success or info["success"]
        assert success, seed
        ways[info["solution"]] += 1
        starts[info["solution"]].append(start)
    assert 18 <= ways["left"] <= 42 and ways.total() == 60 and ways.keys() == starts.keys()
    left, right = (np.mean(starts[way], 0) for way in ("left", "right"))
    assert np.abs(left - right).max() < 0.05, "the start does not tell the way"


class Straight:
    """Goes ahead, first sideways by `aside`."""

    obs_horizon, action_horizon = 1, 40

    def __init__(self, aside: float) -> None:
        self.interface: Interface = registry.make("detour/pillar").interface
        self._aside = aside

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return chunks that go aside for half a second, then ahead, and back to the middle."""
        chunks = []
        for request in requests:
            actions = np.zeros((40, 2), np.float32)
            if request.step == 0:
                actions[:10, 0] = self._aside
                actions[10:, 1] = 1
            else:
                x, y = request.observation.state[-1]
                actions[:10] = (GOAL - [x, y]) * 2
            chunks.append(ActionChunk(actions=actions, t_obs_ns=0, dt_ns=50_000_000))
        return chunks


@pytest.mark.parametrize(
    ("aside", "solution", "success"), [(1.0, "right", True), (-1.0, "left", True), (0, None, False)]
)
def test_a_rollout_tells_the_way_and_who_touched_the_pillar(
    aside: float, solution: str | None, success: bool
) -> None:
    jobs = [EpisodeJob(task="detour/pillar", seed=seed) for seed in range(3)]
    for result in run_rollouts(jobs, Straight(aside), RolloutConfig(num_workers=0)):
        assert result.success is success
        assert solution is None or result.solution == solution


def test_refusals_are_one_line() -> None:
    with pytest.raises(ValueError, match="detour has no camera 'top'; it is not drawn"):
        registry.make("detour/pillar", cameras=["top"])
    with pytest.raises(ValueError, match="max_steps=0 must be at least 1"):
        registry.make("detour/pillar", max_steps=0)
