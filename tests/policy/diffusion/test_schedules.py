"""Schedules against published numbers, diffusers' own, and what every schedule must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from telic.policy.diffusion import schedules
from telic.policy.diffusion.ddpm import Betas, timestep_sigmas
from telic.policy.diffusion.flow import sigma_of, time_of
from telic.policy.diffusion.sampling import SCHEDULES, SamplingConfig
from telic.policy.diffusion.schedules import Spacing


def test_exponential_schedule_is_the_published_one() -> None:
    want = [80, 22.819, 6.509, 1.8566, 0.52959, 0.15106, 0.04309, 0.01229, 0.00351, 0.001, 0]
    assert torch.allclose(
        schedules.exponential(10, 0.001, 80.0), torch.tensor(want), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_schedules_fall_from_max_to_min_to_zero(schedule: str, steps: int) -> None:
    config = SamplingConfig(schedule=schedule, steps=steps, sigma_min=0.1, sigma_max=10.0)
    sigmas, (first, lowest) = config.levels(), SCHEDULES[schedule].span(config)
    assert sigmas.dtype == torch.float32 and len(sigmas) == steps + 1
    assert float(sigmas[0]) == pytest.approx(first, rel=1e-6) and sigmas[-1] == 0
    assert (sigmas[:-1] > sigmas[1:]).all()
    if (first, lowest) == (10, 0.1):
        assert sigmas[0] == 10
        assert steps == 1 or float(sigmas[-2]) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_truncated_schedule_has_as_many_steps_from_there(schedule: str, steps: int) -> None:
    config = SamplingConfig(schedule=schedule, steps=steps)
    first, lowest = SCHEDULES[schedule].span(config)
    sigmas = config.truncated(0.3).levels()
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    assert 0.29 < float(sigmas[0]) <= 0.3 * (1 + 1e-6)
    assert (sigmas[:-1] > sigmas[1:]).all()
    for outside in (first * 1.1, lowest):
        with pytest.raises(ValueError, match="lies outside of the schedule"):
            config.truncated(outside)


def test_timesteps_of_rdt() -> None:
    assert schedules.timesteps(5, Spacing.solver_linspace, 1000) == [999, 799, 599, 400, 200]
    sigmas = SamplingConfig(schedule="timesteps", steps=5).levels()
    table = timestep_sigmas(Betas.squared_cosine, 1000)
    assert torch.equal(sigmas[:-1], table[[999, 799, 599, 400, 200]]) and sigmas[-1] == 0


@pytest.mark.parametrize("spacing", list(Spacing))
@pytest.mark.parametrize("total", [1000, 100, 77])
def test_timesteps_are_those_of_diffusers(spacing: Spacing, total: int) -> None:
    solver = spacing.name.startswith("solver_")
    kind = DPMSolverMultistepScheduler if solver else DDIMScheduler
    theirs = kind(total, timestep_spacing=spacing.value.removeprefix("solver_"))
    for steps in (*range(1, 52), total - 1):
        theirs.set_timesteps(steps)
        ours = schedules.timesteps(steps, spacing, total)
        # `trailing` of diffusers has a timestep -1 too many where T / n rounds down
        assert ours == [t for t in theirs.timesteps.tolist() if t >= 0], steps
        sigmas = schedules.discrete(steps, spacing, Betas.linear, total)
        assert len(sigmas) == steps + 1 and (sigmas[:-1] > sigmas[1:]).all()


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_times_are_even_but_for_the_shift(shift: float) -> None:
    config = SamplingConfig(schedule="flow", steps=8, sigma_max=99.0, shift=shift)
    sigmas = config.levels().double()
    assert sigmas[0] == pytest.approx(99) and sigmas[-1] == 0
    even = time_of(sigmas / shift)
    assert torch.allclose(even.diff(), even.diff()[:1], atol=1e-7)
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=even[:-1].numpy().astype(np.float64))
    assert torch.allclose(sigma_of(theirs.sigmas.double()), sigmas, rtol=1e-4)


def test_explicit_sigmas_replace_the_schedule() -> None:
    config = SamplingConfig(sigmas=[5.0, 0.5])
    assert config.levels().tolist() == [5.0, 0.5, 0.0] and config.steps == 2
    for bad in ([], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0], [-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="strictly falling"):
            SamplingConfig(sigmas=bad)


def test_impossible_schedules_are_refused() -> None:
    for shift in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"sampling.shift={shift} must be positive and finite"):
            SamplingConfig(schedule="flow", shift=shift)
    with pytest.raises(ValueError, match="sigma_max=inf must satisfy"):
        SamplingConfig(sigma_max=math.inf)
    few = r"sampling.steps=10 must be at most 9 with spacing=solver_linspace of num_timesteps=10"
    with pytest.raises(ValueError, match=few):
        SamplingConfig(schedule="timesteps", num_timesteps=10)
    trailing = SamplingConfig(schedule="timesteps", num_timesteps=10, spacing=Spacing.trailing)
    assert len(trailing.levels()) == 11
