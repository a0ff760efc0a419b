"""Rollouts while training, by which the best checkpoint is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from telic.envs.registry import expand
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from telic.spec import ChunkPolicy


@dataclass(kw_only=True, slots=True)
class SelectionRollouts:
    """Which episodes; none without tasks."""

    # tasks or tags to roll out at each validation; [] for none
    tasks: list[str] = field(default_factory=list)
    episodes_per_task: int = 5  # episodes of each task
    seed: int = 100_000  # seed of the first episode; never report success on these episodes
    max_steps: int = 200  # steps of an episode
    execute_horizon: int | None = 4  # actions run of each chunk; None: all
    num_workers: int = 0  # simulator processes; 0 simulates in this one

    def measure(self, policy: ChunkPolicy) -> dict[str, float]:
        """Return success, failure rate, and the number of crashed episodes, which are neither."""
        jobs = [
            EpisodeJob(task=task, seed=self.seed + index)
            for task in expand(self.tasks)
            for index in range(self.episodes_per_task)
        ]
        rollout = RolloutConfig(
            num_workers=self.num_workers,
            execute_horizon=self.execute_horizon,
            max_steps=self.max_steps,
        )
        results = list(run_rollouts(jobs, policy, rollout))
        finished = [result.success for result in results if result.crashed is None]
        if not finished:
            raise ValueError(f"all {len(results)} selection rollouts crashed: {results[0].crashed}")
        success = float(np.mean(finished))
        return {
            "success": success,
            "failure_rate": 1 - success,
            "crashed": len(results) - len(finished),
        }
