"""The policy as a whole: it learns, repeats itself, ignores its company, and refuses bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.sampling import SamplingConfig, preset
from telic.policy.noise import unit_noise
from telic.policy.policy import Policy
from telic.spec import Goal, Interface

Build = Callable[[PolicyConfig], Policy]


@pytest.fixture
def config(tiny: ModeConfig) -> PolicyConfig:
    """Return a policy over state and text."""
    made = PolicyConfig(denoiser=tiny, action_horizon=6)
    made.images.cameras = []
    return made


def test_it_learns_what_to_do_from_state_and_sentence(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    """Action = sign by sentence times a function of the state; ten steps and two both find it."""
    config.denoiser = ModeConfig(width=64, num_layers=2, num_heads=2, feed_forward=64)
    policy = build(config).train()
    batch = make_batch(config, size=64)
    sign = torch.tensor([1.0 if text.startswith("open") else -1.0 for text in batch["text"]])
    phase = batch["state"][:, :, :1] + 0.4 * torch.arange(6)[None, :, None]
    batch["action"] = 0.8 * sign[:, None, None] * torch.sin(phase).expand(-1, -1, 3)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        first = float(policy(batch, generator).diffusion)
    for _ in range(200):
        optimizer.zero_grad()
        terms = policy(batch, generator)
        terms.total.backward()
        optimizer.step()
    assert float(terms.diffusion.detach()) < 0.35 * first
    for name in ("10", "2"):
        policy.sampling = preset(name)
        error = (policy.predict(batch, generator) - batch["action"]).abs().mean()
        assert error < 0.12, (name, error)
    assert policy.training


def test_loss_is_a_function_of_the_generator(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    policy, batch = build(config).train(), make_batch(config)
    torch.manual_seed(1)
    first = policy(batch, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    again = policy(batch, torch.Generator().manual_seed(5))
    other = policy(batch, torch.Generator().manual_seed(6))
    assert torch.equal(first.per_sample, again.per_sample) and torch.equal(first.total, again.total)
    assert not torch.equal(first.sigma, other.sigma)


def test_held_out_loss_routes_as_inference_does(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    policy, batch = build(config).eval(), make_batch(config)
    terms = policy(batch, torch.Generator().manual_seed(5))
    assert terms.parts.keys() == {"diffusion"} and torch.equal(terms.total, terms.diffusion)


def test_actions_past_the_end_do_not_train(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    policy, batch = build(config).eval(), make_batch(config)
    batch["action_mask"][:, 3:] = False
    before = policy(batch, torch.Generator().manual_seed(5)).per_sample
    assert (before > 0).all()
    batch["action_mask"][0] = False
    assert policy(batch, torch.Generator().manual_seed(5)).per_sample[0] == 0


def test_a_chunk_does_not_depend_on_the_rest_of_the_batch(
    config: PolicyConfig, build: Build, make_requests: Any
) -> None:
    policy = build(config)
    requests = make_requests(config, range(5))
    together = policy.act_batch(requests)
    turned = policy.act_batch(requests[::-1])[::-1]
    for request, chunk, other in zip(requests, together, turned, strict=True):
        alone = policy.act_batch([request])[0].actions
        assert np.allclose(chunk.actions, alone, atol=1e-5)
        assert np.allclose(chunk.actions, other.actions, atol=1e-5)


def test_noise_is_a_function_of_seed_and_step(
    config: PolicyConfig, build: Build, make_requests: Any
) -> None:
    policy = build(config)
    policy.sampling = SamplingConfig(sigmas=[1.0])  # far from converged: noise shows
    request = make_requests(config, [0])[0]
    first = policy.act_batch([request])[0].actions
    torch.manual_seed(99)
    assert np.array_equal(first, policy.act_batch([request])[0].actions)
    single = policy.act(request.observation, request.goal, seed=0, step=4)
    assert np.array_equal(first, single.actions)
    for change in ({"seed": 1}, {"step": 5}):
        assert not np.allclose(first, policy.act_batch([replace(request, **change)])[0].actions)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_noise_of_the_steps_is_a_function_of_seed_and_step(
    sampler: str, config: PolicyConfig, build: Build, make_requests: Any, make_batch: Any
) -> None:
    policy = build(config)
    policy.sampling = SamplingConfig(sampler=sampler, sigmas=[2.0, 1.0, 0.5])
    requests = make_requests(config, range(3))
    together = [chunk.actions for chunk in policy.act_batch(requests)]
    for request, actions in zip(requests, together, strict=True):
        torch.manual_seed(99)
        assert np.allclose(policy.act_batch([request])[0].actions, actions, atol=1e-5)
    batch = make_batch(config)
    first, again, other = (
        policy.predict(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_draws_of_a_request_are_independent_and_begin_alike(
    config: PolicyConfig, make_requests: Any
) -> None:
    requests = make_requests(config, range(3))
    draws = unit_noise(requests, (500, 40), num_draws=4)
    assert draws.shape == (4, 3, 500, 40)
    assert torch.equal(draws[:1], unit_noise(requests, (500, 40)))
    overlap = torch.corrcoef(draws.flatten(0, 1).flatten(1)) - torch.eye(12)
    assert overlap.abs().max() < 0.03 and draws.std().item() == pytest.approx(1, abs=0.01)


def test_acting_ignores_autocast_and_training_mode(
    config: PolicyConfig, build: Build, make_requests: Any
) -> None:
    policy = build(config).eval()
    requests = make_requests(config)
    want = [chunk.actions for chunk in policy.act_batch(requests)]
    policy.train()
    with torch.autocast("cpu", torch.bfloat16):
        got = [chunk.actions for chunk in policy.act_batch(requests)]
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
    assert policy.training


def test_training_in_bf16_is_close_to_float32(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    policy, batch = build(config).train(), make_batch(config, size=32)
    want = policy(batch, torch.Generator().manual_seed(0))
    want.total.backward()
    gradients = torch.cat([p.grad.flatten() for p in policy.parameters()])
    policy.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        got = policy(batch, torch.Generator().manual_seed(0))
    got.total.backward()
    low = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert torch.equal(got.sigma, want.sigma) and got.per_sample.dtype == torch.float32
    assert torch.allclose(got.total, want.total, rtol=0.01)
    assert torch.cosine_similarity(low, gradients, 0) > 0.99


def test_actions_are_clipped_to_the_spec(
    config: PolicyConfig, build: Build, make_requests: Any, make_batch: Any, interface: Interface
) -> None:
    policy = build(config)
    with torch.no_grad():
        policy.denoiser.action_out.bias.fill_(100.0)
    for chunk in policy.act_batch(make_requests(config)):
        spec = replace(interface.action, shape=(6, 3))
        assert spec.problem(chunk.actions) is None
    predicted = policy.predict(make_batch(config), torch.Generator().manual_seed(0))
    assert predicted.abs().max() == 1


def test_a_non_finite_action_names_where_it_came_from(
    config: PolicyConfig, build: Build, make_requests: Any
) -> None:
    policy = build(config)
    with torch.no_grad():
        policy.denoiser.blocks[0].routed.experts.weight_in[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite, first at denoiser call 0 at sigma 80"):
        policy.train().act_batch(make_requests(config))
    assert policy.training


def test_an_averaged_copy_shares_the_sentences(config: PolicyConfig, build: Build) -> None:
    policy = build(config)
    other = copy.deepcopy(policy)
    policy.set_embeddings({"stop": np.ones(384, np.float32)})
    assert "stop" in other.known_embeddings


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: setattr(r.observation, "state", np.zeros((1, 4), np.float32)), r"\(1, 4\), exp"),
        (lambda r: setattr(r.observation, "state", np.zeros((1, 5))), "dtype is float64"),
        (
            lambda r: setattr(r.observation, "state", np.full((1, 5), np.nan, np.float32)),
            "not finite",
        ),
        (lambda r: r.observation.images.pop("front"), "no image of camera 'front'"),
        (
            lambda r: r.observation.images.update(front=np.zeros((1, 8, 8, 3), np.uint8)),
            r"image of front: shape is \(1, 8, 8, 3\), expected \(1, 32, 32, 3\)",
        ),
        (lambda r: setattr(r, "goal", Goal(state=np.zeros(5, np.float32))), "no goal this policy"),
    ],
)
def test_what_does_not_fit_is_named(
    config: PolicyConfig, build: Build, make_requests: Any, spoil: Any, message: str
) -> None:
    config.images.cameras = ["front"]
    policy = build(config)
    requests = make_requests(config)
    spoil(requests[1])
    with pytest.raises(ValueError, match=f"request 1 .episode 0, step 4.: .*{message}"):
        policy.act_batch(requests)


def test_windows_that_lack_a_field_are_named(
    config: PolicyConfig, build: Build, make_batch: Any
) -> None:
    config.images.cameras = ["front"]
    policy, batch = build(config), make_batch(config)
    batch.pop("image/front")
    with pytest.raises(ValueError, match="the windows have no image/front, which the policy reads"):
        policy(batch, torch.Generator())


def test_no_requests_get_no_chunks(config: PolicyConfig, build: Build) -> None:
    assert build(config).act_batch([]) == []


def test_impossible_horizons_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy.action_horizon=0 must be at least 1"):
        PolicyConfig(action_horizon=0)
