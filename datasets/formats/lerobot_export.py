"""A store to a LeRobotDataset, v3.0 or v2.1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets import layout as store_layout
from telic.datasets import statistics
from telic.datasets.formats import lerobot_layout as layout
from telic.datasets.formats import lerobot_stats
from telic.datasets.formats.converter import optional
from telic.datasets.formats.lerobot_own import write_own
from telic.datasets.formats.lerobot_writers import DataFiles, VideoFiles, write_metadata
from telic.datasets.formats.progress import tracked
from telic.datasets.store import Episode, EpisodeStore
from telic.replacement import Replacement
from telic.spec import Array


class Pictures(Enum):
    """How pictures are kept."""

    av1 = "av1"  # mp4, as LeRobot writes it
    h264 = "h264"  # mp4, quicker to write and read, larger
    png = "png"  # in the parquet files, lossless


@dataclass(kw_only=True, slots=True)
class LeRobotExportOptions:
    """How a store becomes a LeRobotDataset."""

    version: str = "v3.0"  # or v2.1
    pictures: Pictures = Pictures.av1
    crf: int | None = None  # of videos: 0 is nearly lossless; None: 30 (AV1, LeRobot's), 23 (H.264)

    def __post_init__(self) -> None:
        if self.version not in ("v3.0", "v2.1"):
            raise ValueError(f"--lerobot-version is {self.version}, expected v3.0 or v2.1")
        most, usual = (51, 23) if self.pictures is Pictures.h264 else (63, 30)
        self.crf = usual if self.crf is None else self.crf
        if not 0 <= self.crf <= most:
            raise ValueError(f"--lerobot-crf is {self.crf}, expected 0 to {most}")


def export_lerobot(
    source: Path, target: Path, options: LeRobotExportOptions, overwrite: bool = False
) -> int:
    """Write the store at `source` to a data set and return the number of episodes."""
    optional("pyarrow", "lerobot")
    store = EpisodeStore.open(source)
    if not store.num_episodes:
        raise ValueError(f"{source}: has no episodes to export")
    if abs(store.rate_hz - round(store.rate_hz)) > 1e-6:
        raise ValueError(
            f"{source}: has {store.rate_hz:g} steps a second, LeRobot keeps whole numbers of them; "
            "bring it to another rate first"
        )
    replacement = Replacement(
        target, layout.LEROBOT, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    replacement.require()
    fields = _carried(store)
    with replacement.writing() as root:
        _Export(store, root, options, fields).write(target.name)
    return store.num_episodes


def _carried(store: EpisodeStore) -> list[str]:
    """The fields that a LeRobotDataset has room for; a warning names the others."""
    kept = []
    for name, spec in store.fields.items():
        picture = name.startswith("image/") and statistics.is_image(spec)
        if picture or (len(spec.shape) <= 1 and not name.startswith("image/")):
            kept.append(name)
    if left := [name for name in store.fields if name not in kept]:
        warnings.warn(f"{store.path}: not carried: {', '.join(left)}", stacklevel=2)
    keys = [layout.key_of(name) for name in kept]
    taken = [key for key in keys if key in layout.INDEX_FEATURES or keys.count(key) > 1]
    if taken:
        raise ValueError(f"{store.path}: a field would become the feature {taken[0]}, which is")
    return kept


class _Export:
    """Writes one data set, an episode at a time."""

    def __init__(
        self, store: EpisodeStore, root: Path, options: LeRobotExportOptions, fields: Sequence[str]
    ) -> None:
        self.store, self.root, self.options, self.fields = store, root, options, fields
        self.v3 = options.version == "v3.0"
        self.fps = round(store.rate_hz)
        self.cameras = [n for n in fields if n.startswith("image/")]
        self.in_video = options.pictures is not Pictures.png
        self.tasks: dict[str, int] = {}
        self.features = self._features()
        self.data = DataFiles(root, self.features, self.v3)
        self.videos = {
            name: VideoFiles(
                root,
                layout.key_of(name),
                self.v3,
                (options.pictures.value, options.crf or 0, Fraction(self.fps)),
                store_layout.row_shape(store.fields[name])[:2],
            )
            for name in (self.cameras if self.in_video else [])
        }

    def write(self, label: str) -> None:
        """Write data, videos and metadata."""
        rows = []
        try:
            for index in tracked(0, self.store.num_episodes, label):
                rows.append(self._episode(self.store.episode(index)))
        finally:
            self.data.close()
            for video in self.videos.values():
                video.close()
        write_metadata(self.root, self._info(), self.tasks, rows, self._stats(), self.v3)
        write_own(self.root, self.store, self.fields)

    def _episode(self, episode: Episode) -> dict[str, Any]:
        """Write an episode and return its row of the metadata."""
        length, index = len(episode), episode.index
        task_index = self._tasks_of(episode)
        step = np.arange(length)
        columns: dict[str, Array] = {
            "timestamp": (step / self.fps).astype(np.float32),
            "frame_index": step,
            "episode_index": np.full(length, index),
            "index": step + episode.start,
            "task_index": task_index,
        }
        stats = {key: lerobot_stats.of_rows(rows) for key, rows in columns.items()}
        row: dict[str, Any] = {"episode_index": index, "length": length}
        sentences = {number: sentence for sentence, number in self.tasks.items()}
        row["tasks"] = [sentences[n] for n in dict.fromkeys(task_index.tolist())]
        row |= {"dataset_from_index": episode.start, "dataset_to_index": episode.stop}
        for name in self.fields:
            key, rows = layout.key_of(name), episode[name]
            stats[key] = lerobot_stats.of_episode(self.store, name, index, rows)
            if name in self.videos:
                row |= self.videos[name].append(index, rows)
            else:
                columns[key] = rows
        row |= self.data.append(index, columns)
        return {**row, "stats": stats}

    def _tasks_of(self, episode: Episode) -> Array:
        """task_index of each step: the first segment that covers it, "" where none does."""
        steps: list[str] = [""] * len(episode)
        for segment in reversed(episode.segments):
            steps[segment.start : segment.end] = [segment.instruction] * (
                segment.end - segment.start
            )
        return np.array([self.tasks.setdefault(s, len(self.tasks)) for s in steps], np.int64)

    def _features(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for name in self.fields:
            spec = self.store.fields[name]
            shape = list(store_layout.row_shape(spec)) or [1]
            feature: dict[str, Any] = {"dtype": spec.dtype, "shape": shape}
            feature["names"] = list(spec.names) or None
            if name in self.cameras:
                feature["dtype"] = "video" if self.in_video else "image"
                feature["names"] = ["height", "width", "channels"]
                if self.in_video:
                    feature["info"] = self._video_info(shape)
            features[layout.key_of(name)] = feature
        for key in layout.INDEX_FEATURES:
            dtype = "float32" if key == "timestamp" else "int64"
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
        return features

    def _video_info(self, shape: Sequence[int]) -> dict[str, Any]:
        return {
            "video.height": shape[0],
            "video.width": shape[1],
            "video.codec": self.options.pictures.value,
            "video.pix_fmt": "yuv420p",
            "video.fps": self.fps,
            "video.channels": 3,
            "video.is_depth_map": False,
            "has_audio": False,
        }

    def _info(self) -> dict[str, Any]:
        count = self.store.num_episodes
        info: dict[str, Any] = {
            "codebase_version": self.options.version,
            "robot_type": str(self.store.attrs.get("robot", "")) or None,
            "total_episodes": count,
            "total_frames": self.store.num_steps,
            "total_tasks": len(self.tasks),
            "chunks_size": layout.CHUNK,
            "fps": self.fps,
            "splits": {"train": f"0:{count}"},
            "data_path": layout.DATA_PATH[self.v3],
            "video_path": layout.VIDEO_PATH[self.v3] if self.videos else None,
            "features": self.features,
        }
        if self.v3:
            sizes = {"data_files_size_in_mb": layout.DATA_MB}
            return {**info, **sizes, "video_files_size_in_mb": layout.VIDEO_MB}
        chunks = (count - 1) // layout.CHUNK + 1
        return {**info, "total_videos": count * len(self.videos), "total_chunks": chunks}

    def _stats(self) -> Mapping[str, Any]:
        found = {layout.key_of(n): lerobot_stats.of_all(self.store, n) for n in self.fields}
        ends = self.store.episode_ends
        starts = np.concatenate([[0], ends[:-1]])
        frame_index = np.arange(self.store.num_steps) - np.repeat(starts, ends - starts)
        found["frame_index"] = lerobot_stats.of_rows(frame_index)
        found["timestamp"] = lerobot_stats.of_rows((frame_index / self.fps).astype(np.float32))
        found["index"] = lerobot_stats.of_rows(np.arange(self.store.num_steps))
        episode_index = np.repeat(np.arange(len(ends)), ends - starts)
        found["episode_index"] = lerobot_stats.of_rows(episode_index)
        found["task_index"] = lerobot_stats.of_rows(np.concatenate(self.data.task_indices))
        return found
