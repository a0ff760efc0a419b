"""Representation alignment: a tower trained from scratch answers what a frozen one does.

Yu et al. 2024, "Representation Alignment for Generation: Training Diffusion Transformers Is Easier
Than You Think" (REPA), where a diffusion transformer's hidden patches are aligned; here it is the
feature map of the policy's own vision tower. Each place of it goes through a projector of three
layers with SiLU and is compared by its cosine with the frozen tower's feature of the same place.
B samples, O observation horizon, V cameras, C channels, x y places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from telic.policy.encoders.images import resize
from telic.policy.encoders.pretrained import CHANNELS, WHEELS
from telic.policy.encoders.towers import EFFICIENTNET, TOWERS, VisionTower, Weights, load_tower
from telic.policy.objectives.objective import Encoded, Objective, ObjectiveConfig, ObjectiveContext
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class RepaConfig(ObjectiveConfig):
    """Off by default; the published weight is 0.5."""

    name: ClassVar[str] = "repa"
    reads_pictures: ClassVar[bool] = True
    tower: str = EFFICIENTNET  # the frozen tower whose features are the target, as policy.images'
    side: int | None = None  # side of the pictures that it sees, pixels; None: as the policy's
    hidden: int = 512  # units of the projector's two hidden layers (published: 2048)

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(self, "hidden", "side", at_least=1, prefix="policy.repa.")

    @classmethod
    def small(cls) -> RepaConfig:
        """What tests run."""
        return cls(weight=0.5, hidden=16)

    def build(self, around: ObjectiveContext) -> Repa:
        """Return the projector with random weights; the frozen tower is loaded at its first use."""
        if not around.cameras:
            raise ValueError(
                f"policy.repa.weight={self.weight} trains a vision tower, and the policy has no "
                "camera; record with cameras and name them in policy.images.cameras"
            )
        pools = [tower for tower in around.towers if tower.pools]
        if pools or any(not p.requires_grad for t in around.towers for p in t.parameters()):
            what = "answers one vector" if pools else "is frozen"
            raise ValueError(
                f"policy.repa.weight={self.weight} aligns the map of a tower that is trained, and "
                f"policy.images.tower {what}; use tower=resnet18 or keypoint_conv, frozen=false"
            )
        return Repa(self, around)


class Repa(Objective):
    """The projector of all cameras' maps."""

    def __init__(self, config: RepaConfig, around: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.teacher = Teacher(config.tower)
        channels, target = around.towers[0].channels, self.teacher.channels
        self.projector = nn.Sequential(
            nn.Linear(channels, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, target),
        )

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return 1 less the mean cosine over samples, frames, cameras and places."""
        views = encoded.views
        cosines = [
            self.cosine(frames.flatten(0, 1), own.flatten(0, 1)).mean()
            for frames, own in zip(views.frames, views.maps, strict=True)
        ]
        return 1 - torch.stack(cosines).mean()

    def cosine(
        self, frames: UInt8[Tensor, "n h w 3"], own: Float[Tensor, "n c x y"]
    ) -> Float[Tensor, "n p"]:
        """Return the cosine at each place of the frozen tower's map; finer maps are averaged."""
        target = self.teacher(frames, self.config.side)
        rows, columns = target.shape[-2:]
        places = F.adaptive_avg_pool2d(own.float(), (rows, columns)).flatten(2).transpose(1, 2)
        projected = self.projector(places).float()
        return F.cosine_similarity(projected, target.flatten(2).transpose(1, 2), dim=-1)


class Teacher:
    """A frozen tower that is no part of the policy: neither saved, averaged nor trained."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tower: VisionTower | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @property
    def channels(self) -> int:
        """Return the channels of its map; towers out of wheels need not be loaded for that."""
        return CHANNELS if self.name in WHEELS else self.tower.channels

    @property
    def tower(self) -> VisionTower:
        """Return the tower, loaded at the first use."""
        if self._tower is None:
            known = TOWERS.get(self.name)
            if known is not None and known.weights is not Weights.packaged:
                raise ValueError(
                    f"policy.repa.tower={self.name} has no weights of its own to align to; use one "
                    f"that has, such as {EFFICIENTNET}"
                )
            # under a sentence of any size, only to be refused for that
            tower = load_tower(
                self.name, frozen=True, patches=True, sentence_dim=1, where="policy.repa"
            ).eval()
            if tower.conditioned or tower.pools:
                raise ValueError(
                    f"policy.repa.tower={self.name} has no map of the picture alone; use one that "
                    f"has, such as {EFFICIENTNET}"
                )
            self._tower = tower
        return self._tower

    @torch.no_grad()
    def __call__(
        self, frames: UInt8[Tensor, "n h w 3"], side: int | None
    ) -> Float[Tensor, "n c x y"]:
        """Return its map of the frames, at `side` x `side` pixels where one is given."""
        tower = self.tower.to(frames.device)
        resized = resize(frames.unsqueeze(1), side).squeeze(1)
        features: Tensor = tower(resized)
        return features.float()
