"""EDM: what the network sees at noise level sigma, what it must answer, how sigma is drawn.

Karras et al. 2022, table 1, with D(x; sigma) = c_skip x + c_out F(c_in x, sigma). The network F
gets sigma itself (MoDE and MDT apply ln(sigma)/4 on their own). All arithmetic is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]


class TrainingPair(NamedTuple):
    """network_input, target: f32 [B H A]; the network is trained to answer target."""

    network_input: Tensor
    target: Tensor


@dataclass(kw_only=True, slots=True)
class EdmConfig:
    """EDM preconditioning and its training density of sigma."""

    sigma_data: float = 0.5  # std of normalised actions
    sigma_min: float = 0.001  # the training density is cut off here ...
    sigma_max: float = 80.0  # ... and here
    density_scale: float = 0.5  # of the log-logistic density, whose median is sigma_data

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"formulation.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} "
                "must satisfy 0 < sigma_min < sigma_max"
            )
        for name in ("sigma_data", "density_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"formulation.{name}={getattr(self, name)} must be positive")

    def build(self) -> Edm:
        """Return the formulation."""
        return Edm(self)


class Edm:
    """The formulation; holds nothing but its config."""

    def __init__(self, config: EdmConfig) -> None:
        self.config = config

    def denoise(
        self, network: Network, x: Float[Tensor, "b h a"], sigma: Float[Tensor, " s"]
    ) -> Float[Tensor, "b h a"]:
        """Return D(x; sigma), the estimate of the clean chunk. sigma: [B], or [1] for all."""
        c_skip, c_out, c_in = scalings(sigma[:, None, None], self.config.sigma_data)
        return c_skip * x + c_out * network(c_in * x, sigma).float()

    def draw_sigma(
        self, count: int, generator: torch.Generator | None, device: torch.device
    ) -> Float[Tensor, " b"]:
        """Return `count` sigmas of the truncated log-logistic density on `device`, f32."""
        config = self.config
        location = math.log(config.sigma_data)
        low, high = (
            1 / (1 + math.exp((location - math.log(sigma)) / config.density_scale))
            for sigma in (config.sigma_min, config.sigma_max)
        )
        share = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        quantile = low + (high - low) * share
        return torch.exp(location + config.density_scale * torch.logit(quantile)).float()

    def training_pair(
        self,
        clean: Float[Tensor, "b h a"],
        noise: Float[Tensor, "b h a"],
        sigma: Float[Tensor, " b"],
    ) -> TrainingPair:
        """Return what the network is shown of `clean + sigma * noise` and what it must answer."""
        sigma = sigma[:, None, None]
        c_skip, c_out, c_in = scalings(sigma, self.config.sigma_data)
        noisy = clean + sigma * noise
        return TrainingPair(c_in * noisy, (clean - c_skip * noisy) / c_out)


def scalings(sigma: Float[Tensor, "*size"], sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return c_skip, c_out, c_in, each shaped like sigma (EDM, table 1)."""
    total = sigma.square() + sigma_data**2
    root = total.rsqrt()
    return sigma_data**2 / total, sigma * sigma_data * root, root


def squared_error(
    answer: Float[Tensor, "b h a"],
    target: Float[Tensor, "b h a"],
    mask: Bool[Tensor, "b h"] | None = None,
) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error, f32.

    An action outside `mask` (past the end of its episode) counts as without error, so every real
    action weighs the same whichever window it is seen in.
    """
    error = (answer.float() - target).square().mean(-1)
    if mask is not None:
        error = error * mask
    return error.mean(-1)
