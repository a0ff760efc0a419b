"""Proprioception to what networks see of it, and to tokens."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.normalizer import Normalizer
from telic.spec import Array, near_misses


class StateView(nn.Module):
    """States [.. P] as networks see them, [.. size]: normalised, angles as cosine and sine.

    An angle's cosine is in its place, its sine behind the P entries. Just below pi and just above
    -pi are then neighbours; as plain numbers they are as far apart as two angles can be.
    """

    angles: Tensor  # int [size - P], where they are
    mean: Tensor  # physical units, [P]

    def __init__(self, normalizer: Normalizer, mean: Array, angles: Sequence[int] = ()) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.register_buffer("mean", torch.from_numpy(np.array(mean, np.float32)), persistent=False)
        self.size = len(normalizer.center) + len(angles)
        self.register_buffer(
            "angles", torch.tensor(list(angles), dtype=torch.long), persistent=False
        )

    def forward(self, state: Float[Tensor, "... p"]) -> Float[Tensor, "... q"]:
        """Return physical units, angles in radians, as the network sees them."""
        seen = self.normalizer.normalize(state)
        if not len(self.angles):
            return seen
        angle = state[..., self.angles]
        return torch.cat([seen.index_copy(-1, self.angles, angle.cos()), angle.sin()], -1)


def angle_entries(patterns: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return where entries are that one of the patterns names (`*_yaw`), in order.

    ValueError where a pattern names none.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"policy.angles: no entry of the state is named {pattern!r}"
                f"{near_misses(pattern, names) or '; its entries have no names' * (not names)}"
            )
    return [
        i for i, name in enumerate(names) if any(fnmatch.fnmatchcase(name, p) for p in patterns)
    ]


class StateEncoder(nn.Sequential):
    """A 2-layer SiLU MLP: one token [D] for each state as networks see it [P]."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__(nn.Linear(state_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, state: Float[Tensor, "b o p"]) -> Float[Tensor, "b o d"]:
        """Return one token per observation."""
        tokens: Tensor = super().forward(state)
        return tokens
