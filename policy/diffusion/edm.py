"""EDM: unit variance in and out at every sigma (Karras et al. 2022, table 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.diffusion.formulation import Formulation, FormulationConfig, Scalings
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class EdmConfig(FormulationConfig):
    """EDM preconditioning and MDT's and MoDE's training density of sigma."""

    name: str = "edm"
    sigma_data: float = 0.5  # std of normalised actions
    sigma_min: float = 0.001  # least sigma of training
    sigma_max: float = 80.0  # largest sigma of training
    # scale of the log-logistic density of sigma, whose median is sigma_data
    density_scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"policy.formulation.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} "
                "must satisfy 0 < sigma_min < sigma_max < infinity"
            )
        require_range(self, "sigma_data", "density_scale", above=0, prefix="policy.formulation.")

    def build(self) -> Edm:
        """Return the formulation."""
        return Edm(self)


class Edm(Formulation):
    """The formulation; holds nothing but its config."""

    def __init__(self, config: EdmConfig) -> None:
        self.config = config

    def scalings(self, sigma: Float[Tensor, "*size"]) -> Scalings:
        """Return c_skip, c_out and c_in."""
        sigma_data = self.config.sigma_data
        total = sigma.square() + sigma_data**2
        root = total.rsqrt()
        return Scalings(sigma_data**2 / total, sigma * sigma_data * root, root)

    def sigma_quantile(self, share: Float[Tensor, " b"], highest: float) -> Float[Tensor, " b"]:
        """Return sigma at `share` of the truncated log-logistic density."""
        config = self.config
        if not highest > config.sigma_min:
            raise ValueError(
                f"sigma_trunc={highest:.4g} must be above policy.formulation.sigma_min="
                f"{config.sigma_min}"
            )
        location = math.log(config.sigma_data)
        low, high = (
            1 / (1 + math.exp((location - math.log(sigma)) / config.density_scale))
            for sigma in (config.sigma_min, min(config.sigma_max, highest))
        )
        quantile = low + (high - low) * share
        return torch.exp(location + config.density_scale * torch.logit(quantile))
