"""MDT: what is computed once per chunk, and what each choice of numerics lets the actions see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.mdt import Mdt, MdtConfig, MdtPositions
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES

SIZES = Sizes(num_goals=1, num_images=2, num_states=1, action_horizon=6, action_dim=3)
SMALL = MdtConfig(width=32, num_heads=2, hidden=64)


def context(batch: int = 2) -> Context:
    """Return random tokens."""
    return Context(
        goal=torch.randn(batch, 1, 32),
        images=torch.randn(batch, 2, 32),
        state=torch.randn(batch, 1, 32),
    )


def gradient(network: Mdt, x: Tensor, tokens: Context, action: int) -> dict[str, Tensor]:
    """Return how far one action depends on each goal and image token and each action shown."""
    parts = {"goal": tokens.goal, "images": tokens.images, "x": x}
    for part in parts.values():
        part.requires_grad_()
    memory = network.encode(tokens)
    network(x, torch.tensor([0.5]), memory).actions[:, action].sum().backward()
    return {name: torch.as_tensor(p.grad).abs().sum((0, 2)) for name, p in parts.items()}


def test_memory_holds_all_that_steps_share() -> None:
    network = Mdt(replace(SMALL, decoder_layers=3), SIZES).eval()
    memory = network.encode(context())
    assert memory.keys.shape == memory.values.shape == (2, 3, 2, 4, 16)
    assert network.latent(memory).shape == (2, 4, 32)
    with torch.no_grad():  # a step reads keys and values alone, no encoder
        want = network(torch.ones(2, 6, 3), torch.tensor([0.5]), memory).actions
        memory.tokens.zero_()
        assert torch.equal(network(torch.ones(2, 6, 3), torch.tensor([0.5]), memory).actions, want)


@pytest.mark.parametrize("causal", [False, True])
def test_first_action_is_blind_only_where_the_published_mask_is_asked_for(causal: bool) -> None:
    # one encoder layer lets the goal token see all, so cut it to look at the mask alone
    network = Mdt(replace(SMALL, causal_memory=causal), SIZES).eval()
    network.encoder = torch.nn.ModuleList()
    for action in range(6):
        seen = gradient(network, torch.randn(2, 6, 3), context(), action)
        assert seen["goal"].gt(0).all()
        visible = [not causal or action > image for image in range(2)]
        assert seen["images"].gt(0).tolist() == visible
        assert seen["x"].gt(0).tolist() == [other <= action for other in range(6)]


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_goal_mask_hides_changes_nothing(causal: bool) -> None:
    horizon = 5  # as many actions as context tokens, where kernels would take a causal mask
    sizes = replace(SIZES, num_goals=2, action_horizon=horizon)
    network = Mdt(replace(SMALL, causal_memory=causal), sizes).eval()
    seen = replace(context(), goal=torch.randn(2, 2, 32))
    seen.goal_mask = torch.tensor([[True, False], [True, True]])
    other = replace(seen, goal=seen.goal.clone())
    other.goal[:, 1] = torch.randn(2, 32)
    x, sigma = torch.randn(2, horizon, 3), torch.tensor([0.5])
    with torch.no_grad():
        first, second = (network(x, sigma, network.encode(c)).actions for c in (seen, other))
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert (first[1] - second[1]).abs().max() > 1e-3


@pytest.mark.parametrize("positions", list(MdtPositions))
def test_positions_tell_apart_what_they_say(positions: MdtPositions) -> None:
    network = Mdt(replace(SMALL, positions=positions), SIZES).eval()
    rows = {"own": 10, "shared": 2, "none": 0}[positions.value]
    assert (0 if network.positions is None else len(network.positions)) == rows
    seen = context()
    swapped = replace(seen, images=seen.images.flip(1))
    x, sigma = torch.randn(2, 6, 3), torch.tensor([0.5])
    with torch.no_grad():
        tokens, other = (network.encode(c).tokens for c in (seen, swapped))
        assert torch.allclose(tokens[:, 0], other[:, 0], atol=1e-6) is (rows < 10)
        same = x[:, :1].expand(-1, 6, -1)  # equal actions: only positions tell them apart
        first, second = network(same, sigma, network.encode(seen)).actions[:, :2].unbind(1)
        assert torch.allclose(first, second, atol=1e-6) is (rows < 10)


def test_plain_scale_starts_almost_shut() -> None:
    x, sigma, tokens = torch.randn(2, 6, 3), torch.tensor([0.5]), context()
    for plain in (False, True):
        network = Mdt(replace(SMALL, plain_scale=plain), SIZES).eval()
        scale = network.modulations(network.sigma_embedding(sigma))[:, :, 1]
        assert (scale - (0 if plain else 1)).abs().mean() < 0.1
        assert torch.isfinite(network(x, sigma, network.encode(tokens)).actions).all()


def test_published_numerics_train_every_parameter() -> None:
    for config in (MdtConfig.published(), MdtConfig.published_v()):
        small = replace(config, width=32, num_heads=2, hidden=64, encoder_layers=1)
        network = Mdt(small, SIZES).train()
        memory = network.encode(context())
        network(torch.randn(2, 6, 3), torch.tensor([0.5]), memory).actions.square().sum().backward()
        assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_heads": 3}, "width=128 must be even, at least 4, and a multiple of num_heads=3"),
        ({"decoder_layers": 0}, "decoder_layers=0 must be at least 1"),
        ({"hidden": -1}, "hidden=-1 must be at least 1"),
    ],
)
def test_impossible_networks_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MdtConfig(**bad)


def test_small_preset_has_a_million_parameters(build: Callable[[PolicyConfig], Policy]) -> None:
    config = PolicyConfig(denoiser=MdtConfig())
    config.images.cameras = []
    assert sum(p.numel() for p in build(config).parameters()) == pytest.approx(0.9e6, rel=0.05)


def test_mdtv_sees_through_a_perceiver_and_comes_back_from_disk(
    tmp_path: Path,
    build: Callable[[PolicyConfig], Policy],
    make_batch: Callable[..., dict[str, Any]],
    make_requests: Callable[..., Any],
) -> None:
    config = replace(POLICIES["mdtv"], obs_horizon=2)
    policy = build(config).train()
    assert policy.kind == "mdt" and policy.denoiser.sizes.num_images == 3
    terms = policy(make_batch(config), torch.Generator().manual_seed(0))
    terms.total.backward()
    idle = {n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None}
    frozen = {n for n, p in policy.named_parameters() if not p.requires_grad}
    assert (
        not idle and frozen and all("conditioner.image_encoder.towers.0" in name for name in frozen)
    )
    chunks = policy.act_batch(make_requests(config))
    assert [chunk.actions.shape for chunk in chunks] == [(8, 3)] * 3
    save_checkpoint(tmp_path / "saved", policy)
    loaded = load_policy(tmp_path / "saved").act_batch(make_requests(config))
    assert all((a.actions == b.actions).all() for a, b in zip(loaded, chunks, strict=True))
