"""Chunks of demonstrations to cluster into anchors, and what was made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from telic.datasets.windows import Windows
from telic.policy.objectives.anchors import AnchorSet

MOST_CHUNKS = 20_000  # that are clustered; of more, as many are drawn
_BATCH = 2000


def chunk_batches(windows: Windows, seed: int) -> Iterator[dict[str, Any]]:
    """Yield windows without pictures, in batches: all, or `MOST_CHUNKS` drawn by the seed."""
    blind = windows.without_pictures()
    chosen = np.random.default_rng(seed).permutation(len(blind))[:MOST_CHUNKS]
    for first in range(0, len(chosen), _BATCH):
        yield blind.batch(np.sort(chosen[first : first + _BATCH]))


def describe(anchors: AnchorSet) -> str:
    """Return one line: how many, of what, how far from what they stand for."""
    count, horizon, size = anchors.chunks.shape
    relative = int((anchors.columns >= 0).sum())
    return (
        f"{count} anchors of {horizon} x {size} for {anchors.counts.sum()} chunks "
        f"({anchors.counts.min()} to {anchors.counts.max()} each), {relative} entries relative to "
        f"the state; rms distance {anchors.rms:.4g} of the normalised range"
    )
