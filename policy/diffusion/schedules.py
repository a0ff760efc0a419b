"""Noise schedules: the list of sigmas that a sampler walks down, its last entry being 0.

Each returns f32 [num_steps + 1], computed in float64. The first three go from sigma_max to
sigma_min and then to 0; the others have ends of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.diffusion.ddpm import Betas, timestep_sigmas

Sigmas = Float[Tensor, " levels"]


class Spacing(Enum):
    """Which n of T timesteps are visited; the names of diffusers (`timestep_spacing`).

    Its DPM-Solver picks n + 1 and leaves out the last, 0; its other schedulers pick n.
    """

    leading = "leading"  # multiples of T // n: ends at 0, begins below T - 1
    linspace = "linspace"  # evenly from T - 1 to 0
    trailing = "trailing"  # T - 1 and down by T / n: ends above 0
    solver_leading = "solver_leading"  # multiples of T // (n + 1), without 0
    solver_linspace = "solver_linspace"  # evenly from T - 1 to 0, without 0; RDT's


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


def flow(num_steps: int, sigma_max: float, shift: float = 1.0) -> Sigmas:
    """Return sigma_max and then evenly spaced flow times t = sigma / (1 + sigma) down to 0.

    shift: t is replaced by shift t / (1 + (shift - 1) t) (Esser et al. 2024, SD3, equation 23),
    which is sigma times shift; above 1 it moves the levels towards noise.
    """
    start = sigma_max / shift
    t = torch.linspace(start / (1 + start), 0, num_steps + 1, dtype=torch.float64)[:-1]
    return _finished(shift * t / (1 - t))


def discrete(num_steps: int, spacing: Spacing, betas: Betas, num_timesteps: int) -> Sigmas:
    """Return the sigmas of `timesteps` in the beta schedule of a DDPM."""
    chosen = timesteps(num_steps, spacing, num_timesteps)
    return _finished(timestep_sigmas(betas, num_timesteps)[chosen])


def timesteps(num_steps: int, spacing: Spacing, num_timesteps: int) -> list[int]:
    """Return the timesteps that are visited, falling; ValueError where there are too few."""
    n, total = num_steps, num_timesteps
    solver = spacing in (Spacing.solver_leading, Spacing.solver_linspace)
    if n > (most := total - solver):
        raise ValueError(
            f"sampling.steps={n} must be at most {most} with spacing={spacing.value} of "
            f"num_timesteps={total}"
        )
    if spacing is Spacing.trailing:
        gap = total - (total - total / n)  # with the rounding of numpy's arange, as diffusers has
        return [round(total - i * gap) - 1 for i in range(n)]
    points = n + solver
    if spacing in (Spacing.leading, Spacing.solver_leading):
        rising = [i * (total // points) for i in range(points)]
    else:
        gap = (total - 1) / max(points - 1, 1)
        rising = [round(i * gap) for i in range(points)]
    return rising[::-1][:n]


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
