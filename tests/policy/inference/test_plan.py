"""Conformance: planned and plain inference give the same numbers, in every kind and routing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from telic.policy.chunk_sampler import ChunkInputs
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mode import LONG_PREFIX, ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.diffusion.formulation import Formulation
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.diffusion.sampling import PRESETS, SCHEDULES, SamplingConfig
from telic.policy.inference.plan import Plan
from telic.policy.layers.tensors import each_tensor, tensors_of
from telic.policy.policy import Policy
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.routings import ROUTINGS
from telic.training.ema import EmaConfig
from telic.training.optimizer import OptimizerConfig

SIZES = Sizes(num_goals=2, num_images=2, num_states=1, action_horizon=6, action_dim=3, state_dim=32)
MANY_IMAGES = replace(SIZES, num_images=LONG_PREFIX)
PUBLISHED: dict[str, DenoiserConfig] = {
    "mode": replace(ModeConfig.published(), width=32, num_layers=2, num_heads=2, feed_forward=64),
    "mdt": replace(MdtConfig.published(), width=32, hidden=64, num_heads=2),
    "mdtv": replace(MdtConfig.published_v(), width=32, hidden=64, num_heads=2),
    "rdt": replace(RdtConfig.published(), width=32, num_layers=2, num_heads=2),
}
BIG_EXPERTS = {  # computed one by one, not as one product
    name: ModeConfig(
        width=32, num_layers=3, num_heads=2, feed_forward=256 * routing.top_k, routing=routing
    )
    for name, routing in {
        "noise": NoiseRoutingConfig(),
        "noise, shared": NoiseRoutingConfig(shared_expert=True, top_k=3, num_experts=5),
    }.items()
}
CONFIGS: dict[str, DenoiserConfig] = (
    {kind: build.small() for kind, build in KINDS.items()}
    | {
        f"{kind}, {name}": replace(build.small(), routing=routing.small())
        for kind, build in KINDS.items()
        for name, routing in ROUTINGS.items()
    }
    | {f"published {name}": config for name, config in PUBLISHED.items()}
    | {f"big experts, {name}": config for name, config in BIG_EXPERTS.items()}
)


def lively(config: DenoiserConfig, sizes: Sizes = SIZES) -> Denoiser:
    """Return a network whose every weight counts: routes that differ between levels, no zeros."""
    network = config.build(sizes).eval()
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def context(rows: int, sizes: Sizes = SIZES, *, masked: bool = False) -> Context:
    """Return random tokens; masked: the second goal token of the first row does not count."""
    mask = torch.ones(rows, 2, dtype=torch.bool)
    mask[0, 1] = False
    return Context(
        goal=torch.randn(rows, 2, 32),
        images=torch.randn(rows, sizes.num_images, 32),
        state=torch.randn(rows, 1, 32),
        goal_mask=mask if masked else None,
    )


@torch.inference_mode()
def chunks(
    network: Denoiser,
    formulation: Formulation,
    sampling: SamplingConfig,
    rows: int,
    *,
    masked: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the chunks of planned and of plain inference."""
    memory = network.encode(context(rows, network.sizes, masked=masked))
    noise = torch.randn(sampling.num_draws, rows, SIZES.action_horizon, SIZES.action_dim)

    def plain(x: Tensor, sigma: Tensor) -> Tensor:
        return formulation.denoise(lambda y, s: network(y, s, memory).actions, x, sigma)

    planned = Plan(network, formulation, sampling).begin(memory)
    return tuple(sampling.sample(d, noise[0], noise[1:]) for d in (planned, plain))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("steps", sorted(PRESETS))
@pytest.mark.parametrize("name", CONFIGS)
def test_planned_is_plain(name: str, steps: str, rows: int) -> None:
    config = CONFIGS[name]
    formulation = config.default_formulation().build()
    got, want = chunks(lively(config), formulation, PRESETS[steps], rows)
    assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max()))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("steps", sorted(PRESETS))
@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].kind == "mode"])
def test_a_long_prefix_apart_is_the_same(name: str, steps: str, rows: int) -> None:
    network, formulation = lively(CONFIGS[name], MANY_IMAGES), EdmConfig().build()
    got, want = chunks(network, formulation, PRESETS[steps], rows)
    assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max()))
    plan = Plan(network, formulation, PRESETS[steps])
    memory = network.encode(context(rows, MANY_IMAGES))
    for part in network.prepare(plan.joined, memory):
        assert isinstance(part, list) == (steps != "1")


@pytest.mark.parametrize("name", KINDS)
def test_planned_is_plain_where_goals_have_masks(name: str) -> None:
    network, formulation = lively(CONFIGS[name]), CONFIGS[name].default_formulation().build()
    got, want = chunks(network, formulation, PRESETS["5"], 3, masked=True)
    assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max()))


@pytest.mark.parametrize(
    "sampling",
    [
        *(SamplingConfig(sampler=sampler, steps=4) for sampler in SAMPLERS),
        *(SamplingConfig(schedule=schedule, steps=5) for schedule in SCHEDULES),
        SamplingConfig(schedule="karras", steps=5, sigma_min=1e-5),  # beyond the timesteps
    ],
)
@pytest.mark.parametrize("name", sorted(FORMULATIONS))
@torch.no_grad()
def test_every_call_of_a_sampler_gets_the_plain_answer(name: str, sampling: SamplingConfig) -> None:
    network, formulation = lively(CONFIGS["mode"]), FORMULATIONS[name].small().build()
    memory = network.encode(context(2))
    planned = Plan(network, formulation, sampling).begin(memory)

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        plain = formulation.denoise(lambda y, s: network(y, s, memory).actions, x, sigma)
        assert (planned(x, sigma) - plain).abs().max() < 1e-5 * max(1, float(plain.abs().max()))
        return plain

    noise = torch.randn(sampling.num_draws, 2, SIZES.action_horizon, SIZES.action_dim)
    sampling.sample(both, noise[0], noise[1:])


def test_a_step_of_a_plan_can_be_differentiated() -> None:
    """By its x, as guidance does, though the plan was made in inference mode."""
    network, edm = lively(CONFIGS["mode, switch"]), EdmConfig().build()
    with torch.inference_mode():
        plan = Plan(network, edm, PRESETS["2"])
    memory, sigma = network.encode(context(2)), torch.tensor([0.5])

    def plain(x: Tensor) -> Tensor:
        return edm.denoise(lambda y, s: network(y, s, memory).actions, x, sigma)

    x, along = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    planned = plan.begin(memory)
    got = torch.autograd.functional.vjp(lambda x: planned(x, sigma), x, along)[1]
    want = torch.autograd.functional.vjp(plain, x, along)[1]
    assert (got - want).abs().max() < 1e-5 * max(1, float(want.abs().max()))


def test_another_schedule_is_refused() -> None:
    network = lively(CONFIGS["mode"])
    denoise = Plan(network, EdmConfig().build(), PRESETS["2"]).begin(network.encode(context(1)))
    with pytest.raises(ValueError, match=r"sigma 80 is not in the plan's schedule \(5, 0.5\)"):
        PRESETS["10"].sample(denoise, torch.randn(1, 6, 3))


def step_of_training(network: nn.Module) -> None:
    """Let the optimizer of training write to every weight."""
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    OptimizerConfig().build(network).step()


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "an optimizer step": step_of_training,
    "other weights loaded": lambda network: network.load_state_dict(
        {name: value + 0.01 for name, value in network.state_dict().items()}
    ),
    "other weights assigned": lambda network: network.load_state_dict(
        {name: value + 0.01 for name, value in network.state_dict().items()}, assign=True
    ),
    "another precision": lambda network: network.bfloat16(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_ends_with_the_weights_that_it_was_made_of(change: str) -> None:
    network = lively(CONFIGS["mode"])
    plan = Plan(network, EdmConfig().build(), PRESETS["2"])
    memory = network.encode(context(1))
    plan.begin(memory)
    CHANGES[change](network)
    with pytest.raises(ValueError, match=r"weights have changed since the plan was made; policy\."):
        plan.begin(memory)


def test_a_plan_of_a_moving_average_ends_when_that_goes_on() -> None:
    network = lively(CONFIGS["mode"])
    average = EmaConfig().build(network)
    average.update_parameters(network)
    plan = Plan(average.module, EdmConfig().build(), PRESETS["2"])
    memory = average.module.encode(context(1))
    plan.begin(memory)
    step_of_training(network)
    average.update_parameters(network)
    with pytest.raises(ValueError, match="weights have changed since the plan was made"):
        plan.begin(memory)


def test_a_policy_keeps_its_plan_and_follows_sampling_and_weights(
    build: Callable[[PolicyConfig], Policy], make_requests: Callable[..., Any]
) -> None:
    config = PolicyConfig()
    policy = build(config)
    requests = make_requests(config)

    def act() -> list[Any]:
        return [chunk.actions for chunk in policy.act_batch(requests)]

    first, plan = act(), policy.plan()
    assert policy.plan() is plan and policy.plan(replace(policy.sampling)) is plan
    policy.sampling = PRESETS["2"]
    assert policy.plan() is not plan
    act()
    policy.sampling = config.sampling
    assert all(np.array_equal(a, b) for a, b in zip(first, act(), strict=True))
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.mul_(1.1)
    changed = act()
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(first, changed, strict=True))
    copy = deepcopy(policy)  # makes a plan of its own
    for a, b in zip(changed, copy.act_batch(requests), strict=True):
        assert np.array_equal(a, b.actions)
    assert policy.train().plan() and policy.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_recorded_chunk_is_the_same(
    name: str, build: Callable[[PolicyConfig], Policy], make_requests: Callable[..., Any]
) -> None:
    config = PolicyConfig(denoiser=KINDS[name].small())
    policy = build(config).to("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # recording must not fail
        for seeds in ((0, 1), (2, 3), (4,), (5,)):
            requests = make_requests(config, seeds)
            recorded = policy.act_batch(requests)
            for chunk, request in zip(recorded, requests, strict=True):
                alone = deepcopy(policy).cpu().act_batch([request])[0]
                assert np.abs(chunk.actions - alone.actions).max() < 1e-3


def test_what_a_chunk_is_drawn_from_is_told_by_name() -> None:
    noise = torch.randn(1, 2, 6, 3)
    inputs = ChunkInputs(context=context(2, masked=True), noise=noise, anchored={"state": noise})
    named = tensors_of(inputs)
    parts = {"context.goal", "context.images", "context.state", "context.goal_mask"}
    assert named.keys() == {*parts, "noise", "anchored.state"} and named["noise"] is noise
    twice = each_tensor(inputs, lambda t: t + t)
    assert isinstance(twice, ChunkInputs) and twice.gumbel_noise is None
    for name, tensor in tensors_of(twice).items():
        assert torch.equal(tensor, named[name] + named[name])
