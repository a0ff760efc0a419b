"""Image encoders: towers, shifts, keypoints, and cameras by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from telic.policy.encoders.clip_vision import ClipVisionConfig
from telic.policy.encoders.images import (
    ImageConfig,
    ImageEncoder,
    Pooling,
    pool,
    random_shift,
    resize,
)
from telic.policy.encoders.towers import load_tower
from telic.tests.policy.bright_square import learn_place
from telic.tests.policy.tiny_models import save_vision_transformer


def frames(b: int = 2, o: int = 1, side: int = 64) -> dict[str, torch.Tensor]:
    """Return random frames of two cameras."""
    shape = (b, o, side, side, 3)
    return {c: torch.randint(0, 256, shape, dtype=torch.uint8) for c in ("front", "wrist")}


@pytest.mark.parametrize("tower", ["resnet18", "keypoint_conv"])
@pytest.mark.parametrize("pooling", [Pooling.average, Pooling.keypoints])
@pytest.mark.parametrize("share", [True, False])
def test_one_token_per_camera_and_frame(tower: str, pooling: Pooling, share: bool) -> None:
    config = ImageConfig(tower=tower, pooling=pooling, share_tower=share)
    made = ImageEncoder(config, ["front", "wrist"], 16).eval()
    assert len(made.towers) == (1 if share else 2)
    seen = frames(o=3)
    tokens = made(seen)
    assert tokens.shape == (2, 6, 16)
    seen["wrist"][1, 2] = 0  # sample 1, its last frame, second camera
    moved = (made(seen) - tokens).abs().amax(-1) > 1e-6
    assert moved.tolist() == [[False] * 6, [False] * 5 + [True]]


@pytest.mark.parametrize("name", ["film_resnet18", "film_resnet34"])
def test_film_tower_sees_the_same_picture_differently_under_another_sentence(name: str) -> None:
    config = ImageConfig(tower=name, share_tower=True, share_projection=True)
    made = ImageEncoder(config, ["front", "wrist"], 16, 2, sentence_dim=8).eval()
    for film in made.tower(0).network.films.parameters():
        torch.nn.init.normal_(film, std=0.1)  # those of ResNet-34 begin as no modulation at all
    seen, sentences = frames(o=2), torch.randn(2, 8)
    tokens = made(seen, sentences=sentences)
    assert tokens.shape == (2, 4, 16)
    sentences[1] += 1
    moved = (made(seen, sentences=sentences) - tokens).abs().amax(-1) > 1e-6
    assert moved.tolist() == [[False] * 4, [True] * 4]
    with pytest.raises(ValueError, match="under a sentence was shown one without it"):
        made(seen)
    with pytest.raises(ValueError, match=f"{name} looks at images under a sentence, and here is"):
        load_tower(name, frozen=False)


def test_frames_are_resized_to_the_side_they_are_seen_at() -> None:
    images = torch.randint(0, 256, (2, 3, 40, 30, 3), dtype=torch.uint8)
    assert resize(images, None) is images and resize(images, 20).shape == (2, 3, 20, 20, 3)
    flat = torch.full((1, 1, 9, 5, 3), 77, dtype=torch.uint8)
    assert (resize(flat, 16) == 77).all()
    with pytest.raises(ValueError, match=r"images.resize.front=0 must be at least 1"):
        ImageConfig(resize={"front": 0})


def test_resnet_has_group_norms_and_trains_from_scratch() -> None:
    tower = load_tower("resnet18", frozen=False)
    kinds = {type(m).__name__ for m in tower.modules()}
    assert "GroupNorm" in kinds and "BatchNorm2d" not in kinds
    assert sum(p.numel() for p in tower.parameters()) == 11_176_512
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    tower(images).mean().backward()
    assert all(p.grad is not None for p in tower.parameters())
    for name in ("resnet18", "keypoint_conv"):
        with pytest.raises(ValueError, match=f"freeze {name} at random weights"):
            load_tower(name, frozen=True)


def test_small_tower_finds_a_spot_in_little_training() -> None:
    """Its keypoints learn to follow a bright square, which is what a gripper needs."""
    made = ImageEncoder(
        ImageConfig(tower="keypoint_conv", pooling=Pooling.keypoints, random_shift=0), ["front"], 8
    )
    error, spread = learn_place(made, 8, lambda tokens: tokens[:, 0], lr=3e-3, steps=40)
    assert error < 0.1 < spread


def test_pretrained_tower_tells_what_it_sees_and_stays_frozen() -> None:
    """ImageNet features: a shifted picture is nearer than another one."""
    tower = load_tower("efficientnet_lite0", frozen=True).train()
    assert not any(p.requires_grad for p in tower.parameters())
    assert not any(m.training for m in tower.network.modules())
    ramp = torch.linspace(0, 255, 64)[None, :, None, None].expand(1, 64, 64, 3)
    stripes = (torch.arange(64) // 4 % 2 * 255)[None, None, :, None].expand(1, 64, 64, 3)
    pictures = torch.cat([ramp, ramp.roll(3, 1), stripes]).to(torch.uint8)
    features = pool(tower(pictures), Pooling.average)
    assert features.shape == (3, 1280)
    near, far = (features[0] - features[1]).norm(), (features[0] - features[2]).norm()
    assert near < 0.7 * far
    tuned = load_tower("efficientnet_lite0", frozen=False).train()
    assert all(p.requires_grad for p in tuned.parameters())
    tuned(pictures).mean().backward()
    assert all(p.grad is not None for p in tuned.parameters())


def test_hugging_face_models_load_from_a_folder(tmp_path: Path) -> None:
    save_vision_transformer(tmp_path, patch_size=8)
    made = ImageEncoder(ImageConfig(tower=str(tmp_path), share_tower=True), ["front", "wrist"], 16)
    tokens = made(frames(side=20))
    assert tokens.shape == (2, 2, 16)
    tokens.sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    with pytest.raises(ValueError, match="keypoints needs a feature map"):
        ImageEncoder(ImageConfig(tower=str(tmp_path), pooling=Pooling.keypoints), ["front"], 16)


def test_unknown_towers_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"policy.images.tower='resnet19' is neither a folder"):
        load_tower("resnet19", frozen=False)


def test_keypoints_find_the_peak() -> None:
    features = torch.full((1, 2, 5, 9), -50.0)
    features[0, 0, 0, 8] = 50  # top right
    features[0, 1, 4, 4] = 50  # bottom, middle
    row_0, row_1, column_0, column_1 = pool(features, Pooling.keypoints)[0].tolist()
    assert (row_0, column_0) == pytest.approx((-1, 1))
    assert (row_1, column_1) == pytest.approx((1, 0))


def test_shifts_move_whole_samples_by_at_most_so_many_pixels() -> None:
    h, w = 12, 10
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    picture = torch.stack([rows, columns, rows * 0], -1).to(torch.uint8)
    images = picture.expand(64, 2, h, w, 3)
    moved = random_shift(images, 3, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    assert torch.equal(moved[:, 0], moved[:, 1])
    offset = moved[:, 0, 6, 5, :2].int() - torch.tensor([6, 5])
    assert offset.abs().max() == 3 and len(offset.unique(dim=0)) > 20
    for sample, (dy, dx) in zip(moved[:, 0], offset.tolist(), strict=True):
        want_rows = (rows + dy).clamp(0, h - 1)
        assert torch.equal(sample[..., 0], want_rows.to(torch.uint8))
        assert torch.equal(sample[..., 1], (columns + dx).clamp(0, w - 1).to(torch.uint8))
    again = random_shift(images, 3, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_shifts_are_for_training_alone() -> None:
    made = ImageEncoder(ImageConfig(random_shift=4), ["front"], 16)
    seen = frames()
    first = made.train()(seen, torch.Generator().manual_seed(0))
    assert not torch.allclose(first, made(seen, torch.Generator().manual_seed(1)))
    assert torch.equal(made.eval()(seen), made(seen))


def test_cameras_are_chosen_by_name(
    build: Callable[..., Any], make_batch: Callable[..., dict[str, Any]]
) -> None:
    offered = {"front": 0, "wrist": 0}
    assert ImageConfig().choose(offered) == ["front", "wrist"]
    assert ImageConfig(cameras=["wrist"]).choose(offered) == ["wrist"]
    with pytest.raises(ValueError, match="no camera 'frond', the data have front, wrist; did you"):
        ImageConfig(cameras=["frond"]).choose(offered)


def test_two_scalings_and_two_projections_exclude_each_other() -> None:
    with pytest.raises(
        ValueError, match=r"clip_pixels and policy.images.clip_pixels_first exclude"
    ):
        ImageConfig(clip_pixels=True, clip_pixels_first=True)
    with pytest.raises(ValueError, match=r"adaptor and policy.images.mlp are two projections"):
        ImageConfig(adaptor=True, mlp=True)
    with pytest.raises(ValueError, match="side=225 must be a multiple of patch=16"):
        ClipVisionConfig(side=225)


def test_voltron_is_a_tower_like_the_others() -> None:
    """Its map is 14 x 14 whatever the image's size; from random weights it trains."""
    tower = load_tower("voltron", frozen=False)
    features = tower(torch.randint(0, 256, (1, 40, 60, 3), dtype=torch.uint8))
    assert features.shape == (1, 384, 14, 14) and tower.num_patches == 196
    features.square().mean().backward()
    assert all(p.grad is not None for p in tower.parameters())
