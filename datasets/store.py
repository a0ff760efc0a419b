"""Episodes of a robot on disk: arrays of all steps end to end, and where each episode ends.

    data/<field>               [T, ...] all episodes end to end
    meta/episode_ends          i64 [N]; its length is changed last: that is the commit
    meta/segments              i64 [S, 4] start, end, instruction_id, task_id
    meta/instructions, tasks   strings
    meta/embeddings/<encoder>  f32 [I, D], its attributes list the sentences
    meta/stats/<field>         [N, ...] one summary an episode, see `statistics`

An append writes everything beyond the ends of the arrays and then lengthens `episode_ends` in one
atomic step. Killed before that step, the episode is not there; reading ignores what lies beyond
the last end, and the next writer cuts it off. (Power loss is another matter: nothing is fsynced.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from telic.datasets import language, statistics
from telic.datasets.arrays import RowArray, create_rows, read_meta
from telic.datasets.checks import check_episode, check_fields
from telic.datasets.language import Language, Segment
from telic.datasets.lock import WriterLock
from telic.spec import Array, ArraySpec, FieldStats, Interface, near_misses

FORMAT, VERSION = "telic-episodes", 1
IMAGE_CHUNK_BYTES = 8 << 20
VECTOR_CHUNK_BYTES = 256 << 10


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
        return [s for s in self.store.segments if s.episode == self.index]


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
        self._load()
        if mode == "a":
            self._cut()

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
    ) -> EpisodeStore:
        """Return a new, empty store at `path`, open for appending.

        It is built beside `path` and renamed, so a half-made one never stands there.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise ValueError(f"{path}: is already there; pass overwrite or choose another path")
        check_fields(path, fields, rate_hz)
        attributes = {
            "format": FORMAT,
            "version": VERSION,
            "fields": {name: spec.to_json() for name, spec in fields.items()},
            "rate_hz": float(rate_hz),
            "robot": robot,
            "task_family": task_family,
            "licence": licence,
            "source": source,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f"{path.name}.{os.getpid()}.partial")
        shutil.rmtree(building, ignore_errors=True)
        zarr.create_group(building, attributes=attributes)
        for name, spec in fields.items():
            shape = _row_shape(spec)
            create_rows(building, f"data/{name}", shape, spec.dtype, _chunk_rows(spec))
            shape, dtype = statistics.summary_shape(spec)
            create_rows(building, f"meta/stats/{name}", shape, dtype, 64)
        Language.create(building)
        create_rows(building, "meta/episode_ends", (), "int64", 4096)
        if path.exists():
            shutil.rmtree(path)
        building.rename(path)
        return cls(path, "a")

    @classmethod
    def open(cls, path: Path | str, mode: Literal["r", "a"] = "r") -> EpisodeStore:
        """Return the store at `path`. "a" also cuts off what a killed writer left behind.

        ValueError, one line: no store there, another format or version, a damaged one.
        """
        path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f"{path}: mode is {mode!r}, expected 'r' or 'a'")
        if not path.is_dir():
            beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
            raise ValueError(f"{path}: no episode store here{near_misses(path.name, beside)}")
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
        for name in ("state", "action"):
            self._require_field(name)
        images = {name[6:]: s for name, s in self.fields.items() if name.startswith("image/")}
        return Interface(
            state=self.fields["state"],
            action=self.fields["action"],
            rate_hz=self.rate_hz,
            images=images,
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
        return self._language.segments(self.episode_ends)

    @property
    def stats(self) -> dict[str, FieldStats]:
        """Statistics of every field over all episodes; empty for an empty store."""
        if not self.num_episodes:
            return {}
        chosen = statistics.evenly_spaced(self.num_steps, statistics.QUANTILE_ROWS)
        stats = {}
        for name, spec in self.fields.items():
            summaries = self._summaries[name].read(0, self.num_episodes)
            rows = chosen[:0] if statistics.is_image(spec) else chosen
            stats[name] = statistics.merge(spec, summaries, self._data[name].gather(rows))
        return stats

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
        episode = check_episode(f"{self.path} episode {index}", self.fields, data, segments)
        stop = first + len(next(iter(episode.values())))
        self._torn = True
        try:
            for name, rows in episode.items():
                self._data[name].write(first, rows)
                self._data[name].resize(stop)
                summary = statistics.summarize(self.fields[name], rows)
                self._summaries[name].write(index, summary[None])
                self._summaries[name].resize(index + 1)
            self._language.append(first, segments)
            self._ends.write(index, np.array([stop]))
            self._ends.resize(index + 1)
        except OSError as error:
            raise self._refused(error, index) from error
        self.episode_ends = np.append(self.episode_ends, stop)
        self._torn = False
        return index

    def truncate(self, num_episodes: int) -> None:
        """Keep the first `num_episodes` episodes and drop the others."""
        self._require_writable()
        if not 0 <= num_episodes <= self.num_episodes:
            raise ValueError(
                f"{self.path}: cannot keep {num_episodes} of {self.num_episodes} episodes"
            )
        self._torn = True
        try:
            self._ends.resize(num_episodes)
            self._load()
            self._cut()
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror} while truncating") from error

    def write_embeddings(self, encoder: str, vectors: Array) -> None:
        """Keep an encoder's vectors [I D], one for each of `instructions`."""
        self._require_writable()
        try:
            language.write_embeddings(self.path, encoder, self.instructions, vectors)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror} while writing embeddings") from error

    def read_embeddings(self, encoder: str) -> dict[str, Array]:
        """Return sentence -> vector f32 [D]."""
        return language.read_embeddings(self.path, encoder)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders whose vectors are kept here."""
        return language.encoders(self.path)

    def _load(self) -> None:
        """Read from disk what is committed."""
        meta = read_meta(self.path)
        self.attrs = meta.get("attributes", {})
        if self.attrs.get("format") != FORMAT:
            raise ValueError(f"{self.path}: format is {self.attrs.get('format')!r}, not {FORMAT}")
        if self.attrs.get("version") != VERSION:
            raise ValueError(
                f"{self.path}: version {self.attrs.get('version')} of the format, this program "
                f"reads {VERSION}; install the telic that wrote it"
            )
        self.fields = {k: ArraySpec.from_json(v) for k, v in self.attrs["fields"].items()}
        self.rate_hz = float(self.attrs["rate_hz"])
        self._ends = RowArray(self.path / "meta/episode_ends")
        self.episode_ends = self._ends.read(0, len(self._ends))
        self._data = {name: RowArray(self.path / "data" / name) for name in self.fields}
        self._summaries = {name: RowArray(self.path / "meta/stats" / name) for name in self.fields}
        self._language = Language(self.path, self.num_steps)
        self._require_whole()
        self._torn = False

    def _require_whole(self) -> None:
        """Raise ValueError if the arrays do not hold what `episode_ends` promises."""
        for name, spec in self.fields.items():
            array = self._data[name]
            got = (array.row_shape, array.dtype)
            if got != (_row_shape(spec), np.dtype(spec.dtype)):
                raise ValueError(
                    f"{array.path}: rows are {got[1]} {got[0]}, the store's attributes say "
                    f"{spec.dtype} {spec.shape}"
                )
            for held, needed in (
                (array, self.num_steps),
                (self._summaries[name], self.num_episodes),
            ):
                if len(held) < needed:
                    raise ValueError(
                        f"{held.path}: has {len(held)} rows, meta/episode_ends needs {needed}; "
                        "the store is damaged"
                    )

    def _cut(self) -> None:
        """Drop from the disk what lies beyond the last committed episode."""
        for arrays, rows in ((self._data, self.num_steps), (self._summaries, self.num_episodes)):
            for array in arrays.values():
                array.resize(rows)
                array.drop_files_beyond_end()
        self._language.cut()
        self._ends.drop_files_beyond_end()

    def _refused(self, error: OSError, index: int) -> ValueError:
        """Return what to tell the user when the disk refused episode `index`."""
        return ValueError(
            f"{self.path}: {error.strerror} while writing episode {index}; the {index} episodes "
            f"({self.num_steps} steps) before it are kept; make room and append again"
        )

    def _require_writable(self) -> None:
        if self.mode != "a":
            raise ValueError(f"{self.path}: open for reading; open it with mode 'a' to write")
        if self._torn:  # an append failed or was interrupted in this process
            self._load()
            self._cut()

    def _require_field(self, name: str) -> None:
        if name not in self.fields:
            raise ValueError(
                f"{self.path}: no field {name!r}, only {', '.join(self.fields)}"
                f"{near_misses(name, self.fields)}"
            )


def _row_shape(spec: ArraySpec) -> tuple[int, ...]:
    return tuple(int(n or 0) for n in spec.shape)


def _chunk_rows(spec: ArraySpec) -> int:
    """Return how many steps share a file: of no weight to our reader, which fetches single rows,
    but what other zarr readers load at once."""
    row = max(int(np.prod(_row_shape(spec))) * np.dtype(spec.dtype).itemsize, 1)
    target = IMAGE_CHUNK_BYTES if statistics.is_image(spec) else VECTOR_CHUNK_BYTES
    return int(np.clip(target // row, 1, 8192))
