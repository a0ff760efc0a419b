"""Statistics of a field, kept per episode so that those of any first N episodes can be merged.

A row per episode needs no version: a torn append or a truncation cuts rows off, nothing is redone.
Numbers keep (count, min, max, mean, M2), merged exactly (Chan, Golub, LeVeque 1979); pixels keep a
histogram of evenly spaced frames, from which every statistic, quantiles too, follows exactly.
Quantiles of numbers come from the data when asked for: see `QUANTILE_ROWS`.
"""

from __future__ import annotations

import math

import numpy as np

from telic.spec import Array, ArraySpec, FieldStats

QUANTILE_ROWS = 65_536  # up to here over all steps; beyond, over this many evenly spaced steps
IMAGE_FRAMES = 32  # frames of an episode that enter the histogram, evenly spaced
MOMENTS = 5  # count, minimum, maximum, mean, sum of squared deviations


def is_image(spec: ArraySpec) -> bool:
    """Return whether the field holds u8 [h w c] pixels."""
    return spec.dtype == "uint8" and len(spec.shape) == 3


def summary_shape(spec: ArraySpec) -> tuple[tuple[int, ...], str]:
    """Return (shape, dtype) of one episode's summary of a field."""
    if is_image(spec):
        return (int(spec.shape[2] or 0), 256), "int64"
    return (MOMENTS, _entries(spec)), "float64"


def summarize(spec: ArraySpec, data: Array) -> Array:
    """Return the summary of one episode's `data` [T ...]."""
    if is_image(spec):
        frames = data[summary_frames(len(data))]
        return np.stack(
            [np.bincount(frames[..., c].ravel(), minlength=256) for c in range(data.shape[-1])]
        ).astype(np.int64)
    flat = data.reshape(-1, _entries(spec)).astype(np.float64)
    mean = flat.mean(0)
    spread = ((flat - mean) ** 2).sum(0)
    count = np.full(flat.shape[1], len(flat), np.float64)
    return np.stack([count, flat.min(0), flat.max(0), mean, spread])


def steps_summarized(spec: ArraySpec, summaries: Array) -> Array:
    """Return how many steps each episode has by its summary [N ...], f64 [N].

    Of pictures at most `IMAGE_FRAMES` are counted; compare with `steps_to_summarize`.
    """
    size = math.prod(int(n or 0) for n in spec.shape)
    if is_image(spec):
        return summaries.sum((1, 2)) / max(size, 1)
    return np.asarray(summaries[:, 0, 0] * _entries(spec) / max(size, 1))


def steps_to_summarize(spec: ArraySpec, steps: Array) -> Array:
    """Return what `steps_summarized` must be of whole episodes of so many steps."""
    return np.minimum(steps, IMAGE_FRAMES) if is_image(spec) else steps


def summary_frames(steps: int) -> Array:
    """Return which frames of an episode enter the summary of its pictures."""
    return evenly_spaced(steps, IMAGE_FRAMES)


def merge(spec: ArraySpec, summaries: Array, sample: Array) -> FieldStats:
    """Return the statistics of all episodes; `sample` [K ...] are the steps quantiles come from."""
    if is_image(spec):
        return _of_histogram(summaries.sum(0))
    count, low, high, mean, spread = (summaries[:, i] for i in range(MOMENTS))
    total = count.sum(0)
    grand = (count * mean).sum(0) / total
    variance = (spread + count * (mean - grand) ** 2).sum(0) / total
    q01, q99 = np.quantile(sample.reshape(-1, _entries(spec)).astype(np.float64), (0.01, 0.99), 0)
    return FieldStats(
        minimum=low.min(0),
        maximum=high.max(0),
        mean=grand,
        std=np.sqrt(variance),
        q01=q01,
        q99=q99,
        count=int(total[0]),
    )


def evenly_spaced(count: int, limit: int) -> Array:
    """Return at most `limit` indices below `count`, evenly spaced over all of it."""
    if count <= limit:
        return np.arange(count)
    return (np.arange(limit) * count + count // 2) // limit


def _entries(spec: ArraySpec) -> int:
    """Return D: entries of a vector, channels of a picture-like [h w c] array, else 1."""
    return int(spec.shape[-1] or 0) if len(spec.shape) in (1, 3) else 1


def _of_histogram(histogram: Array) -> FieldStats:
    """Return the statistics of pixels counted in `histogram` [C 256]."""
    values = np.arange(256.0)
    total = histogram.sum(1)
    mean = histogram @ values / total
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / total
    cumulative = histogram.cumsum(1)
    rank = [np.floor(q * (total - 1))[:, None] for q in (0.01, 0.99)]  # lower of the two neighbours
    return FieldStats(
        minimum=(histogram > 0).argmax(1).astype(np.float64),
        maximum=255.0 - (histogram[:, ::-1] > 0).argmax(1),
        mean=mean,
        std=np.sqrt(variance),
        q01=(cumulative <= rank[0]).sum(1).astype(np.float64),
        q99=(cumulative <= rank[1]).sum(1).astype(np.float64),
        count=int(total[0]),
    )
