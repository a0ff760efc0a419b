"""Many visual tokens to a few: MDT-V's perceiver resampler.

Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (appendix A.1.1), in
the form of MDT-V's released code.

B samples, O frames, P tokens of a frame, K latents, D width of tokens, C width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.layers.attention import attend, join_heads, split_heads
from telic.policy.layers.feed_forward import feed_forward
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class PerceiverConfig:
    """A perceiver; the defaults suit the small policies."""

    latents: int = 3  # tokens that come out, K
    depth: int = 2  # layers
    num_heads: int = 4  # attention heads
    head_width: int = 32  # width of an attention head, C
    positions: bool = True  # tokens get their place in the image; some towers add it themselves
    # projection to the policy's width at the output, not at the input (MDT-V)
    projects_last: bool = False
    place: ClassVar[str] = "policy.images.perceiver"  # or policy.goal.image.perceiver

    def __post_init__(self) -> None:
        counts = ("latents", "depth", "num_heads", "head_width")
        require_range(self, *counts, at_least=1, prefix="policy.images.perceiver.")

    @classmethod
    def published(cls) -> PerceiverConfig:
        """Return the published size: 11.8 M parameters at a width of 384."""
        return cls(depth=6, num_heads=8, head_width=64, positions=False, projects_last=True)

    def build(self, width: int, num_frames: int) -> Perceiver:
        """Return the network with random weights."""
        if self.positions and width % 4:
            raise ValueError(
                f"policy.denoiser.width={width} must be a multiple of 4 for "
                "policy.images.perceiver.positions; switch them off or change the width"
            )
        return Perceiver(self, width, num_frames)


class Perceiver(nn.Module):
    """Learned latents that gather from all tokens and from each other."""

    def __init__(self, config: PerceiverConfig, width: int, num_frames: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.latents, width))
        self.frame_positions = nn.Parameter(torch.randn(num_frames, width) * 0.02)
        self.layers = nn.ModuleList(PerceiverLayer(config, width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "b o p d"]) -> Float[Tensor, "b k d"]:
        """Return the latents after the last layer, normalised."""
        inputs = (tokens + self.frame_positions[:, None]).flatten(1, 2)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(latents, inputs)
        resampled: Tensor = self.norm(latents)
        return resampled


class PerceiverLayer(nn.Module):
    """Attention of the latents to [tokens, latents], then a feed-forward network; no biases."""

    def __init__(self, config: PerceiverConfig, width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        inner = config.num_heads * config.head_width
        self.token_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, inner, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward(width, 4 * width)

    def forward(
        self, latents: Float[Tensor, "b k d"], tokens: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b k d"]:
        """Return the latents after this layer."""
        normed = self.latent_norm(latents)
        inputs = torch.cat([self.token_norm(tokens), normed], 1)
        projected = [self.to_queries(normed), *self.to_keys_values(inputs).chunk(2, -1)]
        q, k, v = (split_heads(part, self.num_heads) for part in projected)
        latents = latents + self.to_out(join_heads(attend(q, k, v)))
        y: Tensor = latents + self.feed_forward(self.forward_norm(latents))
        return y


def grid_positions(
    rows: int, columns: int, width: int, device: torch.device
) -> Float[Tensor, "p d"]:
    """Return a vector for each place of a map, row by row: sines and cosines of row and column.

    A quarter of the width each, at frequencies from 1 down to 1/10000.
    """
    steps = torch.linspace(0, 1, width // 4, device=device)
    frequencies = torch.exp(-math.log(10000) * steps)
    row, column = (torch.arange(n, device=device)[:, None] * frequencies for n in (rows, columns))
    waves = [
        torch.cat([row.sin(), row.cos()], -1)[:, None].expand(-1, columns, -1),
        torch.cat([column.sin(), column.cos()], -1)[None].expand(rows, -1, -1),
    ]
    return torch.cat(waves, -1).flatten(0, 1)
