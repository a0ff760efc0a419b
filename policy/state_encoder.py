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

    def columns(self, entries: Sequence[int]) -> list[int]:
        """Return where entries of the state are in what is seen of it, with their sines."""
        angles = self.angles.tolist()
        first = len(self.normalizer.center)
        return [*entries, *(first + angles.index(i) for i in entries if i in angles)]


def entries_named(patterns: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Return where entries are that one of the patterns names (`*_yaw`), in order.

    ValueError where a pattern names none; `where` says which setting has it.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"{where}: no entry of the state is named {pattern!r}"
                f"{near_misses(pattern, names) or '; its entries have no names' * (not names)}"
            )
    return [
        i for i, name in enumerate(names) if any(fnmatch.fnmatchcase(name, p) for p in patterns)
    ]


def token_entries(tokens: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[int]]:
    """Return the entries of each token of `policy.state_tokens`.

    An entry may be in several. ValueError where one is in none, or a pattern names none.
    """
    where = "policy.state_tokens"
    found = [entries_named(patterns, names, where) for patterns in tokens]
    left_out = set(range(len(names))).difference(*found)
    if found and left_out:
        raise ValueError(
            f"{where}: {names[min(left_out)]} is in none of the {len(found)} tokens; give every "
            "entry of the state to one at least"
        )
    return found


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
