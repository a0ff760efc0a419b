"""Routing by noise: which experts a token goes to is a function of sigma alone (MoDE, section 3).

Reuss et al. 2024 (mode.py). Every layer has a router of its own, but all of them read the sigma
embedding and nothing else, so one call answers for the whole network:
p = softmax(W2 gelu(W1 e + b1) + b2), gate_n = p_n / (sum of the chosen p), y = sum gate_n E_n(x).
With a shared expert one of the E experts takes every token with gate 1, and the routers choose
k - 1 among the others.

B samples, T tokens, E experts, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.layers.experts import Chosen, Experts, MergedExperts
from telic.policy.routing.routing import (
    Losses,
    NoiseLevels,
    RoutedLayer,
    Routes,
    Routing,
    RoutingConfig,
)
from telic.ranges import require_range

PICKING_PAYS = 256  # hidden width of an expert from which computing only the chosen ones is faster


@dataclass(kw_only=True, slots=True)
class NoiseRoutingConfig(RoutingConfig):
    """MoDE's; k experts share the hidden width that a token gets."""

    name: str = "noise"
    num_experts: int = 4  # experts, E, the shared one included
    top_k: int = 2  # experts of a token, k, the shared one included
    normalize_gates: bool = True  # gates of the chosen experts sum to 1
    # One expert for all tokens. Where it leaves one to be chosen, a normalised gate is always 1
    # and teaches the router nothing: take normalize_gates=false or top_k=3.
    shared_expert: bool = False
    load_balance: float = 0.01  # weight of the load-balance loss (paper, table 3)

    def __post_init__(self) -> None:
        require_range(self, "load_balance", at_least=0, prefix="policy.denoiser.routing.")
        least = 2 if self.shared_expert else 1
        if not least <= self.top_k <= self.num_experts:
            raise ValueError(
                f"policy.denoiser.routing.top_k={self.top_k} must lie in "
                f"{least}..num_experts={self.num_experts}"
            )

    def build(self, num_layers: int, width: int, hidden: int) -> NoiseRouting:
        """Return the routers of all layers."""
        return NoiseRouting(self, num_layers, width, hidden // self.top_k >= PICKING_PAYS)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> NoiseLayer:
        """Return the experts of one layer, the shared one last."""
        return NoiseLayer(width, self.num_experts, hidden // self.top_k, dropout)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of the load-balance loss."""
        return {"load_balance": self.load_balance}


class NoiseRoute(NamedTuple):
    """gates: [S T E], T is 1 in inference; chosen: whose gates are above 0, if only they run."""

    gates: Tensor
    chosen: Chosen | None


class NoiseRouting(Routing[NoiseRoute]):
    """Routers, and gates for the shared expert where there is one."""

    def __init__(
        self, config: NoiseRoutingConfig, num_layers: int, width: int, picks: bool
    ) -> None:
        super().__init__()
        self.shared, self.picks = config.shared_expert, picks
        self.routers = NoiseRouters(
            num_layers,
            width,
            config.num_experts - self.shared,
            config.top_k - self.shared,
            config.normalize_gates,
        )

    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes[NoiseRoute]:
        """Return the routes and, in training, the load-balance loss of the routed experts."""
        choices = self.routers(levels.embedding, num_tokens, generator)
        losses: Losses = {"load_balance": load_balance_loss(choices)} if self.training else {}
        gates, shared_choices = choices.gates, self._shared_choices(choices)
        if self.shared:
            gates = F.pad(gates, (0, 1), value=1.0)
        return Routes(layers=[*map(NoiseRoute, gates, shared_choices)], losses=losses)

    def _shared_choices(self, choices: Choices) -> Sequence[Chosen | None]:
        """Return each layer's experts if all tokens share them and picking them out pays."""
        layers, levels, _, num_experts = choices.chosen.shape
        if self.training or levels > 1 or not self.picks:
            return [None] * layers
        top_k = self.routers.top_k
        picked = choices.chosen.int().topk(top_k, dim=-1).indices.view(-1, top_k).tolist()
        shared = [num_experts] if self.shared else []
        return [dict.fromkeys([*layer, *shared], None) for layer in picked]


class NoiseLayer(RoutedLayer[NoiseRoute, MergedExperts]):
    """The experts of one layer."""

    def __init__(self, width: int, num_experts: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = Experts(width, num_experts, hidden, dropout)

    def forward(
        self, x: Float[Tensor, "b t d"], route: NoiseRoute | MergedExperts
    ) -> tuple[Tensor, Losses]:
        """Return the gated sum of the experts [B T D]; a layer alone has no losses."""
        if isinstance(route, MergedExperts):
            return route(x), {}
        return self.experts(x, route.gates, route.chosen), {}

    def join(self, routes: Sequence[NoiseRoute]) -> NoiseRoute:
        """Return the gates of all, and which samples go to each expert."""
        gates = torch.cat([route.gates for route in routes])
        if any(route.chosen is None for route in routes):
            return NoiseRoute(gates, None)
        goers: dict[int, list[int]] = {}
        for row, route in enumerate(routes):
            for n in route.chosen or ():
                goers.setdefault(n, []).append(row)
        chosen = {
            n: None if len(rows) == len(routes) else torch.tensor(rows, device=gates.device)
            for n, rows in goers.items()
        }
        return NoiseRoute(gates, chosen)

    def blend(
        self, noisy: NoiseRoute, clean: NoiseRoute, fixed: Bool[Tensor, "b t 1"]
    ) -> NoiseRoute:
        """Return each token's gates, and the experts that some token goes to."""
        gates = torch.where(fixed, clean.gates, noisy.gates)
        if noisy.chosen is None or clean.chosen is None:
            return NoiseRoute(gates, None)
        return NoiseRoute(gates, dict.fromkeys([*noisy.chosen, *clean.chosen]))

    def fold(self, route: NoiseRoute) -> NoiseRoute | MergedExperts:
        """Return small experts merged; large ones are read where they are, a copy would cost."""
        return route if route.chosen is not None else self.experts.merged(route.gates[0, 0])


class Choices(NamedTuple):
    """Where tokens go.

    probabilities: [L B E], the routers' softmax; gates: [L B T E] in training and [L B 1 E] in
    inference, 0 for experts not chosen; chosen: bool, like gates. B is 1 where all samples share
    sigma.
    """

    probabilities: Tensor
    gates: Tensor
    chosen: Tensor


class NoiseRouters(nn.Module):
    """The routers of all layers: Linear d -> 2d, GELU, Linear 2d -> E, softmax, each its own.

    top_k experts are chosen: the most probable ones in inference, a draw without replacement for
    each token in training. Their probabilities are the gates, made to sum to 1 if `normalize`.
    """

    def __init__(
        self, num_layers: int, width: int, num_experts: int, top_k: int, normalize: bool = True
    ) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.normalize = num_experts, top_k, normalize
        self.hidden = nn.Linear(width, num_layers * 2 * width)
        self.weight = nn.Parameter(torch.empty(num_layers, num_experts, 2 * width))
        self.bias = nn.Parameter(torch.zeros(num_layers * num_experts))
        nn.init.normal_(self.hidden.weight, std=0.02)
        nn.init.zeros_(self.hidden.bias)
        nn.init.normal_(self.weight, std=0.02)

    def forward(
        self,
        embedding: Float[Tensor, "b d"],
        num_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Choices:
        """Return the routing of `num_tokens` tokens a sample; `generator` draws it in training."""
        layers = len(self.weight)
        hidden = F.gelu(self.hidden(embedding)).unflatten(-1, (layers, -1)).transpose(0, 1)
        logits = hidden @ self.weight.transpose(1, 2) + self.bias.view(layers, 1, -1)
        probabilities = logits.softmax(-1).clamp(1e-9, 1 - 1e-9)
        spread = probabilities.unsqueeze(2)
        if self.training:
            shape = (layers, len(embedding), num_tokens, self.num_experts)
            race = torch.empty(shape, device=embedding.device).exponential_(generator=generator)
            chosen = choose(spread.detach() / race, self.top_k)
        else:
            chosen = choose(spread, self.top_k)
        gates = spread * chosen
        if self.normalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return Choices(probabilities, gates, chosen)


def choose(scores: Float[Tensor, "... e"], top_k: int) -> Bool[Tensor, "... e"]:
    """Return True at the top_k largest scores along the last axis.

    With scores p / Exp(1) this is a draw of top_k without replacement in proportion to p.
    """
    indices = scores.topk(top_k, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, indices, True)


def load_balance_loss(choices: Choices) -> Float[Tensor, ""]:
    """Return E * sum_n mean(gate_n) * share_n, averaged over layers; share_n: tokens sent to n.

    Its least value, all experts used alike, is top_k (gates that sum to 1).
    """
    gate = choices.gates.mean(dim=(1, 2))
    share = choices.chosen.float().mean(dim=(1, 2))
    return choices.gates.shape[-1] * (gate * share).sum(-1).mean()
