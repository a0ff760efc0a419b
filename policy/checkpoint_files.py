"""The files of a checkpoint one by one: statistics, sentence vectors, and reports of damage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from telic.policy.layers.tensors import save_tensors
from telic.policy.readable import load_embeddings, readable
from telic.spec import Array, FieldStats

__all__ = [
    "load_embeddings",
    "load_stats",
    "readable",
    "require_stats",
    "save_embeddings",
    "save_stats",
]


def save_stats(path: Path, stats: Mapping[str, FieldStats]) -> None:
    """Write statistics under names like "state/mean"; field names may hold slashes themselves."""
    tensors = {
        f"{name}/{part.name}": torch.from_numpy(np.array(getattr(entry, part.name)))
        for name, entry in stats.items()
        for part in dataclasses.fields(entry)
    }
    save_tensors(tensors, path)


def load_stats(path: Path) -> dict[str, FieldStats]:
    """Return the statistics that `save_stats` wrote."""
    parts: dict[str, dict[str, Any]] = {}
    with readable(path):
        for key, tensor in load_file(path).items():
            name, _, part = key.rpartition("/")
            parts.setdefault(name, {})[part] = int(tensor) if part == "count" else tensor.numpy()
        return {name: FieldStats(**entry) for name, entry in parts.items()}


def require_stats(where: str, stats: FieldStats, size: tuple[int, ...]) -> None:
    """Raise ValueError unless these are numbers of such an array."""
    for part in dataclasses.fields(stats):
        if part.name == "count":
            continue
        values = getattr(stats, part.name)
        if values.shape != size or values.dtype != np.float64:
            raise ValueError(
                f"{where}/{part.name} is {values.dtype} {values.shape}, expected float64 {size} "
                "by spec.json; one of them is damaged or another checkpoint's"
            )
        if part.name[0] != "q" and not np.isfinite(values).all():
            raise ValueError(f"{where}/{part.name} is not finite; record or restore it anew")


def save_embeddings(path: Path, vectors: Mapping[str, Array]) -> None:
    """Write vectors by sentence; a sentence may hold any character, so it is no tensor name.

    `vectors` f32 [n dim], or, with a vector for each word, `words` f32 [all dim] and their number
    in each sentence, `lengths` i64 [n].
    """
    rows = list(vectors.values())
    if rows and rows[0].ndim == 2:
        lengths = np.array([len(row) for row in rows], np.int64)
        arrays = {"words": np.concatenate(rows), "lengths": lengths}
    else:
        arrays = {"vectors": np.stack(rows) if rows else np.zeros((0, 0), np.float32)}
    sentences = {"sentences": json.dumps(list(vectors))}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(tensors, path, sentences)
