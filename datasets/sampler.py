"""The order of windows: a function of (seed, epoch), resumable by one integer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from telic.spec import Array


class BatchSampler:
    """Endless batches of window indices [batch_size], this rank's part of each global batch.

    The epochs' random orders follow one another, and the stream is cut into global batches of
    batch_size * world_size; a batch may span two epochs, so every window comes once an epoch.
    Rank r gets the r-th part: all ranks together see what one rank with the whole batch would.
    Index i of epoch e is yielded as e * num_windows + i. `position` is how many batches were
    drawn since the start: pass it to go on from there.

    `favoured` [F] are windows of which `share` of the rows, evenly spread, are drawn from a stream
    of their own, with its own epochs; the other rows come from all windows.
    """

    def __init__(
        self,
        num_windows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        favoured: Array | None = None,
        share: float = 0.0,
    ) -> None:
        if num_windows < 1 or batch_size < 1:
            raise ValueError(
                f"batch_size={batch_size} and the number of windows, {num_windows}, must be >= 1"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must lie in 0..{world_size - 1}")
        if position < 0:
            raise ValueError(f"position={position} must be >= 0")
        if not 0 <= share <= 1 or (share and (favoured is None or not len(favoured))):
            raise ValueError(f"share={share} of favoured windows must lie in [0, 1], and need some")
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.share = share
        self._favoured = np.empty(0, np.int64) if favoured is None else np.asarray(favoured)
        self._permutations: dict[bool, tuple[int, Array]] = {}  # of each stream: its last epoch's

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
        row = np.arange(first, first + self.batch_size)
        if not self.share:
            return self._drawn(row, favoured=False)
        before = np.floor(row * self.share).astype(np.int64)  # favoured rows before this one
        favoured = np.floor((row + 1) * self.share).astype(np.int64) > before
        batch = np.empty(self.batch_size, np.int64)
        batch[favoured] = self._drawn(before[favoured], favoured=True)
        batch[~favoured] = self._drawn((row - before)[~favoured], favoured=False)
        return batch

    def _drawn(self, places: Array, favoured: bool) -> Array:
        """Return the windows at `places` of a stream."""
        size = len(self._favoured) if favoured else self.num_windows
        epoch, index = np.divmod(places, size)
        drawn = np.empty(len(places), np.int64)
        for number in np.unique(epoch):
            here = epoch == number
            drawn[here] = self._order_of(int(number), size, favoured)[index[here]]
        return (self._favoured[drawn] if favoured else drawn) + epoch * self.num_windows

    def _order_of(self, epoch: int, size: int, favoured: bool) -> Array:
        """Return the permutation of a stream's epoch; the last one used is kept."""
        kept = self._permutations.get(favoured)
        if kept is not None and kept[0] == epoch:
            return kept[1]
        rng = np.random.default_rng([self.seed, epoch, 1] if favoured else [self.seed, epoch])
        order = rng.permutation(np.arange(size, dtype=np.uint32 if size < 2**32 else np.int64))
        self._permutations[favoured] = epoch, order
        return order
