"""Samplers against closed forms: a Gaussian's flow, a finite data set, DDIM and flow matching."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from telic.policy.diffusion import samplers, schedules
from telic.policy.diffusion.ddpm import DdpmConfig, PredictionType
from telic.policy.diffusion.formulation import FormulationConfig
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.samplers import SAMPLERS, Denoise
from telic.policy.diffusion.sampling import PRESETS, SCHEDULES, SamplingConfig, preset

MEAN, STD = 0.3, 0.5
PLAIN = [name for name, s in SAMPLERS.items() if not (s.adds_noise or s.also)]
STOCHASTIC = [name for name, s in SAMPLERS.items() if s.adds_noise and not s.also]


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


@pytest.mark.parametrize("sampler", PLAIN)
@pytest.mark.parametrize("schedule", [schedules.exponential, schedules.karras])
def test_samplers_reach_the_exact_flow(sampler: str, schedule) -> None:
    x = 80 * torch.randn(64, 4, 2, dtype=torch.float64)
    sigmas = schedule(200, 0.001, 80.0).double()
    got = SAMPLERS[sampler].walk(gaussian, x, sigmas)
    assert (got - gaussian_flow(x, 80.0)).abs().max() < 0.03


@pytest.mark.parametrize("name", PLAIN)
def test_error_falls_with_the_order_of_the_method(name: str) -> None:
    """Down to sigma 0.1 (not 0, where the last step is of first order for all)."""
    sampler = SAMPLERS[name]
    x = 5 * torch.randn(256, dtype=torch.float64)
    exact = MEAN + (x - MEAN) * math.sqrt((STD**2 + 0.1**2) / (STD**2 + 5.0**2))
    errors = []
    for steps in (40, 80, 160):
        sigmas = schedules.exponential(steps + 1, 0.1, 5.0).double()[:-1]
        errors.append(float((sampler.walk(gaussian, x, sigmas) - exact).abs().mean()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - sampler.order) < 0.25 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("sampler", PLAIN)
def test_finite_data_are_reproduced(sampler: str) -> None:
    points = torch.tensor([[-0.8, 0.1], [0.5, 0.7], [0.2, -0.6]])
    x = 80 * torch.randn(300, 2)
    got = SAMPLERS[sampler].walk(finite(points), x, schedules.exponential(40, 0.001, 80.0))
    nearest = torch.cdist(got, points)
    assert nearest.min(1).values.max() < 1e-3
    share = torch.bincount(nearest.argmin(1), minlength=3) / 300
    assert (share - 1 / 3).abs().max() < 0.12


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_samplers_keep_mean_and_variance(sampler: str, eta: float) -> None:
    """Of the Gaussian. The ancestral one is of first order and needs its 400 steps."""
    sigmas = schedules.exponential(400, 0.001, 80.0)
    x = 80 * torch.randn(20_000)
    got = SAMPLERS[sampler].walk(gaussian, x, sigmas, torch.randn(400, 20_000), eta)
    assert got.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert got.std().item() == pytest.approx(STD, rel=0.03)
    kept = torch.corrcoef(torch.stack([x, got]))[0, 1]
    assert abs(kept) < 0.05 if eta == 1 else kept < 0.9  # the start is forgotten


def test_variance_nears_the_truth_with_the_order_of_the_method() -> None:
    """The exact variance of the samples, followed step by step: x' = a x + b + c noise."""
    errors: dict[str, list[float]] = {name: [] for name in STOCHASTIC}
    for steps in (40, 80, 160):
        sigmas = schedules.exponential(steps + 1, 0.1, 5.0).double()[:-1]
        for name in STOCHASTIC:
            sampler = SAMPLERS[name].walk
            # one draw at a time is 1, all others 0: the weights of a sum of independent draws
            draws = torch.eye(steps + 1, dtype=torch.float64)
            mean = sampler(gaussian, torch.zeros(1).double(), sigmas, torch.zeros(steps, 1))
            got = sampler(gaussian, (STD**2 + 25) ** 0.5 * draws[0], sigmas, draws[1:]) - mean
            errors[name].append(abs(float(got.square().sum()) - STD**2 - 0.01))
    for name in STOCHASTIC:
        order = SAMPLERS[name].order
        slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors[name])]
        assert all(abs(slope - order) < 0.3 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_samples_land_on_finite_data(sampler: str) -> None:
    """Two of the four points are one: its weight is a half."""
    points = torch.tensor([[-0.8, 0.1], [0.5, 0.7], [0.2, -0.6], [0.2, -0.6]])
    x, noise = 80 * torch.randn(4000, 2), torch.randn(60, 4000, 2)
    got = SAMPLERS[sampler].walk(finite(points), x, schedules.exponential(60, 0.001, 80.0), noise)
    nearest = torch.cdist(got, points[:3])
    assert nearest.min(1).values.max() < 5e-3
    share = torch.bincount(nearest.argmin(1), minlength=3) / 4000
    assert (share - torch.tensor([0.25, 0.25, 0.5])).abs().max() < 0.03


@pytest.mark.parametrize(
    ("sampler", "plain"),
    [(samplers.euler_ancestral, samplers.euler), (samplers.dpmpp_2m_sde, samplers.dpmpp_2m)],
)
def test_without_noise_they_are_the_plain_ones(sampler, plain) -> None:
    sigmas = schedules.exponential(10, 0.001, 80.0).double()
    x = 80 * torch.randn(16, 3, dtype=torch.float64)
    noise = torch.full((10, 16, 3), math.nan, dtype=torch.float64)
    got = sampler(gaussian, x, sigmas, noise, eta=0.0)
    assert torch.allclose(got, plain(gaussian, x, sigmas), atol=1e-12)


def test_step_noise_is_given_and_used() -> None:
    unit, noise = torch.randn(4, 8, 2), torch.randn(5, 4, 8, 2)
    for sampler in STOCHASTIC:
        config = SamplingConfig(sampler=sampler, sigmas=[5.0, 2.0, 1.0, 0.5, 0.2])
        assert config.num_draws == 6
        first, again, other = (config.sample(gaussian, unit, n) for n in (noise, noise, -noise))
        assert torch.equal(first, again) and not torch.allclose(first, other)
        for missing in (None, noise[:4]):
            with pytest.raises(ValueError, match=f"{sampler} adds noise in 5 steps, got"):
                config.sample(gaussian, unit, missing)
    assert SamplingConfig(sampler="ddpm").sampler == "euler_ancestral"
    assert SamplingConfig().num_draws == 1


EVERY: dict[str, FormulationConfig] = {n: FORMULATIONS[n].small() for n in FORMULATIONS} | {
    f"ddpm, {prediction.name}": DdpmConfig(prediction_type=prediction)
    for prediction in PredictionType
}


@pytest.mark.parametrize("name", EVERY)
def test_ddim_and_flow_euler_are_euler_for_every_formulation(name: str) -> None:
    """One network under each formulation's factors; each method in its own variables."""
    formulation = EVERY[name].build()

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x + 0.2 * x.roll(1, -1) + 0.1 * sigma.log())

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return formulation.denoise(network, x, sigma.view(1))

    assert_one_method(denoise, (6, 4, 3))


def test_ddim_and_flow_euler_are_euler_for_a_gaussian() -> None:
    assert_one_method(gaussian, (32, 3))


def assert_one_method(denoise: Denoise, shape: tuple[int, ...]) -> None:
    """Check that Euler in sigma, DDIM in alpha-bar and Euler in flow time end in one place."""
    sigmas = schedules.exponential(10, 0.001, 80.0).double()
    start = 80 * torch.randn(shape, dtype=torch.float64)
    want = samplers.euler(denoise, start, sigmas)

    x = start / math.sqrt(1 + 80.0**2)
    for sigma, following in itertools.pairwise(sigmas):
        kept, kept_next = 1 / (1 + sigma**2), 1 / (1 + following**2)
        clean = denoise(x / kept.sqrt(), sigma)
        noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
        x = kept_next.sqrt() * clean + (1 - kept_next).sqrt() * noise
    assert torch.allclose(x, want, atol=1e-9)

    x = start / (1 + 80.0)
    for sigma, following in itertools.pairwise(sigmas):
        t, t_next = sigma / (1 + sigma), following / (1 + following)
        clean = denoise(x / (1 - t), sigma)
        velocity = (x - clean) / t
        x = x + (t_next - t) * velocity
    assert torch.allclose(x, want, atol=1e-9)


def test_presets_have_the_steps_of_their_names() -> None:
    assert all(len(config.levels()) == int(name) + 1 for name, config in PRESETS.items())
    with pytest.raises(ValueError, match="is not one of 1, 2, 4, 5, 10"):
        preset("3")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_down_every_schedule_ends_in_a_single_point(
    sampler: str, schedule: str
) -> None:
    config = SamplingConfig(sampler=sampler, schedule=schedule, steps=5)
    point = torch.tensor([-0.7, 0.2])
    noise = torch.randn(config.num_draws, 4, 2)
    got = config.sample(lambda x, sigma: point.expand_as(x), noise[0], noise[1:])
    assert torch.allclose(got, point.expand_as(got), atol=1e-6)


def test_the_same_noise_gives_the_same_sample() -> None:
    assert SamplingConfig(sampler="ddim").sampler == "euler"
    unit = torch.randn(4, 8, 2)
    config = SamplingConfig(sampler="dpmpp_2m", steps=5)
    assert torch.equal(config.sample(gaussian, unit), config.sample(gaussian, unit))


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"sigma_min": 0.0},
        {"sigma_min": 2.0, "sigma_max": 1.0},
        {"eta": -0.1},
        {"eta": 1.5},
        {"eta": math.nan},
    ],
)
def test_impossible_sampling_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="sampling"):
        SamplingConfig(**bad)
