"""No routing: every token takes the same feed-forward at every noise level. The baseline.

B samples, T tokens, D width, M hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.layers.feed_forward import SwishGLU
from telic.policy.routing.routing import (
    FoldedT,
    Losses,
    NoiseLevels,
    RoutedLayer,
    Routes,
    RouteT,
    Routing,
    RoutingConfig,
)


@dataclass(kw_only=True, slots=True)
class DenseRoutingConfig(RoutingConfig):
    """Nothing to set."""

    name: str = "dense"

    def build(self, num_layers: int, width: int, hidden: int) -> DenseRouting:
        """Return the routing, which has no weights."""
        return DenseRouting(num_layers)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> DenseLayer[None, None]:
        """Return one SwishGLU of the whole hidden width."""
        return DenseLayer[None, None](width, hidden, dropout)


class DenseRouting(Routing[None]):
    """Routes that say nothing."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers

    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes[None]:
        """Return an empty route for each layer."""
        return Routes(layers=[None] * self.num_layers)


def build_routing(
    config: RoutingConfig | None, num_layers: int, width: int, hidden: int
) -> Routing:
    """Return the routing of `config`; without one, routes that say nothing."""
    return DenseRouting(num_layers) if config is None else config.build(num_layers, width, hidden)


class DenseLayer(RoutedLayer[RouteT, FoldedT], Generic[RouteT, FoldedT]):
    """One feed-forward; also what layers that route by channel masks are built on."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.feed_forward = SwishGLU(width, hidden, bias_out=False, dropout=dropout)

    def forward(self, x: Float[Tensor, "b t d"], route: RouteT | FoldedT) -> tuple[Tensor, Losses]:
        """Return the feed-forward of x [B T D]; it has no losses."""
        return self.feed_forward(x), {}
