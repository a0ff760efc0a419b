"""Several draws of sigma and noise for one encoded window: `Policy.loss(..., draws=M)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.denoiser import DenoiserConfig, Fixed
from telic.policy.denoisers.kinds import KINDS
from telic.policy.denoisers.mdt import MdtConfig
from telic.policy.denoisers.mmdit import MmditConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.formulation import CLEAN_SIGMA, squared_error
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig
from telic.policy.inference.prefix import PrefixConfig, draw_fixed, show_fixed
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.policy import Policy
from telic.policy.routing.routings import ROUTINGS

Build = Callable[[PolicyConfig], Policy]
KIND: dict[str, DenoiserConfig] = {
    "mode": ModeConfig(width=32, num_layers=2, num_heads=2, feed_forward=32),
    "mdt": MdtConfig(width=32, num_heads=2, hidden=64),
    "rdt": RdtConfig(width=32, num_layers=2, num_heads=2),
    "mmdit": MmditConfig(width=32, num_layers=2, num_heads=2, hidden=64),
}
DENOISERS = KIND | {
    f"{kind}, {name}": replace(config, routing=routing())
    for kind, config in KIND.items()
    for name, routing in ROUTINGS.items()
}


def policy_config(**more: Any) -> PolicyConfig:
    """Return a policy over two cameras whose encoders draw nothing."""
    tower = ImageConfig(tower="keypoint_conv", share_tower=True, random_shift=0)
    return PolicyConfig(action_horizon=5, images=tower, **more)


def gradients(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a loss by parameter."""
    policy.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def mean_of_single_losses(policy: Policy, batch: dict[str, Any], seed: int, draws: int) -> Tensor:
    """Return the mean over draws of the loss with one sigma and noise a window, written out."""
    generator = torch.Generator().manual_seed(seed)
    clean = policy.action_normalizer.normalize(batch["action"])
    rows = len(clean) * draws
    every_sigma = policy.formulation.draw_sigma(rows, generator, clean.device)
    every_noise = torch.randn((rows, *clean.shape[1:]), generator=generator)
    delay, masks = policy.config.prefix.max_delay, None
    if policy.training and delay:
        masks = draw_fixed(delay, rows, clean.shape[1], generator, clean.device)
    losses = []
    for draw in range(draws):
        sigma, noise = every_sigma[draw::draws], every_noise[draw::draws]
        fixed, known, network_sigma = None, batch["action_mask"], sigma
        if masks is not None:
            mask = masks[draw::draws]
            clean_sigma = torch.full((1,), CLEAN_SIGMA)
            fixed = Fixed(mask, policy.formulation.network_sigma(clean_sigma))
            noise, network_sigma = show_fixed(noise, sigma, mask)
            known = known & ~mask
        pair = policy.formulation.training_pair(clean, noise, network_sigma)
        memory = policy.denoiser.encode(policy.encode(batch))
        answer = policy.denoiser(pair.network_input, sigma, memory, None, fixed).actions
        losses.append(squared_error(answer, pair.target, known).mean())
    return torch.stack(losses).mean()


def compare(policy: Policy, batch: dict[str, Any], draws: int) -> None:
    """Assert that loss and gradients are the mean of the single losses; to the bit for one."""
    terms = policy(batch, torch.Generator().manual_seed(3), draws)
    assert terms.per_sample.shape == terms.sigma.shape == (4 * draws,) and terms.draws == draws
    assert len(terms.sigma.unique()) == 4 * draws
    got = gradients(policy, terms.diffusion)
    single = mean_of_single_losses(policy, batch, 3, draws)
    want = gradients(policy, single)
    assert got.keys() == want.keys() and any("towers" in name for name in got)
    if draws == 1:
        assert torch.equal(terms.diffusion, single)
        assert all(torch.equal(got[name], want[name]) for name in got)
    else:
        assert torch.allclose(terms.diffusion, single, rtol=1e-5)
        for name, gradient in got.items():
            scale = want[name].abs().max().clamp_min(1e-3)
            assert ((gradient - want[name]).abs().max() / scale) < 2e-4, name


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", DENOISERS)
def test_loss_and_gradients_are_the_mean_over_single_draws(
    name: str, draws: int, build: Build, make_batch: Any
) -> None:
    assert set(KIND) == set(KINDS)
    config = policy_config(denoiser=DENOISERS[name])
    batch = make_batch(config)
    batch["action_mask"][0, 3:] = False
    compare(build(config).eval(), batch, draws)  # at rest: token by token, routes are not drawn


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_every_formulation_and_prefixes_in_training(
    formulation: str, draws: int, build: Build, make_batch: Any
) -> None:
    config = policy_config(
        denoiser=KIND["mdt"],
        formulation=FORMULATIONS[formulation](),
        prefix=PrefixConfig(max_delay=2),
    )
    compare(build(config).train(), make_batch(config), draws)


def test_what_encodes_a_window_and_objectives_run_once(build: Build, make_batch: Any) -> None:
    tower = ImageConfig(tower="keypoint_conv", share_tower=True)
    config = PolicyConfig(
        action_horizon=5,
        images=tower,
        goal=GoalConfig(images=True, image=tower),
        foresight=ForesightConfig(weight=0.7, side=16, width=16, num_layers=1, num_heads=2),
        alignment=AlignmentConfig(weight=0.3, num_heads=2),
    )
    policy, batch = build(config).train(), make_batch(config)
    encoder = policy.conditioner.image_encoder
    assert encoder is not None
    rows: list[int] = []
    encoder.tower(0).register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    terms = policy(batch, torch.Generator().manual_seed(3), 4)
    assert rows == [4, 4]  # once for each camera
    assert terms.parts.keys() == {"diffusion", "load_balance", "foresight", "alignment"}
    again = policy(batch, torch.Generator().manual_seed(3), 4)
    assert torch.equal(terms.total, again.total)  # a function of the generator alone
    terms.total.backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
