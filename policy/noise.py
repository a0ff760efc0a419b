"""The noise of a chunk as tensors: a function of its request's (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from telic.policy import requests as arrays
from telic.spec import ActRequest


def unit_noise(
    requests: Sequence[ActRequest], shape: tuple[int, int], num_draws: int = 1
) -> torch.Tensor:
    """Return `normal_values` f32 [num_draws B H A]."""
    return torch.from_numpy(arrays.normal_values(requests, shape, num_draws))


def uniform_values(requests: Sequence[ActRequest], count: int) -> torch.Tensor:
    """Return the `uniform_values` of requests, f32 [B count]."""
    return torch.from_numpy(arrays.uniform_values(requests, count))


def gumbel(uniform: Float[torch.Tensor, "*size"]) -> Float[torch.Tensor, "*size"]:
    """Return Gumbel noise: argmax(log p + gumbel) is a draw from p."""
    return -(-uniform.clamp_min(1e-12).log()).clamp_min(1e-12).log()
