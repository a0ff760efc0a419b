"""How long one environment waits for a chunk when it asks alone, as a robot does."""

from __future__ import annotations

import time

import numpy as np

from telic.spec import ActRequest, ArraySpec, ChunkPolicy, Goal, Observation

WARM_UP = 10  # calls not counted: caches, kernels chosen by size
CALLS = 100
LIMIT_S = 5.0  # for a slow policy fewer calls, but at least MIN_CALLS
MIN_CALLS = 10


def chunk_latency_ms(policy: ChunkPolicy, goal: Goal | str) -> list[float]:
    """Return the duration of single `act_batch` calls at batch 1, after a warm-up.

    The observation is random within its spec: what a chunk costs does not depend on its values.
    """
    rng = np.random.default_rng(0)

    def stacked(spec: ArraySpec) -> np.ndarray:
        return np.stack([spec.sample(rng)] * policy.obs_horizon)

    observation = Observation(
        state=stacked(policy.interface.state),
        images={camera: stacked(spec) for camera, spec in policy.interface.images.items()},
    )
    goal = Goal(text=goal) if isinstance(goal, str) else goal
    request = ActRequest(observation=observation, goal=goal, episode=-1)
    durations: list[float] = []
    began = time.perf_counter()
    for call in range(WARM_UP + CALLS):
        start = time.perf_counter()
        policy.act_batch([request])
        end = time.perf_counter()
        if call >= WARM_UP:
            durations.append((end - start) * 1e3)
        if end - began > LIMIT_S and len(durations) >= MIN_CALLS:
            break
    return durations
