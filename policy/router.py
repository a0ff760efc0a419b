"""Routing by noise: which experts a token goes to is a function of sigma alone (MoDE, section 3).

B samples, T tokens, E experts, L layers. Every layer has a router of its own, but all of them
read the sigma embedding and nothing else, so one call answers for the whole network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Routing(NamedTuple):
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
    ) -> Routing:
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
        return Routing(probabilities, gates, chosen)


def choose(scores: Float[Tensor, "... e"], top_k: int) -> Bool[Tensor, "... e"]:
    """Return True at the top_k largest scores along the last axis.

    With scores p / Exp(1) this is a draw of top_k without replacement in proportion to p.
    """
    indices = scores.topk(top_k, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, indices, True)


def load_balance_loss(routing: Routing) -> Float[Tensor, ""]:
    """Return E * sum_n mean(gate_n) * share_n, averaged over layers; share_n: tokens sent to n.

    Its least value, all experts used alike, is top_k (gates that sum to 1).
    """
    gate = routing.gates.mean(dim=(1, 2))
    share = routing.chosen.float().mean(dim=(1, 2))
    return routing.gates.shape[-1] * (gate * share).sum(-1).mean()
