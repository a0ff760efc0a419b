"""Between physical units and what the network sees; affine, per entry, safe for constants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from telic.ranges import require_range
from telic.spec import ArraySpec, FieldStats

Vector = NDArray[np.float64]
Bools = NDArray[np.bool_]
_ROUNDING = 5e-6  # half the relative range that rounding leaves of a constant


class Scaling(Enum):
    """What becomes of an entry."""

    mean_std = "mean_std"  # (x - mean) / std
    min_max = "min_max"  # the range of the store becomes [-1, 1]
    bounds = "bounds"  # the range of the ArraySpec becomes [-1, 1]
    identity = "identity"
    auto = "auto"  # identity within bounds of [-1, 1], else bounds where both exist, else min_max


@dataclass(kw_only=True, slots=True)
class NormalizerConfig:
    """How one field is scaled."""

    scaling: Scaling = Scaling.auto  # how an entry is scaled
    std_floor: float = 0.01  # least std to divide by, in the field's unit
    clamp: float | None = None  # largest size of a normalised entry; None: not clamped

    def __post_init__(self) -> None:
        require_range(self, "std_floor", "clamp", above=0)

    def build(self, name: str, spec: ArraySpec, stats: FieldStats | None) -> Normalizer:
        """Return the normalizer of field `name`; ValueError where what it needs is absent."""
        size = spec.shape[-1]
        if size is None:
            raise ValueError(
                f"policy.{name}: a field of free size {spec.shape} cannot be normalised"
            )
        center, scale = np.zeros(size), np.ones(size)
        scaling = _resolve(self.scaling, spec)
        if scaling in (Scaling.mean_std, Scaling.min_max):
            if stats is None:
                raise ValueError(
                    f"policy.{name}: {scaling.value} scaling needs the store's statistics; "
                    f"policy.{name}.scaling=identity and bounds do without"
                )
            if scaling is Scaling.mean_std:
                center, scale = stats.mean, np.maximum(stats.std, self.std_floor)
            else:
                center = (stats.maximum + stats.minimum) / 2
                scale = _half_range(stats.minimum, stats.maximum)
        if scaling is Scaling.bounds:
            if spec.minimum is None or spec.maximum is None:
                raise ValueError(
                    f"policy.{name}: bounds scaling needs a minimum and maximum in its spec; "
                    f"policy.{name}.scaling=min_max takes those of the store"
                )
            low = np.broadcast_to(np.asarray(spec.minimum, np.float64), (size,))
            high = np.broadcast_to(np.asarray(spec.maximum, np.float64), (size,))
            center, scale = (high + low) / 2, _half_range(low, high)
        constant = None if stats is None else self.constant(stats)
        if constant is None or stats is None or not constant.any():
            return Normalizer(center, scale, self.clamp)
        return Normalizer(center, scale, self.clamp, constant, _middle(stats))

    def constant(self, stats: FieldStats) -> Bools:
        """Return which entries never varied in the demonstrations, bool [D].

        What rounding leaves of a constant is 1e-5 of its size, or 1e-4 of `std_floor` about 0.
        """
        half = (stats.maximum - stats.minimum) / 2
        return half <= np.maximum(_ROUNDING * abs(_middle(stats)), 1e-4 * self.std_floor)


class Normalizer(nn.Module):
    """normalize(x) = (x - center) / scale, clamped; both [D]. Not part of the weights.

    An entry that is `constant` has its one `value` [D] going in and coming out, whatever is
    observed there and whatever the network answers.
    """

    center: Tensor
    scale: Tensor
    constant: Tensor | None
    value: Tensor | None

    def __init__(
        self,
        center: Vector,
        scale: Vector,
        clamp: float | None = None,
        constant: Bools | None = None,
        value: Vector | None = None,
    ) -> None:
        super().__init__()
        self.clamp = clamp
        for name, given in (("center", center), ("scale", scale), ("value", value)):
            tensor = None if given is None else torch.from_numpy(np.array(given, np.float32))
            self.register_buffer(name, tensor, persistent=False)
        mask = None if constant is None else torch.from_numpy(np.array(constant, bool))
        self.register_buffer("constant", mask, persistent=False)

    def normalize(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return x as the network sees it."""
        x = (self.settle(x) - self.center) / self.scale
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def unnormalize(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return x in physical units."""
        return self.settle(x * self.scale + self.center)

    def settle(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return x, in physical units, with the constant entries at their values."""
        if self.constant is None or self.value is None:
            return x
        return torch.where(self.constant, self.value, x)


def _resolve(scaling: Scaling, spec: ArraySpec) -> Scaling:
    if scaling is not Scaling.auto:
        return scaling
    if spec.minimum is None or spec.maximum is None:
        return Scaling.min_max
    unit = all(low == -1 for low in spec.minimum) and all(high == 1 for high in spec.maximum)
    return Scaling.identity if unit else Scaling.bounds


def _middle(stats: FieldStats) -> Vector:
    middle: Vector = (stats.maximum + stats.minimum) / 2
    return middle


def _half_range(low: Vector, high: Vector) -> Vector:
    """Return half the range, and 1 where an entry is constant."""
    half = (high - low) / 2
    return np.where(half > 1e-6, half, 1.0)
