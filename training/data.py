"""What training reads: windows of episode stores in batches, and the vectors of their sentences."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from telic.datasets.sampler import BatchSampler
from telic.datasets.store import EpisodeStore
from telic.datasets.windows import WindowConfig, Windows
from telic.embodiment import Space
from telic.policy.encoders.fields import Batch, to_device
from telic.policy.policy import Policy
from telic.spec import Array
from telic.training.config import TrainConfig
from telic.training.readers import read
from telic.training.resume import RunRecord
from telic.training.robomimic_baseline import RobomimicPolicy
from telic.training.stop_signals import leave_stopping_to_parent


def open_stores(config: TrainConfig) -> tuple[list[EpisodeStore], list[EpisodeStore]]:
    """Return the stores with actions, and those for videos alone.

    ValueError where one is named twice, or they are not of one robot and the policy is for one.
    """
    for key, paths in (("stores", config.data.stores), ("video_only", config.data.video_only)):
        places = [os.path.realpath(path) for path in paths]
        for number, place in enumerate(places):
            if place in places[:number]:
                raise ValueError(
                    f"data.{key} names {paths[number]} twice, so that its steps would count twice; "
                    "name it once"
                )
    acted = [EpisodeStore.open(path) for path in config.data.stores]
    videos = [EpisodeStore.open(path) for path in config.data.video_only]
    if config.policy.space is Space.own:
        interface, name = acted[0].interface, config.data.stores[0]
        for store in acted[1:]:
            interface.require(store.interface, name, str(store.path))
        for store in videos:
            interface.require(store.interface_as(interface.action), name, str(store.path))
    return acted, videos


def windows_of(
    config: TrainConfig,
    acted: Sequence[EpisodeStore],
    videos: Sequence[EpisodeStore],
    record: RunRecord,
) -> tuple[Windows, Windows | None]:
    """Return the windows to train on and, where any are held out, those to measure on.

    Those to measure on have actions and keep all their sentences.
    """
    lacking = [store for store in (*acted, *videos) if "scene" not in store.fields]
    if config.policy.scene.on and lacking:
        raise ValueError(
            f"policy.scene.weight={config.policy.scene.weight}: {lacking[0].path} has no field "
            "scene; collect-demos state=robot scene=true records it in simulation"
        )
    shape = WindowConfig(
        obs_horizon=config.policy.obs_horizon,
        action_horizon=config.policy.action_horizon,
        goal=config.data.goal,
        cameras=config.data.cameras,
        space=config.policy.space,
        memory_mb=config.data.memory_mb,
    )
    train = Windows(
        [*acted, *videos],
        replace(
            shape,
            language_fraction=config.data.language_fraction,
            future_steps=config.data.future_steps if config.policy.reads_future else 0,
            scene=config.policy.scene.on,
        ),
        [one.trained for one in (*record.stores, *record.video_only)],
        seed=config.seed,
        video_only=range(len(acted), len(acted) + len(videos)),
    )
    held_out = [one.held_out for one in record.stores]
    return train, Windows(acted, shape, held_out) if any(held_out) else None


def batches_from(
    config: TrainConfig, windows: Windows, accelerator: Accelerator, position: int
) -> Iterator[Batch]:
    """Yield this process's rows of each global batch, from batch `position` on, on its device.

    Raises ReaderDied where a process that reads has died.
    """
    share = config.data.labelled_share
    labelled = None if share is None else windows.labelled()
    if labelled is not None and not len(labelled):
        raise ValueError(
            f"data.labelled_share={share} asks for windows with a sentence, and none has one; "
            f"raise data.language_fraction={config.data.language_fraction} or label some steps"
        )
    sampler = BatchSampler(
        len(windows),
        config.batch_size // accelerator.num_processes,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        position=position,
        favoured=labelled,
        share=share or 0.0,
    )
    loader: DataLoader[Any] = DataLoader(
        cast(Any, windows),  # map-style: len, [] and __getitems__
        batch_sampler=cast(Any, sampler),
        num_workers=config.data.num_workers,
        collate_fn=cast(Any, _to_torch),
        persistent_workers=config.data.num_workers > 0,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=leave_stopping_to_parent,
    )
    for batch in read(loader):
        yield to_device(batch, accelerator.device, wait=False)


def _to_torch(windows: dict[str, Any]) -> Batch:
    batch = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in windows.items()}
    return cast(Batch, batch)


def held_out_batches(
    config: TrainConfig, windows: Windows, device: torch.device
) -> Iterator[Batch]:
    """Yield `data.held_out_windows` of the windows, drawn by the seed, in batches on `device`."""
    count = min(len(windows), config.data.held_out_windows)
    indices = np.random.default_rng(config.seed).choice(len(windows), count, replace=False)
    for rows in np.array_split(indices, math.ceil(count / config.batch_size)):
        yield to_device(_to_torch(windows.batch(rows)), device, wait=False)


def prime_embeddings(policy: Policy | RobomimicPolicy, stores: Sequence[EpisodeStore]) -> None:
    """Give the policy the stores' cached sentence vectors; compute and cache what is missing."""
    name = policy.language_name
    for store in stores:
        if name is None:  # no sentences, or a vector for each word, which stores do not keep
            policy.embed(store.instructions)
            continue
        known = store.read_embeddings(name) if name in store.encoders else {}
        missing = [text for text in store.instructions if text not in known]
        if missing:
            known |= policy.embed(missing)
            _cache_embeddings(store, name, known)
        policy.set_embeddings(known)


def _cache_embeddings(store: EpisodeStore, name: str, known: dict[str, Array]) -> None:
    """Keep the vectors in the store for the next run, where it may be written and nobody does."""
    vectors = np.stack([known[text] for text in store.instructions])
    try:
        store.cache_embeddings(name, vectors)
    except ValueError as error:
        warnings.warn(f"sentence vectors are not cached: {error}", stacklevel=2)
