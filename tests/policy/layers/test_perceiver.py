"""Perceiver pooling: a few tokens from all places of all cameras."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from telic.policy.encoders.images import ImageConfig, ImageEncoder, Pooling
from telic.policy.encoders.towers import load_tower
from telic.policy.layers.perceiver import PerceiverConfig, grid_positions
from telic.tests.policy.bright_square import learn_place
from telic.tests.policy.tiny_models import save_vision_transformer


def frames(b: int = 2, o: int = 1, side: int = 32) -> dict[str, torch.Tensor]:
    """Return random frames of two cameras."""
    shape = (b, o, side, side, 3)
    return {c: torch.randint(0, 256, shape, dtype=torch.uint8) for c in ("front", "wrist")}


@pytest.mark.parametrize("tower", ["resnet18", "keypoint_conv", "efficientnet_lite0"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_all_cameras_and_frames_become_a_few_tokens(tower: str, horizon: int) -> None:
    config = ImageConfig(
        tower=tower, pooling=Pooling.perceiver, perceiver=PerceiverConfig(latents=5)
    )
    made = ImageEncoder(config, ["front", "wrist"], 16, horizon).eval()
    assert made.num_tokens == 5
    seen = frames(o=horizon, side=64)
    tokens = made(seen)
    assert tokens.shape == (2, 5, 16)
    for camera in seen:
        for frame in range(horizon):
            changed = {name: images.clone() for name, images in seen.items()}
            changed[camera][1, frame] = 0
            moved = (made(changed) - tokens).abs().amax((1, 2)) > 1e-5
            assert moved.tolist() == [False, True]
    made.train()(seen, torch.Generator().manual_seed(0)).sum().backward()
    assert not [name for name, p in made.named_parameters() if p.grad is None]


def test_positions_tell_where_a_token_lies() -> None:
    grid = grid_positions(3, 5, 16, torch.device("cpu"))
    assert grid.shape == (15, 16) and len(grid.unique(dim=0)) == 15
    assert torch.equal(grid[0, :8], grid[4, :8])  # one row
    assert torch.equal(grid[0, 8:], grid[10, 8:])  # one column
    for positions in (True, False):
        config = PerceiverConfig(positions=positions)
        made = ImageEncoder(
            ImageConfig(tower="keypoint_conv", pooling=Pooling.perceiver, perceiver=config),
            ["front"],
            16,
        ).eval()
        made.towers[0].network = Corners()
        front = torch.zeros(2, 1, 8, 8, 3, dtype=torch.uint8)
        front[0, 0, 0, 0], front[1, 0, 7, 7] = 255, 255  # the same spot at two places
        first, second = made({"front": front})
        assert torch.allclose(first, second, atol=1e-6) is not positions


class Corners(torch.nn.Module):
    """A tower without borders: 64 copies of the red channel."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :1].expand(-1, 64, -1, -1)


def test_vision_transformers_answer_their_patches(tmp_path: Path) -> None:
    save_vision_transformer(tmp_path, patch_size=4)
    tower = load_tower(str(tmp_path), frozen=True, patches=True)
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    features = tower(images)
    assert features.shape == (2, 24, 4, 4) and not tower.pools
    pixels = (images.permute(0, 3, 1, 2) / 255 - tower.mean) / tower.std
    hidden = tower.network.model(pixel_values=pixels).last_hidden_state
    assert torch.allclose(features[:, :, 1, 2], hidden[:, 1 + 4 + 2], atol=1e-6)
    config = ImageConfig(tower=str(tmp_path), frozen=True, pooling=Pooling.perceiver)
    made = ImageEncoder(config, ["front", "wrist"], 16)
    assert made(frames()).shape == (2, 3, 16)


def test_towers_without_patches_are_refused(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ResNetModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="perceiver needs a feature map") as error:
        ImageEncoder(ImageConfig(tower=str(tmp_path), pooling=Pooling.perceiver), ["front"], 16)
    assert "use pooling=average" in str(error.value) and "\n" not in str(error.value)


def test_impossible_perceivers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"perceiver.latents=0 must be at least 1"):
        PerceiverConfig(latents=0)
    with pytest.raises(ValueError, match="width=18 must be a multiple of 4"):
        PerceiverConfig().build(18, 1)


def test_perceiver_finds_a_spot_in_little_training() -> None:
    """Its few tokens tell where a bright square is."""
    made = ImageEncoder(
        ImageConfig(tower="keypoint_conv", pooling=Pooling.perceiver, random_shift=0), ["front"], 32
    )
    error, spread = learn_place(made, 32, lambda tokens: tokens.mean(1), lr=1e-3, steps=120)
    assert error < 0.1 < spread


def test_a_perceiver_without_a_camera_is_refused() -> None:
    config = ImageConfig(pooling=Pooling.perceiver)
    with pytest.raises(ValueError, match=r"needs a camera and the data have none; policy=mdt"):
        config.choose({})
