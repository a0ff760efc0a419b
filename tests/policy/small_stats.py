"""Statistics of fields that no store holds."""

from __future__ import annotations

import numpy as np

from telic.spec import FieldStats


def small_stats(**sizes: int) -> dict[str, FieldStats]:
    """Statistics of fields of these sizes under which normalising a state changes it."""
    return {
        name: FieldStats(
            minimum=np.full(size, -2.0),
            maximum=np.full(size, 3.0),
            mean=np.linspace(-1, 1, size),
            std=np.linspace(0.5, 2, size),
            q01=np.full(size, -2.0),
            q99=np.full(size, 3.0),
            count=100,
        )
        for name, size in sizes.items()
    }
