"""Token choice: each token picks its experts by what it is; a shared expert takes every token.

Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters" (DiT-MoE), section 3, in
the form of its released code, with h the token at the feed-forward's input:
- gates g = softmax(W h) over N experts, W without bias; the top k count, not renormalised;
- y = sum over the top k of g_i E_i(h) + E_shared(h), all SwiGLU, the shared one half as wide;
- balance loss in each layer: sum over i of P_i f_i, P_i the mean gate of expert i over all tokens
  before choosing, f_i = N times the share of all choices that went to i; least, 1, where all are
  used alike. The layers' losses add up.

B samples, T tokens, D width, N experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.layers.experts import Experts
from telic.policy.layers.feed_forward import SwishGLU
from telic.policy.routing.dense import DenseRouting
from telic.policy.routing.noise import choose
from telic.policy.routing.routing import Losses, RoutedLayer, RoutingConfig
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class TokenRoutingConfig(RoutingConfig):
    """As many experts as the other routings have; published are 8 or 16."""

    name: str = "token"
    num_experts: int = 4  # experts, N, besides the shared one
    top_k: int = 2  # experts of a token, k
    shared: float = 0.5  # hidden width of the shared expert, in those of a routed one; 0: none
    balance: float = 0.01  # weight of the balance loss

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"policy.denoiser.routing.top_k={self.top_k} must lie in "
                f"1..num_experts={self.num_experts}"
            )
        require_range(self, "shared", "balance", at_least=0, prefix="policy.denoiser.routing.")

    def build(self, num_layers: int, width: int, hidden: int) -> DenseRouting:
        """Return routes that say nothing: the layers choose by their tokens."""
        return DenseRouting(num_layers)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> TokenLayer:
        """Return gate and experts; k routed ones and the shared one have `hidden` units."""
        return TokenLayer(self, width, hidden, dropout)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of the balance loss."""
        return {"token_balance": self.balance}


class TokenLayer(RoutedLayer[None, None]):
    """Gate, routed experts and the shared one."""

    def __init__(
        self, config: TokenRoutingConfig, width: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.top_k = config.top_k
        routed = max(1, math.floor(hidden / (config.top_k + config.shared)))
        shared = hidden - config.top_k * routed if config.shared else 0
        self.gate = nn.Parameter(torch.empty(config.num_experts, width))
        nn.init.kaiming_uniform_(self.gate, math.sqrt(5))
        self.experts = Experts(width, config.num_experts, routed, dropout)
        self.shared = None
        if shared > 0:
            self.shared = SwishGLU(width, shared, bias_out=False, dropout=dropout)

    def forward(self, x: Float[Tensor, "b t d"], route: None) -> tuple[Tensor, Losses]:
        """Return y [B T D] and, in training, the balance loss."""
        with torch.autocast(x.device.type, enabled=False):
            gates = (x.float() @ self.gate.T).softmax(-1)
        chosen = choose(gates, self.top_k)
        y = self.experts(x, gates * chosen)
        if self.shared is not None:
            y = y + self.shared(x)
        return y, {"token_balance": balance_loss(gates, chosen)} if self.training else {}


def balance_loss(gates: Float[Tensor, "b t n"], chosen: Bool[Tensor, "b t n"]) -> Float[Tensor, ""]:
    """Return the sum over experts of P_i f_i."""
    counts = chosen.float().mean((0, 1))
    return gates.shape[-1] * (gates.mean((0, 1)) * counts / counts.sum()).sum()
