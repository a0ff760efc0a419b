"""Statistics of a LeRobotDataset, computed from the data: quantiles are the data's own.

LeRobot's own q01 ... q99 are averages over the episodes' quantiles, which are others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from telic.datasets import statistics
from telic.datasets.store import EpisodeStore
from telic.spec import Array

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, Any]


def of_rows(rows: Array) -> Stats:
    """Statistics of values [T D], a list of D each."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    quantiles = np.quantile(flat, list(QUANTILES.values()), 0)
    return {
        "min": flat.min(0).tolist(),
        "max": flat.max(0).tolist(),
        "mean": flat.mean(0).tolist(),
        "std": flat.std(0).tolist(),
        "count": [len(flat)],
        **{name: q.tolist() for name, q in zip(QUANTILES, quantiles, strict=True)},
    }


def of_histogram(histogram: Array, frames: int) -> Stats:
    """Statistics of pixels counted in `histogram` [C 256], as fractions of 255, [C 1 1] each."""
    values = np.arange(256) / 255.0
    total = histogram.sum(1)
    mean = histogram @ values / total
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / total
    cumulative = histogram.cumsum(1)
    found = {
        "min": values[(histogram > 0).argmax(1)],
        "max": values[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(variance),
    }
    for name, share in QUANTILES.items():
        rank = np.floor(share * (total - 1))[:, None]
        found[name] = values[(cumulative <= rank).sum(1)]
    nested: Stats = {name: [[[v]] for v in entries.tolist()] for name, entries in found.items()}
    return {**nested, "count": [frames]}


def of_episode(store: EpisodeStore, field: str, index: int, rows: Array) -> Stats:
    """Statistics of one episode's field [T ...]."""
    spec = store.fields[field]
    if statistics.is_image(spec):
        return of_histogram(store.summaries(field)[index], min(len(rows), statistics.IMAGE_FRAMES))
    return of_rows(rows)


def of_all(store: EpisodeStore, field: str) -> Stats:
    """Statistics of a field over all episodes.

    Quantiles are over all steps up to `statistics.QUANTILE_ROWS`, else over that many, evenly
    spaced.
    """
    spec, summaries = store.fields[field], store.summaries(field)
    if statistics.is_image(spec):
        lengths = np.diff(store.episode_ends, prepend=0)
        frames = int(statistics.steps_to_summarize(spec, lengths).sum())
        return of_histogram(summaries.sum(0), frames)
    chosen = statistics.evenly_spaced(store.num_steps, statistics.QUANTILE_ROWS)
    found = of_rows(store.array(field).gather(chosen))
    if len(chosen) < store.num_steps or len(spec.shape) < 2:
        exact = statistics.merge(spec, summaries, store.array(field).gather(chosen[:1]))
        moments = {"min": exact.minimum, "max": exact.maximum, "mean": exact.mean}
        found |= {k: np.ravel(v).tolist() for k, v in {**moments, "std": exact.std}.items()}
    return {**found, "count": [store.num_steps]}
