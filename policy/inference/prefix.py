"""Chunks that go on from a prefix: what is left of the chunk under way while they are computed.

Of a prefix, the first `inference_delay` actions will have been carried out before the new chunk can
take over, so they are fixed; the later ones are only what the old chunk would have done. Two ways,
both around `denoise(x, sigma) -> x0` and so free of sampler, formulation and kind:

trained   The network is given the fixed actions without noise, at a noise level of their own
          (Black et al. 2025, "Training-Time Action Conditioning for Efficient Real-Time Chunking").
          Training does the same to the first 0..max_delay actions of a chunk, drawn for each
          sample alike, and asks for the others alone. Costs next to nothing.
guided    For networks trained without: the estimate is pulled towards the prefix (Black, Galliker
          and Levine 2025, "Real-Time Execution of Action Chunking Flow Policies", algorithm 1,
          after PiGDM, Song et al. 2023), with the pull taken back through the network:

              x0' = x0 + c(sigma) J^T W (prefix - x0),   x0 = D(x, sigma),   J = dD/dx

          The paper's is in flow time: A = tau x, sigma = (1 - tau) / tau, A1' = A1 + (1 - tau) w g
          with g the pull through dA1/dA = J / tau and w = min(beta, (1 - tau) / (tau r^2)),
          r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2). In sigma, r^2 = sigma^2 / (1 + sigma^2), which
          is PiGDM's, the variance of x0 given x for actions of variance 1, and

              c(sigma) = min(beta sigma, sigma^2 / r^2) = min(beta sigma, 1 + sigma^2).

          Actions of a chunk are much alike and usually of less variance; with that variance in
          place of 1 the pull goes too far where steps are few. It costs a backward pass a step.

B samples, H actions of A values, d delays, R lengths of prefixes.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from telic.policy.diffusion.formulation import CLEAN_SIGMA
from telic.policy.diffusion.samplers import Denoise
from telic.policy.inference.precision import has_gradients
from telic.ranges import require_choice, require_range


class Prefixing(Enum):
    """How a chunk goes on from its prefix."""

    none = "none"  # it does not
    trained = "trained"  # fixed actions are given to a network that was trained so
    guided = "guided"  # by the gradient, any network


@dataclass(kw_only=True, slots=True)
class PrefixConfig:
    """Off unless a delay is trained for; guidance needs no training."""

    # largest number of actions fixed in training, 0..max_delay all as likely; 0: off
    max_delay: int = 0
    beta: float = 5.0  # bound of guidance's pull at high and at low sigma; the paper's

    def __post_init__(self) -> None:
        require_range(self, "max_delay", at_least=0, prefix="policy.prefix.")
        require_range(self, "beta", above=0, prefix="policy.prefix.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """What a batch of chunks goes on from.

    actions: [B H A], normalised, 0 where nothing is known; fixed: bool [B H], the actions given to
    a trained network; pull: f32 [B H 1], W of guidance, or [B H A] with 0 in slots not in use.
    None: of no chunk.
    """

    actions: Tensor
    fixed: Tensor | None
    pull: Tensor | None

    def around(self, denoise: Denoise, beta: float) -> Denoise:
        """Return `denoise`, which has `fixed` already, with the prefix."""
        if self.pull is not None:
            denoise = guided(denoise, self.actions, self.pull, beta)
        return denoise if self.fixed is None else held(denoise, self.actions, self.fixed)

    def settle(self, sampled: Float[Tensor, "b h a"]) -> Float[Tensor, "b h a"]:
        """Return a sample whose fixed actions are the prefix to the bit, whatever the sampler."""
        if self.fixed is None:
            return sampled
        return torch.where(self.fixed.unsqueeze(2), self.actions, sampled)


class Prefixer:
    """Decides how each chunk goes on from its prefix. `way` may be chosen at any time (`use`)."""

    def __init__(self, config: PrefixConfig) -> None:
        self.config = config
        self.way = Prefixing.trained if config.max_delay else Prefixing.none
        self._warned = False

    def use(self, name: str) -> None:
        """Go on from prefixes in the way of this name; ValueError if it was not trained so."""
        way = prefixing_way(name)
        if way is Prefixing.trained and not self.config.max_delay:
            raise ValueError(
                "prefixing=trained: the policy was trained without prefixes; use prefixing=guided, "
                "or train it with policy.prefix.max_delay=4"
            )
        self.way = way

    def require(self, denoiser: nn.Module) -> None:
        """Raise ValueError if chunks are to be guided and the denoiser has no gradient."""
        if self.way is Prefixing.guided and not has_gradients(denoiser):
            raise ValueError(
                "prefixing=guided differentiates the denoiser, and these numbers have no gradient; "
                "use precision=fp32 or bf16, or a policy trained with policy.prefix.max_delay"
            )

    def choose(
        self,
        delays: Int[Tensor, " b"],
        lengths: Int[Tensor, " b"],
        horizon: int,
        denoiser: nn.Module,
    ) -> tuple[Bool[Tensor, "b h"] | None, Float[Tensor, "b h"] | None]:
        """Return the actions to fix and W, each None where no chunk has any.

        A delay beyond what was trained is guided, or, where the denoiser's values have no
        gradient, fixed as far as was trained; a warning says so once. ValueError as `require`.
        """
        self.require(denoiser)
        fixed = pull = None
        by_gradient = torch.full_like(lengths, self.way is Prefixing.guided, dtype=torch.bool)
        if self.way is Prefixing.trained:
            by_gradient = delays > self.config.max_delay
            if bool(by_gradient.any()):
                guides = has_gradients(denoiser)
                self._warn(int(delays.max()), guides)
                by_gradient = by_gradient & guides
            known = torch.where(by_gradient, 0, delays.clamp_max(self.config.max_delay))
            if bool(known.any()):
                fixed = torch.arange(horizon) < known.unsqueeze(1)
        reach = torch.where(by_gradient, lengths, 0)
        if bool(reach.any()):
            pull = overlap_weights(torch.where(by_gradient, delays, 0), reach, horizon)
        return fixed, pull

    def _warn(self, delay: int, guides: bool) -> None:
        if not self._warned:
            instead = (
                "such chunks are guided, which costs a backward pass a step"
                if guides
                else "its numbers have no gradient to guide by, so only as many actions are fixed"
            )
            warnings.warn(
                f"an inference delay of {delay} steps is beyond the policy.prefix.max_delay="
                f"{self.config.max_delay} that the policy was trained for; {instead}",
                stacklevel=2,
            )
        self._warned = True


def prefixing_way(name: str) -> Prefixing:
    """Return the way called `name`; ValueError offers near ones."""
    return require_choice(Prefixing, name, "prefixing")


def draw_fixed(
    max_delay: int, count: int, horizon: int, generator: torch.Generator, device: torch.device
) -> Bool[Tensor, "b h"]:
    """Return which actions training fixes in each of `count` samples: the first 0..max_delay."""
    delays = torch.randint(max_delay + 1, (count,), generator=generator, device=device)
    return torch.arange(horizon, device=device) < delays.unsqueeze(1)


def show_fixed(
    noise: Float[Tensor, "b h a"], sigma: Float[Tensor, " b"], fixed: Bool[Tensor, "b h"]
) -> tuple[Float[Tensor, "b h a"], Float[Tensor, "b h"]]:
    """Return the noise of a training chunk, none on what is fixed, and each action's sigma."""
    return (
        noise.masked_fill(fixed.unsqueeze(2), 0.0),
        torch.where(fixed, CLEAN_SIGMA, sigma.unsqueeze(1)),
    )


def overlap_weights(
    delays: Int[Tensor, " b"], lengths: Int[Tensor, " b"], horizon: int
) -> Float[Tensor, "b h"]:
    """Return W of guidance: 1 before the delay d, c (e^c - 1) / (e - 1) up to the length R, then 0.

    c = (R - i) / (R - d + 1) at action i, equation 5 of the paper, whose H - s is R.
    """
    place = torch.arange(horizon, device=delays.device)
    d, r = delays.unsqueeze(1), lengths.unsqueeze(1)
    c = ((r - place) / (r - d + 1)).clamp(0, 1)
    weights = c * torch.expm1(c) / math.expm1(1)
    return torch.where(place < d, 1.0, weights).float()


def held(denoise: Denoise, actions: Float[Tensor, "b h a"], fixed: Bool[Tensor, "b h"]) -> Denoise:
    """Return `denoise` that sees and answers the fixed actions as they are."""
    mask = fixed.unsqueeze(2)

    def holding(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(mask, actions, denoise(torch.where(mask, actions, x), sigma))

    return holding


def guided(
    denoise: Denoise,
    actions: Float[Tensor, "b h a"],
    pull: Float[Tensor, "#b h #a"],
    beta: float,
) -> Denoise:
    """Return `denoise` whose estimate is pulled towards `actions` in proportion to `pull`.

    Not within inference mode, in which nothing can be differentiated.
    """

    def guiding(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            estimate = denoise(noisy, sigma)
        clean = estimate.detach()
        (back,) = torch.autograd.grad(estimate, noisy, pull * (actions - clean))
        return clean + guidance_weight(float(sigma), beta) * back

    return guiding


def guidance_weight(sigma: float, beta: float) -> float:
    """Return c(sigma) = min(beta sigma, 1 + sigma^2)."""
    return min(beta * sigma, 1 + sigma**2)
