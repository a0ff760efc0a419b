"""What training learns besides actions: the interface of an auxiliary objective.

An objective is one file: a config here below `PolicyConfig`, which is built only where its weight
is above 0, and a module that turns what the policy encoded of a batch into one loss. Inference
runs none of them but the scores of anchors (truncated.py). B samples, N latent tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from telic.policy.encoders.fields import Batch, camera_images
from telic.policy.encoders.goals import GoalTokens
from telic.policy.encoders.normalizer import Normalizer
from telic.policy.encoders.towers import VisionTower
from telic.spec import FieldStats, Interface


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveContext:
    """What a policy has that an objective is built for.

    width: D; cameras: those of the observation; goals: its kinds of goal; towers: the vision tower
    of each camera, to be asked for its sizes and not to be kept; interface: the names and units of
    states and actions; action_horizon: H; action: how actions are normalised; sentence_dim,
    picture_dim: sizes of the vectors of a goal's sentence and picture, 0 where there is none;
    stats: the statistics of the stores' fields.
    """

    width: int
    cameras: Sequence[str]
    goals: Sequence[str]
    towers: Sequence[VisionTower]
    interface: Interface
    action_horizon: int
    action: Normalizer
    sentence_dim: int = 0
    picture_dim: int = 0
    stats: Mapping[str, FieldStats] = field(default_factory=dict)

    def require_heads(self, key: str, num_heads: int) -> None:
        """Raise ValueError unless `num_heads`, the value of `key`, divides the width."""
        if self.width % num_heads:
            raise ValueError(f"{key}={num_heads} must divide the denoiser's width={self.width}")


@dataclass(kw_only=True, slots=True)
class LossTerms:
    """total: what to minimise; parts: its terms by name, not weighted; both scalar tensors.

    per_sample: the diffusion loss of each sample [B M], the M draws of a window in succession;
    sigma: the noise level of each [B M]; draws: M.
    """

    total: Tensor
    parts: dict[str, Tensor]
    per_sample: Tensor
    sigma: Tensor
    draws: int = 1

    @property
    def diffusion(self) -> Tensor:
        """Return the diffusion loss."""
        return self.parts["diffusion"]


class Views(NamedTuple):
    """What the vision towers read and answered for the observations of a batch, by camera.

    frames: u8 [B O h w 3] each, as shown (resized, shifted); none where features kept beside the
    store stand in for them. maps: [B O C x y] each.
    """

    frames: list[Tensor]
    maps: list[Tensor]


NO_VIEWS = Views([], [])


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """What the policy encoded of a batch.

    latent: [B N D], `Denoiser.latent` of the context that the actions are denoised with;
    latent_of: the same context's latent with another goal token [B 1 D] in it; goals: the token of
    each kind of goal; towers: the vision tower of each camera; views: what they read and answered;
    sentence_in: what makes a token of a sentence's vector.
    """

    batch: Batch
    goals: GoalTokens
    latent: Tensor
    latent_of: Callable[[Tensor], Tensor]
    towers: Mapping[str, VisionTower]
    views: Views = NO_VIEWS
    sentence_in: Callable[[Tensor], Tensor] | None = None


class Objective(nn.Module, ABC):
    """A loss over what the policy encoded."""

    @abstractmethod
    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss, not weighted; everything random is drawn from `generator`."""


def future_frames(batch: Batch, cameras: Sequence[str]) -> list[UInt8[Tensor, ...]]:
    """Return the cameras' future frames, u8 [B h w 3] each; ValueError where there are none."""
    for camera in cameras:
        if f"future_image/{camera}" not in batch:
            raise ValueError(
                f"the windows have no future_image/{camera}; set future_steps of their config"
            )
    return list(camera_images(batch, "future_image", cameras).values())


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig(ABC):
    """What all objectives share. The published weight of both of MDT's is 1."""

    name: ClassVar[str]  # the key below `policy.` and in the log
    reads_future: ClassVar[bool] = False  # windows must hold the frames some steps ahead
    reads_pictures: ClassVar[bool] = False  # it needs the observation's pictures, not features
    weight: float = 0.0  # weight of its loss in the total; 0: off and not built

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"policy.{self.name}.weight={self.weight} must be 0 or positive")

    @classmethod
    def small(cls) -> ObjectiveConfig:
        """An example that is on, and is built and trained in milliseconds: what tests run."""
        return cls(weight=0.5)

    @property
    def on(self) -> bool:
        """Return whether the policy has it."""
        return self.weight > 0

    @abstractmethod
    def build(self, around: ObjectiveContext) -> Objective:
        """Return the objective with random weights; ValueError where the policy lacks its need."""

    def need_cameras(self, around: ObjectiveContext) -> None:
        """Raise ValueError unless the policy sees something."""
        if not around.cameras:
            raise ValueError(
                f"policy.{self.name}.weight={self.weight} predicts pictures, and the policy has no "
                "camera; record with cameras and name them in policy.images.cameras"
            )
