"""Rollouts while training, by which the best checkpoint is chosen."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np

from telic.envs.registry import expand
from telic.envs.rollout.rollout import (
    EpisodeJob,
    RolloutConfig,
    crash_list,
    require_fit,
    run_rollouts,
)
from telic.ranges import require_range
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

    def __post_init__(self) -> None:
        counts = ("episodes_per_task", "max_steps", "execute_horizon")
        require_range(self, *counts, at_least=1, prefix="rollouts.")
        require_range(self, "seed", "num_workers", at_least=0, prefix="rollouts.")
        if self.tasks:
            try:
                expand(self.tasks)
            except ValueError as error:
                raise ValueError(f"rollouts.tasks: {error}") from error

    def require(self, policy: ChunkPolicy) -> None:
        """Raise ValueError unless `policy` can act in the tasks, of which nothing is run."""
        jobs = [EpisodeJob(task=task, seed=self.seed) for task in expand(self.tasks)]
        try:
            require_fit(jobs, policy, self._rollout())
        except ValueError as error:
            raise ValueError(f"rollouts.tasks: {error}") from error

    def _rollout(self) -> RolloutConfig:
        return RolloutConfig(
            num_workers=self.num_workers,
            execute_horizon=self.execute_horizon,
            max_steps=self.max_steps,
        )

    def measure(self, policy: ChunkPolicy) -> dict[str, float]:
        """Return success, failure rate, and the number of crashed episodes, which are neither.

        Crashes are warned of by task and seed. Where no episode finished the failure rate is
        infinite: any other checkpoint is better.
        """
        jobs = [
            EpisodeJob(task=task, seed=self.seed + index)
            for task in expand(self.tasks)
            for index in range(self.episodes_per_task)
        ]
        rollout = self._rollout()
        results = list(run_rollouts(jobs, policy, rollout))
        crashed = [result for result in results if result.crashed is not None]
        if crashed:
            listed = crash_list(crashed)
            warnings.warn(
                f"{len(crashed)} of {len(results)} selection rollouts crashed: {listed}",
                stacklevel=2,
            )
        finished = [result.success for result in results if result.crashed is None]
        if not finished:
            return {"failure_rate": math.inf, "crashed": len(crashed)}
        success = float(np.mean(finished))
        return {"success": success, "failure_rate": 1 - success, "crashed": len(crashed)}
