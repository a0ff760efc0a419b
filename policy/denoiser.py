"""The seam between kinds: what a denoiser is conditioned on, what it answers, how it is built.

B samples, D width of tokens, G goal tokens, V cameras, O observation horizon, H actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class Context:
    """Tokens that depend neither on sigma nor on the actions; encoded once per chunk.

    goal: [B G D]; images: [B V*O D], camera by camera, each oldest first; state: [B O D].
    A part that a policy does without has no tokens (G, V*O or O is 0).
    """

    goal: Tensor
    images: Tensor
    state: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How many tokens a context has and what a chunk is: H actions of A numbers."""

    num_goals: int
    num_images: int
    num_states: int
    action_horizon: int
    action_dim: int


@dataclass(kw_only=True, slots=True)
class Prediction:
    """actions: [B H A], the answer that the formulation asked for; losses: the kind's own, by
    name, not weighted yet (in training only)."""

    actions: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class Denoiser(Protocol):
    """The network of one kind, an nn.Module."""

    def __call__(
        self,
        x: Float[Tensor, "b h a"],
        sigma: Float[Tensor, " s"],
        context: Context,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Answer actions x, scaled by the formulation, at noise level sigma ([B], or [1] for all).

        `generator` draws what is random in training besides dropout.
        """
        ...


@dataclass(kw_only=True, slots=True)
class DenoiserConfig:
    """What all kinds share; each kind adds its own in a subclass and registers it (kinds.py)."""

    kind: str = ""
    width: int = 128  # D

    def build(self, sizes: Sizes) -> torch.nn.Module:
        """Return a Denoiser for contexts and chunks of these sizes."""
        raise ValueError(f"policy.denoiser.kind={self.kind!r} is a base, not a kind")

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each of the kind's own losses."""
        return {}
