"""RDT beyond conformance: masks, cached context, absent parts of the context, its norms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.rdt import Rdt, RdtConfig, image_positions
from telic.policy.layers.norms import Norm

SMALL = RdtConfig(width=32, num_layers=4, num_heads=2)
SIZES = Sizes(
    num_goals=4,
    num_images=4,
    num_states=2,
    action_horizon=6,
    action_dim=3,
    obs_horizon=2,
    state_dim=7,
)
SIGMA = torch.tensor([0.5])


def context(sizes: Sizes = SIZES, batch: int = 2) -> Context:
    """Return random tokens and states."""
    return Context(
        goal=torch.randn(batch, sizes.num_goals, 32),
        images=torch.randn(batch, sizes.num_images, 32),
        state=torch.randn(batch, sizes.num_states, sizes.state_dim),
        rate_hz=torch.full((batch,), 20.0),
    )


def answer(network: Rdt, x: Tensor, context: Context) -> Tensor:
    """Return the network's answer at one sigma."""
    with torch.no_grad():
        return network(x, SIGMA, network.encode(context)).actions


def test_hidden_language_is_not_seen() -> None:
    network, x, ctx = SMALL.build(SIZES), torch.randn(2, 6, 3), context()
    ctx.goal_mask = torch.tensor([[True, True, False, False], [True] * 4])
    other = dataclasses.replace(ctx, goal=ctx.goal.clone())
    other.goal[:, 2:] = 9.0
    before, after = answer(network, x, ctx), answer(network, x, other)
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-4
    short = dataclasses.replace(ctx, goal=ctx.goal[:, :2], goal_mask=None)
    assert torch.allclose(before[0], answer(network, x, short)[0], atol=1e-6)


def test_a_row_without_language_is_finite() -> None:
    network, ctx = SMALL.build(SIZES), context()
    ctx.goal_mask = torch.tensor([[False] * 4, [True] * 4])
    assert torch.isfinite(answer(network, torch.randn(2, 6, 3), ctx)).all()


@pytest.mark.parametrize("mask", ["state_mask", "action_mask"])
def test_masks_are_told_to_the_network(mask: str) -> None:
    network, x, ctx = SMALL.build(SIZES), torch.randn(2, 6, 3), context()
    size = SIZES.state_dim if mask == "state_mask" else SIZES.action_dim
    all_there = torch.ones(2, size, dtype=torch.bool)
    assert torch.equal(
        answer(network, x, ctx), answer(network, x, dataclasses.replace(ctx, **{mask: all_there}))
    )
    one_less = all_there.clone()
    one_less[:, -1] = False
    other = answer(network, x, dataclasses.replace(ctx, **{mask: one_less}))
    assert (answer(network, x, ctx) - other).abs().max() > 1e-4


def test_rate_is_told_to_the_network() -> None:
    network, x, ctx = SMALL.build(SIZES), torch.randn(2, 6, 3), context()
    slow = dataclasses.replace(ctx, rate_hz=torch.full((2,), 5.0))
    assert (answer(network, x, ctx) - answer(network, x, slow)).abs().max() > 1e-4
    unknown = dataclasses.replace(ctx, rate_hz=None)
    zero = dataclasses.replace(ctx, rate_hz=torch.zeros(2))
    assert torch.equal(answer(network, x, unknown), answer(network, x, zero))


def test_each_layer_looks_at_its_own_part() -> None:
    network, ctx = SMALL.build(SIZES), context()
    memory = network.encode(ctx)
    other = network.encode(dataclasses.replace(ctx, images=torch.randn_like(ctx.images)))
    changed = [
        not torch.equal(a, b)
        for (a, _), (b, _) in zip(memory.keys_values, other.keys_values, strict=True)
    ]
    assert changed == [False, True, False, True]


@pytest.mark.parametrize("absent", ["num_images", "num_goals", "num_states"])
def test_absent_parts_leave_no_idle_parameter(absent: str) -> None:
    sizes = dataclasses.replace(SIZES, **{absent: 0})
    network = SMALL.build(sizes)
    memory = network.encode(context(sizes))
    assert len(memory.keys_values) == 4
    network(torch.randn(2, 6, 3), SIGMA, memory).actions.square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_images_lie_camera_by_camera() -> None:
    first = image_positions(SIZES, 32)
    frame, camera = first[:, :16], first[:, 16:]
    assert torch.allclose(frame[:2], frame[2:4], atol=1e-6)
    assert torch.allclose(camera[::2], camera[1::2], atol=1e-6)
    assert not torch.allclose(frame[0], frame[1]) and not torch.allclose(camera[0], camera[2])


def test_patches_of_one_frame_begin_alike() -> None:
    one = image_positions(SIZES, 32)
    three = dataclasses.replace(SIZES, num_images=3 * SIZES.num_images, num_patches=3)
    assert torch.allclose(image_positions(three, 32), one.repeat_interleave(3, 0), atol=1e-6)


def test_norms_divide_by_what_their_timm_did() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    mean_square, variance = 50 / 4, (4 + 1 + 0 + 9) / 3
    assert torch.allclose(Norm.rms.build(4)(x), x / mean_square**0.5)
    assert torch.allclose(Norm.simple.build(4)(x), x / variance**0.5)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="width=30 must be a multiple of 4 and of num_heads=2"):
        RdtConfig(width=30, num_heads=2)
    with pytest.raises(ValueError, match="num_layers=0 must be at least 1"):
        RdtConfig(num_layers=0)
    with pytest.raises(ValueError, match="this policy has neither"):
        SMALL.build(dataclasses.replace(SIZES, num_goals=0, num_images=0))
