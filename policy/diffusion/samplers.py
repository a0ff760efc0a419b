"""Samplers: plain functions that follow `denoise(x, sigma) -> x0` down a list of sigmas.

`x` is [B ...] noise of std `sigmas[0]`; `sigmas` is f32 [n + 1], on the CPU wherever x is, or the
`Levels` of it, and ends in 0 (schedules.py); `denoise` gets sigma as f32 [1] of it, shared by the
batch, so that a step can be looked up by its sigma without waiting for a GPU. Each returns x at the
last sigma. What a stochastic sampler adds is given to it: `noise` [n B ...], standard normal, row i
for step i, so a sample is a function of x and noise alone. A step to 0 adds none.

A sampler is such a function and one entry in `SAMPLERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from telic.registry import Registry

Denoise = Callable[[Tensor, Tensor], Tensor]


class Levels:
    """A schedule as plain numbers, read as its f32 tensor is: by `tolist` and by slices.

    No number is read from a tensor, so that a loop over them can be traced into one graph. rows:
    each sigma as f32 [1]; a slice of one is that very tensor, so that it can be told by identity.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = list(sigmas)
        self.rows = [torch.tensor([sigma]) for sigma in self._sigmas]

    def tolist(self) -> list[float]:
        """The sigmas."""
        return self._sigmas

    def __getitem__(self, rows: slice) -> Float[Tensor, " rows"]:
        chosen = self.rows[rows]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

    def __len__(self) -> int:
        return len(self._sigmas)


Sigmas: TypeAlias = Float[Tensor, " levels"] | Levels


def euler(denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Sigmas) -> Float[Tensor, "b ..."]:
    """Euler's method on the probability flow ODE in sigma.

    The same thing as DDIM and as DPM-Solver++(1): x <- s x + (1 - s) D(x), s = sigma'/sigma.
    """
    for level, sigma, following in _steps(sigmas):
        ratio = following / level
        x = ratio * x + (1 - ratio) * denoise(x, sigma)
    return x


def heun(denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Sigmas) -> Float[Tensor, "b ..."]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1): two calls a step, one in the
    last."""
    for index, (level, sigma, following) in enumerate(_steps(sigmas)):
        slope = (x - denoise(x, sigma)) / level
        x_next = x + (following - level) * slope
        if following > 0:
            slope_next = (x_next - denoise(x_next, sigmas[index + 1 : index + 2])) / following
            x_next = x + (following - level) * (slope + slope_next) / 2
        x = x_next
    return x


def dpmpp_2m(denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Sigmas) -> Float[Tensor, "b ..."]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order at one call a step.

    The first step and the one to sigma 0 are of first order.
    """
    return dpmpp_2m_sde(denoise, x, sigmas, x.unsqueeze(0)[:0], eta=0.0)


def euler_ancestral(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Sigmas,
    noise: Float[Tensor, "n b ..."],
    eta: float = 1.0,
) -> Float[Tensor, "b ..."]:
    """Euler's method to a lower sigma, then noise up to the scheduled one.

    With up^2 = eta^2 sigma'^2 (1 - sigma'^2 / sigma^2) the same thing as DDIM with eta (Song et
    al. 2021, equations 12 and 16): 0 is DDIM, 1 is DDPM's ancestral sampling.
    """
    for index, (level, sigma, following) in enumerate(_steps(sigmas)):
        ratio = following / level
        up = eta * following * math.sqrt(1 - ratio**2)
        down = math.sqrt(following**2 - up**2) / level
        x = down * x + (1 - down) * denoise(x, sigma)
        if up > 0:
            x = x + up * noise[index]
    return x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Float[Tensor, "b ..."],
    sigmas: Sigmas,
    noise: Float[Tensor, "n b ..."],
    eta: float = 1.0,
) -> Float[Tensor, "b ..."]:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022), midpoint form: `dpmpp_2m` on the reverse SDE.

    eta scales the noise of the SDE (its square the drift that comes with it): 0 is `dpmpp_2m`, 1
    the paper's. The step to sigma 0 is of first order.
    """
    previous: Tensor | None = None
    h_previous = 0.0
    for index, (level, sigma, following) in enumerate(_steps(sigmas)):
        denoised = denoise(x, sigma)
        if following == 0:
            return denoised
        h = math.log(level / following)
        slope = denoised
        if previous is not None:  # extrapolated to the middle of the step
            weight = h / (2 * h_previous)
            slope = (1 + weight) * denoised - weight * previous
        kept = (following / level) ** (1 + eta**2)
        x = kept * x + (1 - kept) * slope
        if eta > 0:
            x = x + following * math.sqrt(-math.expm1(-2 * h * eta**2)) * noise[index]
        previous, h_previous = denoised, h
    return x


def _steps(sigmas: Sigmas) -> Iterator[tuple[float, Tensor, float]]:
    """Yield (sigma, the same as f32 [1], the following sigma) for each step."""
    levels = sigmas.tolist()
    for index in range(len(levels) - 1):
        yield levels[index], sigmas[index : index + 1], levels[index + 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """A loop over sigmas: `walk(denoise, x, sigmas)`, or, where it `adds_noise`,
    `walk(denoise, x, sigmas, noise, eta)`.

    order: by which power of the step its error falls, for a stochastic one that of the variance.
    also: the other name that it is known by, which configs have instead.
    """

    walk: Callable[..., Any]
    order: int
    adds_noise: bool = False
    also: str = ""


_EULER = Sampler(walk=euler, order=1)
_ANCESTRAL = Sampler(walk=euler_ancestral, order=1, adds_noise=True)

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "euler": _EULER,
        "ddim": replace(_EULER, also="euler"),  # DDIM in sigma is Euler: one loop, two names
        "heun": Sampler(walk=heun, order=2),
        "dpmpp_2m": Sampler(walk=dpmpp_2m, order=2),
        "euler_ancestral": _ANCESTRAL,
        "ddpm": replace(_ANCESTRAL, also="euler_ancestral"),  # likewise, with eta 1
        "dpmpp_2m_sde": Sampler(walk=dpmpp_2m_sde, order=2, adds_noise=True),
    },
)
