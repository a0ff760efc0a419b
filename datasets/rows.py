"""Rows of a store's fields in any order, held in memory where they fit and read where they do not.

Fields are not compressed, so a read fetches the rows asked for and nothing more, and the kernel's
page cache does what a cache of chunks would do. Worth holding are the fields with small rows,
whose copying costs less than the read's system call: 256 windows of state and action take 0.2 ms
from memory and 1.6 ms by reads. Of pictures it is the copying that takes the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.spec import Array

SMALL_ROW_BYTES = 4096


class HeldRows:
    """Rows of one store; holds whole fields of small rows, each from its first use on, up to
    `budget_bytes` in all."""

    def __init__(self, store: EpisodeStore, budget_bytes: int) -> None:
        self._store = store
        self._budget = budget_bytes
        self._held: dict[str, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    @property
    def held_bytes(self) -> int:
        """Bytes of the fields held."""
        return sum(rows.nbytes for rows in self._held.values())

    def gather(self, field: str, rows: Array) -> Array:
        """Return the steps at `rows` (any shape), [*rows.shape, ...]."""
        if field not in self._held:
            array = self._store.array(field)
            needed = self.held_bytes + self._store.num_steps * array.row_bytes
            if array.row_bytes > SMALL_ROW_BYTES or needed > self._budget:
                return array.gather(rows.reshape(-1)).reshape(*rows.shape, *array.row_shape)
            self._held[field] = array.read_whole(self._store.num_steps)
        return np.take(self._held[field], rows, axis=0)
