"""The interface of all kinds: what a denoiser returns for a context (context.py), how it is built.

B samples, D width of tokens, H actions, S noise levels (a row for each sample, or 1 for all).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.formulation import FormulationConfig
from telic.policy.routing.routing import Route, RoutedLayer, Routes, RoutingConfig

# What a kind computes of a context once for a chunk, and what its steps read of that: trees of
# tensors (layers/tensors.py), rows first. In most kinds both are the same.
MemoryT = TypeVar("MemoryT")
PreparedT = TypeVar("PreparedT")


@dataclass(kw_only=True, slots=True)
class Prediction:
    """actions: [B H A], the network output that the formulation defines; losses: the kind's own, by
    name, not weighted yet (in training only)."""

    actions: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class Fixed(NamedTuple):
    """Actions given without noise, in a chunk whose other actions have noise.

    mask: bool [B H]; level: f32 [1], their nominal sigma; or, in a `Level`, its
    embedding [S D].
    """

    mask: Tensor
    level: Tensor


@dataclass(kw_only=True, slots=True)
class Level:
    """What a network computes from noise levels alone.

    embedding: [S D]; routes: of every layer; modulations: [S n 1 D] of every layer, and of what
    comes after the last, in a kind that has them. Where a chunk has fixed actions (`blend`), routes
    differ between the tokens of a sample, and modulations are [B n H D]; None: it has none.
    """

    embedding: Tensor
    routes: Routes[Route]
    modulations: list[Tensor] = field(default_factory=list)
    fixed: Fixed | None = None


class Denoiser(nn.Module, ABC, Generic[MemoryT, PreparedT]):
    """The network of one kind: `encode` once per chunk, `level` and `step` once per step.

    A plan (plan.py) asks for the levels of a whole schedule before the first chunk.
    """

    @abstractmethod
    def encode(self, context: Context) -> MemoryT:
        """Return the kind's own memory of a context: all that no step changes, rows first.

        An encoder's output, keys and values of cross-attention, a stream's prefix.
        """

    @abstractmethod
    def latent(self, memory: MemoryT) -> Float[Tensor, "b n d"]:
        """Return the tokens of a memory that auxiliary objectives read."""

    @abstractmethod
    def level(self, sigma: Float[Tensor, " s"], generator: torch.Generator | None = None) -> Level:
        """Return all that follows from sigma alone, computed in float32 whatever autocast says.

        `generator` draws what is random in training besides dropout.
        """

    @abstractmethod
    def step(
        self, x: Float[Tensor, "b h a"], level: Level, memory: MemoryT | PreparedT
    ) -> Prediction:
        """Answer actions x, scaled by the formulation, at a noise level of one row or of B.

        memory: of `encode`, or of `prepare` for this level.
        """

    @abstractmethod
    def stacks(self) -> Sequence[nn.Module]:
        """Return the stacks of blocks, which hold nearly all weights (quantize.py)."""

    def forward(
        self,
        x: Float[Tensor, "b h a"],
        sigma: Float[Tensor, " s"],
        memory: MemoryT,
        generator: torch.Generator | None = None,
        fixed: Fixed | None = None,
    ) -> Prediction:
        """Answer actions x, scaled by the formulation, at noise level sigma ([B], or [1] for all).

        `generator` draws what is random in training besides dropout. `fixed`: those of the actions
        that have a noise level of their own.
        """
        level = self.level(sigma, generator)
        if fixed is not None:
            clean = self.level(fixed.level.expand(len(x)), generator)
            level = self.blend(level, clean, fixed.mask, memory)
        return self.step(x, level, memory)

    def blend(
        self,
        noisy: Level,
        clean: Level,
        fixed: Bool[Tensor, "b h"],
        memory: MemoryT | PreparedT,
    ) -> Level:
        """Return the level at which `fixed` actions are at the clean level, all else at the noisy.

        Either has one row or B. memory: that of the step. Losses of the routing are in proportion
        to the tokens at each.
        """
        tokens = F.pad(fixed, (self.num_before(memory), 0)).unsqueeze(2)
        layers = list(noisy.routes.layers)
        for number, layer in enumerate(self._routed()):
            layers[number] = layer.blend(layers[number], clean.routes.layers[number], tokens)
        share, others = tokens.float().mean(), clean.routes.losses
        losses = {n: loss.lerp(others[n], share) for n, loss in noisy.routes.losses.items()}
        actions = fixed[:, None, :, None]
        pairs = zip(noisy.modulations, clean.modulations, strict=True)
        return Level(
            embedding=noisy.embedding,
            routes=Routes(layers=layers, losses=losses),
            modulations=[torch.where(actions, own, others) for others, own in pairs],
            fixed=Fixed(fixed, clean.embedding),
        )

    def num_before(self, memory: MemoryT | PreparedT) -> int:
        """Return how many tokens a step at this memory puts before the actions."""
        return 0

    def prepare(self, joined: Level, memory: MemoryT) -> Sequence[MemoryT | PreparedT]:
        """Return the memory that `step` reads at each of the S joined levels.

        A kind may compute here, for all of them in one batch, what its steps would each compute
        without looking at the actions; most have nothing of the sort.
        """
        return [memory] * len(joined.embedding)

    def join(self, levels: Sequence[Level]) -> Level:
        """Return one level of S rows from S levels of one row: embeddings and routes."""
        layers: list[Route] = [None] * len(levels[0].routes.layers)
        for number, layer in enumerate(self._routed()):
            layers[number] = layer.join([level.routes.layers[number] for level in levels])
        embedding = torch.cat([level.embedding for level in levels])
        return Level(embedding=embedding, routes=Routes(layers=layers))

    def fold(self, level: Level) -> Level:
        """Return a level of one row in the form that is cheapest to take many steps at."""
        layers = list(level.routes.layers)
        for number, layer in enumerate(self._routed()):
            layers[number] = layer.fold(layers[number])
        return replace(level, routes=Routes(layers=layers))

    def _routed(self) -> list[RoutedLayer]:
        """Return the routed layer of each block; none of a kind with a feed-forward of its own."""
        return [module for module in self.modules() if isinstance(module, RoutedLayer)]


@dataclass(kw_only=True, slots=True)
class DenoiserConfig:
    """What all kinds share; each kind adds its own in a subclass and registers it (kinds.py)."""

    embeds_state: ClassVar[bool] = False  # the kind takes values [B O P] in Context.state
    reads_words: ClassVar[bool] = False  # any number of goal tokens up to Sizes.num_goals will do

    kind: str = ""
    width: int = 128  # of the tokens, D
    routing: RoutingConfig | None = None  # of the feed-forwards; None: the kind's own

    @classmethod
    def small(cls) -> DenoiserConfig:
        """An example that is built and trained in milliseconds: what tests run."""
        return cls(width=32)

    def build(self, sizes: Sizes) -> Denoiser:
        """Return a Denoiser for contexts and chunks of these sizes."""
        raise ValueError(f"policy.denoiser.kind={self.kind!r} is a base, not a kind")

    def default_formulation(self) -> FormulationConfig:
        """Return the formulation that the kind is trained with where none is named."""
        return EdmConfig()

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each of the kind's own losses and of its routing's."""
        return {} if self.routing is None else self.routing.loss_weights()
