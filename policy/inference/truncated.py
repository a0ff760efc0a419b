"""Truncated diffusion: denoising begins at an anchor with a little noise, not at noise alone.

After DiffusionDrive (Liao et al. 2024, section 3.3): x = anchor + sigma_trunc noise, the levels of
the schedule up to sigma_trunc, and a score for each anchor. Unlike there the denoiser is trained
on demonstrations with noise, as without anchors, only that sigma stays at or below sigma_trunc;
so one number serves training and acting, and the network remains an estimate of x0. The scores are
p(k | context), a softmax trained by cross-entropy to the demonstrated chunk's nearest anchor.

B samples, K anchors, M of them denoised, H actions of A values, N latent tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from telic.policy.encoders.fields import Batch
from telic.policy.objectives.alignment import LatentPool
from telic.policy.objectives.anchors import AnchorSet, relative_columns
from telic.policy.objectives.objective import Encoded, Objective, ObjectiveConfig, ObjectiveContext
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class StartConfig:
    """Which anchors a chunk is denoised from, and which result is taken; free at any time."""

    best: int = 1  # anchors that are denoised, M, by score, in one batch; 0: plain sampling
    temperature: float = 0.0  # 0: the best score wins; 1: each as often as its score says
    # What is left of the previous chunk is one more anchor, whose score is that of the anchor
    # nearest to it plus this, so that a chunk goes on as the last one began; that anchor also
    # gives the actions after the remainder. None: it is not.
    hysteresis: float | None = 1.0

    def __post_init__(self) -> None:
        if self.best < 0:
            raise ValueError(
                f"best={self.best} anchors to begin from must be 0 or more; 0 begins at noise alone"
            )
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature} must be 0 or positive; 0 begins from the best "
                "anchor, 1 from each as often as its score says"
            )
        if self.hysteresis is not None and not math.isfinite(self.hysteresis):
            raise ValueError(f"hysteresis={self.hysteresis} must be finite, or null for none")

    def changed(self, best: int | None, temperature: float | None) -> StartConfig:
        """Return this with another number or temperature, where one is given."""
        return replace(
            self,
            best=self.best if best is None else best,
            temperature=self.temperature if temperature is None else temperature,
        )


@dataclass(kw_only=True, slots=True)
class TruncatedConfig(ObjectiveConfig):
    """Off unless anchors are asked for. The loss is the cross-entropy of the scores."""

    name: ClassVar[str] = "anchors"
    weight: float = 1.0  # weight of the scores' loss in the total
    count: int = 0  # anchors, K, clustered from the training chunks or from `file`; 0: off
    file: str | None = None  # anchors that build-anchors wrote
    relative: bool = True  # entries relative to the state, where it has one of the same name
    # None: sigma_scale times the rms distance of chunks from their anchors. Training leaves the
    # number beside the anchors among the weights, and that one is used.
    sigma_trunc: float | None = None
    sigma_scale: float = 1.25  # sigma_trunc in rms distances of a chunk from its anchor
    full_range: bool = False  # training covers all sigmas, so that plain sampling works as well
    num_heads: int = 4  # attention heads of the pool behind the scores
    start: StartConfig = field(default_factory=StartConfig)

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(self, "count", at_least=0, prefix="policy.anchors.")
        require_range(self, "num_heads", at_least=1, prefix="policy.anchors.")
        require_range(self, "sigma_scale", above=0, prefix="policy.anchors.")
        if self.sigma_trunc is not None and not 0 < self.sigma_trunc < math.inf:
            raise ValueError(
                f"policy.anchors.sigma_trunc={self.sigma_trunc} must be positive; null takes "
                "sigma_scale times the distance of chunks from their anchors"
            )
        if not (self.on or self.file) and self.start != StartConfig():
            raise ValueError(
                "policy.anchors.start is set, but there are no anchors; add policy.anchors.count=32"
            )

    @property
    def on(self) -> bool:
        """Return whether there are anchors."""
        return self.count > 0

    def require(self, start: StartConfig) -> None:
        """Raise ValueError where there are no anchors to begin from so, or too few."""
        if not self.on:
            raise ValueError(
                "the policy has no anchors to begin from; train it with policy.anchors.count=32"
            )
        if start.best > self.count:
            raise ValueError(
                f"{start.best} anchors are asked for, the policy has {self.count}; ask for at "
                "most as many"
            )
        if not start.best and not self.full_range:
            raise ValueError(
                "the policy was trained up to sigma_trunc and needs an anchor to begin from; ask "
                "for 1, or train it with policy.anchors.full_range=true"
            )

    @classmethod
    def small(cls) -> TruncatedConfig:
        """What tests run."""
        return cls(weight=0.4, count=3, sigma_trunc=0.5)

    def build(self, around: ObjectiveContext) -> Truncated:
        """Return the anchors, all 0 as yet, and their scores with random weights."""
        around.require_heads("policy.anchors.num_heads", self.num_heads)
        return Truncated(self, around)


class Starts(NamedTuple):
    """Where a chunk may begin.

    chunks: [B M H A], without noise; values: [B K], the anchors' scores, with Gumbel noise where
    there is a temperature; bonus: [B M], the hysteresis where a chunk is what the previous one
    left.
    """

    chunks: Tensor
    values: Tensor
    bonus: Tensor


class Truncated(Objective):
    """The anchors, sigma_trunc and the network that scores; `use` gives it anchors."""

    chunks: Tensor
    columns: Tensor
    number: Tensor

    def __init__(self, config: TruncatedConfig, around: ObjectiveContext) -> None:
        super().__init__()
        self.config, self.normalizer = config, around.action
        columns = torch.from_numpy(relative_columns(around.interface, config.relative))
        self.register_buffer("columns", columns, persistent=False)
        shape = (config.count, around.action_horizon, len(columns))
        self.register_buffer("chunks", torch.zeros(shape))
        sigma = math.nan if config.sigma_trunc is None else config.sigma_trunc
        self.register_buffer("number", torch.tensor(sigma, dtype=torch.float64))
        self.pool = LatentPool(around.width, config.num_heads)
        self.to_scores = nn.Linear(around.width, config.count)

    def use(self, anchors: AnchorSet) -> None:
        """Take these; ValueError where they are for other chunks or not as many."""
        anchors.require(self.chunks.shape[1], self.columns.cpu().numpy(), self.normalizer)
        if len(anchors.chunks) != len(self.chunks):
            raise ValueError(
                f"policy.anchors.count={len(self.chunks)}, and {len(anchors.chunks)} anchors are "
                "there; leave count out, or build as many"
            )
        self.chunks.copy_(torch.from_numpy(anchors.chunks))
        if self.config.sigma_trunc is None:
            self.number.fill_(self.config.sigma_scale * anchors.rms)

    @property
    def sigma_trunc(self) -> float:
        """Return the sigma at which sampling begins and, unless full_range, training ends."""
        return float(self.number)

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the cross-entropy of the scores, over the windows that have actions."""
        batch = encoded.batch
        action = self.normalizer.normalize(batch["action"].float())
        known = batch.get("action_mask")
        if known is None:
            known = torch.ones(action.shape[:2], dtype=torch.bool, device=action.device)
        with torch.autocast(action.device.type, enabled=False):
            label = self.nearest(action - self.origin(batch), known, batch.get("action_slots"))
        logits = self.logits(encoded.latent).float()
        counts = known.any(1)
        entropy = F.cross_entropy(logits, label, reduction="none") * counts
        return entropy.sum() / counts.sum().clamp_min(1)

    def logits(self, latent: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Return a number for each anchor; their softmax is p(k | context)."""
        out: Tensor = self.to_scores(self.pool(latent))
        return out

    def origin(self, batch: Batch) -> Float[Tensor, "b 1 a"]:
        """Return what anchors are relative to, as normalised actions: 0, or the newest state."""
        state = batch["state"][:, -1].float()[:, self.columns.clamp_min(0)]
        place = (state - self.normalizer.center) / self.normalizer.scale
        return (place * (self.columns >= 0)).unsqueeze(1)

    def nearest(
        self,
        relative: Float[Tensor, "b h a"],
        known: Bool[Tensor, "b h"] | None = None,
        slots: Bool[Tensor, "b a"] | None = None,
    ) -> Int[Tensor, " b"]:
        """Return the anchor with the least squared distance, over what is known and in use."""
        weight = torch.ones_like(relative)
        if known is not None:
            weight = weight * known.unsqueeze(2)
        if slots is not None:
            weight = weight * slots.unsqueeze(1)
        anchors = self.chunks.flatten(1)
        # less the part that all anchors share
        crossed = (weight * relative).flatten(1) @ anchors.T
        return (weight.flatten(1) @ anchors.square().T - 2 * crossed).argmin(1)

    def starts(
        self,
        latent: Float[Tensor, "b n d"],
        batch: Batch,
        start: StartConfig,
        gumbel_noise: Float[Tensor, "b k"] | None = None,
    ) -> Starts:
        """Return the best starts; `gumbel_noise` is needed where there is a temperature.

        batch: `state` and, where a request brought what is left of its previous chunk, `prefix`
        [B H A] in physical units and `prefix_known` bool [B H].
        """
        values = self.logits(latent).log_softmax(-1)
        if start.temperature > 0:
            assert gumbel_noise is not None
            values = values + start.temperature * gumbel_noise
        origin = self.origin(batch)
        chunks, ranks = self.chunks + origin.unsqueeze(1), values
        if start.hysteresis is not None and "prefix" in batch:
            known = batch["prefix_known"]
            rest = self.normalizer.normalize(batch["prefix"])
            near = self.nearest(rest - origin, known, batch.get("action_slots"))
            after = chunks[torch.arange(len(near), device=near.device), near]
            rest = torch.where(known.unsqueeze(2), rest, after)
            rank = values.gather(1, near.unsqueeze(1)) + start.hysteresis
            rank = rank.masked_fill(~known.any(1, keepdim=True), -math.inf)
            chunks = torch.cat([chunks, rest.unsqueeze(1)], 1)
            ranks = torch.cat([values, rank], 1)
        chosen = ranks.topk(start.best, dim=1).indices
        rows = torch.arange(len(chosen), device=chosen.device).unsqueeze(1)
        bonus = (chosen == values.shape[1]) * (start.hysteresis or 0.0)
        return Starts(chunks[rows, chosen], values, bonus)

    def choose(
        self,
        starts: Starts,
        denoised: Float[Tensor, "b m h a"],
        batch: Batch,
    ) -> Float[Tensor, "b h a"]:
        """Return of each sample's M chunks the one with the best score.

        A chunk counts as the anchor nearest to what it has become, wherever it began.
        """
        if denoised.shape[1] == 1:
            return denoised[:, 0]
        count = denoised.shape[1]
        slots = batch.get("action_slots")
        landed = self.nearest(
            (denoised - self.origin(batch).unsqueeze(1)).flatten(0, 1),
            slots=None if slots is None else slots.repeat_interleave(count, 0),
        ).unflatten(0, (-1, count))
        best = (starts.values.gather(1, landed) + starts.bonus).argmax(1)
        return denoised[torch.arange(len(best), device=best.device), best]
