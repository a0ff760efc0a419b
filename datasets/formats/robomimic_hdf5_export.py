"""A store to robomimic's HDF5."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.datasets.formats.robomimic_hdf5_layout import (
    CARRIED,
    HDF5,
    digest_of,
    digest_of_text,
    hdf5_path,
)
from telic.datasets.store import Episode, EpisodeStore
from telic.datasets.windows import split_episodes
from telic.replacement import Replacement
from telic.spec import Array


@dataclass(kw_only=True, slots=True)
class Hdf5ExportOptions:
    """How a store becomes HDF5."""

    valid_fraction: float = 0.1  # of the demos, in mask/valid
    seed: int = 0  # of that split
    next_obs: bool = True  # as large as obs; BC trains without (train.hdf5_load_next_obs=False)
    goal: str | None = None  # obs/goal: an encoder whose vectors are cached; "" any, or the task


def export_hdf5(
    source: Path, target: Path, options: Hdf5ExportOptions, overwrite: bool = False
) -> int:
    """Write the store at `source` to an HDF5 file and return the number of demos."""
    store = EpisodeStore.open(source)
    if not store.num_episodes:
        raise ValueError(f"{source}: has no episodes to export")
    replacement = Replacement(target, HDF5, overwrite=overwrite, by="--overwrite", sources=[source])
    replacement.require()
    paths = {name: hdf5_path(name) for name in store.fields}
    if len(set(paths.values())) < len(paths) or (options.goal is not None and "goal" in paths):
        raise ValueError(f"{source}: fields {', '.join(paths)} do not fit into one HDF5 group")
    goal, goal_note = _goal_key(store, options.goal)
    train, valid = split_episodes(store, options.valid_fraction, options.seed)
    with replacement.writing() as path, h5py.File(path, "w") as file:
        data = file.create_group("data")
        digests = {}
        for episode in store:
            _write_demo(data, episode, paths, goal, options.next_obs)
            digests[f"demo_{episode.index}"] = digest_of(episode.data, episode.segments)
        data.attrs["total"] = store.num_steps
        env_args = {"env_name": store.attrs.get("task_family", ""), "type": 2, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(store.attrs.get("env_args", env_args))
        ours = {key: store.attrs[key] for key in CARRIED if key in store.attrs}
        ours |= {"rate_hz": store.rate_hz, "paths": paths, "goal": goal_note, "digests": digests}
        ours["fields"] = {name: spec.to_json() for name, spec in store.fields.items()}
        data.attrs["telic"] = json.dumps(ours | {"digest": digest_of_text(json.dumps(ours))})
        for name, episodes in (("train", train), ("valid", valid)):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in episodes], dtype="S")
    return store.num_episodes


def _write_demo(
    data: h5py.Group,
    episode: Episode,
    paths: Mapping[str, str],
    goal: Callable[[Episode], Array] | None,
    next_obs: bool,
) -> None:
    demo = data.create_group(f"demo_{episode.index}")
    arrays = {path: episode[name] for name, path in paths.items()}
    if goal is not None:
        arrays["obs/goal"] = goal(episode)
    last = np.zeros(len(episode), np.float32)
    arrays.setdefault("rewards", last)
    arrays.setdefault("dones", np.append(last[1:], np.float32(1)))
    for path, rows in arrays.items():
        demo[path] = rows
        if next_obs and path.startswith("obs/"):
            demo[f"next_{path}"] = np.concatenate([rows[1:], rows[-1:]])
    demo.attrs["num_samples"] = len(episode)
    segments = [
        {"start": s.start, "end": s.end, "instruction": s.instruction, "task": s.task}
        for s in episode.segments
    ]
    demo.attrs["segments"] = json.dumps(segments)
    if segments:
        for key in ("instruction", "task"):  # of HDF5, whose texts end at a null character
            demo.attrs[key] = str(segments[0][key]).replace("\0", " ")


def _goal_key(
    store: EpisodeStore, encoder: str | None
) -> tuple[Callable[[Episode], Array] | None, dict[str, Any]]:
    """Return (episode -> obs/goal f32 [T, D], what its numbers mean).

    A step in several segments has the goal of the first; one in none has zeros.
    """
    if encoder is None:
        return None, {}
    if encoder or store.encoders:
        encoder = encoder or store.encoders[0]
        vectors = store.read_embeddings(encoder)
        if missing := [s for s in store.instructions if s not in vectors]:
            raise ValueError(f"{store.path}: {encoder} has no vector of {missing[0]!r}")
        note: dict[str, Any] = {"kind": "embedding", "encoder": encoder}
        by_segment = {s: vectors[s] for s in store.instructions}
    else:
        by_segment = dict(
            zip(store.tasks, np.eye(len(store.tasks), dtype=np.float32), strict=False)
        )
        note = {"kind": "task", "tasks": store.tasks}
    if not by_segment:
        raise ValueError(f"{store.path}: no instruction and no task to make obs/goal of")
    size = len(next(iter(by_segment.values())))

    def goal(episode: Episode) -> Array:
        rows = np.zeros((len(episode), size), np.float32)
        for segment in reversed(episode.segments):
            key = segment.task if note["kind"] == "task" else segment.instruction
            rows[segment.start : segment.end] = by_segment[key]
        return rows

    return goal, note
