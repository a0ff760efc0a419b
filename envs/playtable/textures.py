"""The picture of wood, drawn by numpy: the same for the same seed on every machine.

Grain is Gaussian noise, smoothed far along the fibre and little across it, at three scales.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from telic.envs.playtable.layout import Rgb
from telic.spec import Array

WOOD_PIXELS: Final = 256  # of a side; the picture repeats without a seam
# correlation along and across the fibre in pixels, weight
_SCALES: Final = ((70.0, 7.0, 0.5), (26.0, 2.6, 0.8), (9.0, 1.3, 0.5))
_TINTS: Final = np.array([0.95, 1.0, 1.1])  # of contrast: the dark fibre is the redder one


def wood(mean: Rgb, contrast: float, seed: int) -> Array:
    """Return the grain of wood, u8 [256 256 3]; the fibre runs along its rows.

    mean: colour, 0 to 1. contrast: standard deviation of the brightness as a share of the mean.
    """
    rng = np.random.default_rng(seed)
    grain = sum(weight * _smooth(rng, along, across) for along, across, weight in _SCALES)
    pores = np.minimum(_smooth(rng, 18.0, 1.2) + 1.4, 0.0)  # short, dark, rare
    grain = grain + 1.2 * pores
    grain = (grain - grain.mean()) / grain.std()
    shade = 1 + contrast * np.clip(grain, -3, 3)[..., None] * _TINTS
    return np.clip(np.rint(255 * shade * np.array(mean)), 0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, along: float, across: float) -> Array:
    """Return periodic noise [256 256] of unit variance, correlated over so many pixels."""
    rows, columns = np.meshgrid(*[np.fft.fftfreq(WOOD_PIXELS)] * 2, indexing="ij")
    reach = np.exp(-2 * np.pi**2 * ((across * rows) ** 2 + (along * columns) ** 2) / 4)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(WOOD_PIXELS, WOOD_PIXELS))) * reach).real
    return noise / noise.std()
