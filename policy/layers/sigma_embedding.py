"""The noise level as a vector."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LinearSigmaEmbedding(nn.Module):
    """MoDE's: two Linear maps of ln(sigma)/4 with nothing between them, so a line in R^D.

    Sigma enters as float32; run it outside autocast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(1, width)
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the embedding of each sigma."""
        level = sigma.log().unsqueeze(-1) / 4
        embedding: Tensor = self.mix(self.expand(level))
        return embedding


class WaveSigmaEmbedding(nn.Module):
    """MDT's: sines and cosines of ln(sigma)/4 at frequencies from 1 to 1/10000, then two Linear
    maps with Mish between them.

    Sigma enters as float32; run it outside autocast.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = torch.linspace(0, 1, width // 2)
        frequencies = torch.exp(-math.log(10000) * steps)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.expand = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the embedding of each sigma."""
        phase = sigma.log().unsqueeze(-1) / 4 * self.frequencies
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        embedding: Tensor = self.mix(nn.functional.mish(self.expand(waves)))
        return embedding


class SinusoidalEmbedding(nn.Sequential):
    """SD3's and RDT's of a time, a timestep or a rate: 256 cosines and sines, Linear, SiLU, Linear.

    Run it outside autocast.
    """

    frequencies: Tensor

    def __init__(self, width: int, num_waves: int = 256) -> None:
        super().__init__(nn.Linear(num_waves, width), nn.SiLU(), nn.Linear(width, width))
        half = num_waves // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, value: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the embedding of each value, taken as it is."""
        angles = value[:, None] * self.frequencies
        embedding: Tensor = super().forward(torch.cat([angles.cos(), angles.sin()], -1))
        return embedding
