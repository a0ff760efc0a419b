"""Voltron's image encoder, a vision transformer that was pretrained to also read a sentence.

Karamcheti et al. 2023, "Language-Driven Representation Learning for Robotics" (v-cond, ViT-S/16),
in the form in which MDT-V looks through it: under the null sentence. What the language model makes
of that is a constant, so its projected tokens are weights here and the language model is gone.

N images, P = 196 patches, L = 20 words, D = 384 width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.layers.blocks import ScaledBlock
from telic.policy.layers.norms import VOLTRON_EPS, RMSNorm
from telic.policy.layers.patches import sine_positions

SIDE, PATCH = 224, 16  # pixels; images of another size are resized
GRID = SIDE // PATCH
WIDTH, DEPTH, NUM_HEADS = 384, 12, 6
NUM_WORDS = 20  # to which sentences are padded; of the null one the first is read, the rest padding


class Voltron(nn.Module):
    """Pixels as ImageNet's are scaled, [N 3 h w], to a map of their patches [N D 14 14].

    As published, padding is masked where it asks and not where it is asked: patches attend to all
    20 words, the 19 of padding to everything alike.
    """

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patch_in = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.register_buffer("positions", sine_positions(GRID, WIDTH))
        self.null_sentence = nn.Parameter(torch.randn(NUM_WORDS, WIDTH) * 0.02)
        padding = slice(GRID**2 + 1, None)
        self.blocks = nn.ModuleList(ScaledBlock(WIDTH, NUM_HEADS, padding) for _ in range(DEPTH))
        self.norm = RMSNorm(WIDTH, VOLTRON_EPS)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d x y"]:
        """Return the map of the last layer's patches, normalised."""
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        patches = self.patch_in(pixels).flatten(2).transpose(1, 2) + self.positions
        stream = torch.cat([patches, self.null_sentence.expand(len(patches), -1, -1)], 1)
        for block in self.blocks:
            stream = block(stream)
        patch_tokens: Tensor = self.norm(stream[:, : GRID**2])
        return patch_tokens.transpose(1, 2).unflatten(-1, (GRID, GRID))
