"""What is committed of an episode store: episodes, language, statistics, sentence vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from telic.datasets import commit, language, layout, statistics
from telic.datasets.arrays import RowArray
from telic.datasets.language import Language, Segment
from telic.spec import Array, ArraySpec, FieldStats, Interface, near_misses

READS = 5  # of a store that somebody writes to, until what was read belongs together


@dataclass(frozen=True, slots=True)
class Episode:
    """Steps [start, stop) of a store. `episode["action"]` reads a field, [len(episode), ...]."""

    store: StoreReader
    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, field: str) -> Array:
        return self.store.read(field, self.start, self.stop)

    @property
    def data(self) -> dict[str, Array]:
        """All fields, [len(self), ...] each."""
        return {field: self[field] for field in self.store.fields}

    @property
    def segments(self) -> list[Segment]:
        """The language of this episode."""
        return self.store.segments_of(self.index)


class StoreReader(commit.Committed):
    """Committed episodes of a store, for reading.

    attrs: robot, task_family, licence, source and what else its maker noted; fields: field ->
    spec of one step; episode_ends: i64 [N], steps up to the end of each episode.
    """

    path: Path
    mode: Literal["r", "a"]
    attrs: dict[str, Any]
    fields: dict[str, ArraySpec]
    rate_hz: float
    episode_ends: Array
    _data: dict[str, RowArray]
    _summaries: dict[str, RowArray]
    _language: Language

    @property
    def interface(self) -> Interface:
        """What the demonstrated robot senses and takes as actions, for a policy to agree with."""
        self._require_field("action")
        return self.interface_as(self.fields["action"])

    def interface_as(self, action: ArraySpec) -> Interface:
        """Return `interface` with the action of another robot: the store is a video to that one.

        The store's own actions may be of another size or absent.
        """
        self._require_field("state")
        images = {name[6:]: s for name, s in self.fields.items() if name.startswith("image/")}
        return Interface(
            state=self.fields["state"], action=action, rate_hz=self.rate_hz, images=images
        )

    @property
    def instructions(self) -> list[str]:
        """All sentences in use, by instruction_id."""
        return list(self._language.instructions)

    @property
    def tasks(self) -> list[str]:
        """All task names in use, by task_id."""
        return list(self._language.tasks)

    @property
    def segment_table(self) -> Array:
        """The segments as integers, i64 [S, 4]; columns as `language.SEGMENT_COLUMNS`."""
        return self._language.table

    @property
    def segments(self) -> list[Segment]:
        """The language of all episodes."""
        return [s for index in range(self.num_episodes) for s in self.segments_of(index)]

    def segments_of(self, episode: int) -> list[Segment]:
        """The language of one episode, in the order it was appended."""
        start = int(self.episode_ends[episode - 1]) if episode else 0
        return self._language.segments(episode, start, int(self.episode_ends[episode]))

    @property
    def stats(self) -> dict[str, FieldStats]:
        """Statistics of every field over all episodes; empty for an empty store."""
        return {name: pooled_stats(name, [self]) for name in self.fields if self.num_episodes}

    def summaries(self, field: str) -> Array:
        """Return the summaries of all episodes of a field, as `statistics` makes them."""
        self._require_field(field)
        return self._summaries[field].read(0, self.num_episodes)

    def array(self, field: str) -> RowArray:
        """Return the array under a field, for reading; only its first `num_steps` rows count."""
        self._require_field(field)
        return self._data[field]

    def read(self, field: str, start: int, stop: int) -> Array:
        """Return steps [start, stop) of a field, counted over all episodes."""
        self._require_field(field)
        if not 0 <= start <= stop <= self.num_steps:
            raise ValueError(
                f"{self.path}: steps {start} to {stop} of {field} asked, it has {self.num_steps}"
            )
        return self._data[field].read(start, stop)

    def episode(self, index: int) -> Episode:
        """Return an episode; a negative index counts from the last."""
        if not -self.num_episodes <= index < self.num_episodes:
            raise ValueError(f"{self.path}: episode {index} asked, it has {self.num_episodes}")
        index %= self.num_episodes
        start = int(self.episode_ends[index - 1]) if index else 0
        return Episode(self, index, start, int(self.episode_ends[index]))

    def __len__(self) -> int:
        return self.num_episodes

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(i) for i in range(self.num_episodes))

    def read_embeddings(self, encoder: str) -> dict[str, Array]:
        """Return sentence -> vector f32 [D]."""
        return language.read_embeddings(self.path, encoder)

    def require_whole(self) -> None:
        """Raise ValueError unless all that is committed is there, sentence vectors too."""
        commit.require_cuttable(self._tables())
        for encoder in self.encoders:
            self.read_embeddings(encoder)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders whose vectors are kept here."""
        return language.encoders(self.path)

    def _load(self) -> None:
        """Read from disk what is committed."""
        self.attrs = layout.read_attributes(self.path)
        self.fields = layout.read_fields(self.path, self.attrs)
        self.rate_hz = float(self.attrs["rate_hz"])
        for _ in range(READS):
            tables = self._tables()
            try:
                commit.require_readable(tables)
                break
            except ValueError:  # it may have been written to meanwhile
                now = RowArray(tables.ends.path).read_whole()
                if self.mode == "a" or np.array_equal(now, tables.episode_ends):
                    raise
        else:
            raise ValueError(f"{self.path}: is written to faster than it can be read; try again")
        self._ends, self.episode_ends = tables.ends, tables.episode_ends
        self._data, self._summaries = dict(tables.data), dict(tables.summaries)
        self._language = tables.language
        self._language.require_named()

    def _tables(self) -> commit.Tables:
        ends = RowArray(self.path / "meta/episode_ends")
        if (ends.row_shape, ends.dtype) != ((), np.int64):
            raise ValueError(
                f"{ends.path}: rows are {ends.dtype} {ends.row_shape}, expected int64 ()"
            )
        episode_ends = ends.read_whole()
        language = Language(self.path, int(episode_ends[-1]) if len(episode_ends) else 0)
        return commit.Tables(
            path=self.path,
            fields=self.fields,
            ends=ends,
            episode_ends=episode_ends,
            language=language,
            data={name: RowArray(self.path / "data" / name) for name in self.fields},
            summaries={name: RowArray(self.path / "meta/stats" / name) for name in self.fields},
        )

    def _require_field(self, name: str) -> None:
        if name not in self.fields:
            raise ValueError(
                f"{self.path}: no field {name!r}, only {', '.join(self.fields)}"
                f"{near_misses(name, self.fields)}"
            )


def pooled_stats(field: str, stores: Sequence[StoreReader]) -> FieldStats:
    """Return the statistics of a field over all episodes of stores that have it alike.

    They are those of one store of all these episodes. At least one has an episode.
    """
    spec = stores[0].fields[field]
    ends = np.cumsum([0, *(store.num_steps for store in stores)])
    limit = 0 if statistics.is_image(spec) else statistics.QUANTILE_ROWS
    chosen = statistics.evenly_spaced(int(ends[-1]), limit)
    parts = np.split(chosen, np.searchsorted(chosen, ends[1:-1]))
    samples = [
        store.array(field).gather(rows - first)
        for store, rows, first in zip(stores, parts, ends[:-1], strict=True)
    ]
    summaries = np.concatenate([store.summaries(field) for store in stores])
    return statistics.merge(spec, summaries, np.concatenate(samples))
