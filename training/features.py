"""Features of frozen towers beside the stores: `demo-store features` makes them, training reads.

K crops of a picture: itself, and shifted ones. A shift is a function of episode, crop and camera,
so that the frames of a window move alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from telic.datasets.features import FeatureRows, FeatureWriter, features_folder, known_keys
from telic.datasets.goals import uniforms
from telic.datasets.store import EpisodeStore
from telic.datasets.windows import Windows
from telic.policy.encoders.frozen import feature_key, features
from telic.policy.encoders.images import ImageConfig, ImageEncoder, Pooling, build_tower
from telic.policy.encoders.towers import TOWERS, VisionTower, Weights
from telic.policy.inference.device import pick_device
from telic.policy.policy import Policy
from telic.ranges import require_range
from telic.spec import Array, near_misses
from telic.training.config import TrainConfig

BATCH = 64  # pictures that a tower is given at once


def run(arguments: argparse.Namespace) -> int:
    """Write the features that `demo-store features` asks for; ValueError on bad input."""
    require_range(arguments, "crops", at_least=1, prefix="--")
    require_range(arguments, "random_shift", at_least=0, prefix="--")
    _require_weights(arguments.tower)
    with EpisodeStore.open(arguments.store) as store:
        cameras = _cameras(store, arguments.cameras)
        config = ImageConfig(
            tower=arguments.tower,
            frozen=True,
            pooling=Pooling(arguments.pooling),
            resize=_sides(arguments.resize, cameras),
            pad_square=arguments.pad_square,
            random_shift=arguments.random_shift,
        )
        # under a sentence of any size, for `feature_key` to refuse it
        tower = build_tower(config, sentence_dim=1).to(pick_device(arguments.device)).eval()
        for camera in cameras:
            path, count = write_features(
                store, tower, config, camera, arguments.crops, arguments.overwrite
            )
            print(f"{path}: {store.num_episodes} episodes, {count} of them now")
    return 0


def write_features(
    store: EpisodeStore,
    tower: VisionTower,
    config: ImageConfig,
    camera: str,
    crops: int = 1,
    overwrite: bool = False,
) -> tuple[Path, int]:
    """Write a camera's features of all episodes that lack them; return where, and how many did.

    The tower is in eval mode. ValueError where features of another state of the store stand there.
    """
    field = f"image/{camera}"
    picture = [int(size or 0) for size in store.fields[field].shape[:2]]
    key = feature_key(tower, config, camera, picture, crops)
    blank = torch.zeros((1, *picture, 3), dtype=torch.uint8, device=tower.mean.device)
    shape = features(tower, config, camera, blank).shape[1:]
    with FeatureWriter(store, key, shape, overwrite) as writer, Progress(transient=True) as bar:
        done_before, total = writer.episodes, store.num_episodes
        bar_task = bar.add_task(
            f"{camera} of {store.path.name}", total=total, completed=done_before
        )
        while writer.episodes < total:
            number = writer.episodes
            writer.append(
                _of_episode(tower, config, camera, store.episode(number)[field], number, crops)
            )
            bar.update(bar_task, completed=writer.episodes)
        return writer.path, total - done_before


def _of_episode(
    tower: VisionTower, config: ImageConfig, camera: str, frames: Array, number: int, crops: int
) -> Array:
    """The features f32 [T K ...] of an episode's frames, u8 [T h w 3]."""
    shifts = crop_shifts(camera, number, crops, config.random_shift)
    parts = []
    for first in range(0, len(frames), BATCH):
        images = torch.from_numpy(frames[first : first + BATCH]).to(tower.mean.device)
        of_crops = []
        for shift in shifts:
            moved = torch.from_numpy(shift).to(images.device).unsqueeze(1)
            whole = None if not shift.any() else moved.expand(-1, len(images))
            of_crops.append(features(tower, config, camera, images, whole).float().cpu())
        parts.append(torch.stack(of_crops, 1))
    return torch.cat(parts).numpy()


def crop_shifts(camera: str, episode: int, crops: int, most: int) -> Array:
    """By how many rows and columns each crop is shifted, i64 [K 2]; the first by 0."""
    seed = int.from_bytes(camera.encode()[:8].ljust(8, b"\0"), "little")
    crop = np.arange(crops)
    where = np.full(crops, episode)
    axes = [uniforms(seed, where, crop, stream) for stream in (0, 1)]
    shifts = (np.stack(axes, 1) * (2 * most + 1)).astype(np.int64) - most
    shifts[0] = 0
    return shifts


def use_features(
    config: TrainConfig, policy: Policy, train: Windows, held_out: Windows | None
) -> None:
    """Let windows carry the features of the policy's frozen towers, where `data.features` says so.

    ValueError where a store has none of this tower, its weights, sizes and preprocessing, or of
    another state of the store.
    """
    if not config.data.features:
        return
    encoders = {"image": policy.conditioner.image_encoder}
    if config.policy.goal.images and config.policy.goal.image.frozen:
        encoders["goal_image"] = policy.conditioner.goal_encoder.image_in
    for windows, augment in ((train, True), (held_out, False)):
        if windows is None:
            continue
        found: dict[str, Sequence[FeatureRows]] = {}
        for field, encoder in encoders.items():
            if encoder is not None:
                found |= _of_encoder(field, encoder, windows.stores)
        windows.use_features(found, augment)


def _of_encoder(
    field: str, encoder: ImageEncoder, stores: Sequence[EpisodeStore]
) -> Mapping[str, Sequence[FeatureRows]]:
    """The features of an encoder's cameras in each store, by field and camera."""
    return {
        f"{field}/{camera}": [
            find_features(store, encoder.tower(index), encoder.config, camera) for store in stores
        ]
        for index, camera in enumerate(encoder.cameras)
    }


def find_features(
    store: EpisodeStore, tower: VisionTower, config: ImageConfig, camera: str
) -> FeatureRows:
    """The features of a camera's pictures by a tower; of several, those with most crops.

    ValueError says what differs in those that there are, and the command that makes them.
    """
    picture = [int(size or 0) for size in store.fields[f"image/{camera}"].shape[:2]]
    known = known_keys(store.path, camera)
    for crops in sorted({int(key.get("crops", 1)) for key in known}, reverse=True):
        key = feature_key(tower, config, camera, picture, crops)
        if (features_folder(store.path, key) / "zarr.json").is_file():
            return FeatureRows(store, key)
    wanted = feature_key(tower, config, camera, picture, 2)
    differing = [
        f"{name}={there.get(name)}, expected {wanted[name]}"
        for there in known[:1]
        for name in wanted
        if there.get(name) != wanted[name] and name != "crops"
    ]
    others = f" (those there have {'; '.join(differing)})" if differing else ""
    raise ValueError(
        f"data.features=true: {store.path} has no features of camera {camera} by "
        f"{config.tower}{others}; make them: {command(store.path, config, camera)}"
    )


def command(store: Path, config: ImageConfig, camera: str) -> str:
    """The command that makes the features of a camera for a policy's images."""
    words = f"demo-store features {store} --tower {config.tower} --cameras {camera}"
    if config.pooling is not Pooling.average:
        words += f" --pooling {config.pooling.value}"
    if camera in config.resize:
        words += f" --resize {camera}={config.resize[camera]}"
    if config.pad_square:
        words += " --pad-square"
    if config.random_shift:
        words += f" --crops 4 --random-shift {config.random_shift}"
    return words


def _require_weights(name: str) -> None:
    """Raise ValueError for a tower that has no weights until it is trained or loaded."""
    known = TOWERS.get(name)
    if known is not None and known.weights is Weights.checkpoint:
        raise ValueError(f"--tower {name}: its weights come with a checkpoint alone")
    if known is not None and known.weights is Weights.random:
        raise ValueError(f"--tower {name}: it has no weights of its own, only random ones")


def _cameras(store: EpisodeStore, asked: Sequence[str] | None) -> list[str]:
    """The cameras of a store that are asked for, or all; ValueError where one is not there."""
    offered = [name[6:] for name in store.fields if name.startswith("image/")]
    if not offered:
        raise ValueError(f"{store.path}: has no camera")
    for camera in asked or ():
        if camera not in offered:
            raise ValueError(
                f"{store.path}: no camera {camera!r}, only {', '.join(offered)}"
                f"{near_misses(camera, offered)}"
            )
    return list(asked or offered)


def _sides(texts: Sequence[str], cameras: Sequence[str]) -> dict[str, int]:
    """The sides of `--resize CAMERA=SIDE`; ValueError for another form or camera."""
    sides: dict[str, Any] = {}
    for text in texts:
        camera, _, side = text.partition("=")
        if camera not in cameras or not side.isdecimal() or not int(side):
            raise ValueError(
                f"--resize {text}: expected CAMERA=SIDE with one of {', '.join(cameras)}"
                f"{near_misses(camera, cameras)} and pixels"
            )
        sides[camera] = int(side)
    return sides
