"""Features of a store's pictures, beside the store: what a frozen tower answers, kept in fp16.

    NAME.zarr.features/<camera>-<tower>-<digest of the key>   f16 [T K, ...], attributes: below

Row t K + k is what the tower answers to crop k of step t; crop 0 is the picture itself. The array's
attributes hold the key (what the features are a function of, besides the pictures), the number of
episodes and a digest of them. Rows and attributes move in one atomic step, once an episode: that is
the commit, and whoever was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from telic.datasets.array_metadata import NODE_FILES
from telic.datasets.arrays import RowArray, create_rows
from telic.datasets.layout import IMAGE_CHUNK_BYTES
from telic.datasets.lock import WriterLock
from telic.datasets.store import EpisodeStore
from telic.replacement import Kind, Replacement
from telic.spec import Array

FORMAT, VERSION = "telic-features", 1
_NAME_DIGITS = 12  # of the key's digest, in a folder's name


def _is_features(path: Path) -> bool:
    """Whether features stand at `path`."""
    try:
        array = RowArray(path)
    except ValueError:
        return False
    return not len(array) or array.attributes.get("format") == FORMAT


FEATURES = Kind("features of a store", _is_features, files=NODE_FILES)


def features_folder(store: Path, key: Mapping[str, Any]) -> Path:
    """Where the features of a key stand; it has `camera` and `tower`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    tower = "".join(c if c.isalnum() or c in "_." else "_" for c in Path(str(key["tower"])).name)
    folder = store.with_name(f"{store.name}.features")
    return folder / f"{key['camera']}-{tower}-{digest[:_NAME_DIGITS]}"


def episode_digests(store: EpisodeStore) -> list[str]:
    """A digest of the first n episodes for each n from 0 on, by their lengths and statistics.

    It reads no step: pictures count by the histograms of `meta/stats`.
    """
    tables = [
        np.ascontiguousarray(store.summaries(name)).reshape(store.num_episodes, -1)
        for name in sorted(store.fields)
    ]
    digests = [""]
    for episode, end in enumerate(store.episode_ends.tolist()):
        digest = hashlib.sha256(f"{digests[-1]} {end}".encode())
        for table in tables:
            digest.update(table[episode].tobytes())
        digests.append(digest.hexdigest()[:32])
    return digests


class FeatureWriter:
    """Appends the features of a store's episodes, in order; holds their folder against others.

    episodes: how many are there, of a writer that was killed too.
    """

    def __init__(
        self,
        store: EpisodeStore,
        key: Mapping[str, Any],
        row_shape: Sequence[int],
        overwrite: bool = False,
    ) -> None:
        """key: JSON data with `camera`, `tower` and `crops`; row_shape: of one feature.

        ValueError where features of this key are of another state of the store, unless they are to
        be written anew.
        """
        self._store, self._key = store, dict(key)
        path = features_folder(store.path, key)
        if overwrite:
            Replacement(path, FEATURES, overwrite=True, by="--overwrite").remove()
        self._digests = episode_digests(store)
        path.parent.mkdir(exist_ok=True)
        if not (path.parent / "zarr.json").exists():
            zarr.create_group(path.parent)
        if not (path / "zarr.json").exists():
            size = int(np.prod(row_shape)) * np.dtype(np.float16).itemsize
            rows = int(np.clip(IMAGE_CHUNK_BYTES // size, 1, 8192))
            create_rows(path.parent, path.name, row_shape, "float16", rows)
        self._lock = WriterLock(path, "folder of features")
        self._array = RowArray(path)
        self.episodes = _episodes_of(self._array)
        self._require_beginning(tuple(row_shape))
        self._array.cut(len(self._array))

    @property
    def path(self) -> Path:
        """Where the features stand."""
        return self._array.path

    def append(self, rows: Array) -> None:
        """Write the features [T K ...] of the next episode; ValueError where they do not fit."""
        ends = self._store.episode_ends
        first = int(ends[self.episodes - 1]) if self.episodes else 0
        steps, crops = int(ends[self.episodes]) - first, int(self._key["crops"])
        expected = (steps, crops, *self._array.row_shape)
        if rows.shape != expected:
            raise ValueError(f"{self.path}: features are {rows.shape}, expected {expected}")
        with np.errstate(over="ignore"):  # reported below
            halves = rows.astype(np.float16)
        if not np.isfinite(halves).all():
            raise ValueError(
                f"{self.path}: episode {self.episodes} has features that fp16 cannot hold; this "
                "tower cannot be kept so"
            )
        about = {
            "format": FORMAT,
            "version": VERSION,
            "key": self._key,
            "episodes": self.episodes + 1,
            "content": self._digests[self.episodes + 1],
        }
        try:
            self._array.write(first * crops, halves.reshape(-1, *self._array.row_shape))
            self._array.resize((first + steps) * crops, about)
        except OSError as error:
            raise ValueError(
                f"{self.path}: {error.strerror or error} while writing episode {self.episodes}; "
                "those before it are kept: make room and run the command again"
            ) from error
        self.episodes += 1

    def close(self) -> None:
        """Let others write."""
        self._lock.release()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_beginning(self, row_shape: tuple[int, ...]) -> None:
        """Raise ValueError unless what is there is the beginning of what is to be written."""
        if not self.episodes:
            self._array.resize(0)
        digest = self._array.attributes.get("content") if self.episodes else ""
        same = self.episodes <= self._store.num_episodes and digest == self._digests[self.episodes]
        if not same or self._array.row_shape != row_shape:
            self.close()
            raise ValueError(
                f"{self.path}: is of another state of {self._store.path}; --overwrite makes it anew"
            )


class FeatureRows:
    """The features of all steps of a store, for reading. crops: K of them a step."""

    def __init__(self, store: EpisodeStore, key: Mapping[str, Any]) -> None:
        """ValueError where there are none of this key, or not of the store as it is now."""
        path = features_folder(store.path, key)
        if not (path / "zarr.json").is_file():
            raise ValueError(f"{path}: no features there")
        self._array = RowArray(path)
        self.crops = int(key["crops"])
        episodes = _episodes_of(self._array)
        if episodes < store.num_episodes:
            raise ValueError(
                f"{path}: has the features of {episodes} episodes, {store.path} has "
                f"{store.num_episodes}; run demo-store features again, which adds the others"
            )
        about = self._array.attributes
        digest = episode_digests(store)[-1]
        whole = len(self._array) == store.num_steps * self.crops
        if about.get("key") != dict(key) or about.get("content") != digest or not whole:
            raise ValueError(
                f"{path}: is of another state of {store.path}; demo-store features --overwrite "
                "makes it anew"
            )
        if lost := self._array.missing_rows():
            raise ValueError(f"{lost[0][1]}; demo-store features --overwrite makes it anew")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one feature."""
        return self._array.row_shape

    def gather(self, steps: Array, crop: Array) -> Array:
        """The features of steps [B ...] at the crop of each row [B], f16 [B ... *row_shape]."""
        own = crop.reshape(-1, *(1,) * (steps.ndim - 1))
        rows = self._array.gather((steps * self.crops + own).reshape(-1))
        return rows.reshape(*steps.shape, *self._array.row_shape)


def known_keys(store: Path, camera: str) -> list[dict[str, Any]]:
    """The keys of the features that there are of a camera of a store."""
    found = []
    for meta in sorted(store.with_name(f"{store.name}.features").glob("*/zarr.json")):
        try:
            key = RowArray(meta.parent).attributes.get("key")
        except ValueError:  # of a damaged folder, which is none to choose
            continue
        if isinstance(key, dict) and key.get("camera") == camera:
            found.append(key)
    return found


def _episodes_of(array: RowArray) -> int:
    """How many episodes' features are committed; ValueError for an array of something else."""
    about = array.attributes
    if not about and not len(array):
        return 0
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise ValueError(
            f"{array.path}: format {about.get('format')!r}, version {about.get('version')!r}, "
            f"expected {FORMAT} {VERSION}; demo-store features --overwrite makes it anew"
        )
    episodes = about.get("episodes")
    if type(episodes) is not int or episodes < 0:
        raise ValueError(f"{array.path}: episodes is {episodes!r:.40}; make it anew")
    return episodes
