"""How a chunk is drawn from the denoiser: sampler, schedule, number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.diffusion import samplers, schedules
from telic.policy.diffusion.choices import Sampler, Schedule
from telic.policy.diffusion.ddpm import Betas, timestep_sigmas
from telic.policy.diffusion.samplers import Denoise
from telic.policy.diffusion.schedules import Spacing
from telic.ranges import require_range
from telic.spec import near_misses

_SAMPLERS: dict[Sampler, Callable[[Denoise, Tensor, Tensor], Tensor]] = {
    Sampler.euler: samplers.euler,
    Sampler.heun: samplers.heun,
    Sampler.dpmpp_2m: samplers.dpmpp_2m,
}
_STOCHASTIC: dict[Sampler, Callable[[Denoise, Tensor, Tensor, Tensor, float], Tensor]] = {
    Sampler.euler_ancestral: samplers.euler_ancestral,
    Sampler.dpmpp_2m_sde: samplers.dpmpp_2m_sde,
}
_SCHEDULES: dict[Schedule, Callable[[SamplingConfig], Tensor]] = {
    Schedule.exponential: lambda c: schedules.exponential(c.steps, c.sigma_min, c.sigma_max),
    Schedule.karras: lambda c: schedules.karras(c.steps, c.sigma_min, c.sigma_max),
    Schedule.linear: lambda c: schedules.linear(c.steps, c.sigma_min, c.sigma_max),
    Schedule.flow: lambda c: schedules.flow(c.steps, c.sigma_max, c.shift),
    Schedule.timesteps: lambda c: schedules.discrete(c.steps, c.spacing, c.betas, c.num_timesteps),
}


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """Ten steps by default, the published schedule. `sigmas`, where given, replace the schedule."""

    sampler: Sampler = Sampler.euler  # the loop over sigmas
    eta: float = 1.0  # noise of euler_ancestral and dpmpp_2m_sde: 0 none, 1 all of the SDE's
    schedule: Schedule = Schedule.exponential  # how sigmas are spaced
    steps: int = 10  # denoising steps of a chunk
    sigma_min: float = 0.001  # last sigma before 0, of exponential, karras, linear
    sigma_max: float = 80.0  # first sigma, of exponential, karras, linear, flow
    shift: float = 1.0  # factor of sigma, of flow; SD3's is 3
    # which timesteps are visited, of timesteps; the defaults are RDT's
    spacing: Spacing = Spacing.solver_linspace
    betas: Betas = Betas.squared_cosine  # how beta grows, of timesteps
    num_timesteps: int = 1000  # number of timesteps T, of timesteps
    # sigmas in falling order, without the final 0, such as [5.0, 0.5]
    sigmas: list[float] | None = None

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            self.steps = len(schedules.explicit(self.sigmas)) - 1
        require_range(self, "steps", at_least=1, at_most=1e4, prefix="sampling.")
        require_range(self, "num_timesteps", at_least=2, at_most=1e5, prefix="sampling.")
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(
                f"sampling.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} "
                "must satisfy 0 < sigma_min <= sigma_max < infinity"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampling.eta={self.eta} must lie between 0 and 1")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"sampling.shift={self.shift} must be positive and finite")
        if self.sigmas is None and self.schedule is Schedule.timesteps:
            schedules.timesteps(self.steps, self.spacing, self.num_timesteps)

    @property
    def title(self) -> str:
        """The sampler and its steps, for people: "heun, 2 steps"."""
        return f"{self.sampler.value}, {self.steps} step{'' if self.steps == 1 else 's'}"

    def levels(self) -> Float[Tensor, " levels"]:
        """Return the sigmas, f32 [steps + 1], the last one 0."""
        if self.sigmas is not None:
            return schedules.explicit(self.sigmas)
        return _SCHEDULES[self.schedule](self)

    def truncated(self, sigma_trunc: float) -> SamplingConfig:
        """Return the sampling of as many steps that begins at sigma_trunc.

        A list of `sigmas` is scaled, a schedule in sigma has another sigma_max, one of timesteps
        visits those up to sigma_trunc. ValueError where that lies outside of the schedule.
        """
        by_timestep = self.sigmas is None and self.schedule is Schedule.timesteps
        table = timestep_sigmas(self.betas, self.num_timesteps)
        lowest, first = 0.0, self.sigma_max
        if self.sigmas is not None:
            first = self.sigmas[0]
        elif by_timestep:
            lowest, first = float(table[0]), float(table[-1])
        elif self.schedule is not Schedule.flow:
            lowest = self.sigma_min
        if not lowest < sigma_trunc <= first * (1 + 1e-6):  # NaN too
            raise ValueError(
                f"sigma_trunc={sigma_trunc:.4g} lies outside of the schedule, which goes from "
                f"{first:.4g} to {lowest:.4g}; choose another sampling, or train with "
                "policy.anchors.sigma_trunc between"
            )
        if self.sigmas is not None:
            return replace(self, sigmas=[sigma * (sigma_trunc / first) for sigma in self.sigmas])
        if by_timestep:
            below = int((table <= sigma_trunc * (1 + 1e-6)).sum())
            visited = schedules.timesteps(self.steps, self.spacing, below)
            return replace(self, sigmas=table[visited].tolist())
        return replace(self, sigma_max=sigma_trunc)

    @property
    def num_draws(self) -> int:
        """Return how many draws of noise a sample takes: the start, and one a step of an SDE."""
        return 1 + (self.steps if self.sampler in _STOCHASTIC else 0)

    def sample(
        self,
        denoise: Denoise,
        unit_noise: Float[Tensor, "b ..."],
        step_noise: Float[Tensor, "n b ..."] | None = None,
        start: Float[Tensor, "b ..."] | None = None,
    ) -> Float[Tensor, "b ..."]:
        """Return the sample that starts at `start`, or 0, plus the first sigma times `unit_noise`.

        step_noise: the other `num_draws` - 1 draws, standard normal; ValueError where too few.
        """
        sigmas = self.levels()
        x = float(sigmas[0]) * unit_noise
        x = x if start is None else start + x
        if self.sampler not in _STOCHASTIC:
            return _SAMPLERS[self.sampler](denoise, x, sigmas)
        given = 0 if step_noise is None else len(step_noise)
        if step_noise is None or given < self.num_draws - 1:
            raise ValueError(
                f"sampling.sampler={self.sampler.value} adds noise in {self.num_draws - 1} steps, "
                f"got {given} draws of step_noise; draw num_draws - 1, or set sampler=euler"
            )
        return _STOCHASTIC[self.sampler](denoise, x, sigmas, step_noise, self.eta)


def first_non_finite(
    sampling: SamplingConfig,
    denoise: Denoise,
    unit_noise: Float[Tensor, "b ..."],
    step_noise: Float[Tensor, "n b ..."] | None = None,
    start: Float[Tensor, "b ..."] | None = None,
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

    sampling.sample(watch, unit_noise, step_noise, start)
    where = bad[0] if bad else "no single call: the sampler itself overflowed"
    return (
        f"actions are not finite, first at {where}; the observation or goal is far outside the "
        "training data, or the weights are damaged"
    )


# One and two steps need a start that the training density has seen: at 80 it is off the data.
PRESETS: dict[str, SamplingConfig] = {
    "1": SamplingConfig(sigmas=[5.0]),
    "2": SamplingConfig(sigmas=[5.0, 0.5]),
    "4": SamplingConfig(steps=4),
    "5": SamplingConfig(steps=5),
    "10": SamplingConfig(steps=10),
}


def preset(name: str) -> SamplingConfig:
    """Return the named sampling: "1", "2", "4", "5" or "10" steps."""
    if name not in PRESETS:
        raise ValueError(
            f"sampling {name!r} is not one of {', '.join(PRESETS)}{near_misses(name, PRESETS)}"
        )
    return PRESETS[name]
