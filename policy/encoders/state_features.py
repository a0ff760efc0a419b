"""Features of a state: angles as circles, and where things are from the hand."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.encoders.normalizer import Normalizer
from telic.spec import Array, near_misses

NEAR = (1 / 16, 1 / 4, 1.0)  # of an entry's scale: where its difference to another saturates
Pair = tuple[int, int]


class StateFeatures(nn.Module):
    """Features [.. size] of states [.. P]: normalised, angles as cosine and sine.

    An angle's cosine is in its place, its sine behind the P entries. Just below pi and just above
    -pi are then neighbours; as plain values they are as far apart as two angles can be.

    Behind these are the differences of pairs of entries, of each tanh(d / s) for the s of `NEAR`:
    a hand's last centimetre is a hundredth of the table, which a network that is to find it from
    two places on the table learns last. Two angles give cosine and sine of d and of 2 d, the same
    for a thing that looks the same from behind.

    Entries in `excluded`, and their sines, are not among them; no difference may be of one.
    """

    angles: Tensor  # int [number of angles], where they are
    mean: Tensor  # physical units, [P]
    places: Tensor  # int [2, differences of places], of which entry which is taken off
    near: Tensor  # f32 [differences of places, scales], where each saturates
    turns: Tensor  # int [2, differences of angles]
    kept: Tensor  # int [size], which numbers are features: all but those of excluded entries

    def __init__(
        self,
        normalizer: Normalizer,
        mean: Array,
        angles: Sequence[int] = (),
        differences: Sequence[Pair] = (),
        excluded: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        places = [pair for pair in differences if not set(pair) <= set(angles)]
        turns = [pair for pair in differences if set(pair) <= set(angles)]
        buffers = {
            "mean": torch.from_numpy(np.array(mean, np.float32)),
            "angles": torch.tensor(list(angles), dtype=torch.long),
            "places": torch.tensor(places, dtype=torch.long).view(-1, 2).T,
            "turns": torch.tensor(turns, dtype=torch.long).view(-1, 2).T,
        }
        near = torch.from_numpy(np.array(NEAR, np.float32))
        buffers["near"] = normalizer.scale[buffers["places"][0]].unsqueeze(-1) * near
        # which entry each number is about: the P, then those behind them
        about = [*range(len(normalizer.center)), *angles]
        about += [i for i, _ in places for _ in NEAR]
        about += [i for i, _ in turns for _ in range(4)]
        kept = [k for k, i in enumerate(about) if i not in excluded]
        buffers["kept"] = torch.tensor(kept, dtype=torch.long)
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        self.excluded = tuple(excluded)
        self._about = [about[k] for k in kept]
        self._plain = len(about) == len(normalizer.center)
        self.size = len(kept)

    def forward(self, state: Float[Tensor, "... p"]) -> Float[Tensor, "... q"]:
        """Features of states in physical units, angles in radians."""
        features = self._every(state)
        return features[..., self.kept] if self.excluded else features

    def _every(self, state: Tensor) -> Tensor:
        """Features of states, those of excluded entries too."""
        features = self.normalizer.normalize(state)
        if self._plain:
            return features
        angle = state[..., self.angles]
        apart = (state[..., self.places[0]] - state[..., self.places[1]]).unsqueeze(-1)
        turn = (state[..., self.turns[0]] - state[..., self.turns[1]]).unsqueeze(-1)
        turned = torch.cat([turn.cos(), turn.sin(), (2 * turn).cos(), (2 * turn).sin()], -1)
        return torch.cat(
            [
                features.index_copy(-1, self.angles, angle.cos()),
                angle.sin(),
                (apart / self.near).tanh().flatten(-2),
                turned.flatten(-2),
            ],
            -1,
        )

    def columns(self, entries: Sequence[int]) -> list[int]:
        """Return where entries of the state, and all that is about them, are among the features."""
        return [k for k, i in enumerate(self._about) if i in entries]


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


def token_entries(
    tokens: Sequence[Sequence[str]], names: Sequence[str], excluded: Sequence[int] = ()
) -> list[list[int]]:
    """Return the entries of each token of `policy.state_tokens`, without those excluded.

    An entry may be in several. ValueError where one is in none, a pattern names none, or a token
    has none left.
    """
    where = "policy.state_tokens"
    found = [entries_named(patterns, names, where) for patterns in tokens]
    left_out = set(range(len(names))).difference(excluded, *found)
    found = [[i for i in entries if i not in excluded] for entries in found]
    if [] in found:
        raise ValueError(
            f"{where}: {list(tokens[found.index([])])} names only entries that "
            "policy.exclude_state leaves out; drop that token"
        )
    if found and left_out:
        raise ValueError(
            f"{where}: {names[min(left_out)]} is in none of the {len(found)} tokens; give every "
            "entry of the state to one at least"
        )
    return found


def entry_pairs(differences: Sequence[Sequence[str]], names: Sequence[str]) -> list[Pair]:
    """Return (entry, entry that is taken off) of `policy.differences`, [["block?_x", "tcp_x"]].

    ValueError where a difference is not of a pattern and a name, or they name no entry.
    """
    where, found = "policy.differences", list[Pair]()
    for difference in differences:
        if len(difference) != 2:
            raise ValueError(
                f"{where} has {list(difference)}, expected the entries and the one taken off them, "
                '["block?_x", "tcp_x"]'
            )
        off = entries_named(difference[1:], names, where)
        if len(off) > 1:
            raise ValueError(
                f"{where}: {difference[1]!r} names {len(off)} entries, expected the one to take off"
            )
        found += [(i, off[0]) for i in entries_named(difference[:1], names, where) if i != off[0]]
    return found


def excluded_entries(
    patterns: Sequence[str], names: Sequence[str], differences: Sequence[Pair]
) -> list[int]:
    """Return the entries that `policy.exclude_state` names.

    ValueError where a pattern names none, none is left, or a difference takes one of them.
    """
    where = "policy.exclude_state"
    excluded = entries_named(patterns, names, where)
    if excluded and len(excluded) == len(names):
        raise ValueError(f"{where} leaves no entry of the state; use policy.use_state=false")
    taken = {i for pair in differences for i in pair}.intersection(excluded)
    if taken:
        raise ValueError(f"policy.differences takes {names[min(taken)]}, which {where} leaves out")
    return excluded
