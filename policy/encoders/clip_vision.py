"""CLIP's image half, by its sizes: its weights come with a checkpoint.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from telic.ranges import require_range

HEAD = 64  # width of a head in all released sizes


@dataclass(kw_only=True, slots=True)
class ClipVisionConfig:
    """The defaults are ViT-B/16, by which MDT sees pictures of the goal."""

    side: int = 224  # side of a picture, pixels; others are resized
    patch: int = 16  # side of a patch, pixels
    width: int = 768  # token width
    layers: int = 12  # transformer blocks
    out: int = 512  # size of the output vector
    place: ClassVar[str] = "policy.images.clip"  # or policy.goal.image.clip (typed_keys.py)

    def __post_init__(self) -> None:
        sizes = ("side", "patch", "width", "layers", "out")
        require_range(self, *sizes, at_least=1, prefix="policy.images.clip.")
        if self.side % self.patch or self.width % HEAD:
            raise ValueError(
                f"policy.images.clip.side={self.side} must be a multiple of patch={self.patch}, "
                f"and policy.images.clip.width={self.width} of {HEAD}"
            )

    def build(self) -> ClipVision:
        """Return the network with random weights."""
        return ClipVision(self)


class ClipVision(nn.Module):
    """Pixels scaled as CLIP's, [N 3 h w], to the projected vector of each picture, [N C 1 1]."""

    def __init__(self, config: ClipVisionConfig) -> None:
        import transformers  # takes seconds

        super().__init__()
        self.side = config.side
        self.model = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                image_size=config.side,
                patch_size=config.patch,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.width // HEAD,
                projection_dim=config.out,
            )
        )

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 1 1"]:
        """Return the vectors, not scaled to length 1."""
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        vectors: Tensor = self.model(pixel_values=pixels).image_embeds
        return vectors[:, :, None, None]
