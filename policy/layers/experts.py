"""Experts: SwishGLU feed-forwards, of which each token's gates pick a few.

B samples, T tokens, D width, E experts, M hidden width of one expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Chosen = Mapping[int, Tensor | None]  # expert -> rows of the samples that go there; None: all


class MergedExperts(NamedTuple):
    """k experts side by side: weight_in [k 2 M, D], bias_in [k 2 M], weight_out [k M, D]."""

    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    num_experts: int

    def __call__(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return their sum."""
        hidden = F.linear(x, self.weight_in, self.bias_in)
        up, swish = hidden.unflatten(-1, (self.num_experts, 2, -1)).unbind(-2)
        return (up * F.silu(swish)).flatten(-2) @ self.weight_out


class Experts(nn.Module):
    """Experts of one layer: sum over n of gate_n * W2_n (u * silu(v)), (u, v) = W1_n x + b1_n.

    Two ways to the same numbers: all experts as one product, which at small sizes costs less than
    sorting tokens; or only the chosen ones, where all tokens share the choice.
    """

    def __init__(self, width: int, num_experts: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_experts, self.dropout = num_experts, dropout
        self.weight_in = nn.Parameter(torch.empty(num_experts, 2 * hidden, width))
        self.bias_in = nn.Parameter(torch.empty(num_experts * 2 * hidden))
        self.weight_out = nn.Parameter(torch.empty(num_experts, hidden, width))
        for parameter, fan_in in (
            (self.weight_in, width),
            (self.bias_in, width),
            (self.weight_out, hidden),
        ):  # torch's own for Linear
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        gates: Float[Tensor, "b2 t2 e"],
        chosen: Chosen | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the gated sum; gates broadcast over samples and tokens.

        `chosen` says that no gate is above 0 but of these experts for these samples, and saves
        computing the others; a gate for each sample is then expected where it names samples.
        """
        if chosen is not None:
            return gated_sum(x, gates, chosen, self._one)
        hidden = F.linear(x, self.weight_in.flatten(0, 1), self.bias_in)
        hidden = hidden.unflatten(-1, (self.num_experts, 2, -1))
        hidden = self._activate(hidden) * gates.unsqueeze(-1).to(hidden.dtype)
        return hidden.flatten(-2) @ self.weight_out.flatten(0, 1)

    def _one(self, n: int, x: Tensor, gate: Tensor) -> Tensor:
        """Return what expert n adds."""
        bias = self.bias_in.view(self.num_experts, -1)[n]
        hidden = F.linear(x, self.weight_in[n], bias).unflatten(-1, (2, -1))
        hidden = self._activate(hidden) * gate.to(hidden.dtype)
        return hidden @ self.weight_out[n]

    def merged(self, gates: Float[Tensor, " e"]) -> MergedExperts:
        """Return the experts whose gates are above 0 as one feed-forward, gates multiplied in.

        A copy, for inference.
        """
        kept = gates.nonzero().flatten()
        bias = self.bias_in.view(self.num_experts, -1)[kept]
        weight_out = gates[kept, None, None] * self.weight_out[kept]
        return MergedExperts(
            self.weight_in[kept].flatten(0, 1), bias.flatten(), weight_out.flatten(0, 1), len(kept)
        )

    def _activate(self, hidden: Tensor) -> Tensor:
        """Return u * silu(v) of hidden [... 2 M]."""
        up, swish = hidden.unbind(-2)
        product = up * F.silu(swish)
        return F.dropout(product, self.dropout, self.training) if self.dropout else product


def gated_sum(
    x: Float[Tensor, "b t d"],
    gates: Float[Tensor, "b2 t2 e"],
    chosen: Chosen,
    one: Callable[[int, Tensor, Tensor], Tensor],
) -> Float[Tensor, "b t d"]:
    """Return the sum over the chosen experts n of `one(n, x, gate)`, each for its own samples."""
    out = torch.zeros_like(x)
    for n, rows in chosen.items():
        gate = gates[..., n : n + 1]
        if rows is None:
            out = out + one(n, x, gate)
        else:
            out = out.index_add(0, rows, one(n, x[rows], gate[rows]))
    return out
