"""DTR: each noise level has its own channels, by a fixed rule without parameters.

Park et al. 2024, "Denoising Task Routing for Diffusion Models" (ICLR), equations 3-5: of D
channels the n = floor(beta D) from round((D - n) (t / (T - 1))^alpha) on are active at timestep t,
in every block; the others go around the block: out = block(m * x) + (1 - m) * x. Noisy timesteps
use the last channels, and as alpha is 4 most of the clean ones share the first.

Sigma becomes a timestep by the nearest ln(sigma) among those of the 1000-step squared-cosine DDPM
(ddpm.py), which is monotone: 0.006 and below is t = 0, 80 is t = 991.

S noise levels, B samples, T tokens, D width, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from telic.policy.diffusion.ddpm import Betas, nearest_timestep
from telic.policy.routing.dense import DenseLayer
from telic.policy.routing.routing import NoiseLevels, Routes, Routing, RoutingConfig
from telic.ranges import require_range

NUM_TIMESTEPS = 1000  # T


@dataclass(kw_only=True, slots=True)
class DtrRoutingConfig(RoutingConfig):
    """The published settings."""

    name: str = "dtr"
    beta: float = 0.8  # share of the channels that are active
    alpha: float = 4.0  # exponent; above 1 clean timesteps share more channels than noisy ones

    def __post_init__(self) -> None:
        require_range(self, "beta", above=0, at_most=1, prefix="policy.denoiser.routing.")
        require_range(self, "alpha", above=0, prefix="policy.denoiser.routing.")

    def build(self, num_layers: int, width: int, hidden: int) -> DtrRouting:
        """Return the routing, which has no weights."""
        return DtrRouting(num_layers, width, self.beta, self.alpha)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> DtrLayer:
        """Return one SwishGLU of the whole hidden width."""
        return DtrLayer(width, hidden, dropout)


class DtrRouting(Routing[Tensor]):
    """The route of every layer is the mask [S 1 D] of each sample's noise level."""

    masks: Tensor

    def __init__(self, num_layers: int, width: int, beta: float, alpha: float) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.register_buffer("masks", channel_masks(width, beta, alpha).float(), persistent=False)

    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes[Tensor]:
        """Return the same mask for all layers."""
        return Routes(layers=[self.masks[timesteps(levels.sigma)].unsqueeze(1)] * self.num_layers)


class DtrLayer(DenseLayer[Tensor, Tensor]):
    """A dense feed-forward in a masked block."""

    def mask(
        self, x: Float[Tensor, "b t d"], route: Float[Tensor, "s _t d"]
    ) -> Float[Tensor, "s _t d"]:
        """Return the route itself."""
        return route.to(x.dtype)


def timesteps(sigma: Float[Tensor, " s"]) -> Tensor:
    """Return the timestep 0..T-1 [S] that each sigma counts as."""
    return nearest_timestep(sigma, Betas.squared_cosine, NUM_TIMESTEPS)


def channel_masks(
    num_channels: int, beta: float, alpha: float, num_timesteps: int = NUM_TIMESTEPS
) -> Bool[Tensor, "t d"]:
    """Return True where a channel is active at a timestep."""
    active = math.floor(beta * num_channels + 1e-9)  # 0.8 * 10 is 8
    time = torch.arange(num_timesteps, dtype=torch.float64) / (num_timesteps - 1)
    start = ((num_channels - active) * time**alpha).round().unsqueeze(-1)
    channel = torch.arange(num_channels)
    return (channel >= start) & (channel < start + active)
