"""The scene read from the latent, and a tower aligned to a frozen one, against their formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.encoders.images import ImageConfig
from telic.policy.encoders.towers import load_tower
from telic.policy.objectives.repa import Repa, RepaConfig
from telic.policy.objectives.scene import Scene, SceneConfig
from telic.policy.policy import Policy
from telic.spec import FieldStats, Interface

SCENE = 6


def scene_stats() -> FieldStats:
    """Return statistics of a scene whose last entry never varies."""
    std = np.array([0.5, 1.0, 2.0, 0.1, 1.0, 0.0])
    mean = np.linspace(-1, 1, SCENE)
    return FieldStats(
        minimum=mean - std, maximum=mean + std, mean=mean, std=std, q01=mean, q99=mean, count=9
    )


@pytest.fixture
def with_scene(
    interface: Interface, stats: dict[str, FieldStats], tiny: ModeConfig
) -> Callable[[PolicyConfig], Policy]:
    """Return a builder of policies whose stores know the scene."""

    def make(config: PolicyConfig) -> Policy:
        config.denoiser = tiny
        policy = Policy(config, interface, {**stats, "scene": scene_stats()})
        rng = np.random.default_rng(7)
        sentences = ["open the drawer", "close the drawer"]
        policy.set_embeddings({text: rng.standard_normal(384, np.float32) for text in sentences})
        return policy

    return make


def policy_config(**objectives: Any) -> PolicyConfig:
    """Return a policy over two cameras with a small tower."""
    tower = ImageConfig(tower="keypoint_conv", share_tower=True)
    return PolicyConfig(action_horizon=5, images=tower, **objectives)


def test_scene_is_its_formula_and_is_off_by_default(with_scene: Any, make_batch: Any) -> None:
    assert not list(with_scene(policy_config()).objectives)
    config = policy_config(scene=SceneConfig(weight=0.5))
    policy = with_scene(config).train()
    head = policy.objectives["scene"]
    assert isinstance(head, Scene)
    batch = make_batch(config) | {"scene": torch.randn(4, SCENE) * 3}
    terms = policy(batch, torch.Generator().manual_seed(0), 2)
    want, stats = 0.0, scene_stats()
    goals = policy.conditioner.goals(batch)
    generator = torch.Generator().manual_seed(0)
    policy.formulation.draw_sigma(8, generator, torch.device("cpu"))
    torch.randn((8, 5, 3), generator=generator)
    context = policy.conditioner.context(batch, goals, generator, 20.0)
    latent = policy.denoiser.latent(policy.denoiser.encode(context))
    answer = head.standardized(latent).detach().numpy()
    for row in range(4):
        for entry in range(SCENE - 1):  # the last one never varies
            target = (float(batch["scene"][row, entry]) - stats.mean[entry]) / stats.std[entry]
            error = abs(answer[row, entry] - target)
            want += (error**2 / 2 if error < 1 else error - 0.5) / (4 * (SCENE - 1))
    assert float(terms.parts["scene"].detach()) == pytest.approx(want, rel=1e-4)
    terms.total.backward()
    tower = policy.conditioner.image_encoder.tower(0)
    assert all(p.grad is not None for p in tower.parameters())
    shown = head.predict(latent)
    assert torch.allclose((shown - head.mean) / head.scale, head.standardized(latent), atol=1e-4)


def test_scene_needs_its_field(
    build: Any, make_batch: Any, interface: Interface, stats: dict[str, FieldStats]
) -> None:
    config = policy_config(scene=SceneConfig(weight=1.0))
    policy, batch = build(config), make_batch(config)
    del batch["scene"], stats["scene"]
    with pytest.raises(ValueError, match="the windows have no scene"):
        policy.train()(batch, torch.Generator())
    with pytest.raises(ValueError, match="collect-demos state=robot scene=true records it"):
        Policy(config, interface, stats)
    with pytest.raises(ValueError, match=r"policy.scene.hidden=0 must be at least 1"):
        SceneConfig(hidden=0)


def test_repa_is_the_cosine_with_the_frozen_tower(build: Any, make_batch: Any) -> None:
    config = policy_config(repa=RepaConfig(weight=0.5, hidden=16, side=64))
    policy, batch = build(config).train(), make_batch(config)
    head = policy.objectives["repa"]
    assert isinstance(head, Repa)
    assert not any("teacher" in name for name in policy.state_dict())
    assert sum(p.numel() for p in head.parameters()) == 64 * 16 + 16 + 16 * 16 + 16 + 17 * 1280
    frames = batch["image/front"][:, 0]
    tower = policy.conditioner.image_encoder.tower(0)
    own = tower(frames)
    got = head.cosine(frames, own)
    pixels = frames.permute(0, 3, 1, 2).float()
    large = F.interpolate(pixels, (64, 64), mode="bilinear", antialias=True).round().byte()
    target = load_tower("efficientnet_lite0", frozen=True).eval()(large.permute(0, 2, 3, 1))
    assert own.shape[-2:] == (8, 8) and target.shape[-2:] == (2, 2) and got.shape == (4, 4)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        part = own[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean((2, 3))
        projected = head.projector(part)
        answer = target[:, :, row, column]
        cosine = (projected * answer).sum(1) / (projected.norm(dim=1) * answer.norm(dim=1))
        assert torch.allclose(got[:, place], cosine, atol=1e-5)


def test_repa_trains_the_tower_and_leaves_the_frozen_one(build: Any, make_batch: Any) -> None:
    config = policy_config(repa=RepaConfig(weight=0.5, hidden=16))
    policy, batch = build(config).train(), make_batch(config)
    head = policy.objectives["repa"]
    copied = copy.deepcopy(policy).objectives["repa"]  # what averages weights has no second tower
    assert copied.teacher is head.teacher
    terms = policy(batch, torch.Generator().manual_seed(1), 3)
    assert terms.parts["repa"].shape == () and 0 < float(terms.parts["repa"].detach()) < 2
    terms.parts["repa"].backward()
    tower = policy.conditioner.image_encoder.tower(0)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tower.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in head.teacher.tower.parameters())
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = policy(batch, torch.Generator().manual_seed(1)).parts["repa"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2, losses


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (ImageConfig(tower="efficientnet_lite0", frozen=True), "policy.images.tower is frozen"),
        (ImageConfig(tower="film_resnet18"), "policy.images.tower answers one vector"),
        (ImageConfig(cameras=[]), "trains a vision tower, and the policy has no camera"),
    ],
)
def test_repa_needs_a_tower_that_is_trained(images: ImageConfig, match: str, build: Any) -> None:
    with pytest.raises(ValueError, match=match):
        build(PolicyConfig(images=images, repa=RepaConfig(weight=0.5)))


@pytest.mark.parametrize(
    ("tower", "match"),
    [
        ("resnet18", "policy.repa.tower=resnet18 has no weights of its own to align to"),
        ("voltron", "policy.repa.tower=voltron has no weights of its own to align to"),
        ("film_efficientnet_lite0", "film_efficientnet_lite0 has no map of the picture alone"),
    ],
)
def test_repa_needs_a_frozen_tower_with_weights(tower: str, match: str, build: Any) -> None:
    with pytest.raises(ValueError, match=match):
        build(policy_config(repa=RepaConfig(weight=0.5, tower=tower)))
