"""How a chunk is drawn from the denoiser: sampler, schedule, number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from telic.policy.diffusion import schedules
from telic.policy.diffusion.ddpm import Betas, timestep_sigmas
from telic.policy.diffusion.samplers import SAMPLERS, Denoise, Levels
from telic.policy.diffusion.schedules import Spacing
from telic.ranges import require_range
from telic.registry import Registry
from telic.spec import near_misses


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A way to space sigmas, as functions of the settings of a sampling.

    levels: the sigmas, f32 [steps + 1], the last one 0. span: the first of them, and what sigmas
    must stay above. truncated: the sampling of as many steps that begins at another first sigma.
    check: raises ValueError for settings that do not go together.
    """

    levels: Callable[[SamplingConfig], Tensor]
    span: Callable[[SamplingConfig], tuple[float, float]] = lambda c: (c.sigma_max, c.sigma_min)
    truncated: Callable[[SamplingConfig, float], SamplingConfig] = lambda c, first: replace(
        c, sigma_max=first
    )
    check: Callable[[SamplingConfig], object] = lambda c: None


def _timestep_span(config: SamplingConfig) -> tuple[float, float]:
    table = timestep_sigmas(config.betas, config.num_timesteps)
    return float(table[-1]), float(table[0])


def _truncated_timesteps(config: SamplingConfig, first: float) -> SamplingConfig:
    """The sampling that visits as many of the timesteps up to a sigma."""
    table = timestep_sigmas(config.betas, config.num_timesteps)
    below = int((table <= first * (1 + 1e-6)).sum())
    visited = schedules.timesteps(config.steps, config.spacing, below)
    return replace(config, sigmas=table[visited].tolist())


def _given(config: SamplingConfig) -> list[float]:
    assert config.sigmas is not None
    return config.sigmas


# of `sigmas`, where they are given
_EXPLICIT = Schedule(
    levels=lambda c: schedules.explicit(_given(c)),
    span=lambda c: (_given(c)[0], 0.0),
    truncated=lambda c, first: replace(
        c, sigmas=[sigma * (first / _given(c)[0]) for sigma in _given(c)]
    ),
)

SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        # evenly in ln(sigma), from sigma_max to sigma_min
        "exponential": Schedule(
            levels=lambda c: schedules.exponential(c.steps, c.sigma_min, c.sigma_max)
        ),
        # evenly in sigma^(1/7), from sigma_max to sigma_min
        "karras": Schedule(levels=lambda c: schedules.karras(c.steps, c.sigma_min, c.sigma_max)),
        # evenly in sigma, from sigma_max to sigma_min
        "linear": Schedule(levels=lambda c: schedules.linear(c.steps, c.sigma_min, c.sigma_max)),
        # evenly in flow time, from sigma_max to 0
        "flow": Schedule(
            levels=lambda c: schedules.flow(c.steps, c.sigma_max, c.shift),
            span=lambda c: (c.sigma_max, 0.0),
        ),
        # those of a DDPM's timesteps
        "timesteps": Schedule(
            levels=lambda c: schedules.discrete(c.steps, c.spacing, c.betas, c.num_timesteps),
            span=_timestep_span,
            truncated=_truncated_timesteps,
            check=lambda c: schedules.timesteps(c.steps, c.spacing, c.num_timesteps),
        ),
    },
)


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """Ten steps by default, the published schedule. `sigmas`, where given, replace the schedule."""

    # the loop over sigmas
    sampler: str = field(default="euler", metadata={"choices": SAMPLERS})
    eta: float = 1.0  # noise of euler_ancestral and dpmpp_2m_sde: 0 none, 1 all of the SDE's
    # how sigmas are spaced
    schedule: str = field(default="exponential", metadata={"choices": SCHEDULES})
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
        self.sampler = SAMPLERS.require(self.sampler, "sampling.sampler").also or self.sampler
        SCHEDULES.require(self.schedule, "sampling.schedule")
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
        self._spacing.check(self)

    @property
    def _spacing(self) -> Schedule:
        return _EXPLICIT if self.sigmas is not None else SCHEDULES[self.schedule]

    @property
    def title(self) -> str:
        """The sampler and its steps, for people: "heun, 2 steps"."""
        return f"{self.sampler}, {self.steps} step{'' if self.steps == 1 else 's'}"

    def levels(self) -> Float[Tensor, " levels"]:
        """Return the sigmas, f32 [steps + 1], the last one 0."""
        return self._spacing.levels(self)

    def truncated(self, sigma_trunc: float) -> SamplingConfig:
        """Return the sampling of as many steps that begins at sigma_trunc.

        A list of `sigmas` is scaled, a schedule in sigma has another sigma_max, one of timesteps
        visits those up to sigma_trunc. ValueError where that lies outside of the schedule.
        """
        first, lowest = self._spacing.span(self)
        if not lowest < sigma_trunc <= first * (1 + 1e-6):  # NaN too
            raise ValueError(
                f"sigma_trunc={sigma_trunc:.4g} lies outside of the schedule, which goes from "
                f"{first:.4g} to {lowest:.4g}; choose another sampling, or train with "
                "policy.anchors.sigma_trunc between"
            )
        return self._spacing.truncated(self, sigma_trunc)

    @property
    def num_draws(self) -> int:
        """Return how many draws of noise a sample takes: the start, and one a step of an SDE."""
        return 1 + (self.steps if SAMPLERS[self.sampler].adds_noise else 0)

    def sample(
        self,
        denoise: Denoise,
        unit_noise: Float[Tensor, "b ..."],
        step_noise: Float[Tensor, "n b ..."] | None = None,
        start: Float[Tensor, "b ..."] | None = None,
        levels: Levels | None = None,
    ) -> Float[Tensor, "b ..."]:
        """Return the sample that starts at `start`, or 0, plus the first sigma times `unit_noise`.

        step_noise: the other `num_draws` - 1 draws, standard normal; ValueError where too few.
        levels: those of `levels()`, where they are known already.
        """
        sigmas = self.levels() if levels is None else levels
        x = sigmas.tolist()[0] * unit_noise
        x = x if start is None else start + x
        sampler = SAMPLERS[self.sampler]
        if not sampler.adds_noise:
            walked: Tensor = sampler.walk(denoise, x, sigmas)
            return walked
        given = 0 if step_noise is None else len(step_noise)
        if step_noise is None or given < self.num_draws - 1:
            raise ValueError(
                f"sampling.sampler={self.sampler} adds noise in {self.num_draws - 1} steps, "
                f"got {given} draws of step_noise; draw num_draws - 1, or set sampler=euler"
            )
        drawn: Tensor = sampler.walk(denoise, x, sigmas, step_noise, self.eta)
        return drawn


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


# One and two steps need a start inside the training density: at 80 it is off the data.
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
