"""Masked generative foresight: the frames some steps ahead, completed from the latent.

Reuss et al. 2024, "Multimodal Diffusion Transformer: Learning Versatile Behavior from Multimodal
Goals" (MDT), in the form of its released code: a masked autoencoder whose decoder also reads the
encoded goal and observation. B samples, V cameras, n patches a camera, C pixels of a patch, N
latent tokens, D width of the latent, E width of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from telic.policy.layers.blocks import ScaledBlock
from telic.policy.layers.norms import VOLTRON_EPS, RMSNorm
from telic.policy.layers.patches import (
    CLIP_MEAN,
    CLIP_STD,
    scaled_pixels,
    sine_positions,
    to_patches,
)
from telic.policy.objectives.objective import (
    Encoded,
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
    future_frames,
)
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class ForesightConfig(ObjectiveConfig):
    """The defaults train on two CPU cores; `published` is MDT's size."""

    name: ClassVar[str] = "foresight"
    reads_future: ClassVar[bool] = True
    side: int = 48  # side of the resized frames, pixels
    patch: int = 8  # side of a patch, pixels
    width: int = 64  # token width, E
    num_layers: int = 2  # transformer blocks
    num_heads: int = 4  # attention heads
    mask_ratio: float = 0.75  # share of the patches that are masked
    mean: list[float] = field(default_factory=lambda: list(CLIP_MEAN))  # mean of pixels in [0, 1]
    # standard deviation of pixels in [0, 1]
    std: list[float] = field(default_factory=lambda: list(CLIP_STD))

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        counts = ("side", "patch", "width", "num_layers", "num_heads")
        require_range(self, *counts, at_least=1, prefix="policy.foresight.")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < s < math.inf for s in self.std):
            raise ValueError(
                f"policy.foresight.mean={list(self.mean)} and std={list(self.std)} must be three "
                "numbers each, those of std above 0"
            )
        for name, divisor in (("side", self.patch), ("width", self.num_heads), ("width", 4)):
            if getattr(self, name) % divisor:
                raise ValueError(
                    f"policy.foresight.{name}={getattr(self, name)} must be a multiple of {divisor}"
                )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"policy.foresight.mask_ratio={self.mask_ratio} must lie between 0 and 1"
            )

    def build(self, around: ObjectiveContext) -> Foresight:
        """Return the decoder with random weights."""
        self.need_cameras(around)
        return Foresight(self, around.cameras, around.width)

    @classmethod
    def small(cls) -> ForesightConfig:
        """What tests run."""
        return cls(weight=0.7, side=16, width=16, num_layers=1, num_heads=2)

    @classmethod
    def published(cls) -> ForesightConfig:
        """Return the published size and weight: 3.9 M parameters."""
        return cls(weight=1.0, side=112, patch=16, width=192, num_layers=6, num_heads=8)


class Foresight(Objective):
    """The masked decoder. Its pixels are those of `data.future_steps` ahead."""

    positions: Tensor

    def __init__(self, config: ForesightConfig, cameras: Sequence[str], latent_width: int) -> None:
        super().__init__()
        self.config, self.cameras = config, cameras
        width, pixels = config.width, 3 * config.patch**2
        grid = config.side // config.patch
        self.register_buffer("positions", sine_positions(grid, width), persistent=False)
        self.patch_in = nn.Linear(pixels, width)
        self.latent_in = nn.Linear(latent_width, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.camera_positions = nn.Parameter(torch.randn(len(cameras), 1, width) * 0.02)
        self.blocks = nn.ModuleList(
            ScaledBlock(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(width, VOLTRON_EPS)
        self.patch_out = nn.Linear(width, pixels)

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of the hidden patches' pixels."""
        target = self.target(future_frames(encoded.batch, self.cameras))
        order_noise = torch.rand(
            (len(target), len(self.positions)), generator=generator, device=target.device
        )
        order = order_noise.argsort(1)
        num_visible = int(len(self.positions) * (1 - self.config.mask_ratio))
        visible, hidden = order[:, :num_visible], order[:, num_visible:]
        completed = self.complete(_pick(target, visible), visible, encoded.latent)
        return (_pick(completed, hidden).float() - _pick(target, hidden)).square().mean()

    def target(self, frames: Sequence[Tensor]) -> Float[Tensor, "b v n c"]:
        """Return the patches of the cameras' frames, u8 [B h w 3] each, with normalised pixels."""
        config = self.config
        pixels = [scaled_pixels(f, config.side, config.mean, config.std) for f in frames]
        return to_patches(torch.stack(pixels, 1), config.patch)

    def complete(
        self,
        patches: Float[Tensor, "b v k c"],
        visible: Int[Tensor, "b k"],
        latent: Float[Tensor, "b m d"],
    ) -> Float[Tensor, "b v n c"]:
        """Return all patches, given those at `visible`, which are the same in every camera.

        As published, a visible patch gets its position twice, a hidden one once.
        """
        known = self.patch_in(patches) + self.positions[visible].unsqueeze(1)
        b, v, _, width = known.shape
        blank = self.mask_token.to(known.dtype).expand(b, v, len(self.positions), width)
        place = visible[:, None, :, None].expand(-1, v, -1, width)
        tokens = blank.scatter(2, place, known) + self.positions + self.camera_positions
        context = self.latent_in(latent)
        stream = torch.cat([context, tokens.flatten(1, 2)], 1)
        for block in self.blocks:
            stream = block(stream)
        out: Tensor = self.patch_out(self.norm(stream[:, context.shape[1] :]))
        return out.unflatten(1, (v, -1))


def _pick(patches: Tensor, places: Tensor) -> Tensor:
    """Return the patches [B V k C] of [B V n C] at `places` [B k]."""
    index = places[:, None, :, None].expand(-1, patches.shape[1], -1, patches.shape[-1])
    return patches.gather(2, index)
