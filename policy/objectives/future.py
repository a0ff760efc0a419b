"""The future as a picture: an optional head that denoises what the cameras will see.

After PAD (Guo et al. 2024, "Prediction with Action"), which denoises future pictures and actions in
one network, and UniDiffuser (Bao et al. 2023), which gives each modality its own noise level. Here
the head reads the policy's latent and the actions never read the head, so its noise level is
independent of theirs, acting costs what it costs without the head, and a window without actions
trains it as well as any. B samples, V cameras, n tokens a camera, C values a token, T = V n,
N latent tokens, D width of the latent, E width of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.formulation import squared_error
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.encoders.fields import Batch, camera_images
from telic.policy.encoders.towers import VisionTower
from telic.policy.layers.blocks import ScaledBlock
from telic.policy.layers.norms import RMSNorm
from telic.policy.layers.patches import from_patches, scaled_pixels, sine_positions, to_patches
from telic.policy.layers.sigma_embedding import WaveSigmaEmbedding
from telic.policy.objectives.objective import (
    Encoded,
    Objective,
    ObjectiveConfig,
    ObjectiveContext,
    future_frames,
)
from telic.ranges import require_range

HALF = (0.5, 0.5, 0.5)


class FutureTarget(Enum):
    """What of a frame is predicted."""

    pixels = "pixels"  # in [-1, 1], of the frame resized to `side`
    features = "features"  # of the policy's own vision tower, each place scaled


@dataclass(kw_only=True, slots=True)
class FutureConfig(ObjectiveConfig):
    """The defaults train on two CPU cores."""

    name: ClassVar[str] = "future"
    reads_future: ClassVar[bool] = True
    reads_pictures: ClassVar[bool] = True
    target: FutureTarget = FutureTarget.pixels  # what of a frame is predicted
    side: int = 32  # side of the predicted picture, pixels
    patch: int = 8  # side of a patch, pixels, one token each
    grid: int = 4  # tokens a side to which the tower's feature map is averaged
    width: int = 64  # token width, E
    num_layers: int = 2  # transformer blocks
    num_heads: int = 4  # attention heads
    # Its own, whatever the actions have. A picture shows through more noise than a chunk does, so
    # training draws larger sigmas too: else what the latent says is never needed, nor learned.
    edm: EdmConfig = field(default_factory=lambda: EdmConfig(density_scale=1.0))
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # sampling of `predict_future`

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        counts = ("side", "patch", "grid", "width", "num_layers", "num_heads")
        require_range(self, *counts, at_least=1, prefix="policy.future.")
        for name, divisor in (("side", self.patch), ("width", self.num_heads), ("width", 4)):
            if getattr(self, name) % divisor:
                raise ValueError(
                    f"policy.future.{name}={getattr(self, name)} must be a multiple of {divisor}"
                )

    @classmethod
    def small(cls) -> FutureConfig:
        """What tests run."""
        return cls(weight=0.5, side=16, width=16, num_layers=1, num_heads=2)

    def build(self, around: ObjectiveContext) -> Future:
        """Return the head with random weights."""
        self.need_cameras(around)
        return Future(self, around)


class Future(Objective):
    """A small transformer over [latent, sigma, future tokens].

    A token goes in with the same place of the current frame beside it, as in PAD.
    """

    positions: Tensor

    def __init__(self, config: FutureConfig, around: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.cameras = config, around.cameras
        width, tower = config.width, around.towers[0]
        if config.target is FutureTarget.pixels:
            self.grid, token_dim = config.side // config.patch, 3 * config.patch**2
        else:
            self.grid, token_dim = 1 if tower.pools else config.grid, tower.channels
        self.token_dim = token_dim
        self.register_buffer("positions", sine_positions(self.grid, width), persistent=False)
        self.camera_positions = nn.Parameter(torch.randn(len(self.cameras), 1, width) * 0.02)
        self.formulation = config.edm.build()
        self.sigma_embedding = WaveSigmaEmbedding(width)
        self.latent_in = nn.Linear(around.width, width)
        self.token_in = nn.Linear(2 * token_dim, width)
        self.blocks = nn.ModuleList(
            ScaledBlock(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(width)
        self.token_out = nn.Linear(width, token_dim)

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of the network's output, as EDM weighs it."""
        clean = self.tokens(future_frames(encoded.batch, self.cameras), encoded.towers)
        now = self.tokens(self.current(encoded.batch), encoded.towers)
        sigma = self.formulation.draw_sigma(len(clean), generator, clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        pair = self.formulation.training_pair(clean, noise, sigma)
        output = self.output(pair.network_input, sigma, now, encoded.latent)
        return squared_error(output, pair.target).mean()

    @torch.no_grad()
    def predict(self, encoded: Encoded, generator: torch.Generator) -> dict[str, Tensor]:
        """Return by camera the picture u8 [B side side 3], or the features f32 [B n C]."""
        now = self.tokens(self.current(encoded.batch), encoded.towers)
        sampling = self.config.sampling
        shape = (sampling.num_draws, *now.shape)
        noise = torch.randn(shape, generator=generator, device=now.device)

        def network(x: Tensor, sigma: Tensor) -> Tensor:
            return self.output(x, sigma, now, encoded.latent)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.formulation.denoise(network, x, sigma)

        sampled = sampling.sample(denoise, noise[0], noise[1:])
        views = sampled.unflatten(1, (len(self.cameras), -1)).unbind(1)
        if self.config.target is FutureTarget.pixels:
            views = tuple(self._picture(view) for view in views)
        return dict(zip(self.cameras, views, strict=True))

    def current(self, batch: Batch) -> list[Tensor]:
        """Return the cameras' newest frames, u8 [B h w 3] each."""
        images = camera_images(batch, "image", self.cameras)
        return [frames[:, -1] for frames in images.values()]

    @torch.no_grad()
    def tokens(
        self, frames: Sequence[Tensor], towers: Mapping[str, VisionTower]
    ) -> Float[Tensor, "b t c"]:
        """Return the cameras' frames, u8 [B h w 3] each, as what is noised and predicted."""
        config = self.config
        if config.target is FutureTarget.pixels:
            pixels = [scaled_pixels(frame, config.side, HALF, HALF) for frame in frames]
            return to_patches(torch.stack(pixels, 1), config.patch).flatten(1, 2)
        maps = [towers[c](frame).float() for c, frame in zip(self.cameras, frames, strict=True)]
        places = [F.adaptive_avg_pool2d(m, self.grid).flatten(2).transpose(1, 2) for m in maps]
        return self.config.edm.sigma_data * F.layer_norm(torch.cat(places, 1), (self.token_dim,))

    def output(
        self,
        x: Float[Tensor, "b t c"],
        sigma: Float[Tensor, " s"],
        now: Float[Tensor, "b t c"],
        latent: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b t c"]:
        """Return the network's output for scaled noisy tokens at noise level sigma, [B] or [1]."""
        with torch.autocast(x.device.type, enabled=False):
            level = self.sigma_embedding(sigma).unsqueeze(1).expand(len(x), -1, -1)
        tokens = self.token_in(torch.cat([x, now], -1))
        tokens = tokens + (self.positions + self.camera_positions).flatten(0, 1)
        stream = torch.cat([self.latent_in(latent), level, tokens], 1)
        for block in self.blocks:
            stream = block(stream)
        out: Tensor = self.token_out(self.norm(stream[:, -x.shape[1] :]))
        return out

    def _picture(self, patches: Float[Tensor, "b n c"]) -> Tensor:
        pixels = from_patches(patches, self.config.patch)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
