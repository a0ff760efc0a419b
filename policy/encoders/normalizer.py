"""Between physical units and what the network sees; affine, per entry, safe for constants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from telic.spec import ArraySpec, FieldStats

Vector = NDArray[np.float64]


class Scaling(Enum):
    """What becomes of an entry."""

    mean_std = "mean_std"  # (x - mean) / std
    min_max = "min_max"  # the range seen in the store becomes [-1, 1]
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
        if self.std_floor <= 0 or (self.clamp is not None and self.clamp <= 0):
            raise ValueError(
                f"normalizer std_floor={self.std_floor} and clamp={self.clamp} must be positive"
            )

    def build(self, name: str, spec: ArraySpec, stats: FieldStats | None) -> Normalizer:
        """Return the normalizer of field `name`; ValueError where what it needs is absent."""
        size = spec.shape[-1]
        if size is None:
            raise ValueError(f"{name}: a field of free size {spec.shape} cannot be normalised")
        center, scale = np.zeros(size), np.ones(size)
        scaling = _resolve(self.scaling, spec)
        if scaling in (Scaling.mean_std, Scaling.min_max):
            if stats is None:
                raise ValueError(f"{name}: {scaling.value} scaling needs the store's statistics")
            if scaling is Scaling.mean_std:
                center, scale = stats.mean, np.maximum(stats.std, self.std_floor)
            else:
                center = (stats.maximum + stats.minimum) / 2
                scale = _half_range(stats.minimum, stats.maximum)
        if scaling is Scaling.bounds:
            if spec.minimum is None or spec.maximum is None:
                raise ValueError(f"{name}: bounds scaling needs a minimum and maximum in its spec")
            low = np.broadcast_to(np.asarray(spec.minimum, np.float64), (size,))
            high = np.broadcast_to(np.asarray(spec.maximum, np.float64), (size,))
            center, scale = (high + low) / 2, _half_range(low, high)
        return Normalizer(center, scale, self.clamp)


class Normalizer(nn.Module):
    """normalize(x) = (x - center) / scale, clamped; both [D]. Not part of the weights."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: Vector, scale: Vector, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        for name, value in (("center", center), ("scale", scale)):
            tensor = torch.from_numpy(np.array(value, np.float32))
            self.register_buffer(name, tensor, persistent=False)

    def normalize(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return x as the network sees it."""
        x = (x - self.center) / self.scale
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def unnormalize(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return x in physical units."""
        return x * self.scale + self.center


def _resolve(scaling: Scaling, spec: ArraySpec) -> Scaling:
    if scaling is not Scaling.auto:
        return scaling
    if spec.minimum is None or spec.maximum is None:
        return Scaling.min_max
    unit = all(low == -1 for low in spec.minimum) and all(high == 1 for high in spec.maximum)
    return Scaling.identity if unit else Scaling.bounds


def _half_range(low: Vector, high: Vector) -> Vector:
    """Return half the range, and 1 where an entry is constant."""
    half = (high - low) / 2
    return np.where(half > 1e-6, half, 1.0)
