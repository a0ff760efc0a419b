"""Samplers over our formulations against diffusers' schedulers: same network, same noise.

The network is fixed and not linear, and reads sigma. Theirs walk in variables of their own
(scaled by sqrt(abar), by 1 - t, or not at all) and turn what is predicted into x0 themselves.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from telic.policy.diffusion.ddpm import Betas, DdpmConfig, PredictionType, timestep_sigmas
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.flow import FlowConfig
from telic.policy.diffusion.formulation import Formulation, Network
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.diffusion.schedules import Spacing

SHAPE = (4, 8, 3)
PREDICTION = {
    PredictionType.sample: "sample",
    PredictionType.epsilon: "epsilon",
    PredictionType.v_prediction: "v_prediction",
}
MULTISTEP = {"dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "sde-dpmsolver++"}
PREDICTION_TYPES = pytest.mark.parametrize("prediction", list(PredictionType))
BETAS = pytest.mark.parametrize("betas", list(Betas))


def clean(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the toy's x0 for x [B H A], which the formulation has scaled, at sigma [1]."""
    mix = torch.linspace(-1, 1, 9, dtype=x.dtype).view(3, 3)
    level = sigma.to(x.dtype).log()
    return torch.tanh(x @ mix + 0.3 * x.roll(1, 1) + 0.1 * level) + 0.1 * torch.sin(level + x)


def ddpm_network(prediction: PredictionType) -> Network:
    """Return a network that sees sqrt(abar) (x0 + sigma noise) and answers x0, noise or v.

    An x0 of size 1 behind every prediction keeps samples at that size: an epsilon made up freely
    would leave them at that of sigma_max, where 1e-5 is less than float32 resolves.
    """

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        kept = (1 / (1 + sigma.to(x.dtype) ** 2)).sqrt()
        lost = sigma * kept
        x0 = clean(x, sigma)
        noise = (x - kept * x0) / lost
        v = kept * noise - lost * x0
        return {
            PredictionType.sample: x0,
            PredictionType.epsilon: noise,
            PredictionType.v_prediction: v,
        }[prediction]

    return network


def draw(step: int) -> torch.Generator:
    """Return the generator of one step's noise."""
    return torch.Generator().manual_seed(1000 + step)


def ours(
    sampling: SamplingConfig,
    formulation: Formulation,
    network: Network,
    drawn: torch.dtype = torch.float32,
) -> Tensor:
    """Return our sample from the noise of the seeds, computed in float64.

    drawn: the dtype in which noise is drawn, on which its values depend.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return formulation.denoise(network, x, sigma.double())

    steps = torch.stack(
        [torch.randn(SHAPE, generator=draw(i), dtype=drawn) for i in range(sampling.steps)]
    )
    return sampling.sample(denoise, start().double(), steps)


def start() -> Tensor:
    """Return the unit noise that all begin with."""
    return torch.randn(SHAPE, generator=draw(-1))


def theirs(
    scheduler: Any,
    network: Network,
    levels: Tensor,
    scale: Tensor | float = 1.0,
    **settings: float,
) -> Tensor:
    """Return their sample, of a scheduler whose steps are set, from the same noise.

    levels: sigma at each of their calls; scale: their variable over ours at the start.
    """
    x = scale * levels[0] * start().to(levels.dtype)
    takes = inspect.signature(scheduler.step).parameters
    for call, timestep in enumerate(scheduler.timesteps):
        scales = hasattr(scheduler, "scale_model_input")
        shown = scheduler.scale_model_input(x, timestep) if scales else x
        prediction = network(shown, levels[call : call + 1])
        random = {"generator": draw(call)} if "generator" in takes else {}
        x = scheduler.step(prediction, timestep, x, **settings, **random).prev_sample
    return x.double()


def of_ddpm(
    sampling: SamplingConfig,
    scheduler: Any,
    prediction: PredictionType,
    betas: Betas,
    levels: Tensor,
    **settings: float,
) -> tuple[Tensor, Tensor]:
    """Return our sample and theirs of `ddpm_network`, in the formulation it was trained in."""
    network = ddpm_network(prediction)
    formulation = DdpmConfig(prediction_type=prediction, betas=betas).build()
    scheduler.set_timesteps(10)
    want = theirs(scheduler, network, levels, shrink(levels), **settings)
    return ours(sampling, formulation, network, levels.dtype), want


def discrete(sampler: str, spacing: Spacing, betas: Betas, **settings: Any) -> SamplingConfig:
    """Return ten steps over the timesteps of 1000."""
    return SamplingConfig(
        sampler=sampler, schedule="timesteps", spacing=spacing, betas=betas, **settings
    )


def table(betas: Betas, prediction: PredictionType, spacing: Spacing) -> dict[str, Any]:
    """Return the settings of a scheduler in their words."""
    return {
        "beta_schedule": "squaredcos_cap_v2" if betas is Betas.squared_cosine else betas.value,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": prediction.value,
        "timestep_spacing": spacing.value.removeprefix("solver_"),
    }


def kept(betas: Betas) -> Tensor:
    """Return abar in float64: their own table, in float32, has lost 1 - abar near 0."""
    return 1 / (1 + timestep_sigmas(betas, 1000).double() ** 2)


def shrink(levels: Tensor) -> Tensor:
    """Return sqrt(abar) of the first level, by which theirs is smaller than our x."""
    return (1 + levels[0] ** 2).rsqrt()


@PREDICTION_TYPES
@BETAS
@pytest.mark.parametrize("spacing", [Spacing.leading, Spacing.trailing])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(prediction: PredictionType, betas: Betas, spacing: Spacing, eta: float) -> None:
    sampler = "euler" if eta == 0 else "euler_ancestral"
    sampling = discrete(sampler, spacing, betas, eta=eta)
    scheduler = DDIMScheduler(**table(betas, prediction, spacing), clip_sample=False)
    scheduler.alphas_cumprod = kept(betas)
    levels = sampling.levels().double()
    got, want = of_ddpm(sampling, scheduler, prediction, betas, levels, eta=eta)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@PREDICTION_TYPES
@BETAS
def test_ddpm(prediction: PredictionType, betas: Betas) -> None:
    sampling = discrete("ddpm", Spacing.leading, betas)
    scheduler = DDPMScheduler(**table(betas, prediction, Spacing.leading), clip_sample=False)
    scheduler.alphas_cumprod = kept(betas)
    levels = sampling.levels().double()
    got, want = of_ddpm(sampling, scheduler, prediction, betas, levels)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@PREDICTION_TYPES
@BETAS
@pytest.mark.parametrize(
    "spacing", [Spacing.solver_leading, Spacing.solver_linspace, Spacing.trailing]
)
@pytest.mark.parametrize("sampler", list(MULTISTEP))
def test_dpm_solver(
    prediction: PredictionType, betas: Betas, spacing: Spacing, sampler: str
) -> None:
    sampling = discrete(sampler, spacing, betas)
    if sampling.levels()[0] > 1e4 and prediction is PredictionType.epsilon:
        pytest.skip("x0 = x - sigma noise: at sigma 2e4 their float32 is 1e-3 off")
    scheduler = DPMSolverMultistepScheduler(
        **table(betas, prediction, spacing), algorithm_type=MULTISTEP[sampler]
    )
    got, want = of_ddpm(sampling, scheduler, prediction, betas, sampling.levels())
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@PREDICTION_TYPES
@BETAS
@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        ("euler", EulerDiscreteScheduler),
        ("heun", HeunDiscreteScheduler),
        ("euler_ancestral", EulerAncestralDiscreteScheduler),
    ],
    ids=["euler", "heun", "euler_ancestral"],
)
def test_schedulers_in_sigma(
    prediction: PredictionType, betas: Betas, sampler: str, kind: Any
) -> None:
    if kind is EulerAncestralDiscreteScheduler and prediction is PredictionType.sample:
        pytest.skip("diffusers has no x0 prediction for this one")
    # from sigma 2e4, where cosine's other spacings begin, their float32 in sigma is 1e-3 off
    spacing = Spacing.leading if betas is Betas.squared_cosine else Spacing.trailing
    scheduler = kind(**table(betas, prediction, spacing))
    scheduler.set_timesteps(10)
    levels = scheduler.sigmas  # Heun's come twice but for the first: once for each call
    sampling = SamplingConfig(sampler=sampler, sigmas=levels.unique().flip(0)[:-1].tolist())
    want = theirs(scheduler, ddpm_network(prediction), levels)
    formulation = DdpmConfig(prediction_type=prediction, betas=betas).build()
    got = ours(sampling, formulation, ddpm_network(prediction), levels.dtype)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shift: float) -> None:
    sampling = SamplingConfig(schedule="flow", shift=shift, sigma_max=999.0)
    levels = sampling.levels()
    even = levels[:-1].double() / shift
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=(even / (1 + even)).numpy())
    want = theirs(scheduler, clean, levels, 1 / (1 + levels[0]))
    got = ours(sampling, FlowConfig().build(), clean)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", list(MULTISTEP))
def test_dpm_solver_over_flow(sampler: str) -> None:
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type=MULTISTEP[sampler],
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )
    scheduler.set_timesteps(10)
    t = scheduler.sigmas.double()
    levels = (t / (1 - t)).float()
    sampling = SamplingConfig(sampler=sampler, sigmas=levels[:-1].tolist())
    want = theirs(scheduler, clean, levels, 1 - t[0])
    got = ours(sampling, FlowConfig().build(), clean)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "kind", "settings"),
    [
        ("euler", EDMEulerScheduler, {}),
        ("dpmpp_2m", EDMDPMSolverMultistepScheduler, {}),
        (
            "dpmpp_2m_sde",
            EDMDPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_edm(sampler: str, kind: Any, settings: Any, schedule: str) -> None:
    sampling = SamplingConfig(sampler=sampler, schedule=schedule, sigma_min=0.002)
    scheduler = kind(sigma_schedule=schedule, **settings)
    scheduler.set_timesteps(10)
    levels = sampling.levels()
    assert torch.allclose(scheduler.sigmas, levels, rtol=1e-4)
    want = theirs(scheduler, clean, levels)
    got = ours(sampling, EdmConfig().build(), clean)
    assert torch.allclose(got, want, rtol=0, atol=1e-5)
