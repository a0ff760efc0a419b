"""Contrastive latent alignment: a scene with its sentence lies where it lies with its picture.

Reuss et al. 2024 (MDT), in the form of its released code: the latents that the denoiser makes of
one observation with the one goal and with the other are projected, scaled to length 1 and
contrasted over the batch as in CLIP (Radford et al. 2021). B samples, N latent tokens, D width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from telic.policy.layers.attention import attend, join_heads, split_heads
from telic.policy.layers.feed_forward import SwishGLU, goal_mlp
from telic.policy.layers.norms import VOLTRON_EPS, RMSNorm
from telic.policy.objectives.objective import Encoded, Objective, ObjectiveConfig, ObjectiveContext
from telic.ranges import require_range


class Projection(Enum):
    """What becomes of the latent tokens."""

    pooled = "pooled"  # a learned query attends to them (MDT-V)
    token = "token"  # the one after the goal is taken (MDT); for kinds whose latent mixes tokens


class Counterpart(Enum):
    """The goal that a sentence is aligned with."""

    images = "images"
    state = "state"  # for stores without cameras; not in the paper


class Picture(Enum):
    """By which projection the picture of a goal becomes the token that is aligned."""

    own = "own"  # that by which it is denoised
    sentence = "sentence"  # that of sentences (MDT-V); their vectors must be of one size
    apart = "apart"  # one that serves nothing else (MDT)


@dataclass(kw_only=True, slots=True)
class AlignmentConfig(ObjectiveConfig):
    """The defaults suit small policies; `published` and `published_v` are MDT's and MDT-V's."""

    name: ClassVar[str] = "alignment"
    projection: Projection = Projection.pooled  # what becomes of the latent tokens
    num_heads: int = 4  # attention heads of `pooled`
    counterpart: Counterpart = Counterpart.images  # the goal that a sentence is aligned with
    picture: Picture = Picture.own  # the projection of the picture that is aligned
    twins_are_negatives: bool = False  # samples of the same sentence are negatives; published: True
    gather: bool = False  # negatives come from all processes' samples; published: True

    def __post_init__(self) -> None:
        ObjectiveConfig.__post_init__(self)
        require_range(self, "num_heads", at_least=1, prefix="policy.alignment.")

    def build(self, around: ObjectiveContext) -> Alignment:
        """Return the projection with random weights."""
        for goal in ("text", self.counterpart.value):
            if goal not in around.goals:
                raise ValueError(
                    f"policy.alignment.weight={self.weight} aligns text with "
                    f"{self.counterpart.value}, and the policy's goals are "
                    f"{', '.join(around.goals)}; set policy.goal.{goal}=true"
                )
        if self.projection is Projection.pooled:
            around.require_heads("policy.alignment.num_heads", self.num_heads)
        if self.picture is not Picture.own:
            self._need_vectors(around)
        return Alignment(self, around.width, around.picture_dim)

    def _need_vectors(self, around: ObjectiveContext) -> None:
        """Raise ValueError unless a goal's picture is a vector that the projection can read."""
        where = f"policy.alignment.picture={self.picture.value}"
        if self.counterpart is not Counterpart.images or not around.picture_dim:
            raise ValueError(
                f"{where} projects the one vector that policy.goal.image.tower answers of a "
                "picture, and here is none; use picture=own, or a tower that answers one"
            )
        if self.picture is Picture.sentence and around.picture_dim != around.sentence_dim:
            raise ValueError(
                f"{where}: pictures are vectors of {around.picture_dim}, sentences of "
                f"{around.sentence_dim}; use picture=own or apart"
            )

    @classmethod
    def small(cls) -> AlignmentConfig:
        """What tests run."""
        return cls(weight=0.3, num_heads=2)

    @classmethod
    def published(cls) -> AlignmentConfig:
        """Return MDT's way: the second token, and a projection of pictures for it alone."""
        return cls(
            weight=1.0,
            projection=Projection.token,
            picture=Picture.apart,
            twins_are_negatives=True,
            gather=True,
        )

    @classmethod
    def published_v(cls) -> AlignmentConfig:
        """Return MDT-V's way: 2.5 M parameters."""
        config = cls.published()
        config.projection, config.num_heads = Projection.pooled, 16
        config.picture = Picture.sentence
        return config


class Alignment(Objective):
    """The projections and the learned scale of the logits."""

    def __init__(self, config: AlignmentConfig, width: int, picture_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        pooled = config.projection is Projection.pooled
        self.pool = LatentPool(width, config.num_heads) if pooled else None
        apart = config.picture is Picture.apart
        self.picture_in = goal_mlp(picture_dim, width) if apart else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, encoded: Encoded, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the contrastive loss over the samples that have both goals, 0 without any."""
        goals, other = encoded.goals, self.config.counterpart.value
        tokens = goals.alone("text"), self.counterpart(encoded)
        text, observed = (self.project(encoded.latent_of(token)) for token in tokens)
        both = goals.has("text") & goals.has(other)
        group = None
        if not self.config.twins_are_negatives:
            group = sentence_digests(encoded.batch["text"]).to(both.device)
        if self.config.gather and dist.is_initialized():
            text, observed = gather(text), gather(observed)
            both = gather(both.long()) > 0
            group = None if group is None else gather(group)
        with torch.autocast(text.device.type, enabled=False):
            return contrastive_loss(observed.float(), text.float(), self.log_scale, both, group)

    def counterpart(self, encoded: Encoded) -> Float[Tensor, "b 1 d"]:
        """Return the goal token with which a sentence's is compared; zero where it is not given."""
        goals, other = encoded.goals, self.config.counterpart.value
        project: Callable[[Tensor], Tensor] | None = self.picture_in
        if self.config.picture is Picture.sentence:
            project = encoded.sentence_in
        if project is None:
            return goals.alone(other)
        assert goals.pictures is not None
        return (project(goals.pictures) * goals.has(other).unsqueeze(-1)).unsqueeze(1)

    def project(self, latent: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Return the vector of each sample, before it is scaled to length 1."""
        if self.pool is None:
            return latent[:, 1]
        vector: Tensor = self.pool(latent)
        return vector


class LatentPool(nn.Module):
    """One learned query attends to the tokens; norms come after, not before.

    MAP (Lee et al. 2019, Set Transformer) as in Voltron; only the query's side is a residual.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(1, width) * 0.02)
        self.tokens_in = nn.Linear(width, width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.attention_norm = RMSNorm(width, VOLTRON_EPS)
        self.mlp = SwishGLU(width, 4 * width)
        self.mlp_norm = RMSNorm(width, VOLTRON_EPS)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Return one vector of each set of tokens."""
        query = self.query.expand(len(tokens), 1, -1)
        k, v = self.to_kv(self.tokens_in(tokens)).chunk(2, -1)
        q, k, v = (split_heads(part, self.num_heads) for part in (self.to_q(query), k, v))
        gathered = self.to_out(join_heads(attend(q, k, v)))
        x = self.attention_norm(query + gathered)
        x = self.mlp_norm(x + self.mlp(x))
        return x.squeeze(1)


def gather(x: Shaped[Tensor, b * rest]) -> Shaped[Tensor, bs * rest]:
    """Return the rows of all processes, in their order; each has as many. Gradients flow back."""
    rows: Tensor = _Gather.apply(x)
    return rows


class _Gather(torch.autograd.Function):
    """A row's gradient is the sum of what all processes say about it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def contrastive_loss(
    observed: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    log_scale: Float[Tensor, ""],
    counts: Bool[Tensor, " b"],
    group: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of both directions' cross-entropies over the samples that count.

    The logits are exp(log_scale) times the cosines; sample i is to find its own partner among
    those that count and, with `group`, are of another group than i's.
    """
    observed, text = F.normalize(observed, dim=-1), F.normalize(text, dim=-1)
    logits = log_scale.exp() * observed @ text.T
    allowed = counts.expand(len(counts), -1)
    own = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    if group is not None:
        allowed = allowed & (own | (group[:, None] != group[None, :]))
    lowest = torch.finfo(logits.dtype).min
    label = torch.arange(len(counts), device=counts.device)
    directions = [
        F.cross_entropy(part.masked_fill(~(allowed | own), lowest), label, reduction="none")
        for part in (logits, logits.T)
    ]
    per_sample = (directions[0] + directions[1]) / 2
    return (per_sample * counts).sum() / counts.sum().clamp_min(1)


def sentence_digests(sentences: Sequence[str]) -> Int[Tensor, " b"]:
    """Return i64 [B], the same for the same sentence in every process."""
    digests = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
        for text in sentences
    ]
    return torch.tensor(digests, dtype=torch.int64)
