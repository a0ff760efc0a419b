"""The future head: it learns what will be seen, from videos too, and acting does without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.config import PolicyConfig
from telic.policy.diffusion.samplers import euler
from telic.policy.encoders.images import ImageConfig
from telic.policy.layers.patches import from_patches
from telic.policy.objectives.future import Future, FutureConfig, FutureTarget
from telic.policy.objectives.objective import Encoded
from telic.policy.policy import Policy

Build = Callable[[PolicyConfig], Policy]


def policy_config(cameras: list[str] | None = None, **future: Any) -> PolicyConfig:
    """Return a policy with a small future head."""
    head = FutureConfig(
        **{"weight": 0.5, "side": 16, "patch": 4, "width": 32, "num_heads": 2} | future
    )
    images = ImageConfig(tower="keypoint_conv", share_tower=True, random_shift=0, cameras=cameras)
    return PolicyConfig(action_horizon=5, images=images, future=head)


def head_of(policy: Policy) -> Future:
    """Return the policy's head."""
    head = policy.objectives["future"]
    assert isinstance(head, Future)
    return head


def test_acting_does_not_know_the_head(build: Build, make_requests: Any) -> None:
    """The same weights act the same to the bit without the head, and with a spoiled one."""
    config = policy_config()
    policy, plain = build(config), build(policy_config(weight=0.0))
    spare = plain.load_state_dict(policy.state_dict(), strict=False)
    assert not spare.missing_keys
    assert spare.unexpected_keys and all(k.startswith("objectives") for k in spare.unexpected_keys)
    requests = make_requests(config)
    with_head = [chunk.actions for chunk in policy.act_batch(requests)]
    without = [chunk.actions for chunk in plain.act_batch(requests)]
    assert all(np.array_equal(a, b) for a, b in zip(with_head, without, strict=True))
    with torch.no_grad():
        for parameter in head_of(policy).parameters():
            parameter.fill_(float("nan"))
    calls: list[str] = []
    for name, module in policy.named_modules():
        if name.startswith("objectives."):
            module.register_forward_hook(lambda *args, name=name: calls.append(name))
    spoiled = [chunk.actions for chunk in policy.act_batch(requests)]
    assert all(np.array_equal(a, b) for a, b in zip(with_head, spoiled, strict=True))
    assert not calls


def test_the_sentence_decides_which_future_is_seen(build: Build, make_batch: Any) -> None:
    """One observation, two sentences, two futures: overfit, and look."""
    config = policy_config(cameras=["front"])
    policy = build(config).eval()
    head, batch = head_of(policy), make_batch(config, size=2)
    now = torch.full((1, 1, 32, 32, 3), 128, dtype=torch.uint8)
    batch["image/front"] = now.expand(2, -1, -1, -1, -1)
    batch["state"] = batch["state"][:1].expand(2, -1, -1)
    left, top = torch.full((2, 32, 32, 3), 40, dtype=torch.uint8).unbind()
    left[:, :16], top[:16] = 220, 220
    batch["future_image/front"] = torch.stack([left, top])
    rows = torch.arange(32) % 2
    latent = policy.denoiser.latent(policy.denoiser.encode(policy.encode(batch))).detach()
    read = Encoded(
        batch={k: v[rows] for k, v in batch.items() if torch.is_tensor(v)},
        goals=policy.conditioner.goal_encoder.tokens(batch),
        latent=latent[rows],
        latent_of=lambda goal: latent,
        towers={},
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        loss = head(read, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = policy.predict_future(batch, torch.Generator().manual_seed(1))["front"]
    assert seen.shape == (2, 16, 16, 3) and seen.dtype == torch.uint8
    want = batch["future_image/front"][:, ::2, ::2].int()
    error = (seen.int() - want).abs().float().mean((1, 2, 3))
    other = (seen.int() - want.flip(0)).abs().float().mean((1, 2, 3))
    unchanged = (now.int()[0, :, ::2, ::2] - want).abs().float().mean((1, 2, 3))
    assert (error < 35).all() and (other > 80).all() and (unchanged > 85).all(), (error, other)


def test_loss_is_its_formula(build: Build, make_batch: Any) -> None:
    """lambda(sigma) |D(x) - y|^2 with EDM's weighting, in the order the generator draws."""
    config = policy_config()
    policy = build(config).train()
    head, batch = head_of(policy), make_batch(config)
    latent = torch.randn(4, 5, 32)
    goals = policy.conditioner.goal_encoder.tokens(batch)
    read = Encoded(
        batch=batch, goals=goals, latent=latent, latent_of=lambda goal: latent, towers={}
    )
    got = head(read, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    sigma = head.formulation.draw_sigma(4, generator, torch.device("cpu"))
    noise = torch.randn(4, 2 * 16, 48, generator=generator)
    pictures = torch.stack([batch[f"future_image/{c}"] for c in ("front", "wrist")], 1)
    small = torch.nn.functional.interpolate(
        pictures.flatten(0, 1).permute(0, 3, 1, 2) / 255, (16, 16), mode="bilinear", antialias=True
    )
    tokens = head.tokens([batch[f"future_image/{c}"] for c in ("front", "wrist")], {})
    shown = from_patches(tokens.unflatten(1, (2, -1)), 4).flatten(0, 1).permute(0, 3, 1, 2)
    assert torch.allclose(shown, 2 * small - 1, atol=1e-5)
    noisy = tokens + sigma[:, None, None] * noise
    now = head.tokens([batch[f"image/{c}"][:, -1] for c in ("front", "wrist")], {})
    total = sigma[:, None, None] ** 2 + 0.25
    answer = head.output(noisy / total.sqrt(), sigma, now, latent)
    clean = 0.25 / total * noisy + 0.5 * sigma[:, None, None] / total.sqrt() * answer
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    want = (weight * (clean - tokens).square().mean((1, 2))).mean()
    assert torch.allclose(got, want, rtol=1e-4)


def test_videos_train_the_head_and_not_the_actions(build: Build, make_batch: Any) -> None:
    config = policy_config()
    policy = build(config).train()
    batch = make_batch(config)
    batch["action_mask"][:] = False
    terms = policy(batch, torch.Generator().manual_seed(0))
    assert float(terms.diffusion.detach()) == 0 < float(terms.parts["future"].detach())
    terms.total.backward()
    assert head_of(policy).token_out.weight.grad.any()
    assert any(p.grad.any() for p in policy.conditioner.image_encoder.parameters())
    assert not policy.denoiser.action_out.weight.grad.any()
    half = make_batch(config)
    half["action_mask"][:2] = False
    spoiled = {k: v.clone() if torch.is_tensor(v) else v for k, v in half.items()}
    spoiled["action"][:2] = 0
    losses = [policy(b, torch.Generator().manual_seed(0)).per_sample for b in (half, spoiled)]
    assert not losses[0][:2].any() and torch.equal(losses[0], losses[1])


def test_noise_levels_are_independent(build: Build, make_batch: Any) -> None:
    config = policy_config()
    config.action_horizon = 1
    policy = build(config).train()
    drawn: list[torch.Tensor] = []
    head_of(policy).sigma_embedding.register_forward_hook(
        lambda module, inputs, output: drawn.append(inputs[0])
    )
    actions = policy(make_batch(config, size=400), torch.Generator().manual_seed(0)).sigma
    correlation = torch.corrcoef(torch.stack([actions.log(), drawn[0].log()]))[0, 1]
    assert abs(float(correlation)) < 0.15


def test_features_of_the_own_tower(build: Build, make_batch: Any) -> None:
    config = policy_config(target=FutureTarget.features, grid=2)
    policy = build(config).train()
    batch = make_batch(config)
    head = head_of(policy)
    frames = [batch[f"future_image/{camera}"] for camera in ("front", "wrist")]
    towers = {camera: policy.conditioner.image_encoder.tower(0) for camera in ("front", "wrist")}
    tokens = head.tokens(frames, towers)
    assert tokens.shape == (4, 2 * 4, 64) and not tokens.requires_grad
    assert torch.allclose(tokens.square().mean(-1), torch.tensor(0.25), atol=1e-2)
    whole = towers["wrist"](frames[1])  # [4 64 8 8]: place (1, 0) is the lower left quarter
    corner = whole[:, :, 4:, :4].mean((-2, -1))
    scaled = (corner - corner.mean(1, keepdim=True)) / corner.std(1, unbiased=False, keepdim=True)
    assert torch.allclose(tokens[:, 4 + 2], 0.5 * scaled, atol=1e-2)
    policy(batch, torch.Generator().manual_seed(0)).total.backward()
    predicted = policy.predict_future(batch, torch.Generator().manual_seed(0))
    assert predicted.keys() == {"front", "wrist"}
    assert predicted["wrist"].shape == (4, 4, 64) and predicted["wrist"].isfinite().all()


def test_a_prediction_walks_the_schedule_of_the_head(build: Build, make_batch: Any) -> None:
    config = policy_config()
    policy, batch = build(config).eval(), make_batch(config)
    head = head_of(policy)
    got = policy.predict_future(batch, torch.Generator().manual_seed(2))["front"]
    latent = policy.denoiser.latent(policy.denoiser.encode(policy.encode(batch)))
    now = head.tokens(head.current(batch), {})
    noise = torch.randn(now.shape, generator=torch.Generator().manual_seed(2))
    sampled = euler(
        lambda x, sigma: head.formulation.denoise(
            lambda scaled, level: head.output(scaled, level, now, latent), x, sigma
        ),
        80 * noise,
        head.config.sampling.levels(),
    )
    picture = from_patches(sampled.detach()[:, :16], 4)
    want = ((picture + 1) * 127.5).clamp(0, 255)
    assert (got.float() - want).abs().max() <= 0.51


def test_impossible_heads_are_one_line(build: Build, make_batch: Any) -> None:
    with pytest.raises(ValueError, match=r"policy.future.side=30 must be a multiple of 8"):
        FutureConfig(side=30)
    with pytest.raises(ValueError, match=r"policy.future.weight=-0.1 must be 0 or positive"):
        FutureConfig(weight=-0.1)
    with pytest.raises(ValueError, match=r"policy.future.grid=0 must be at least 1"):
        FutureConfig(grid=0)
    with pytest.raises(ValueError, match=r"future.weight=0.5 predicts pictures, and the policy ha"):
        build(policy_config(cameras=[]))
    config = policy_config(weight=0.0)
    with pytest.raises(ValueError, match=r"predicts no future; train it with policy.future.weig"):
        build(config).predict_future(make_batch(config), torch.Generator())
