"""What holds for every formulation, and that they are one diffusion seen three ways."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from telic.policy.diffusion.ddpm import (
    Betas,
    DdpmConfig,
    PredictionType,
    nearest_timestep,
    timestep_sigmas,
)
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.flow import FlowConfig, TimeDensity, sigma_of, time_of
from telic.policy.diffusion.formulation import FormulationConfig, squared_error
from telic.policy.diffusion.formulations import FORMULATIONS

CPU = torch.device("cpu")
NAMED: dict[str, FormulationConfig] = {n: FORMULATIONS[n].small() for n in FORMULATIONS} | {
    f"ddpm-{prediction.name}": DdpmConfig(prediction_type=prediction)
    for prediction in PredictionType
}
NAMES, EVERY = list(NAMED), list(NAMED.values())


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
def test_target_recovers_the_clean_chunk(config: FormulationConfig) -> None:
    formulation = config.build()
    clean, noise = torch.rand(3, 4, 2), torch.randn(3, 4, 2)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    pair = formulation.training_pair(clean, noise, sigma)
    noisy = clean + sigma[:, None, None] * noise

    def network(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        assert torch.allclose(x, pair.network_input)
        return pair.target

    assert torch.allclose(formulation.denoise(network, noisy, sigma), clean, atol=1e-5)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
def test_target_is_what_the_scalings_ask_for(config: FormulationConfig) -> None:
    formulation = config.build()
    clean, noise = torch.rand(4, 3, 2), torch.randn(4, 3, 2)
    sigma = torch.tensor([0.2, 0.7, 1.5, 4.0])[:, None, None]
    c_skip, c_out, _ = formulation.scalings(sigma)
    want = (clean - c_skip * (clean + sigma * noise)) / c_out
    assert torch.allclose(formulation.target(clean, noise, sigma), want, atol=1e-5)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
def test_sigmas_are_positive_and_repeat_with_the_seed(config: FormulationConfig) -> None:
    formulation = config.build()
    first, again = (
        formulation.draw_sigma(1000, torch.Generator().manual_seed(3), CPU) for _ in range(2)
    )
    assert torch.equal(first, again) and first.dtype == torch.float32
    assert (first > 0).all() and torch.isfinite(first).all() and len(first.unique()) > 500


@pytest.mark.parametrize(
    "config",
    [*EVERY, FlowConfig(density=TimeDensity.uniform), FlowConfig(density=TimeDensity.beta)],
    ids=[*NAMES, "flow-uniform", "flow-beta"],
)
def test_a_density_cut_off_is_its_own_lower_part(config: FormulationConfig) -> None:
    formulation = config.build()
    whole, cut, uncut = (
        formulation.draw_sigma(100_000, torch.Generator().manual_seed(seed), CPU, highest)
        for seed, highest in ((1, math.inf), (2, 0.4), (1, 1e9))
    )
    assert cut.max() <= 0.4 and cut.max() > 0.39
    assert torch.allclose(whole, uncut, rtol=1e-4)
    want = whole[whole <= 0.4].sort().values
    shares = torch.linspace(0.02, 0.98, 25)
    assert torch.allclose(cut.quantile(shares), want.quantile(shares), atol=0.012)


def test_nothing_below_the_lowest_sigma_is_drawn() -> None:
    for config, message in (
        (EdmConfig(), "sigma_trunc=0.0005 must be above policy.formulation.sigma_min=0.001"),
        (DdpmConfig(), "sigma_trunc=0.0005 must be at least that of the first timestep, 0.006"),
    ):
        with pytest.raises(ValueError, match=message):
            config.build().draw_sigma(3, torch.Generator(), CPU, 0.0005)


def test_v_at_unit_data_is_edm() -> None:
    """v prediction and EDM with sigma_data = 1 have the same three factors, up to v's sign."""
    sigma = torch.logspace(-2, 2, 9)
    v = DdpmConfig(prediction_type=PredictionType.v_prediction).build().scalings(sigma)
    edm = EdmConfig(sigma_data=1.0).build().scalings(sigma)
    assert torch.allclose(v.c_in, edm.c_in) and torch.allclose(v.c_skip, edm.c_skip)
    assert torch.allclose(v.c_out, -edm.c_out)


@pytest.mark.parametrize("betas", list(Betas))
def test_timesteps_are_those_of_diffusers(betas: Betas) -> None:
    names = {Betas.squared_cosine: "squaredcos_cap_v2"}
    scheduler = DDPMScheduler(1000, beta_schedule=names.get(betas, betas.value), beta_end=0.02)
    kept = scheduler.alphas_cumprod.double()
    sigma = timestep_sigmas(betas, 1000)
    assert torch.allclose(sigma.double(), ((1 - kept) / kept).sqrt(), rtol=3e-3)
    assert torch.equal(nearest_timestep(sigma, betas, 1000), torch.arange(1000))


@pytest.mark.parametrize(
    ("prediction", "name"),
    [
        (PredictionType.sample, "sample"),
        (PredictionType.epsilon, "epsilon"),
        (PredictionType.v_prediction, "v_prediction"),
    ],
)
def test_training_pair_is_that_of_diffusers(prediction: PredictionType, name: str) -> None:
    scheduler = DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type=name, clip_sample=False
    )
    clean, noise = torch.rand(5, 4, 2) - 0.5, torch.randn(5, 4, 2)
    timestep = torch.tensor([0, 10, 300, 700, 950])
    sigma = timestep_sigmas(Betas.squared_cosine, 1000)[timestep]
    pair = DdpmConfig(prediction_type=prediction).build().training_pair(clean, noise, sigma)
    noisy = scheduler.add_noise(clean, noise, timestep)
    want = {
        PredictionType.sample: clean,
        PredictionType.epsilon: noise,
        PredictionType.v_prediction: scheduler.get_velocity(clean, noise, timestep),
    }[prediction]
    assert torch.allclose(pair.network_input, noisy, atol=1e-5)
    assert torch.allclose(pair.target, want, atol=1e-5)


@pytest.mark.parametrize("betas", list(Betas))
def test_ddpm_shows_its_network_no_sigma_beyond_its_timesteps(betas: Betas) -> None:
    table = timestep_sigmas(betas, 1000)
    low, high = table[0].item(), table[-1].item()
    formulation = DdpmConfig(betas=betas).build()
    x = torch.randn(4, 2, 3)
    shown: list[float] = []

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        shown.extend(sigma.tolist())
        return x

    sigma = torch.tensor([low / 10, 2 * low, high / 2, 10 * high])
    denoised = formulation.denoise(network, x, sigma)
    assert shown == [low, sigma[1].item(), sigma[2].item(), high]
    scaled = x / (1 + sigma**2).sqrt()[:, None, None]  # by the true sigma
    assert torch.allclose(denoised, scaled, rtol=1e-5)


def test_flow_walks_the_straight_line() -> None:
    clean, noise = torch.rand(3, 4, 2), torch.randn(3, 4, 2)
    t = torch.tensor([0.1, 0.5, 0.95])
    pair = FlowConfig().build().training_pair(clean, noise, sigma_of(t))
    line = (1 - t)[:, None, None] * clean + t[:, None, None] * noise
    assert torch.allclose(pair.network_input, line, atol=1e-6)
    assert torch.equal(pair.target, noise - clean)
    assert torch.allclose(time_of(sigma_of(t)), t)


@pytest.mark.parametrize(
    ("density", "mean", "std"),
    [
        (TimeDensity.uniform, 0.5, 1 / math.sqrt(12)),
        (TimeDensity.logit_normal, 0.5, 0.2079),
        (TimeDensity.beta, 0.001 + 0.999 * 0.6, 0.999 * math.sqrt(1.5 / (2.5**2 * 3.5))),
    ],
)
def test_times_have_the_moments_of_their_density(
    density: TimeDensity, mean: float, std: float
) -> None:
    flow = FlowConfig(density=density).build()
    t = time_of(flow.draw_sigma(200_000, torch.Generator().manual_seed(0), CPU))
    assert t.mean().item() == pytest.approx(mean, abs=0.003)
    assert t.std().item() == pytest.approx(std, abs=0.003)


def test_loss_of_epsilon_is_the_weighted_error_of_the_denoised() -> None:
    """Mean (F - noise)^2 = (D - x0)^2 / sigma^2."""
    formulation = DdpmConfig(prediction_type=PredictionType.epsilon).build()
    clean, noise = torch.rand(4, 4, 2), torch.randn(4, 4, 2)
    sigma = torch.tensor([0.1, 0.5, 1.0, 5.0])

    def network(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    pair = formulation.training_pair(clean, noise, sigma)
    loss = squared_error(network(pair.network_input, sigma), pair.target)
    denoised = formulation.denoise(network, clean + sigma[:, None, None] * noise, sigma)
    assert torch.allclose(loss, squared_error(denoised, clean) / sigma**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "bad"),
    [
        (FlowConfig, {"t_max": 1.0}),
        (FlowConfig, {"logit_std": 0.0}),
        (FlowConfig, {"beta_a": -1.0}),
        (DdpmConfig, {"num_timesteps": 1}),
    ],
)
def test_impossible_settings_are_refused(config: type, bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"formulation.{next(iter(bad))}="):
        config(**bad)
    with pytest.raises(ValueError, match="is a base"):
        FormulationConfig().build()
