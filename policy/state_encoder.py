"""Proprioception to tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class StateEncoder(nn.Sequential):
    """A 2-layer SiLU MLP: one token [D] for each normalised state [P]."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__(nn.Linear(state_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, state: Float[Tensor, "b o p"]) -> Float[Tensor, "b o d"]:
        """Return one token per observation."""
        tokens: Tensor = super().forward(state)
        return tokens
