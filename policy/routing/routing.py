"""The seam between a transformer block and its feed-forward: which way a token takes, and why.

A network holds one `Routing`, which says for all layers at once what follows from the noise level
alone, and in each block one `RoutedLayer`, which holds the layer's weights. A layer may
- compute the feed-forward: dense, or experts chosen by noise level or token;
- mask channels around the whole block: out = block(m * x) + (1 - m) * x.

Every routing spends the same hidden width on a token (`hidden` of its kind), however many experts
it divides it among, so that routings compare at equal active parameters.

S noise levels (a row for each sample, or 1 for all), B samples, T tokens, D width, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Losses = dict[str, Tensor]


class NoiseLevels(NamedTuple):
    """sigma: [S]; embedding: [S D]; embed: the map from one to the other, for further levels."""

    sigma: Tensor
    embedding: Tensor
    embed: Callable[[Tensor], Tensor]


@dataclass(kw_only=True, slots=True)
class Routes:
    """layers: each layer's route, in a form that its routing alone knows; losses: in training."""

    layers: list[Any]
    losses: Losses = field(default_factory=dict)


class Routing(nn.Module, ABC):
    """What follows from the noise level alone, for all layers. Run it outside autocast."""

    @abstractmethod
    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes:
        """Return the routes of `num_tokens` tokens a sample; `generator` draws what is random."""


class RoutedLayer(nn.Module, ABC):
    """The routed part of one block."""

    def mask(self, x: Float[Tensor, "b t d"], route: Any) -> Float[Tensor, "#b #t d"] | None:
        """Return m for what enters the block, in x's dtype, or None if the block takes it all."""
        return None

    @abstractmethod
    def forward(self, x: Float[Tensor, "b t d"], route: Any) -> tuple[Tensor, Losses]:
        """Return the feed-forward of x [B T D] and, in training, the layer's own losses."""

    def join(self, routes: Sequence[Any]) -> Any:
        """Return the route of samples that each have one of these routes of a single noise level.

        Of a network at rest. Tensors are joined row by row; None stays None.
        """
        return None if routes[0] is None else torch.cat(list(routes))

    def blend(self, noisy: Any, clean: Any, fixed: Bool[Tensor, "b t 1"]) -> Any:
        """Return the route by which `fixed` tokens take the clean route, all others the noisy one.

        Neither is folded. Tensors are chosen from token by token; None stays None.
        """
        return None if noisy is None else torch.where(fixed, clean, noisy)

    def fold(self, route: Any) -> Any:
        """Return the route of a single noise level with what its steps would compute anew.

        It follows the weights as they are now.
        """
        return route


@dataclass(kw_only=True, slots=True)
class RoutingConfig:
    """A base; each routing adds its own settings and registers itself (routings.py)."""

    name: str = ""

    @classmethod
    def small(cls) -> RoutingConfig:
        """An example that goes with any kind's `small`: what tests run."""
        return cls()

    def build(self, num_layers: int, width: int, hidden: int) -> Routing:
        """Return the routing of a network whose blocks have layers of these sizes."""
        raise ValueError(f"policy.denoiser.routing.name={self.name!r} is a base, not a routing")

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> RoutedLayer:
        """Return the layer of one block that spends about `hidden` hidden units on each token."""
        raise ValueError(f"policy.denoiser.routing.name={self.name!r} is a base, not a routing")

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each of the routing's losses."""
        return {}


def apply_feed_forward(layer: nn.Module, x: Tensor, route: Any) -> tuple[Tensor, Losses]:
    """Return what a block's feed-forward makes of x, and its losses; it may be the kind's own."""
    if isinstance(layer, RoutedLayer):
        fed: tuple[Tensor, Losses] = layer(x, route)
        return fed
    return layer(x), {}


def mask_of(layer: nn.Module, x: Tensor, route: Any) -> Tensor | None:
    """Return the mask of what enters a block with this feed-forward."""
    return layer.mask(x, route) if isinstance(layer, RoutedLayer) else None


def mask_in(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return what a block works on."""
    return x if mask is None else mask * x


def mask_out(y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the stream after a block that made y of `mask_in(x, mask)`."""
    return y if mask is None else y + (1 - mask) * x


def add_losses(parts: Iterable[Mapping[str, Tensor]]) -> Losses:
    """Return the sum of each loss over all parts that have it."""
    total: Losses = {}
    for part in parts:
        for name, loss in part.items():
            total[name] = total[name] + loss if name in total else loss
    return total
