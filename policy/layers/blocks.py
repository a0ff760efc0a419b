"""A pre-norm transformer block with layer scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.layers.attention import SelfAttention
from telic.policy.layers.feed_forward import SwishGLU
from telic.policy.layers.norms import VOLTRON_EPS, RMSNorm

LAYER_SCALE = 0.1  # what a branch's share in the stream begins at


class ScaledBlock(nn.Module):
    """x += g1 Attention(norm x); x += g2 SwishGLU(norm x), with g a vector each.

    The block of Voltron (Karamcheti et al. 2023), from which MDT took its foresight decoder.

    `blind`: places whose queries see all tokens alike.
    """

    def __init__(self, width: int, num_heads: int, blind: slice | None = None) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, VOLTRON_EPS)
        self.attention = SelfAttention(width, num_heads, out_bias=True, blind=blind)
        self.attention_scale = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.mlp_norm = RMSNorm(width, VOLTRON_EPS)
        self.mlp = SwishGLU(width, 4 * width)
        self.mlp_scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the stream after this layer."""
        x = x + self.attention_scale * self.attention(self.attention_norm(x))
        y: Tensor = x + self.mlp_scale * self.mlp(self.mlp_norm(x))
        return y
