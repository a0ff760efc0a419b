"""The interface between a transformer block and its feed-forward: how tokens are routed.

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
from typing import Generic, NamedTuple, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Losses = dict[str, Tensor]
# Where a layer's tokens go: what one kind of routing says to its own layers, and no other reads.
# None: nothing.
Route: TypeAlias = Tensor | tuple[object, ...] | None
RouteT = TypeVar("RouteT", bound=Route)
FoldedT = TypeVar("FoldedT", bound=Route)


class NoiseLevels(NamedTuple):
    """sigma: [S]; embedding: [S D]; embed: the map from one to the other, for further levels."""

    sigma: Tensor
    embedding: Tensor
    embed: Callable[[Tensor], Tensor]


@dataclass(kw_only=True, slots=True)
class Routes(Generic[RouteT]):
    """layers: each layer's route; losses: in training."""

    layers: list[RouteT]
    losses: Losses = field(default_factory=dict)


class Routing(nn.Module, ABC, Generic[RouteT]):
    """What follows from the noise level alone, for all layers. Run it outside autocast."""

    @abstractmethod
    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes[RouteT]:
        """Return the routes of `num_tokens` tokens a sample; `generator` draws what is random."""


class RoutedLayer(nn.Module, ABC, Generic[RouteT, FoldedT]):
    """The routed part of one block: of a kind of route, and of what `fold` makes of one."""

    def mask(
        self, x: Float[Tensor, "b t d"], route: RouteT | FoldedT
    ) -> Float[Tensor, "#b #t d"] | None:
        """Return m for what enters the block, in x's dtype, or None if the block takes it all."""
        return None

    @abstractmethod
    def forward(self, x: Float[Tensor, "b t d"], route: RouteT | FoldedT) -> tuple[Tensor, Losses]:
        """Return the feed-forward of x [B T D] and, in training, the layer's own losses."""

    def join(self, routes: Sequence[RouteT]) -> RouteT:
        """Return the route of samples that each have one of these routes of a single noise level.

        Of a network at rest. Tensors are joined row by row; None stays None.
        """
        first = routes[0]
        if first is None:
            return first
        return cast(RouteT, torch.cat(cast(list[Tensor], list(routes))))

    def blend(self, noisy: RouteT, clean: RouteT, fixed: Bool[Tensor, "b t 1"]) -> RouteT:
        """Return the route by which `fixed` tokens take the clean route, all others the noisy one.

        Neither is folded. Tensors are chosen from token by token; None stays None.
        """
        if noisy is None:
            return noisy
        return cast(RouteT, torch.where(fixed, cast(Tensor, clean), cast(Tensor, noisy)))

    def fold(self, route: RouteT) -> RouteT | FoldedT:
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


def apply_feed_forward(layer: nn.Module, x: Tensor, route: Route) -> tuple[Tensor, Losses]:
    """Return what a block's feed-forward makes of x, and its losses; it may be the kind's own."""
    if isinstance(layer, RoutedLayer):
        fed: tuple[Tensor, Losses] = layer(x, route)
        return fed
    return layer(x), {}


def mask_of(layer: nn.Module, x: Tensor, route: Route) -> Tensor | None:
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
