"""A LeRobotDataset, v2.0 to v3.0, to a store."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.formats import lerobot_layout as layout
from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.into_store import (
    NOMINAL,
    EpisodeData,
    Recordings,
    joined,
    nominal_stamps,
    require_writable,
    spoken,
    write_store,
)
from telic.datasets.formats.lerobot_own import OwnNotes
from telic.datasets.formats.lerobot_places import episode_places, read_tasks
from telic.datasets.formats.lerobot_tables import ParquetTables, numeric_column, pictures
from telic.datasets.formats.video import VideoReader
from telic.datasets.store import Segment
from telic.spec import Array, ArraySpec, near_misses

_NOMINAL_S = 1e-3  # how far LeRobot's float32 times may be from step / fps to be nominal


def import_lerobot(
    source: Path, target: Path, options: ImportOptions, overwrite: bool = False
) -> int:
    """Write the data set at `source` to a store and return the number of episodes."""
    require_writable(source, target, overwrite)
    dataset = LeRobotReader(source, options)
    return write_store(dataset.recordings(), source, target, options, overwrite)


class LeRobotReader:
    """Reads a LeRobotDataset episode by episode."""

    def __init__(self, root: Path, options: ImportOptions) -> None:
        self.root, self.options = root, options
        self.info = layout.read_info(root)
        self.fps = float(self.info["fps"])
        self.tasks = read_tasks(root)
        self.places = episode_places(root, self.info)
        self._tables, self._videos = ParquetTables(), VideoReader()
        features = self.info["features"]
        for key in ("timestamp", "episode_index"):
            if features.get(key, {}).get("shape") != [1]:
                raise ValueError(f"{root}/meta/info.json: feature {key} of shape [1] is missing")
        self._joined = {
            "state": list(options.state_keys or ["observation.state"]),
            "action": list(options.action_keys or ["action"]),
        }
        if not options.state_keys and "observation.state" not in features:
            self._joined["state"] = []
        for keys in self._joined.values():
            for key in keys:
                self._require_vector(key)
        used = [key for keys in self._joined.values() for key in keys]
        others = [k for k in features if k not in (*used, *layout.INDEX_FEATURES)]
        self.cameras = {layout.field_of(k): k for k in others if self._is_camera(k)}
        self.others = {layout.field_of(k): k for k in others if self._is_numeric(k)}
        kept = {*self.cameras.values(), *self.others.values()}
        if left := [key for key in others if key not in kept]:
            warnings.warn(f"{root}: not carried: {', '.join(left)}", stacklevel=2)
        self.own = OwnNotes.read(root, [place.length for place in self.places])

    def recordings(self) -> Recordings:
        """What a store of the data set holds."""
        about = {
            "robot": str(self.info.get("robot_type") or ""),
            "source": f"LeRobotDataset {self.info['codebase_version']} {self.root.name}",
            **self.own.about,
        }
        files = [self.root / "meta/info.json", *{place.data: None for place in self.places}]
        return Recordings(
            fields=self.own.specs(self._fields()),
            rate_hz=self.fps,
            num_episodes=len(self.places),
            read=self.read,
            files=files,
            about=about,
        )

    def read(self, index: int) -> EpisodeData:
        """All fields of an episode, [T ...] each, and its segments."""
        place = self.places[index]
        where = f"{place.data} episode {place.index}"
        numeric = [key for keys in self._joined.values() for key in keys]
        numeric += [*self.others.values(), *self._index_columns()]
        stored = [k for k in self.cameras.values() if self._feature(k)["dtype"] == "image"]
        table = self._tables.rows(place, [*numeric, *stored])
        data = {
            key: numeric_column(where, table, key, self._feature(key)["shape"]) for key in numeric
        }
        self._require_indices(where, place.index, data)
        episode = {n: joined(where, data, keys) for n, keys in self._joined.items() if keys}
        for field, key in self.others.items():
            rows = data[key][:, 0] if self._feature(key)["shape"] == [1] else data[key]
            episode[field] = rows.astype(np.float32) if rows.dtype.kind == "f" else rows
        episode.setdefault("timestamp_ns", self._stamps(data["timestamp"][:, 0]))
        for field, key in self.cameras.items():
            size = layout.picture_axes(f"{self.root}: {key}", self._feature(key))
            if key in stored:
                episode[field] = pictures(where, table, key, *size)
            else:
                path, start_s = place.videos[key]
                episode[field] = self._videos.frames(path, start_s, place.length, self.fps, size)
        own = self.own.segments.get(index)
        segments = own if own is not None else self._segments(data)
        return self.own.shaped(episode), segments

    def _index_columns(self) -> list[str]:
        wanted = ("timestamp", "episode_index", "frame_index", "task_index")
        return [key for key in wanted if key in self.info["features"]]

    def _require_indices(self, where: str, index: int, data: Mapping[str, Array]) -> None:
        """Raise ValueError unless each row is of this episode, after the one before, of a task."""
        indices = {key: data[key].reshape(-1) for key in layout.INDEX_FEATURES if key in data}
        others = np.flatnonzero(indices["episode_index"] != index)
        if others.size:
            step = others[0]
            raise ValueError(
                f"{where} step {step}: its episode_index is {indices['episode_index'][step]}; is "
                "the length in meta/episodes right?"
            )
        if "frame_index" in indices:
            frames = indices["frame_index"].astype(np.float64)
            odd = np.flatnonzero(frames != frames[0] + np.arange(len(frames)))
            if odd.size:
                raise ValueError(
                    f"{where} step {odd[0]}: its frame_index is {frames[odd[0]]:g} after "
                    f"{frames[odd[0] - 1]:g}, expected one more"
                )
        for number in np.unique(indices.get("task_index", np.empty(0))):
            if number not in self.tasks:
                step = np.flatnonzero(indices["task_index"] == number)[0]
                raise ValueError(f"{where} step {step}: task_index {number} is not in meta/tasks")

    def _segments(self, data: Mapping[str, Array]) -> list[Segment]:
        """A segment for each run of steps with one task; steps of the empty task have none."""
        if "task_index" not in data:
            return spoken(self.options, len(data["timestamp"]))
        tasks = data["task_index"][:, 0]
        return list(self._runs(tasks)) or spoken(self.options, len(tasks))

    def _runs(self, tasks: Array) -> Iterator[Segment]:
        starts = np.flatnonzero(np.diff(tasks, prepend=tasks[0] - 1))
        for start, end in zip(starts, [*starts[1:], len(tasks)], strict=True):
            if sentence := self.tasks[int(tasks[start])].strip():
                yield Segment(
                    start=int(start), end=int(end), instruction=sentence, task=self.options.task
                )

    def _stamps(self, times_s: Array) -> Array:
        """Nanoseconds since the episode began: step / fps to the digit where times are that."""
        nominal = nominal_stamps(len(times_s), self.fps)
        seconds = times_s.astype(np.float64)
        if np.abs(seconds - nominal * 1e-9).max() <= _NOMINAL_S:
            return nominal
        if not np.isfinite(seconds).all():
            raise ValueError(f"{self.root}: a timestamp is not finite")
        return np.round(seconds * 1e9).astype(np.int64)

    def _fields(self) -> dict[str, ArraySpec]:
        fields = {}
        for name, keys in self._joined.items():
            if not keys:
                continue
            size = sum(math.prod(self._feature(key)["shape"]) for key in keys)
            names = tuple(n for key in keys for n in layout.entry_names(self._feature(key)))
            whole = names if len(names) == size and len(set(names)) == size else ()
            fields[name] = ArraySpec(shape=(size,), names=whole)
        for field, key in self.others.items():
            feature = self._feature(key)
            shape = () if feature["shape"] == [1] else tuple(feature["shape"])
            dtype = "float32" if feature["dtype"].startswith("float") else feature["dtype"]
            fields[field] = ArraySpec(shape=shape, dtype=dtype)
        for field, key in self.cameras.items():
            size = layout.picture_axes(f"{self.root}: {key}", self._feature(key))
            fields[field] = ArraySpec(shape=(*size, 3), dtype="uint8")
        fields.setdefault("timestamp_ns", NOMINAL)
        return fields

    def _feature(self, key: str) -> Any:
        return self.info["features"][key]

    def _is_camera(self, key: str) -> bool:
        feature = self._feature(key)
        if feature["dtype"] not in ("image", "video"):
            return False
        info = feature.get("info") or {}
        return not (info.get("is_depth_map") or info.get("video.is_depth_map"))

    def _is_numeric(self, key: str) -> bool:
        try:
            return np.dtype(self._feature(key)["dtype"]).kind in "biuf"
        except TypeError:
            return False

    def _require_vector(self, key: str) -> None:
        known = [k for k in self.info["features"] if k not in layout.INDEX_FEATURES]
        if key not in known or not self._is_numeric(key):
            vectors = [k for k in known if self._is_numeric(k)]
            raise ValueError(
                f"{self.root}: has no numbers {key!r}, only {', '.join(vectors) or 'none'}"
                f"{near_misses(key, vectors)}"
            )
