"""DDPM: discrete timesteps of a beta schedule, where the network predicts x0, noise or v.

Ho et al. 2020; v: Salimans and Ho 2022. A network trained so sees
x_t = sqrt(abar) x0 + sqrt(1 - abar) noise, which is c_in x with sigma = sqrt((1 - abar) / abar).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from telic.policy.diffusion.formulation import Formulation, FormulationConfig, Scalings
from telic.ranges import require_range


class Betas(Enum):
    """How beta grows with the timestep."""

    squared_cosine = "squared_cosine"  # Nichol and Dhariwal 2021, betas cut at 0.999; RDT's
    linear = "linear"  # 1e-4 to 0.02, Ho et al. 2020
    scaled_linear = "scaled_linear"  # the same with evenly spaced square roots


class PredictionType(Enum):
    """What the network predicts, by diffusers' names."""

    sample = "sample"  # x0; RDT's
    epsilon = "epsilon"  # the noise
    v_prediction = "v_prediction"  # sqrt(abar) noise - sqrt(1 - abar) x0


@dataclass(kw_only=True, slots=True)
class DdpmConfig(FormulationConfig):
    """The defaults are RDT's published training."""

    name: str = "ddpm"
    num_timesteps: int = 1000  # timesteps, T
    betas: Betas = Betas.squared_cosine  # how beta grows with the timestep
    prediction_type: PredictionType = PredictionType.sample  # what the network predicts

    def __post_init__(self) -> None:
        require_range(self, "num_timesteps", at_least=2, at_most=1e5, prefix="policy.formulation.")

    def build(self) -> Ddpm:
        """Return the formulation."""
        return Ddpm(self)


class Ddpm(Formulation):
    """The formulation; holds its config and the lowest and highest sigma of its timesteps."""

    def __init__(self, config: DdpmConfig) -> None:
        self.config = config
        sigmas = timestep_sigmas(config.betas, config.num_timesteps)
        self.lowest, self.highest = float(sigmas[0]), float(sigmas[-1])

    def network_sigma(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return sigma; beyond the first and last timestep the network is given these.

        Schedules in sigma may go beyond (0.001 is below the first of each beta schedule), where a
        network that reads sigma, and not a timestep, would have to guess.
        """
        return sigma.clamp(self.lowest, self.highest)

    def scalings(self, sigma: Float[Tensor, "*size"]) -> Scalings:
        """Return c_skip, c_out and c_in."""
        c_in = (1 + sigma.square()).rsqrt()
        if self.config.prediction_type is PredictionType.sample:
            return Scalings(torch.zeros_like(sigma), torch.ones_like(sigma), c_in)
        if self.config.prediction_type is PredictionType.epsilon:
            return Scalings(torch.ones_like(sigma), -sigma, c_in)
        return Scalings(c_in.square(), -sigma * c_in, c_in)

    def target(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return x0, the noise or v."""
        if self.config.prediction_type is PredictionType.sample:
            return clean
        if self.config.prediction_type is PredictionType.epsilon:
            return noise
        return (noise - sigma * clean) * (1 + sigma.square()).rsqrt()

    def draw_sigma(
        self,
        count: int,
        generator: torch.Generator | None,
        device: torch.device,
        highest: float = math.inf,
    ) -> Float[Tensor, " b"]:
        """Return the sigmas of `count` timesteps, all as likely, on `device`, f32."""
        sigmas = timestep_sigmas(self.config.betas, self.config.num_timesteps)
        steps = int((sigmas <= highest).sum())
        if not steps:
            raise ValueError(
                f"sigma_trunc={highest:.4g} must be at least that of the first timestep, "
                f"{self.lowest:.4g}"
            )
        timestep = torch.randint(steps, (count,), generator=generator, device=device)
        return sigmas.to(device)[timestep]


@cache
def timestep_sigmas(betas: Betas, num_timesteps: int) -> Float[Tensor, " t"]:
    """Return sigma of each timestep, rising, f32, computed in float64."""
    if betas is Betas.squared_cosine:

        def kept(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        values = [
            min(1 - kept((i + 1) / num_timesteps) / kept(i / num_timesteps), 0.999)
            for i in range(num_timesteps)
        ]
        beta = torch.tensor(values, dtype=torch.float64)
    elif betas is Betas.linear:
        beta = torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float64)
    else:
        beta = torch.linspace(1e-4**0.5, 0.02**0.5, num_timesteps, dtype=torch.float64).square()
    log_kept = torch.log1p(-beta).cumsum(0)  # ln abar
    return torch.sqrt(torch.expm1(-log_kept)).float()


def nearest_timestep(
    sigma: Float[Tensor, "*size"], betas: Betas, num_timesteps: int
) -> Int[Tensor, "*size"]:
    """Return the timestep whose sigma is nearest in ln(sigma)."""
    logs = timestep_sigmas(betas, num_timesteps).to(sigma.device).log()
    middles = (logs[1:] + logs[:-1]) / 2
    return torch.bucketize(sigma.log(), middles)
