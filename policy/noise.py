"""The noise of a chunk: a function of its request's (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from telic.spec import ActRequest


def unit_noise(
    requests: Sequence[ActRequest], shape: tuple[int, int], num_draws: int = 1
) -> torch.Tensor:
    """Return standard normal noise f32 [num_draws B H A].

    Each request's part is a function of its (seed, step) alone; its first draws do not depend on
    how many follow.
    """
    rows = [
        np.random.default_rng((request.seed, request.step)).standard_normal(
            (num_draws, *shape), np.float32
        )
        for request in requests
    ]
    return torch.from_numpy(np.stack(rows, 1))


def uniform_numbers(requests: Sequence[ActRequest], count: int) -> torch.Tensor:
    """Return f32 [B count] in [0, 1), each row a function of its request's (seed, step) alone."""
    rows = [
        np.random.default_rng((request.seed, request.step, 1)).random(count, np.float32)
        for request in requests
    ]
    return torch.from_numpy(np.stack(rows))


def gumbel(uniform: Float[torch.Tensor, "*size"]) -> Float[torch.Tensor, "*size"]:
    """Return Gumbel noise: argmax(log p + gumbel) is a draw from p."""
    return -(-uniform.clamp_min(1e-12).log()).clamp_min(1e-12).log()
