"""Episodes of a robot on disk: arrays of all steps end to end, and where each episode ends.

An append writes everything beyond the ends of the arrays and then lengthens `meta/episode_ends`
in one atomic step. Killed before that step, the episode is not there: reading ignores what lies
beyond the last end, and the next writer cuts it off, once `commit` has shown that it is what a
kill leaves. (Power loss is another matter: nothing is fsynced.) `layout` says where what lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from telic.datasets import commit, language, layout, statistics
from telic.datasets.arrays import PARTIAL, RowArray
from telic.datasets.checks import check_episode, check_fields
from telic.datasets.language import Language, Segment
from telic.datasets.lock import WriterLock
from telic.replacement import Replacement
from telic.spec import Array, ArraySpec, FieldStats, Interface, near_misses

READS = 5  # of a store that somebody writes to, until what was read belongs together


@dataclass(frozen=True, slots=True)
class Episode:
    """Steps [start, stop) of a store. `episode["action"]` reads a field, [len(episode), ...]."""

    store: EpisodeStore
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


class EpisodeStore:
    """An episode store on disk. Make one with `create` or `open`.

    attrs: robot, task_family, licence, source and what else its maker noted; fields: field ->
    spec of one step; episode_ends: i64 [N], steps up to the end of each episode.
    """

    attrs: dict[str, Any]
    fields: dict[str, ArraySpec]
    rate_hz: float
    episode_ends: Array
    _data: dict[str, RowArray]
    _summaries: dict[str, RowArray]
    _language: Language

    def __init__(self, path: Path, mode: Literal["r", "a"]) -> None:
        self.path = path
        self.mode = mode
        self._lock = WriterLock(path) if mode == "a" else None
        self._torn = False  # whether rows beyond the last committed episode may be on the disk
        try:
            self._load()
            if mode == "a":
                self._cut()
        except OSError as error:
            self.close()
            raise ValueError(f"{path}: {error.strerror or error} while opening it") from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        path: Path | str,
        fields: Mapping[str, ArraySpec],
        rate_hz: float,
        robot: str = "",
        task_family: str = "",
        licence: str = "",
        source: str = "",
        overwrite: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> EpisodeStore:
        """Return a new, empty store at `path`, open for appending.

        `overwrite` replaces a store that is there, but nothing else. `extra` is JSON data to find
        again in `attrs`.
        """
        path = Path(path)
        check_fields(path, fields, rate_hz)
        attributes = {
            "rate_hz": float(rate_hz),
            "robot": robot,
            "task_family": task_family,
            "licence": licence,
            "source": source,
            **(extra or {}),
        }
        with Replacement(path, layout.STORE, overwrite=overwrite).writing() as fresh:
            layout.build(fresh, fields, attributes)
        return cls(path, "a")

    @classmethod
    def open(cls, path: Path | str, mode: Literal["r", "a"] = "r") -> EpisodeStore:
        """Return the store at `path`. "a" also cuts off what a killed writer left behind.

        ValueError, one line: no store there, another format or version, a damaged one, of which
        nothing is cut.
        """
        path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f"{path}: mode is {mode!r}, expected 'r' or 'a'")
        require_there(path)
        return cls(path, mode)

    def close(self) -> None:
        """Let others write; this object can still read."""
        if self._lock is not None:
            self._lock.release()
        self.mode = "r"

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process reads the episodes this object knows; it does not write."""
        return {**self.__dict__, "_lock": None, "mode": "r"}

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_episodes(self) -> int:
        """Number of committed episodes."""
        return len(self.episode_ends)

    @property
    def num_steps(self) -> int:
        """Number of steps of all committed episodes."""
        return int(self.episode_ends[-1]) if len(self.episode_ends) else 0

    @property
    def interface(self) -> Interface:
        """What the demonstrated robot senses and is told, for a policy to agree with."""
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
        """The segments as numbers, i64 [S, 4]; columns as `language.SEGMENT_COLUMNS`."""
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

    def append(self, data: Mapping[str, Array], segments: Sequence[Segment] = ()) -> int:
        """Write an episode, all fields [T ...], and return its index.

        ValueError if it does not conform (nothing is written then) or if the disk refuses (the
        episodes before it are kept).
        """
        self._require_writable()
        index, first = self.num_episodes, self.num_steps
        where = f"{self.path} episode {index}"
        episode = check_episode(where, self.fields, data, segments, self.rate_hz)
        stop = first + len(next(iter(episode.values())))
        self._torn = True
        try:
            for name, rows in episode.items():
                self._data[name].write(first, rows)
                summary = statistics.summarize(self.fields[name], rows)
                self._summaries[name].write(index, summary[None])
                self._summaries[name].resize(index + 1)
            for array in self._data.values():  # only now: the summaries tell how much follows
                array.resize(stop)
            self._language.append(first, segments)
            self._ends.write(index, np.array([stop]))
            self._ends.resize(index + 1)
            self.episode_ends = np.append(self.episode_ends, stop)
            self._torn = False
        except OSError as error:
            raise self._refused(error, f"writing episode {index}") from error
        finally:
            if self._torn:
                self._recover()
        return index

    def truncate(self, num_episodes: int) -> None:
        """Keep the first `num_episodes` episodes and drop the others.

        A reader that has the store open must not use it any more.
        """
        self._require_writable()
        if not 0 <= num_episodes <= self.num_episodes:
            raise ValueError(
                f"{self.path}: cannot keep {num_episodes} of {self.num_episodes} episodes"
            )
        self._torn = True
        try:
            before = {commit.CUT_FROM: [self.num_episodes, self.num_steps]}
            self._ends.resize(num_episodes, before)
            self._load()
            self._cut()
        except OSError as error:
            self._recover()
            raise self._refused(error, "truncating") from error

    def write_embeddings(self, encoder: str, vectors: Array) -> None:
        """Keep an encoder's vectors [I D], one for each of `instructions`."""
        self._require_writable()
        try:
            language.write_embeddings(self.path, encoder, self.instructions, vectors)
        except OSError as error:
            raise ValueError(
                f"{self.path}: {error.strerror or error} while writing embeddings"
            ) from error

    def cache_embeddings(self, encoder: str, vectors: Array) -> None:
        """Keep an encoder's vectors as `write_embeddings` does, of a store that is open to read.

        Episodes and segments are not touched: nothing is cut. ValueError if somebody writes to the
        store, or it may not be written.
        """
        lock = WriterLock(self.path)
        try:
            language.write_embeddings(self.path, encoder, self.instructions, vectors)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror or error}") from error
        finally:
            lock.release()

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

    def _cut(self) -> None:
        """Drop from the disk what lies beyond the last committed episode."""
        commit.require_cuttable(self._tables())
        for array in self._data.values():
            array.cut(self.num_steps)
        self._language.cut()
        for array in self._summaries.values():  # they tell of what is unfinished, so they go last
            array.cut(self.num_episodes)
        for remains in self.path.rglob("*.partial"):  # of a file that was being replaced
            if PARTIAL.fullmatch(remains.name):
                remains.unlink(missing_ok=True)
        self._ends.cut(self.num_episodes)
        if commit.CUT_FROM in self._ends.attributes:
            self._ends.resize(self.num_episodes, {})
        self._torn = False

    def _recover(self) -> None:
        """After a write that failed: know what is committed, drop the rest if the disk lets us."""
        self._torn = True
        with suppress(OSError):
            self._load()
            self._cut()

    def _refused(self, error: OSError, doing: str) -> ValueError:
        """Return what to tell the user whose disk did not take a write."""
        return ValueError(
            f"{self.path}: {error.strerror or error} while {doing}; {self.num_episodes} episodes "
            f"({self.num_steps} steps) are kept; make room and try again"
        )

    def _require_writable(self) -> None:
        if self.mode != "a":
            raise ValueError(f"{self.path}: open for reading; open it with mode 'a' to write")
        if self._torn:
            try:
                self._load()
                self._cut()
            except OSError as error:
                raise self._refused(error, "dropping what is left of it") from error

    def _require_field(self, name: str) -> None:
        if name not in self.fields:
            raise ValueError(
                f"{self.path}: no field {name!r}, only {', '.join(self.fields)}"
                f"{near_misses(name, self.fields)}"
            )


def pooled_stats(field: str, stores: Sequence[EpisodeStore]) -> FieldStats:
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


def require_there(path: Path) -> None:
    """Raise ValueError, naming what lies beside it, unless `path` is a folder."""
    if not path.is_dir():
        beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ValueError(f"{path}: no episode store here{near_misses(path.name, beside)}")
