"""What of a store is committed, shown before anything is cut.

How many steps an episode has is written twice: in `meta/episode_ends`, and in each field's summary
(`meta/stats`) of the episode. Where the two agree, what lies beyond the last end is what a killed
writer left: of an append one episode at most, of which every array has all rows or none; of a
truncation what `meta/episode_ends` itself notes. Anything else is damage, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telic.datasets import layout, statistics
from telic.datasets.arrays import RowArray
from telic.datasets.language import Language
from telic.spec import Array, ArraySpec

CUT_FROM = "cut_from"  # attribute of episode_ends during a truncation: [episodes, steps] before
WAY_OUT = "nothing was changed; restore the file from a copy"
REBUILD = "demo-store rebuild-ends writes the ends anew from meta/stats"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The arrays of a store and what the ends say."""

    path: Path
    fields: Mapping[str, ArraySpec]
    ends: RowArray
    episode_ends: Array
    data: Mapping[str, RowArray]
    summaries: Mapping[str, RowArray]
    language: Language

    @property
    def num_episodes(self) -> int:
        """Committed episodes."""
        return len(self.episode_ends)

    @property
    def num_steps(self) -> int:
        """Committed steps."""
        return int(self.episode_ends[-1]) if len(self.episode_ends) else 0

    @property
    def cut_from(self) -> tuple[int, int] | None:
        """Episodes and steps before the truncation that is not finished, if one is."""
        noted = self.ends.attributes.get(CUT_FROM)
        if noted is None:
            return None
        if not isinstance(noted, list) or [type(n) for n in noted] != [int, int]:
            raise ValueError(f"{self.ends.path}: {CUT_FROM} is {noted!r:.60}; {WAY_OUT}")
        return noted[0], noted[1]


def require_readable(tables: Tables) -> None:
    """Raise ValueError unless ends, data and summaries tell of the same committed episodes."""
    _require_rising(tables)
    steps = np.diff(tables.episode_ends, prepend=0)
    for name, spec in tables.fields.items():
        data, summaries = tables.data[name], tables.summaries[name]
        for array, shape, dtype in (
            (data, layout.row_shape(spec), spec.dtype),
            (summaries, *statistics.summary_shape(spec)),
        ):
            if (array.row_shape, array.dtype) != (tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"{array.path}: rows are {array.dtype} {array.row_shape}, by the store's "
                    f"fields {dtype} {tuple(shape)}"
                )
        for array, needed in ((data, tables.num_steps), (summaries, tables.num_episodes)):
            if len(array) < needed:
                raise ValueError(
                    f"{array.path}: has {len(array)} rows, meta/episode_ends needs {needed}; "
                    f"{WAY_OUT}, or {REBUILD} as far as they reach"
                )
        summarized = statistics.steps_summarized(spec, summaries.read_whole(len(steps)))
        _require_same(tables, name, summarized, statistics.steps_to_summarize(spec, steps))
    _require_one_unfinished(tables)
    _require_unfinished_segments(tables)


def require_cuttable(tables: Tables) -> None:
    """Raise ValueError unless all that is committed is there, so that the rest may be cut off."""
    arrays = [tables.ends, *tables.data.values(), *tables.summaries.values()]
    for array in arrays:
        if lost := [why for row, why in array.missing_rows() if row < _committed(tables, array)]:
            raise ValueError(f"{lost[0]}; {WAY_OUT}")
    known = {tables.path / "data" / name for name in tables.fields}
    for meta in sorted((tables.path / "data").rglob("zarr.json")):
        holds = any(path.is_file() and path != meta for path in meta.parent.iterdir())
        if meta.parent not in known and holds:
            raise ValueError(
                f"{meta.parent}: holds rows, but the store has no such field; {WAY_OUT}"
            )
    _require_language(tables)


def lengths_by_summaries(
    path: Path,
    fields: Mapping[str, ArraySpec],
    data: Mapping[str, RowArray],
    summaries: Mapping[str, RowArray],
) -> Array:
    """Return the steps of each episode that the summaries tell of, i64; ValueError if they differ.

    As many episodes as all fields have summaries and rows of.
    """
    count = min(len(array) for array in summaries.values())
    lengths_by_field = [
        statistics.steps_summarized(spec, summaries[name].read_whole(count))
        for name, spec in fields.items()
        if not statistics.is_image(spec)
    ]
    if not lengths_by_field:
        raise ValueError(f"{path}: pictures alone do not tell how long episodes are")
    first, *others = lengths_by_field
    if any(not np.array_equal(first, other) for other in others) or not (first > 0).all():
        raise ValueError(f"{path}: meta/stats of the fields differ; {WAY_OUT}")
    lengths: Array = first.astype(np.int64)
    rows = min(len(array) for array in data.values())
    return lengths[lengths.cumsum() <= rows]


def _committed(tables: Tables, array: RowArray) -> int:
    of_steps = any(array is other for other in tables.data.values())
    return tables.num_steps if of_steps else tables.num_episodes


def _require_rising(tables: Tables) -> None:
    steps = np.diff(tables.episode_ends, prepend=0)
    if wrong := np.flatnonzero(steps <= 0).tolist():
        episode = wrong[0]
        before = int(tables.episode_ends[episode - 1]) if episode else 0
        raise ValueError(
            f"{tables.ends.path}: episode {episode} ends at step {tables.episode_ends[episode]}, "
            f"expected more than {before}; {WAY_OUT}, or {REBUILD}"
        )


def _require_same(tables: Tables, name: str, summarized: Array, expected: Array) -> None:
    if len(wrong := np.flatnonzero(summarized != expected)):
        episode = int(wrong[0])
        raise ValueError(
            f"{tables.path}: episode {episode} has {expected[episode]:g} steps by "
            f"meta/episode_ends and {summarized[episode]:g} by meta/stats/{name}; "
            f"{WAY_OUT}, or {REBUILD}"
        )


def _require_one_unfinished(tables: Tables) -> None:
    """Raise ValueError if more lies beyond the last end than one unfinished write leaves."""
    episodes, steps = tables.num_episodes, tables.num_steps
    if (noted := tables.cut_from) is not None:
        if noted[0] < episodes or noted[1] < steps:
            raise ValueError(f"{tables.ends.path}: {CUT_FROM} is {noted}, less than is kept")
        return
    rows = {name: len(data) for name, data in tables.data.items() if len(data) > steps}
    for name, summaries in tables.summaries.items():
        if len(summaries) > episodes + 1:
            raise ValueError(
                f"{tables.path}: meta/episode_ends has {episodes} episodes, meta/stats/{name} "
                f"{len(summaries)}, more than one unfinished write leaves; {WAY_OUT}, or {REBUILD}"
            )
    unsummarised = [name for name in rows if len(tables.summaries[name]) == episodes]
    if len({*rows.values(), *_unfinished_stops(tables)}) > 1 or len(unsummarised) > 1:
        beyond = ", ".join(f"data/{name} {count}" for name, count in rows.items())
        raise ValueError(
            f"{tables.path}: meta/episode_ends ends at step {steps}, the arrays go on ({beyond}) "
            f"as no unfinished write leaves them; {WAY_OUT}"
        )


def _unfinished_stops(tables: Tables) -> set[int]:
    """Return at which step the unfinished episode would end, by each field's summary of it."""
    stops = set()
    for name, spec in tables.fields.items():
        summaries, number = tables.summaries[name], tables.num_episodes
        if len(summaries) > number and not statistics.is_image(spec):
            steps = statistics.steps_summarized(spec, summaries.read(number, number + 1))
            stops.add(tables.num_steps + int(np.nan_to_num(steps[0], nan=-1.0)))
    return stops


def _require_language(tables: Tables) -> None:
    """Raise ValueError unless the segments are those of the committed episodes, in their order,
    and of one unfinished one."""
    language, ends = tables.language, tables.episode_ends
    table = language.table
    if len(table):
        start, end, instruction, task = table.T
        episode = np.searchsorted(ends, start, side="right")
        wrong = (start < 0) | (end <= start) | (end > ends[np.minimum(episode, len(ends) - 1)])
        wrong |= np.diff(episode, prepend=0) < 0
        wrong |= (instruction < 0) | (instruction >= len(language.instructions))
        wrong |= (task < 0) | (task >= len(language.tasks))
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{tables.path}/meta/segments: segment {number} is {table[number].tolist()}, which "
                f"is none of this store; {WAY_OUT}"
            )
    unfinished = any(len(array) > tables.num_episodes for array in tables.summaries.values())
    if unfinished or tables.cut_from is not None:
        return
    for name, known in (("instructions", language.instructions), ("tasks", language.tasks)):
        if (stored := language.stored(name)) > len(known):
            raise ValueError(
                f"{tables.path}/meta/{name}: has {stored}, meta/segments uses {len(known)}; "
                f"{WAY_OUT}"
            )


def _require_unfinished_segments(tables: Tables) -> None:
    """Raise ValueError if the segments beyond the last end are not those of one episode there."""
    beyond = tables.language.uncommitted
    if not len(beyond) or tables.cut_from is not None:
        return
    unfinished = all(len(array) > tables.num_episodes for array in tables.summaries.values())
    stops = _unfinished_stops(tables) or {int(beyond[:, 1].max())}
    outside = beyond[:, 0].min() < tables.num_steps or beyond[:, 1].max() > max(stops)
    if not unfinished or outside:
        raise ValueError(
            f"{tables.path}/meta/segments: from number {len(tables.language.table)} on they lie "
            f"beyond the last episode, which ends at step {tables.num_steps}; {WAY_OUT}"
        )
