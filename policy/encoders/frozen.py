"""What a frozen tower answers to pictures, once and for all: features that a store can keep.

N images; h w of the picture, F values of a pooled map, C x y of a map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from telic.policy.encoders.images import ImageConfig, Pooling, pad_square, pool, resize, shifted
from telic.policy.encoders.towers import VisionTower

MAP = "map"  # in place of a pooling: the tower's map is kept


def feature_key(
    tower: VisionTower, config: ImageConfig, camera: str, picture: Sequence[int], crops: int
) -> dict[str, Any]:
    """What features of pictures [h w] are a function of, as JSON data.

    Tower and weights, the picture's size and preprocessing, what is kept of the map, and the crops.
    ValueError for a tower whose answers depend on more than the picture.
    """
    if tower.conditioned:
        raise ValueError(
            f"tower {config.tower} looks at pictures under a sentence, so its features cannot be "
            "kept for all of them; use one without film"
        )
    mapped = config.pooling in (Pooling.patches, Pooling.perceiver)
    return {
        "camera": camera,
        "tower": config.tower,
        "weights": weights_digest(tower),
        "picture": [int(size) for size in picture],
        "resize": config.resize.get(camera),
        "mean": [round(value, 6) for value in tower.mean.flatten().tolist()],
        "std": [round(value, 6) for value in tower.std.flatten().tolist()],
        "pad_square": config.pad_square,
        "pooling": MAP if mapped else config.pooling.value,
        "crops": crops,
        "random_shift": config.random_shift if crops > 1 else 0,
    }


def weights_digest(tower: VisionTower) -> str:
    """A digest of the weights of a tower's network, by name, type and value."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


@torch.no_grad()
def features(
    tower: VisionTower,
    config: ImageConfig,
    camera: str,
    images: UInt8[Tensor, "n h w 3"],
    shift: Int[Tensor, "2 n"] | None = None,
) -> Float[Tensor, "n ..."]:
    """The tower's output for pictures, each shifted by rows and columns: [N F] or [N C x y].

    As `ImageEncoder` reads and pools them in acting. The tower is in eval mode.
    """
    frames = resize(images.unsqueeze(1), config.resize.get(camera))
    if shift is not None:
        frames = shifted(frames, shift)
    if config.pad_square:
        frames = pad_square(frames, tower.mean)
    maps: Tensor = tower(frames.flatten(0, 1))
    if config.pooling in (Pooling.patches, Pooling.perceiver):
        return maps
    return pool(maps, config.pooling)
