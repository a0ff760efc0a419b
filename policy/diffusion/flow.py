"""Flow matching: a straight line from data to noise, x_t = (1 - t) x0 + t noise, t in [0, 1].

Lipman et al. 2023, Liu et al. 2023. The network answers the velocity noise - x0. With
sigma = t / (1 - t), x_t = (1 - t) (x0 + sigma noise): flow matching is c_in = 1 - t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.diffusion.formulation import Formulation, FormulationConfig, Scalings
from telic.ranges import require_range


class TimeDensity(Enum):
    """How training draws t."""

    uniform = "uniform"
    logit_normal = "logit_normal"  # sigmoid(N(0, 1)); Esser et al. 2024 (SD3), section 3.1
    beta = "beta"  # 1 - t_max + t_max Beta(a, 1), towards noise; Black et al. 2024 (pi0)


@dataclass(kw_only=True, slots=True)
class FlowConfig(FormulationConfig):
    """Velocity matching on the straight path."""

    name: str = "flow"
    density: TimeDensity = TimeDensity.logit_normal  # density of the flow time t in training
    logit_mean: float = 0.0  # mean of logit_normal; above 0 leans towards noise
    logit_std: float = 1.0  # standard deviation of logit_normal
    beta_a: float = 1.5  # exponent of the beta density, in proportion to t^(a-1)
    t_max: float = 0.999  # largest t; sigma is infinite at 1

    def __post_init__(self) -> None:
        require_range(self, "logit_std", "beta_a", above=0, prefix="policy.formulation.")
        require_range(self, "logit_mean", prefix="policy.formulation.")
        if not 0 < self.t_max < 1:
            raise ValueError(f"policy.formulation.t_max={self.t_max} must lie between 0 and 1")

    def build(self) -> Flow:
        """Return the formulation."""
        return Flow(self)


class Flow(Formulation):
    """The formulation; holds nothing but its config."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config

    def scalings(self, sigma: Float[Tensor, "*size"]) -> Scalings:
        """Return c_skip = c_in = 1 - t and c_out = -t."""
        rest = 1 / (1 + sigma)
        return Scalings(rest, -sigma * rest, rest)

    def target(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the velocity."""
        return noise - clean

    def sigma_quantile(self, share: Float[Tensor, " b"], highest: float) -> Float[Tensor, " b"]:
        """Return sigma at `share` of the density of t."""
        t_highest = 1 / (1 + 1 / highest)
        t = self._quantile(share * self._share_below(t_highest))
        return sigma_of(t.clamp(1e-6, min(t_highest, self.config.t_max)))

    def _quantile(self, share: Tensor) -> Tensor:
        """Return the t below which `share` of the density lies."""
        config = self.config
        if config.density is TimeDensity.logit_normal:
            normal = torch.special.ndtri(share)
            return torch.sigmoid(config.logit_mean + config.logit_std * normal)
        if config.density is TimeDensity.beta:
            return 1 - config.t_max + config.t_max * share ** (1 / config.beta_a)
        return share

    def _share_below(self, t: float) -> float:
        """Return how much of the density lies below t, in (0, 1]: `_quantile` turned round."""
        config = self.config
        if config.density is TimeDensity.logit_normal:
            logit = math.inf if t == 1 else math.log(t / (1 - t))
            return 0.5 * (1 + math.erf((logit - config.logit_mean) / config.logit_std / 2**0.5))
        if config.density is TimeDensity.beta:
            return max((t - 1) / config.t_max + 1, 0.0) ** config.beta_a
        return t


def sigma_of(t: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """Return sigma = t / (1 - t)."""
    return t / (1 - t)


def time_of(sigma: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """Return t = sigma / (1 + sigma)."""
    return sigma / (1 + sigma)
