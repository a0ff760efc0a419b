"""Conformance: every kind of denoiser, and every routing, trains, acts and keeps its contract.

Registering is what gets one tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from telic.policy.auxiliary import OBJECTIVES
from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig
from telic.policy.denoisers.kinds import KINDS, require_kind
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.formulation import FormulationConfig
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.sampling import PRESETS
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES
from telic.policy.routing.routings import ROUTINGS
from telic.spec import ChunkPolicy

SMALL: dict[str, DenoiserConfig] = {kind: build.small() for kind, build in KINDS.items()}
ROUTED: dict[str, DenoiserConfig] = {  # every routing in every kind
    f"{kind}, {name}": replace(config, routing=routing.small())
    for kind, config in SMALL.items()
    for name, routing in ROUTINGS.items()
}
SIZES = Sizes(num_goals=1, num_images=2, num_states=1, action_horizon=6, action_dim=3, state_dim=32)


def context(batch: int = 2, width: int = 32) -> Context:
    """Return random tokens."""
    return Context(
        goal=torch.randn(batch, 1, width),
        images=torch.randn(batch, 2, width),
        state=torch.randn(batch, 1, width),
    )


@pytest.fixture(params=[*sorted(KINDS), *ROUTED])
def denoiser(request: pytest.FixtureRequest) -> DenoiserConfig:
    """Return the small config of each kind, as it is and with each routing."""
    return (SMALL | ROUTED)[request.param]


def answer(network: Denoiser, x: Tensor, sigma: Tensor, context: Context) -> Tensor:
    """Return what the network answers to a context that it has not seen yet."""
    return network(x, sigma, network.encode(context)).actions


def test_denoiser_answers_in_the_shape_of_the_chunk(denoiser: DenoiserConfig) -> None:
    network = denoiser.build(SIZES).eval()
    x, ctx = torch.randn(2, 6, 3), context()
    assert answer(network, x, torch.tensor([0.1, 9.0]), ctx).shape == (2, 6, 3)
    shared = answer(network, x, torch.tensor([0.7]), ctx)
    assert torch.allclose(shared, answer(network, x, torch.tensor([0.7, 0.7]), ctx), atol=1e-6)


def test_answer_depends_on_all_it_is_conditioned_on(denoiser: DenoiserConfig) -> None:
    network = denoiser.build(SIZES).eval()
    x, sigma, ctx = torch.randn(2, 6, 3), torch.tensor([0.5]), context()
    before = answer(network, x, sigma, ctx)
    assert (before - answer(network, x, sigma * 2, ctx)).abs().max() > 1e-4
    for part in ("goal", "images", "state"):
        other = context()
        changed = Context(goal=ctx.goal, images=ctx.images, state=ctx.state)
        setattr(changed, part, getattr(other, part))
        assert (before - answer(network, x, sigma, changed)).abs().max() > 1e-4, part


def test_rows_of_a_batch_do_not_mix(denoiser: DenoiserConfig) -> None:
    network = denoiser.build(SIZES).eval()
    x, sigma, ctx = torch.randn(2, 6, 3), torch.tensor([0.1, 9.0]), context()
    alone = Context(goal=ctx.goal[1:], images=ctx.images[1:], state=ctx.state[1:])
    together = answer(network, x, sigma, ctx)[1:]
    assert torch.allclose(together, answer(network, x[1:], sigma[1:], alone), atol=1e-6)


def test_bf16_autocast_is_close_to_float32(denoiser: DenoiserConfig) -> None:
    network = denoiser.build(SIZES).eval()
    x, sigma, ctx = torch.randn(2, 6, 3), torch.tensor([0.1, 9.0]), context()
    want = answer(network, x, sigma, ctx)
    with torch.autocast("cpu", torch.bfloat16):
        got = answer(network, x, sigma, ctx)
    assert (got.float() - want).abs().max() < 0.05 * want.abs().max()


def test_denoiser_trains_every_parameter(denoiser: DenoiserConfig) -> None:
    network = denoiser.build(SIZES).train()
    x, sigma, generator = torch.randn(2, 6, 3), torch.tensor([0.1, 9.0]), torch.Generator()
    prediction = network(x, sigma, network.encode(context()), generator)
    assert prediction.losses.keys() == denoiser.loss_weights().keys()
    sum(prediction.losses.values(), prediction.actions.square().sum()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> DenoiserConfig:
    """Return the small config of each kind."""
    return SMALL[request.param]


@pytest.fixture(params=sorted(FORMULATIONS))
def formulation(request: pytest.FixtureRequest) -> FormulationConfig:
    """Return the example of each formulation."""
    return FORMULATIONS[request.param].small()


def policy_config(kind: DenoiserConfig, formulation: FormulationConfig) -> PolicyConfig:
    """Return a policy over state and both cameras, two observations, chunks of five."""
    config = PolicyConfig(denoiser=kind, formulation=formulation, obs_horizon=2, action_horizon=5)
    config.images.share_tower = True
    return config


def test_policy_trains_every_parameter(
    kind: DenoiserConfig,
    formulation: FormulationConfig,
    build: Callable[[PolicyConfig], Policy],
    make_batch: Callable[..., dict[str, Any]],
) -> None:
    config = policy_config(kind, formulation)
    policy = build(config).train()
    terms = policy(make_batch(config), torch.Generator().manual_seed(0))
    assert terms.per_sample.shape == terms.sigma.shape == (4,)
    assert torch.allclose(terms.diffusion, terms.per_sample.mean())
    weights = kind.loss_weights()
    assert terms.parts.keys() == {"diffusion", *weights}
    own = sum(weights[name] * terms.parts[name] for name in weights)
    assert torch.allclose(terms.total, terms.diffusion + own)
    terms.total.backward()
    idle = [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_itself_and_the_encoders(
    kind: DenoiserConfig,
    name: str,
    build: Callable[[PolicyConfig], Policy],
    make_batch: Callable[..., dict[str, Any]],
) -> None:
    tower = ImageConfig(tower="keypoint_conv", share_tower=True)
    config = PolicyConfig(denoiser=kind, images=tower, goal=GoalConfig(images=True, image=tower))
    objective = OBJECTIVES[name].small()
    config = config.with_objective(objective)
    policy, batch = build(config).train(), make_batch(config)
    terms = policy(batch, torch.Generator().manual_seed(0))
    weights = kind.loss_weights() | {name: objective.weight}
    assert terms.parts.keys() == {"diffusion", *weights}
    total = terms.diffusion + sum(weights[part] * terms.parts[part] for part in weights)
    assert torch.allclose(terms.total, total)
    terms.parts[name].backward()
    moved = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    own = {n for n, _ in policy.named_parameters() if n.startswith(f"objectives.{name}.")}
    assert own and own <= moved
    assert any(n.startswith("conditioner.image_encoder.towers.") for n in moved)
    reads_goal = name != "repa"  # that one looks at the maps alone
    assert any(n.startswith("conditioner.goal_encoder.text_in.") for n in moved) == reads_goal
    torch.manual_seed(1)
    again = policy(batch, torch.Generator().manual_seed(0)).parts[name]
    assert torch.equal(again, terms.parts[name])
    assert name not in policy.eval()(batch, torch.Generator()).parts


def test_policy_is_a_chunk_policy(
    kind: DenoiserConfig,
    formulation: FormulationConfig,
    build: Callable[[PolicyConfig], Policy],
    make_requests: Callable[..., Any],
) -> None:
    config = policy_config(kind, formulation)
    policy = build(config)
    assert isinstance(policy, ChunkPolicy)
    for name, sampling in PRESETS.items():
        policy.sampling = sampling
        chunks = policy.act_batch(make_requests(config))
        assert len(chunks) == 3, name
        for seed, chunk in enumerate(chunks):
            assert chunk.t_obs_ns == 1000 + seed and chunk.dt_ns == 50_000_000
            assert chunk.actions.shape == (5, 3) and chunk.actions.dtype == np.float32
            assert np.abs(chunk.actions).max() <= 1


def test_a_policy_is_saved_and_loads_and_acts_alike(
    denoiser: DenoiserConfig,
    build: Callable[[PolicyConfig], Policy],
    make_requests: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = PolicyConfig(denoiser=denoiser, action_horizon=5)
    config.images.cameras = []
    policy = build(config).eval()
    save_checkpoint(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved")
    assert isinstance(loaded, Policy) and loaded.config == policy.config
    requests = make_requests(config)
    for ours, theirs in zip(policy.act_batch(requests), loaded.act_batch(requests), strict=True):
        assert np.array_equal(ours.actions, theirs.actions)


def test_published_preset_has_the_published_size() -> None:
    config = POLICIES["mode_published"].denoiser
    assert config is not None
    sizes = Sizes(num_goals=1, num_images=2, num_states=0, action_horizon=10, action_dim=7)
    with torch.device("meta"):
        count = sum(p.numel() for p in config.build(sizes).parameters())
    # without its projections of goal and images, of which one is dead
    assert count == 685_853_751 - 1024 * (512 + 2 * 2048)


@pytest.mark.parametrize("name", ["mode", "rdt"])
def test_small_presets_have_a_million_parameters(
    name: str, build: Callable[[PolicyConfig], Policy]
) -> None:
    config = PolicyConfig(denoiser=POLICIES[name].denoiser)
    config.images.cameras = []
    assert sum(p.numel() for p in build(config).parameters()) == pytest.approx(0.9e6, rel=0.05)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="width=128 must be a multiple of num_heads=3"):
        ModeConfig(num_heads=3)


def test_unknown_kind_offers_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"here: kind 'mod' is not one of .*did you mean mode"):
        require_kind("mod", KINDS, "here")
    with pytest.raises(ValueError, match="is a base"):
        DenoiserConfig().build(SIZES)
