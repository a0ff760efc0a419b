"""Requests of many episodes to one batch, checked against what the policy was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from telic.spec import ActRequest, Array, ArraySpec, Interface


def stack_requests(
    requests: Sequence[ActRequest], interface: Interface, obs_horizon: int
) -> dict[str, Any]:
    """Return `requests` in the form of a batch of windows, on the CPU.

    Goals that a request lacks are zero and marked in `goal_state_given` (bool [B]). ValueError
    names the request and what does not fit.
    """
    state_spec = _with_horizon(interface.state, obs_horizon)
    for index, request in enumerate(requests):
        where = f"request {index} (episode {request.episode}, step {request.step})"
        state_spec.validate(request.observation.state, f"{where}: observation.state")
        if request.goal.state is not None:
            interface.state.validate(request.goal.state, f"{where}: goal.state")
    goals = [request.goal for request in requests]
    return {
        "state": torch.from_numpy(np.stack([r.observation.state for r in requests])),
        "text": [goal.text or "" for goal in goals],
        "goal_state": _fill([goal.state for goal in goals], interface.state),
        "goal_state_given": torch.tensor([goal.state is not None for goal in goals]),
    }


def unit_noise(requests: Sequence[ActRequest], shape: tuple[int, int]) -> torch.Tensor:
    """Return standard normal noise f32 [B H A]; each row a function of its (seed, step) alone."""
    rows = [
        np.random.default_rng((request.seed, request.step)).standard_normal(shape, np.float32)
        for request in requests
    ]
    return torch.from_numpy(np.stack(rows))


def _with_horizon(spec: ArraySpec, obs_horizon: int) -> ArraySpec:
    """Return the spec of `obs_horizon` stacked arrays; bounds are the sender's concern."""
    return replace(spec, shape=(obs_horizon, *spec.shape), names=(), minimum=None, maximum=None)


def _fill(arrays: Sequence[Array | None], spec: ArraySpec) -> torch.Tensor:
    blank = np.zeros([n or 0 for n in spec.shape], spec.dtype)
    return torch.from_numpy(np.stack([blank if a is None else a for a in arrays]))
