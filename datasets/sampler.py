"""The order in which windows are seen: a function of (seed, epoch), resumable by one integer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from telic.spec import Array


class BatchSampler:
    """Endless batches of window indices [batch_size], this rank's part of each global batch.

    The epochs' random orders follow one another, and the stream is cut into global batches of
    batch_size * world_size; a batch may span two epochs, so every window is seen once an epoch.
    Rank r gets the r-th part: all ranks together see what one rank with the whole batch would.
    Index i of epoch e is yielded as e * num_windows + i. `position` is how many batches were
    drawn since the start: pass it to go on from there.
    """

    def __init__(
        self,
        num_windows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
    ) -> None:
        if num_windows < 1 or batch_size < 1:
            raise ValueError(
                f"batch_size={batch_size} and the number of windows, {num_windows}, must be >= 1"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must lie in 0..{world_size - 1}")
        if position < 0:
            raise ValueError(f"position={position} must be >= 0")
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self._epoch = -1
        self._order: Array = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[Array]:
        """Draw from `position` on. A DataLoader's workers draw ahead of what training consumed:
        count the consumed batches yourself and pass their number as `position` on resume."""
        while True:
            batch = self.at(self.position)
            self.position += 1
            yield batch

    def at(self, position: int) -> Array:
        """Return the batch at any position, i64 [batch_size]."""
        first = (position * self.world_size + self.rank) * self.batch_size
        epoch, index = np.divmod(np.arange(first, first + self.batch_size), self.num_windows)
        batch = np.empty(self.batch_size, np.int64)
        for number in np.unique(epoch):
            here = epoch == number
            batch[here] = self._order_of(int(number))[index[here]]
        return batch + epoch * self.num_windows

    def _order_of(self, epoch: int) -> Array:
        """Return the permutation of an epoch; the last one used is kept."""
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            small = np.uint32 if self.num_windows < 2**32 else np.int64
            self._order = rng.permutation(np.arange(self.num_windows, dtype=small))
            self._epoch = epoch
        return self._order
