"""Experts: SwishGLU feed-forwards, of which each token's gates pick a few.

B samples, T tokens, D width, E experts, M hidden width of one expert.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
        chosen: Sequence[int] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the gated sum; gates broadcast over samples and tokens.

        `chosen` says that no gate of another expert is above 0, and saves computing those.
        """
        if chosen is not None:
            return self._only(chosen, x, gates)
        hidden = F.linear(x, self.weight_in.flatten(0, 1), self.bias_in)
        hidden = hidden.unflatten(-1, (self.num_experts, 2, -1))
        hidden = self._activate(hidden) * gates.unsqueeze(-1).to(hidden.dtype)
        return hidden.flatten(-2) @ self.weight_out.flatten(0, 1)

    def _only(self, chosen: Sequence[int], x: Tensor, gates: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        biases = self.bias_in.view(self.num_experts, -1)
        for n in chosen:
            hidden = F.linear(x, self.weight_in[n], biases[n]).unflatten(-1, (2, -1))
            hidden = self._activate(hidden) * gates[..., n : n + 1].to(hidden.dtype)
            out = out + hidden @ self.weight_out[n]
        return out

    def _activate(self, hidden: Tensor) -> Tensor:
        """Return u * silu(v) of hidden [... 2 M]."""
        up, swish = hidden.unbind(-2)
        product = up * F.silu(swish)
        return F.dropout(product, self.dropout, self.training) if self.dropout else product
