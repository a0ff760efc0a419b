"""Switch-DiT: gates of the noise level pick linear experts that make the block's channel mask.

Park et al. 2024, "Switch Diffusion Transformer: Synergizing Denoising Tasks with Sparse
Mixture-of-Experts" (ECCV), section 4:
- gates, in each layer: p = softmax(W silu(e) + b) over N experts, e the sigma embedding;
- mask, for each token: m = 1 + sum over the top k of p_i E_i(x), E_i linear and 0 at first, so a
  new network is one without routing; out = block(m * x) + (1 - m) * x;
- the diffusion-prior loss draws the gates of all layers together, L N units, towards DTR's masks
  with beta = k / N: noise levels near each other share units, far ones do not. Units have no
  order of their own, so the prior's columns are first matched to them (Hungarian method) over the
  chosen experts at all timesteps.

S noise levels, B samples, T tokens, D width, L layers, N experts, U = L N units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from telic.policy.diffusion.ddpm import Betas, timestep_sigmas
from telic.policy.routing.dense import DenseLayer
from telic.policy.routing.dtr import NUM_TIMESTEPS, channel_masks, timesteps
from telic.policy.routing.noise import choose
from telic.policy.routing.routing import Losses, NoiseLevels, Routes, Routing, RoutingConfig
from telic.ranges import require_range

EPS = 1e-6


@dataclass(kw_only=True, slots=True)
class SwitchRoutingConfig(RoutingConfig):
    """The published settings."""

    name: str = "switch"
    num_experts: int = 3  # experts, N
    top_k: int = 2  # experts of a sample, k
    alpha: float = 4.0  # exponent of the prior, as in DTR
    prior: float = 1.0  # weight of the diffusion-prior loss; the paper tunes it

    def __post_init__(self) -> None:
        require_range(self, "alpha", above=0, prefix="policy.denoiser.routing.")
        require_range(self, "prior", at_least=0, prefix="policy.denoiser.routing.")
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"policy.denoiser.routing.top_k={self.top_k} must lie in "
                f"1..num_experts={self.num_experts}"
            )

    def build(self, num_layers: int, width: int, hidden: int) -> SwitchRouting:
        """Return the gates of all layers."""
        return SwitchRouting(self, num_layers, width)

    def layer(self, width: int, hidden: int, dropout: float = 0.0) -> SwitchLayer:
        """Return one SwishGLU of the whole hidden width and the experts of the mask."""
        return SwitchLayer(width, hidden, self.num_experts, dropout)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of the diffusion-prior loss."""
        return {"diffusion_prior": self.prior}


class SwitchRouting(Routing[Tensor]):
    """The route of a layer is its gates [S 1 N], 0 for experts not chosen, not renormalised."""

    prior: Tensor

    def __init__(self, config: SwitchRoutingConfig, num_layers: int, width: int) -> None:
        super().__init__()
        self.num_layers, self.top_k = num_layers, config.top_k
        units = num_layers * config.num_experts
        self.gate = nn.Linear(width, units)
        prior = channel_masks(units, config.top_k / config.num_experts, config.alpha).float()
        self.register_buffer("prior", prior, persistent=False)

    def forward(
        self, levels: NoiseLevels, num_tokens: int, generator: torch.Generator | None = None
    ) -> Routes[Tensor]:
        """Return the gates and, in training, the diffusion-prior loss."""
        probabilities = self.probabilities(levels.embedding)
        gates = probabilities * choose(probabilities, self.top_k)
        losses: Losses = {}
        if self.training:
            matched = self.matched_prior(levels, generator)
            rows = matched[timesteps(levels.sigma)]
            units = probabilities.flatten(1) / self.num_layers
            losses = {"diffusion_prior": jensen_shannon(units, rows).mean()}
        return Routes(layers=list(gates.unsqueeze(2).unbind(1)), losses=losses)

    def probabilities(self, embedding: Float[Tensor, "s d"]) -> Float[Tensor, "s l n"]:
        """Return each layer's softmax over its experts."""
        return self.gate(F.silu(embedding)).unflatten(-1, (self.num_layers, -1)).softmax(-1)

    @torch.no_grad()
    def matched_prior(
        self, levels: NoiseLevels, generator: torch.Generator | None = None
    ) -> Float[Tensor, "t u"]:
        """Return each timestep's prior over the units, with its columns matched to them.

        `generator` shuffles the columns first, so that equal ones are not matched in order.
        """
        sigmas = timestep_sigmas(Betas.squared_cosine, NUM_TIMESTEPS).to(levels.sigma)
        chosen = choose(self.probabilities(levels.embed(sigmas)), self.top_k).flatten(1).float()
        device = self.prior.device
        shuffle = torch.randperm(self.prior.shape[1], generator=generator, device=device)
        prior = self.prior[:, shuffle]
        # |a - b| of zeros and ones, summed over timesteps
        cost = chosen.sum(0)[:, None] + prior.sum(0)[None] - 2 * chosen.T @ prior
        _, columns = linear_sum_assignment(cost.cpu().numpy())
        matched = prior[:, torch.from_numpy(columns).to(device)]
        return matched / matched.sum(1, keepdim=True)


class LinearMask(NamedTuple):
    """The gated experts of one noise level as one map: weight [D D], bias [D]."""

    weight: Tensor
    bias: Tensor


class SwitchLayer(DenseLayer[Tensor, LinearMask]):
    """A dense feed-forward in a block whose mask is computed."""

    def __init__(self, width: int, hidden: int, num_experts: int, dropout: float = 0.0) -> None:
        super().__init__(width, hidden, dropout)
        self.weight = nn.Parameter(torch.zeros(num_experts, width, width))
        self.bias = nn.Parameter(torch.zeros(num_experts, width))

    def mask(
        self, x: Float[Tensor, "b t d"], route: Float[Tensor, "s _t n"] | LinearMask
    ) -> Float[Tensor, "b t d"]:
        """Return 1 + sum of p_i E_i(x).

        Where all tokens share the noise level the gated experts are one linear map.
        """
        if not isinstance(route, LinearMask) and route.shape[:2].numel() == 1:
            route = self.fold(route)
        if isinstance(route, LinearMask):
            return 1 + F.linear(x, route.weight, route.bias)
        experts = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        experts = experts.unflatten(-1, self.bias.shape)
        return 1 + (route.unsqueeze(3).to(x.dtype) * experts).sum(-2)

    def fold(self, route: Float[Tensor, "1 1 n"]) -> LinearMask:
        """Return sum of p_i E_i as one map."""
        weight = torch.einsum("n,noi->oi", route[0, 0], self.weight)
        return LinearMask(weight, route[0, 0] @ self.bias)


def jensen_shannon(p: Float[Tensor, "s u"], q: Float[Tensor, "s u"]) -> Float[Tensor, " s"]:
    """Return (KL(p | m) + KL(q | m)) / 2, m = (p + q) / 2; 0 where p is q, ln 2 at most."""
    middle = (p + q + 2 * EPS).log() - math.log(2)
    to_p = p * ((p + EPS).log() - middle)
    to_q = q * ((q + EPS).log() - middle)
    return (to_p + to_q).sum(-1) / 2
