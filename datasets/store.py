"""Episodes of a robot on disk: arrays of all steps end to end, and where each episode ends.

An append writes everything beyond the ends of the arrays and then lengthens `meta/episode_ends`
in one atomic step. Killed before that step, the episode is not there: reading ignores what lies
beyond the last end, and the next writer cuts it off, once `commit` has shown that it is what a
kill leaves. (Power loss is another matter: nothing is fsynced.) `layout` says where what lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from telic.datasets import commit, language, layout, statistics
from telic.datasets.array_metadata import PARTIAL
from telic.datasets.checks import check_episode, check_fields
from telic.datasets.language import Segment
from telic.datasets.lock import WriterLock
from telic.datasets.store_reader import Episode, StoreReader
from telic.replacement import Replacement
from telic.spec import Array, ArraySpec

__all__ = ["Episode", "EpisodeStore", "Segment"]


class EpisodeStore(StoreReader):
    """An episode store on disk. Make one with `create` or `open`."""

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
        layout.require_there(path)
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

    def append(
        self,
        data: Mapping[str, Array],
        segments: Sequence[Segment] = (),
        *,
        where: str | None = None,
    ) -> int:
        """Write an episode, all fields [T ...], and return its index.

        ValueError if it does not conform (nothing is written then; `where` it came from is named,
        or else the store) or if the disk refuses (the episodes before it are kept).
        """
        self._require_writable()
        index, first = self.num_episodes, self.num_steps
        where = where or f"{self.path} episode {index}"
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
