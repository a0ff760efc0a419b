"""Proprioception to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class StateEncoder(nn.Sequential):
    """A 2-layer SiLU MLP: one token [D] for each state as networks see it [P]."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__(nn.Linear(state_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, state: Float[Tensor, "b o p"]) -> Float[Tensor, "b o d"]:
        """Return one token per observation."""
        tokens: Tensor = super().forward(state)
        return tokens


class StateTokens(nn.Module):
    """Several tokens [D] for each state, every one from entries of its own by an MLP of its own.

    Attention can then choose among them, the block that a goal is about, say, as it cannot among
    the entries of one token.
    """

    def __init__(self, columns: Sequence[Sequence[int]], width: int) -> None:
        super().__init__()
        self.columns = [list(own) for own in columns]
        self.encoders = nn.ModuleList(StateEncoder(len(own), width) for own in columns)

    def forward(self, state: Float[Tensor, "b o p"]) -> Float[Tensor, "b n d"]:
        """Return the tokens of all observations, the oldest observation's first."""
        pairs = zip(self.columns, self.encoders, strict=True)
        return torch.stack([encode(state[..., own]) for own, encode in pairs], 2).flatten(1, 2)
