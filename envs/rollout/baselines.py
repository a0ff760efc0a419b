"""Policies that need no training, to measure others and the machinery against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telic.spec import ActionChunk, ActRequest, Interface


@dataclass(kw_only=True, slots=True)
class RandomPolicy:
    """A `ChunkPolicy` whose actions are uniform within their bounds, a function of (seed, step)."""

    interface: Interface
    obs_horizon: int = 1
    action_horizon: int = 8

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one random chunk per request."""
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: ActRequest) -> ActionChunk:
        rng = np.random.default_rng([request.seed, request.step])
        spec = self.interface.action
        low = -1.0 if spec.minimum is None else spec.minimum
        high = 1.0 if spec.maximum is None else spec.maximum
        actions = rng.uniform(low, high, (self.action_horizon, spec.shape[0] or 0))
        return ActionChunk(
            actions=actions.astype(np.float32),
            t_obs_ns=request.observation.t_obs_ns,
            dt_ns=round(1e9 / self.interface.rate_hz),
        )
