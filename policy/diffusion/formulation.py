"""Formulations: the network's input and its target at noise level sigma.

Every one is three factors of sigma around the network F and a density to draw sigma from:
D(x; sigma) = c_skip x + c_out F(c_in x, sigma), with x = x0 + sigma noise throughout. Training asks
F for (x0 - c_skip x) / c_out. The network gets sigma itself and reads it as its kind does
(sigma_embedding.py), so kind and formulation are free of each other. Arithmetic is in x's
dtype, float32, whatever the network computes in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]

# The nominal sigma of an action without noise, where others in its chunk have noise.
# Networks read ln(sigma), so it is not 0; it is where the schedules in sigma end.
CLEAN_SIGMA = 0.001


class Scalings(NamedTuple):
    """The three factors, each shaped like sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


class TrainingPair(NamedTuple):
    """network_input, target: f32 [B H A]; training fits the network's output to target."""

    network_input: Tensor
    target: Tensor


@dataclass(kw_only=True, slots=True)
class FormulationConfig:
    """A base; each formulation adds its own settings and registers itself (formulations.py)."""

    name: str = ""
    place: ClassVar[str] = "policy.formulation"  # or policy.future.edm (typed_keys.py)

    @classmethod
    def small(cls) -> FormulationConfig:
        """An example: what tests run."""
        return cls()

    def build(self) -> Formulation:
        """Return the formulation."""
        raise ValueError(f"policy.formulation.name={self.name!r} is a base, not a formulation")


class Formulation(ABC):
    """What is the same for all: denoising and the training pair follow from the scalings."""

    @abstractmethod
    def scalings(self, sigma: Float[Tensor, "*size"]) -> Scalings:
        """Return c_skip, c_out and c_in."""

    def draw_sigma(
        self,
        count: int,
        generator: torch.Generator | None,
        device: torch.device,
        highest: float = math.inf,
    ) -> Float[Tensor, " b"]:
        """Return `count` sigmas of the training density on `device`, f32.

        highest: the density is cut off there; ValueError where nothing of it is left. Drawn by
        `sigma_quantile`; a formulation of discrete sigmas draws them in its own way.
        """
        share = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        return self.sigma_quantile(share, highest).float()

    def sigma_quantile(self, share: Float[Tensor, " b"], highest: float) -> Float[Tensor, " b"]:
        """Return the sigma below which `share` of the training density lies, f64 in [0, 1).

        highest: the density is cut off there; ValueError where nothing of it is left.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has neither sigma_quantile nor draw_sigma"
        )

    def denoise(
        self, network: Network, x: Float[Tensor, "b h a"], sigma: Float[Tensor, "*s"]
    ) -> Float[Tensor, "b h a"]:
        """Return D(x; sigma), the estimate of the clean chunk. sigma: [B], or [1] for all, or
        [B H], one for each action; it may come from the CPU to an x elsewhere."""
        sigma = sigma.to(x.device)
        c_skip, c_out, c_in = self.scalings(_beside_actions(sigma))
        return c_skip * x + c_out * network(c_in * x, self.network_sigma(sigma)).to(x.dtype)

    def network_sigma(self, sigma: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Return the noise levels that the network is given at sigma."""
        return sigma

    def training_pair(
        self,
        clean: Float[Tensor, "b h a"],
        noise: Float[Tensor, "b h a"],
        sigma: Float[Tensor, "*size"],
    ) -> TrainingPair:
        """Return the network's input, `clean + sigma * noise` scaled, and its target.

        sigma: of each sample, or of each action.
        """
        sigma = _beside_actions(sigma)
        network_input = self.scalings(sigma).c_in * (clean + sigma * noise)
        return TrainingPair(network_input, self.target(clean, noise, sigma))

    def target(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return (clean - c_skip noisy) / c_out, as each formulation computes it without loss."""
        c_skip, c_out, _ = self.scalings(sigma)
        return (clean - c_skip * (clean + sigma * noise)) / c_out


def _beside_actions(sigma: Tensor) -> Tensor:
    """Return sigma [S] or [B H] in a form that broadcasts against actions [B H A]."""
    return sigma[:, None, None] if sigma.ndim == 1 else sigma.unsqueeze(2)


def squared_error(
    output: Float[Tensor, "b h a"],
    target: Float[Tensor, "b h a"],
    mask: Bool[Tensor, "b h"] | None = None,
    entries: Bool[Tensor, "b a"] | None = None,
) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error, f32, over those of its `entries`.

    An action outside `mask` (past the end of its episode) counts as without error, so every real
    action weighs the same in each window that holds it.
    """
    error = mean_entry((output.float() - target).square(), entries)
    if mask is not None:
        error = error * mask
    return error.mean(-1)


def mean_entry(
    values: Float[Tensor, "b h a"], entries: Bool[Tensor, "b a"] | None
) -> Float[Tensor, "b h"]:
    """Return the mean over the last axis, of each sample's `entries` where they are given."""
    if entries is None:
        return values.mean(-1)
    share = entries / entries.sum(-1, keepdim=True)
    return (values * share.unsqueeze(1)).sum(-1)
