"""The scene's state, predicted from the latent: where a simulator has placed things.

Training alone reads it, from a store's field `scene`. An attention pool over the latent tokens
predicts it, so the tower learns from each sample, whatever noise the actions have. For simulation:
demonstrations of a real robot have no such field. B samples, N latent tokens, D width, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.objectives.alignment import LatentPool
from telic.policy.objectives.objective import Encoded, Objective, ObjectiveConfig, ObjectiveContext
from telic.ranges import require_range

FIELD = "scene"


@dataclass(kw_only=True, slots=True)
class SceneConfig(ObjectiveConfig):
    """Off by default. The loss is Huber's of standardised entries, as angles may turn over."""

    name: ClassVar[str] = "scene"
    hidden: int = 256  # units between the pooled latent and the entries
    num_heads: int = 4  # attention heads of the pool

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(self, "hidden", "num_heads", at_least=1, prefix="policy.scene.")

    @classmethod
    def small(cls) -> SceneConfig:
        """What tests run."""
        return cls(weight=0.5, hidden=16, num_heads=2)

    def build(self, around: ObjectiveContext) -> Scene:
        """Return the head with random weights."""
        if FIELD not in around.stats:
            raise ValueError(
                f"policy.scene.weight={self.weight} reads the field scene of the stores, and they "
                "have none; collect-demos state=robot scene=true records it in simulation"
            )
        around.require_heads("policy.scene.num_heads", self.num_heads)
        return Scene(self, around)


class Scene(Objective):
    """The pool and two layers; `predict` answers in physical units."""

    mean: Tensor
    scale: Tensor
    varies: Tensor

    def __init__(self, config: SceneConfig, around: ObjectiveContext) -> None:
        super().__init__()
        stats = around.stats[FIELD]
        mean, scale = (torch.from_numpy(value).float() for value in (stats.mean, stats.std))
        varies = scale > 1e-6
        for name, value in (("mean", mean), ("varies", varies)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("scale", torch.where(varies, scale, 1.0), persistent=False)
        self.pool = LatentPool(around.width, config.num_heads)
        self.out = nn.Sequential(
            nn.Linear(around.width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, len(mean)),
        )

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return Huber's loss over the entries that vary."""
        if FIELD not in encoded.batch:
            raise ValueError("the windows have no scene; set scene of their config")
        target = (encoded.batch["scene"].float() - self.mean) / self.scale
        standardized = self.standardized(encoded.latent).float()
        loss = F.smooth_l1_loss(standardized, target, reduction="none") * self.varies
        return loss.sum() / (self.varies.sum().clamp_min(1) * len(loss))

    def standardized(self, latent: Float[Tensor, "b n d"]) -> Float[Tensor, "b s"]:
        """Return the standardised entries."""
        out: Tensor = self.out(self.pool(latent))
        return out

    def predict(self, latent: Float[Tensor, "b n d"]) -> Float[Tensor, "b s"]:
        """Return the entries in physical units."""
        return self.standardized(latent) * self.scale + self.mean
