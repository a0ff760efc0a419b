"""Samplers against closed forms: a Gaussian's flow, a finite data set, DDIM and flow matching."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from telic.policy import samplers, schedules
from telic.policy.samplers import Denoise
from telic.policy.sampling import PRESETS, Sampler, SamplingConfig, preset

MEAN, STD = 0.3, 0.5
ALL: list[Callable[[Denoise, Tensor, Tensor], Tensor]] = [
    samplers.euler,
    samplers.heun,
    samplers.dpmpp_2m,
]


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[x0 | x] for x0 ~ N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def gaussian_flow(x: Tensor, sigma: float) -> Tensor:
    """Return where the probability flow ODE takes x from `sigma` to 0."""
    return MEAN + (x - MEAN) * STD / math.sqrt(STD**2 + sigma**2)


def finite(points: Tensor) -> Denoise:
    """Return E[x0 | x] for x0 uniform over `points` [n d]."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        distance = (x[:, None] - points).square().sum(-1)
        return (-distance / (2 * sigma**2)).softmax(-1) @ points

    return denoise


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("schedule", [schedules.exponential, schedules.karras])
def test_samplers_reach_the_exact_flow(sampler, schedule) -> None:
    x = 80 * torch.randn(64, 4, 2, dtype=torch.float64)
    sigmas = schedule(200, 0.001, 80.0).double()
    got = sampler(gaussian, x, sigmas)
    assert (got - gaussian_flow(x, 80.0)).abs().max() < 0.03


@pytest.mark.parametrize(
    ("sampler", "order"), [(samplers.euler, 1), (samplers.heun, 2), (samplers.dpmpp_2m, 2)]
)
def test_error_falls_with_the_order_of_the_method(sampler, order: int) -> None:
    """Down to sigma 0.1 (not 0, where the last step is of first order for all)."""
    x = 5 * torch.randn(256, dtype=torch.float64)
    exact = MEAN + (x - MEAN) * math.sqrt((STD**2 + 0.1**2) / (STD**2 + 5.0**2))
    errors = []
    for steps in (40, 80, 160):
        sigmas = schedules.exponential(steps + 1, 0.1, 5.0).double()[:-1]
        errors.append(float((sampler(gaussian, x, sigmas) - exact).abs().mean()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - order) < 0.25 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("sampler", ALL)
def test_finite_data_are_reproduced(sampler) -> None:
    points = torch.tensor([[-0.8, 0.1], [0.5, 0.7], [0.2, -0.6]])
    x = 80 * torch.randn(300, 2)
    got = sampler(finite(points), x, schedules.exponential(40, 0.001, 80.0))
    nearest = torch.cdist(got, points)
    assert nearest.min(1).values.max() < 1e-3
    share = torch.bincount(nearest.argmin(1), minlength=3) / 300
    assert (share - 1 / 3).abs().max() < 0.12


def test_euler_is_ddim_and_flow_euler() -> None:
    """DDIM in alpha-bar and Euler in flow time, each written in its own variables."""
    sigmas = schedules.exponential(10, 0.001, 80.0).double()
    start = 80 * torch.randn(32, 3, dtype=torch.float64)
    want = samplers.euler(gaussian, start, sigmas)

    x = start / math.sqrt(1 + 80.0**2)
    for sigma, following in itertools.pairwise(sigmas):
        kept, kept_next = 1 / (1 + sigma**2), 1 / (1 + following**2)
        clean = gaussian(x / kept.sqrt(), sigma)
        noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
        x = kept_next.sqrt() * clean + (1 - kept_next).sqrt() * noise
    assert torch.allclose(x, want, atol=1e-9)

    x = start / (1 + 80.0)
    for sigma, following in itertools.pairwise(sigmas):
        t, t_next = sigma / (1 + sigma), following / (1 + following)
        clean = gaussian(x / (1 - t), sigma)
        velocity = (x - clean) / t
        x = x + (t_next - t) * velocity
    assert torch.allclose(x, want, atol=1e-9)


def test_presets_have_the_steps_of_their_names() -> None:
    assert all(len(config.levels()) == int(name) + 1 for name, config in PRESETS.items())
    with pytest.raises(ValueError, match="is not one of 1, 2, 5, 10"):
        preset("3")


def test_the_same_noise_gives_the_same_sample() -> None:
    assert Sampler["ddim"] is Sampler.euler
    unit = torch.randn(4, 8, 2)
    config = SamplingConfig(sampler=Sampler.dpmpp_2m, steps=5)
    assert torch.equal(config.sample(gaussian, unit), config.sample(gaussian, unit))


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"sigma_min": 0.0}, {"sigma_min": 2.0, "sigma_max": 1.0}]
)
def test_impossible_sampling_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="sampling"):
        SamplingConfig(**bad)
