"""Damaged `meta/episode_ends` made anew from what else is known of the episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from telic.datasets import commit, layout
from telic.datasets.arrays import RowArray
from telic.datasets.lock import WriterLock
from telic.spec import Array


def rebuild_ends(path: Path) -> tuple[Array, Array]:
    """Write `meta/episode_ends` anew from the lengths in `meta/stats`; return it before and after.

    ValueError, and nothing is written, where those differ or nothing is wrong.
    """
    lock = WriterLock(path)
    try:
        fields = layout.read_fields(path, layout.read_attributes(path))
        ends = RowArray(path / "meta/episode_ends")
        before = ends.read(0, len(ends)) if not ends.missing_rows() else np.empty(0, np.int64)
        lengths = commit.lengths_by_summaries(
            path,
            fields,
            {name: RowArray(path / "data" / name) for name in fields},
            {name: RowArray(path / "meta/stats" / name) for name in fields},
        )
        after = lengths.cumsum()
        if np.array_equal(before, after):
            raise ValueError(f"{path}: meta/episode_ends fits meta/stats; nothing was changed")
        ends.write(0, after)
        ends.resize(len(after), {})
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error} while rebuilding the ends") from error
    finally:
        lock.release()
    return before, after
