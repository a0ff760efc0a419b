"""How a chunk is drawn from the denoiser: sampler, schedule, number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy import samplers, schedules
from telic.policy.samplers import Denoise
from telic.spec import near_misses


class Sampler(Enum):
    """The loop over sigmas."""

    euler = "euler"
    ddim = "euler"  # noqa: PIE796 (DDIM in sigma is Euler: one loop, two names)
    heun = "heun"
    dpmpp_2m = "dpmpp_2m"


class Schedule(Enum):
    """How sigmas are spaced between sigma_max and sigma_min."""

    exponential = "exponential"
    karras = "karras"
    linear = "linear"


_SAMPLERS: dict[Sampler, Callable[[Denoise, Tensor, Tensor], Tensor]] = {
    Sampler.euler: samplers.euler,
    Sampler.heun: samplers.heun,
    Sampler.dpmpp_2m: samplers.dpmpp_2m,
}
_SCHEDULES: dict[Schedule, Callable[[int, float, float], Tensor]] = {
    Schedule.exponential: schedules.exponential,
    Schedule.karras: schedules.karras,
    Schedule.linear: schedules.linear,
}


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """Ten steps by default, the published schedule. `sigmas`, where given, replace the schedule."""

    sampler: Sampler = Sampler.euler
    schedule: Schedule = Schedule.exponential
    steps: int = 10
    sigma_min: float = 0.001
    sigma_max: float = 80.0
    sigmas: list[float] | None = None  # falling, without the final 0, such as [5.0, 0.5]

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            self.steps = len(schedules.explicit(self.sigmas)) - 1
        if self.steps < 1:
            raise ValueError(f"sampling.steps={self.steps} must be at least 1")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise ValueError(
                f"sampling.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} "
                "must satisfy 0 < sigma_min <= sigma_max"
            )

    def levels(self) -> Float[Tensor, " levels"]:
        """Return the sigmas, f32 [steps + 1], the last one 0."""
        if self.sigmas is not None:
            return schedules.explicit(self.sigmas)
        return _SCHEDULES[self.schedule](self.steps, self.sigma_min, self.sigma_max)

    def sample(
        self, denoise: Denoise, unit_noise: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """Return the sample that starts at `unit_noise` times the first sigma."""
        sigmas = self.levels()
        return _SAMPLERS[self.sampler](denoise, float(sigmas[0]) * unit_noise, sigmas)


def first_non_finite(
    sampling: SamplingConfig, denoise: Denoise, unit_noise: Float[Tensor, "b ..."]
) -> str:
    """Return where sampling first leaves the finite numbers; samples once more to find out."""
    calls: list[str] = []
    bad: list[str] = []

    def watch(x: Tensor, sigma: Tensor) -> Tensor:
        out = denoise(x, sigma)
        calls.append(f"denoiser call {len(calls)} at sigma {float(sigma):.4g}")
        if not torch.isfinite(out).all():
            bad.append(calls[-1])
        return out

    sampling.sample(watch, unit_noise)
    where = bad[0] if bad else "no single call: the sampler itself overflowed"
    return (
        f"actions are not finite, first at {where}; the observation or goal is far outside the "
        "training data, or the weights are damaged"
    )


# One and two steps need a start that the training density has seen: at 80 it is off the data.
PRESETS: dict[str, SamplingConfig] = {
    "1": SamplingConfig(sigmas=[5.0]),
    "2": SamplingConfig(sigmas=[5.0, 0.5]),
    "5": SamplingConfig(steps=5),
    "10": SamplingConfig(steps=10),
}


def preset(name: str) -> SamplingConfig:
    """Return the named sampling: "1", "2", "5" or "10" steps."""
    if name not in PRESETS:
        raise ValueError(
            f"sampling {name!r} is not one of {', '.join(PRESETS)}{near_misses(name, PRESETS)}"
        )
    return PRESETS[name]
