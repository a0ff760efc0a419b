"""Noise schedules: the list of sigmas that a sampler walks down, its last entry being 0.

Each returns f32 [num_steps + 1], computed in float64: sigma_max first, sigma_min last but one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Sigmas = Float[Tensor, " levels"]


def exponential(num_steps: int, sigma_min: float, sigma_max: float) -> Sigmas:
    """Return sigmas evenly spaced in ln(sigma); the published default of MDT and MoDE."""
    logs = torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps, dtype=torch.float64)
    return _finished(logs.exp())


def karras(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Sigmas:
    """Return sigmas evenly spaced in sigma^(1/rho) (Karras et al. 2022, equation 5)."""
    roots = torch.linspace(
        sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps, dtype=torch.float64
    )
    return _finished(roots**rho)


def linear(num_steps: int, sigma_min: float, sigma_max: float) -> Sigmas:
    """Return sigmas evenly spaced."""
    return _finished(torch.linspace(sigma_max, sigma_min, num_steps, dtype=torch.float64))


def explicit(sigmas: Sequence[float]) -> Sigmas:
    """Return the given sigmas followed by 0; ValueError unless they fall and stay above 0."""
    levels = [*map(float, sigmas), 0.0]
    falling = all(a > b for a, b in itertools.pairwise(levels))  # False for NaN
    if len(levels) < 2 or not falling or math.isinf(levels[0]):
        raise ValueError(
            f"sigmas={list(sigmas)} must be positive and strictly falling, such as [5.0, 0.5]"
        )
    return _finished(torch.tensor(levels[:-1], dtype=torch.float64))


def _finished(sigmas: Tensor) -> Sigmas:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
