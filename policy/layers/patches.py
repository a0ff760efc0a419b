"""Pictures to patches and back, and fixed positions of patches.

B samples, V cameras, n patches a side, p pixels a patch's side, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def scaled_pixels(
    images: UInt8[Tensor, "b h w 3"], side: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b side side 3"]:
    """Return (pixel / 255 - mean) / std of the images resized to `side` pixels square."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    if pixels.shape[-2:] != (side, side):
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    centre, scale = (torch.tensor(v, device=pixels.device) for v in (mean, std))
    return (pixels.permute(0, 2, 3, 1) - centre) / scale


def to_patches(
    images: Float[Tensor, "*b side side2 c"], patch: int
) -> Float[Tensor, "*b count pixels"]:
    """Return the patches row by row, each as a vector in the order (row, column, channel)."""
    rows = images.unflatten(-3, (-1, patch)).unflatten(-2, (-1, patch))  # [... n p n p c]
    return rows.transpose(-3, -4).flatten(-5, -4).flatten(-3)


def from_patches(
    patches: Float[Tensor, "*b count pixels"], patch: int
) -> Float[Tensor, "*b side side2 c"]:
    """Return the square images whose `to_patches` these are."""
    side = round(patches.shape[-2] ** 0.5)
    rows = patches.unflatten(-1, (patch, patch, -1)).unflatten(-4, (side, side))  # [... n n p p c]
    return rows.transpose(-3, -4).flatten(-3, -2).flatten(-4, -3)


def sine_positions(side: int, width: int) -> Float[Tensor, "count width"]:
    """Return sine-cosine positions of side x side patches, row by row (He et al. 2022, MAE).

    The first half of the channels tells the column, the second the row: sines, then cosines, of the
    place times 10000^(-4 j / width).
    """
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], -1)  # [side, width / 2]
    both = torch.cat([line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)], -1)
    return both.flatten(0, 1).float()
