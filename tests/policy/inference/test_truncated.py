"""Truncated diffusion: plain sampling where nothing is truncated; which anchor a chunk is from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.denoiser import DenoiserConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.diffusion.sampling import PRESETS, SamplingConfig, preset
from telic.policy.diffusion.schedules import Spacing
from telic.policy.inference.truncated import StartConfig, TruncatedConfig
from telic.policy.layers.tensors import repeat_rows
from telic.policy.objectives.anchors import AnchorSet
from telic.policy.policy import Policy
from telic.spec import ArraySpec, Interface

H, A, K = 6, 3, 5
Build = Callable[[PolicyConfig], Policy]


def policy_config(denoiser: DenoiserConfig | None = None, **anchors: Any) -> PolicyConfig:
    """Return a policy without cameras and with these settings of `policy.anchors`."""
    config = PolicyConfig(denoiser=denoiser, action_horizon=H)
    config.images.cameras = []
    config.anchors = TruncatedConfig(**anchors)
    return config


def anchor_set(policy: Policy, chunks: np.ndarray, rms: float = 0.1) -> AnchorSet:
    """Return these chunks as the policy's anchors."""
    truncated = policy.truncated
    assert truncated is not None
    return AnchorSet(
        chunks=chunks.astype(np.float32),
        counts=np.ones(len(chunks), np.int64),
        residual=np.full(A, rms),
        rms=rms,
        columns=truncated.columns.numpy(),
        center=policy.action_normalizer.center.numpy(),
        scale=policy.action_normalizer.scale.numpy(),
    )


def random_chunks(count: int = K, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.8, 0.8, (count, H, A))


def prefer(policy: Policy, scores: Sequence[float]) -> None:
    """Make the policy score its anchors so, whatever it sees."""
    assert policy.truncated is not None
    with torch.no_grad():
        policy.truncated.to_scores.weight.zero_()
        policy.truncated.to_scores.bias.copy_(torch.tensor(scores))


class Sharp(NamedTuple):
    """A policy that leaves a chunk all but where it begins, and its anchors."""

    policy: Policy
    chunks: np.ndarray

    def near(self, actions: np.ndarray) -> int:
        """Return the anchor that actions lie within 0.05 of; fail if none."""
        away = np.abs(self.chunks - actions).max((1, 2))
        assert away.min() < 0.05, away
        return int(away.argmin())


@pytest.fixture
def sharp(build: Build) -> Sharp:
    """Return a policy with sigma_trunc = 0.01: so little noise moves a chunk as little."""
    policy = build(policy_config(count=K, sigma_trunc=0.01)).eval()
    chunks = random_chunks()
    policy.use_anchors(anchor_set(policy, chunks))
    prefer(policy, [0.0] * K)
    return Sharp(policy, chunks)


# --- the same thing as plain sampling ------------------------------------------------------------

EQUAL = {
    "exponential": (SamplingConfig(steps=4), 80.0),
    "list": (preset("2"), 5.0),
    "karras": (SamplingConfig(schedule="karras", steps=3, sigma_max=0.7), 0.7),
    "flow": (SamplingConfig(schedule="flow", steps=3, shift=3.0), 80.0),
    "timesteps": (SamplingConfig(schedule="timesteps", steps=5), None),
    "stochastic": (SamplingConfig(sampler="euler_ancestral", steps=3), 80.0),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", EQUAL)
def test_a_zero_anchor_at_sigma_max_is_plain_sampling_bit_for_bit(
    name: str, kind: str, build: Build, make_requests: Any
) -> None:
    sampling, sigma = EQUAL[name]
    sigma = float(sampling.levels()[0]) if sigma is None else sigma
    config = policy_config(KINDS[kind].small(), count=1, sigma_trunc=sigma)
    config.sampling = sampling
    policy = build(config).eval()
    plain = build(replace(config, anchors=TruncatedConfig())).eval()
    plain.load_state_dict(policy.state_dict(), strict=False)
    requests = make_requests(config)
    for ours, theirs in zip(policy.act_batch(requests), plain.act_batch(requests), strict=True):
        assert np.array_equal(ours.actions, theirs.actions)


@pytest.mark.parametrize("formulation", sorted(FORMULATIONS))
def test_training_up_to_the_highest_sigma_is_plain_training(
    formulation: str, build: Build, make_batch: Any
) -> None:
    config = policy_config(count=2, sigma_trunc=70.0, full_range=True)
    config.formulation = FORMULATIONS[formulation]()
    policy = build(config).train()
    plain = build(replace(config, anchors=TruncatedConfig())).train()
    plain.load_state_dict(policy.state_dict(), strict=False)
    batch = make_batch(config)
    ours, theirs = (p(batch, torch.Generator().manual_seed(1)) for p in (policy, plain))
    assert torch.equal(ours.sigma, theirs.sigma)
    assert torch.equal(ours.per_sample, theirs.per_sample)
    assert torch.allclose(ours.total, theirs.total + ours.parts["anchors"])


# --- one number for training and acting ----------------------------------------------------------


@pytest.mark.parametrize("formulation", sorted(FORMULATIONS))
def test_neither_training_nor_acting_sees_more_noise_than_sigma_trunc(
    formulation: str, build: Build, make_batch: Any, make_requests: Any
) -> None:
    config = policy_config(count=K, sigma_scale=2.0)
    config.formulation = FORMULATIONS[formulation]()
    policy = build(config).train()
    policy.use_anchors(anchor_set(policy, random_chunks(), rms=0.15))
    assert policy.truncated is not None
    assert policy.truncated.sigma_trunc == pytest.approx(0.3)
    terms = policy(make_batch(config, size=500), torch.Generator().manual_seed(0))
    assert 0.28 < terms.sigma.max() <= 0.3
    seen: list[float] = []
    denoise = policy.formulation.denoise

    def watch(network: Any, x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma))
        return denoise(network, x, sigma)

    policy.formulation.denoise = watch  # type: ignore[method-assign]
    policy.act_batch(make_requests(config))
    assert len(seen) == 10 and max(seen) == pytest.approx(0.3) == seen[0]


@pytest.mark.parametrize("name", PRESETS)
def test_truncation_keeps_the_number_of_steps(name: str) -> None:
    levels = PRESETS[name].truncated(0.25).levels()
    assert len(levels) == int(name) + 1 and float(levels[0]) == 0.25
    for spacing in Spacing:
        by_timestep = SamplingConfig(schedule="timesteps", spacing=spacing, steps=int(name))
        levels = by_timestep.truncated(0.25).levels()
        assert len(levels) == int(name) + 1 and 0 < float(levels[0]) <= 0.25
        assert set(levels[:-1].tolist()) <= set(_table()), "levels that training has seen"


def _table() -> list[float]:
    whole = SamplingConfig(schedule="timesteps", spacing=Spacing.linspace, steps=1000)
    return whole.levels().tolist()


def test_checkpoints_hold_the_anchors_and_the_number(
    build: Build, make_requests: Any, tmp_path: Path
) -> None:
    config = policy_config(count=K, start=StartConfig(best=2))
    policy = build(config).eval()
    policy.use_anchors(anchor_set(policy, random_chunks(), rms=0.1234567))
    save_checkpoint(tmp_path / "it", policy)
    loaded = load_policy(tmp_path / "it")
    assert isinstance(loaded, Policy) and loaded.truncated is not None
    assert policy.truncated is not None
    assert loaded.truncated.sigma_trunc == policy.truncated.sigma_trunc == 1.25 * 0.1234567
    assert loaded.start == StartConfig(best=2)
    requests = make_requests(config)
    for ours, theirs in zip(policy.act_batch(requests), loaded.act_batch(requests), strict=True):
        assert np.array_equal(ours.actions, theirs.actions)


# --- which anchor ------------------------------------------------------------------------------


def test_a_chunk_begins_at_the_anchor_with_the_best_score(sharp: Sharp, make_requests: Any) -> None:
    requests = make_requests(sharp.policy.config)
    for wanted in range(K):
        prefer(sharp.policy, [3.0 if k == wanted else 0.1 * k for k in range(K)])
        for best in (1, 3, K):
            sharp.policy.start_from(StartConfig(best=best))
            for chunk in sharp.policy.act_batch(requests):
                assert sharp.near(chunk.actions) == wanted


def test_the_order_of_the_anchors_does_not_matter(build: Build, make_requests: Any) -> None:
    config = policy_config(count=K, sigma_trunc=0.4)
    policy = build(config).eval()
    policy.use_anchors(anchor_set(policy, random_chunks()))
    requests = make_requests(config)
    turned = build(config).eval()
    turned.load_state_dict(policy.state_dict())
    order = torch.tensor([3, 1, 4, 0, 2])
    assert policy.truncated is not None and turned.truncated is not None
    with torch.no_grad():
        turned.truncated.chunks.copy_(policy.truncated.chunks[order])
        for name in ("weight", "bias"):
            rows = getattr(policy.truncated.to_scores, name)[order]
            getattr(turned.truncated.to_scores, name).copy_(rows)
    for best in (1, 3, K):
        for each in (policy, turned):
            each.start_from(StartConfig(best=best))
        ours, theirs = (p.act_batch(requests) for p in (policy, turned))
        for a, b in zip(ours, theirs, strict=True):
            assert np.allclose(a.actions, b.actions, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_anchors_in_one_batch_are_anchors_one_by_one(
    kind: str, build: Build, make_requests: Any
) -> None:
    config = policy_config(KINDS[kind].small(), count=3, sigma_trunc=0.4)
    policy = build(config).eval()
    policy.use_anchors(anchor_set(policy, random_chunks(3)))
    requests = make_requests(config)
    alone = []
    for wanted in range(3):
        prefer(policy, [9.0 if k == wanted else 0.0 for k in range(3)])
        alone.append([chunk.actions for chunk in policy.act_batch(requests)])
    prefer(policy, [0.3, 0.2, 0.1])
    policy.start_from(StartConfig(best=3))
    assert policy.truncated is not None
    for row, chunk in enumerate(policy.act_batch(requests)):
        mine = torch.from_numpy(np.stack([actions[row] for actions in alone]))
        landed = policy.truncated.nearest(policy.action_normalizer.normalize(mine))
        assert np.allclose(chunk.actions, mine[int(landed.argmin())], atol=1e-5)


def test_a_chunk_counts_as_the_anchor_it_became(sharp: Sharp, make_batch: Any) -> None:
    truncated = sharp.policy.truncated
    assert truncated is not None
    prefer(sharp.policy, [0.0, 1.0, 2.0, 3.0, 4.0])
    batch = make_batch(sharp.policy.config, size=2)
    starts = truncated.starts(torch.zeros(2, 3, 32), batch, StartConfig(best=3))
    assert torch.allclose(starts.chunks[0], truncated.chunks[[4, 3, 2]])
    became = truncated.chunks[[0, 1, 2]].expand(2, -1, -1, -1).clone()
    became[1] = truncated.chunks[[3, 0, 1]]
    chosen = truncated.choose(starts, became, batch)
    assert torch.equal(chosen[0], truncated.chunks[2]) and torch.equal(
        chosen[1], truncated.chunks[3]
    )


def test_at_temperature_one_anchors_are_drawn_as_often_as_scored(
    sharp: Sharp, make_requests: Any
) -> None:
    share = np.array([0.1, 0.2, 0.4, 0.25, 0.05])
    prefer(sharp.policy, np.log(share).tolist())
    sharp.policy.start_from(StartConfig(temperature=1.0))
    requests = make_requests(sharp.policy.config, range(1500))
    drawn = [sharp.near(chunk.actions) for chunk in sharp.policy.act_batch(requests)]
    found = np.bincount(drawn, minlength=K) / 1500
    assert np.abs(found - share).max() < 0.04
    sharp.policy.start_from(StartConfig(temperature=0.05))
    drawn = [sharp.near(chunk.actions) for chunk in sharp.policy.act_batch(requests[:200])]
    assert set(drawn) == {2}


def test_gumbel_noise_is_a_function_of_the_request_alone(build: Build, make_requests: Any) -> None:
    config = policy_config(count=K, sigma_trunc=0.4, start=StartConfig(best=2, temperature=1.0))
    policy = build(config).eval()
    policy.use_anchors(anchor_set(policy, random_chunks()))
    requests = make_requests(config, range(6))
    for index in (1, 4):
        requests[index].prefix = random_chunks(1, seed=index)[0, 2:].astype(np.float32)
    together = policy.act_batch(requests)
    for request, chunk in zip(requests, together, strict=True):
        torch.manual_seed(99)
        (alone,) = policy.act_batch([request])
        assert np.allclose(alone.actions, chunk.actions, atol=1e-5)


def test_windows_are_predicted_from_anchors_too(sharp: Sharp, make_batch: Any) -> None:
    prefer(sharp.policy, [0.0, 0.0, 5.0, 5.0, 0.0])
    sharp.policy.start_from(StartConfig(temperature=1.0))
    batch = make_batch(sharp.policy.config, size=64)
    first, again = (sharp.policy.predict(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert {sharp.near(chunk.numpy()) for chunk in first} == {2, 3}


# --- the previous chunk ------------------------------------------------------------------------


def test_a_chunk_goes_on_as_the_last_one_unless_another_is_much_better(
    sharp: Sharp, make_requests: Any
) -> None:
    requests = make_requests(sharp.policy.config)
    rest = sharp.chunks[2, :4] + 0.03
    requests[1].prefix = rest.astype(np.float32)
    for lead, hysteresis, keeps in ((0.9, 1.0, True), (1.1, 1.0, False), (0.9, None, False)):
        prefer(sharp.policy, [lead, -2.0, 0.0, -2.0, -2.0])
        for best in (1, 3):
            sharp.policy.start_from(StartConfig(best=best, hysteresis=hysteresis))
            chunks = [chunk.actions for chunk in sharp.policy.act_batch(requests)]
            assert [sharp.near(chunk) for chunk in chunks] == [0, 2 if keeps else 0, 0]
        if keeps:  # it begins at the remainder itself, and after it as the anchor goes on
            offset = chunks[1] - sharp.chunks[2]
            assert offset[:4].mean() == pytest.approx(0.03, abs=0.01)
            assert offset[4:].mean() == pytest.approx(0.0, abs=0.01)


# --- relative to the state ---------------------------------------------------------------------


def test_absolute_actions_begin_where_the_robot_is(
    interface: Interface, stats: Any, make_requests: Any, tiny: ModeConfig
) -> None:
    names = ("a", "b", "c")
    absolute = Interface(
        state=ArraySpec(shape=(5,), names=("x", "c", "a", "y", "b")),
        action=ArraySpec(shape=(A,), names=names),
        rate_hz=20.0,
    )
    config = policy_config(tiny, count=1, sigma_trunc=0.01)
    policy = Policy(config, absolute, stats).eval()
    policy.set_embeddings({"open the drawer": np.ones(384, np.float32)})
    chunks = random_chunks(1)
    policy.use_anchors(anchor_set(policy, chunks))
    request = make_requests(config, [0])[0]
    request.observation.images = {}
    (chunk,) = policy.act_batch([request])
    place = request.observation.state[-1, [2, 4, 1]]
    moved = (chunk.actions - place) / policy.action_normalizer.scale.numpy()
    assert np.abs(moved - chunks[0]).max() < 0.06


# --- the scores --------------------------------------------------------------------------------


def test_labels_are_the_nearest_anchors_over_what_is_known_and_in_use(sharp: Sharp) -> None:
    truncated = sharp.policy.truncated
    assert truncated is not None
    generator = torch.Generator().manual_seed(2)
    chunks = torch.rand((40, H, A), generator=generator) * 2 - 1
    known = torch.rand((40, H), generator=generator) > 0.4
    slots = torch.rand((40, A), generator=generator) > 0.3
    weight = known.unsqueeze(2) * slots.unsqueeze(1)
    away = (truncated.chunks.double() - chunks.unsqueeze(1).double()).square()
    want = (away * weight.unsqueeze(1)).sum((2, 3)).argmin(1)
    assert torch.equal(truncated.nearest(chunks, known, slots), want)
    assert torch.equal(truncated.nearest(chunks), away.sum((2, 3)).argmin(1))


def test_the_loss_is_the_cross_entropy_of_windows_with_actions(
    sharp: Sharp, make_batch: Any
) -> None:
    policy = sharp.policy.train()
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.5])
    prefer(policy, scores.tolist())
    batch = make_batch(policy.config)
    batch["action"] = torch.from_numpy(sharp.chunks[[2, 0, 1, 4]]).float()
    batch["action_mask"][3] = False  # a video: what its actions are nobody knows
    terms = policy(batch, torch.Generator())
    want = -scores.log_softmax(0)[[2, 0, 1]].mean()
    assert float(terms.parts["anchors"].detach()) == pytest.approx(float(want), abs=1e-6)
    batch["action_mask"][:] = False
    assert float(policy(batch, torch.Generator()).parts["anchors"].detach()) == 0


def test_scores_train_themselves_and_the_encoders_alone(build: Build, make_batch: Any) -> None:
    """No part of the network that denoises hears of them, and anchors are no parameters."""
    config = policy_config(count=K, sigma_trunc=0.3)
    policy = build(config).train()
    policy.use_anchors(anchor_set(policy, random_chunks()))
    policy(make_batch(config), torch.Generator()).parts["anchors"].backward()
    moved = {
        name.removeprefix("conditioner.").split(".")[0]
        for name, p in policy.named_parameters()
        if p.grad is not None
    }
    assert moved == {"objectives", "goal_encoder", "state_encoder", "denoiser"}
    inside = [n for n, p in policy.denoiser.named_parameters() if p.grad is not None]
    assert inside == ["positions"], "MoDE's latent is its prefix"
    assert not any("chunks" in name for name, _ in policy.named_parameters())


def test_it_learns_to_score_and_to_take_either_way(build: Build, make_batch: Any) -> None:
    """One of two chunks by a coin that nobody shows: from a drawn anchor both ways are taken and
    nothing between; one step without anchors answers in between."""
    config = policy_config(count=2)
    truncated, plain = build(config).train(), build(policy_config()).train()
    ways = np.stack([np.full((H, A), 0.6), np.full((H, A), -0.6)])
    truncated.use_anchors(anchor_set(truncated, ways + 0.05, rms=0.15))
    generator = torch.Generator().manual_seed(0)
    batch, shown = make_batch(config, size=64), make_batch(config, size=256)
    for policy in (truncated, plain):
        optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
        for _ in range(60):
            coin = torch.randint(2, (64,), generator=generator)
            batch["action"] = torch.from_numpy(ways).float()[coin]
            optimizer.zero_grad()
            policy(batch, generator).total.backward()
            optimizer.step()
        policy.sampling = preset("1")
    truncated.start_from(StartConfig(temperature=1.0))
    drawn, between = (
        p.predict(shown, torch.Generator().manual_seed(1)).mean((1, 2)) for p in (truncated, plain)
    )
    assert between.abs().mean() < 0.4
    assert (drawn.abs() - 0.6).abs().max() < 0.1
    assert 0.35 < (drawn > 0).float().mean() < 0.65


# --- refusals ----------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_in_one_line(build: Build) -> None:
    plain = build(policy_config())
    few = build(policy_config(count=3, sigma_trunc=0.3))
    both = build(policy_config(count=3, sigma_trunc=0.3, full_range=True))
    both.start_from(StartConfig(best=0))
    chunks = random_chunks(3)
    fitting = anchor_set(few, chunks)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: plain.start_from(StartConfig()), "has no anchors to begin from; train it with"),
        (lambda: plain.use_anchors(fitting), "has no anchors; set policy.anchors.count"),
        (lambda: few.start_from(StartConfig(best=4)), "4 anchors are asked for, the policy has 3;"),
        (lambda: few.start_from(StartConfig(best=0)), "needs an anchor to begin from; ask for 1"),
        (
            lambda: build(policy_config(count=3, start=StartConfig(best=4))),
            "4 anchors are asked for, the policy has 3;",
        ),
        (
            lambda: few.use_anchors(anchor_set(few, chunks[:, :4])),
            "are chunks of 4 actions of 3 numbers, the policy's have 6 of 3;",
        ),
        (
            lambda: few.use_anchors(anchor_set(few, random_chunks(4))),
            "policy.anchors.count=3, and 4 anchors are there;",
        ),
        (
            lambda: policy_config(count=3, sigma_trunc=-0.1),
            "policy.anchors.sigma_trunc=-0.1 must be positive",
        ),
        (
            lambda: PolicyConfig(anchors=TruncatedConfig(count=3, sigma_trunc=90.0)),
            "sigma_trunc=90 lies outside of the schedule, which goes from 80 to 0.001;",
        ),
        (
            lambda: SamplingConfig(schedule="timesteps").truncated(0.001),
            "sigma_trunc=0.001 lies outside of the schedule, which goes from 2.029e.04 to 0.006",
        ),
        (lambda: preset("2").truncated(6.0), "which goes from 5 to 0;"),
        (
            lambda: TruncatedConfig(start=StartConfig(best=2)),
            "policy.anchors.start is set, but there are no anchors; add policy.anchors.count=32",
        ),
        (lambda: StartConfig(temperature=-1.0), "temperature=-1.0 must be 0 or positive"),
        (lambda: StartConfig(hysteresis=math.inf), "hysteresis=inf must be finite"),
        (
            lambda: build(policy_config(count=3, num_heads=5)),
            "policy.anchors.num_heads=5 must divide the denoiser's width=32",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_policy_that_was_never_given_anchors_says_so(build: Build, make_requests: Any) -> None:
    policy = build(policy_config(count=3))
    with pytest.raises(ValueError, match="sigma_trunc=nan lies outside of the schedule"):
        policy.act_batch(make_requests(policy.config))


def test_rows_repeat_in_every_tree() -> None:
    x = torch.arange(2)
    tree = [x, None, (x, [x]), StartTree(x, None)]
    got = repeat_rows(tree, 3)
    want = [0, 0, 0, 1, 1, 1]
    assert [got[0].tolist(), got[2][0].tolist(), got[2][1][0].tolist()] == [want] * 3
    assert got[1] is None and isinstance(got[3], StartTree) and got[3].first.tolist() == want
    assert repeat_rows(tree, 1) is tree


class StartTree(NamedTuple):
    """A tree with names."""

    first: Tensor
    second: Tensor | None
