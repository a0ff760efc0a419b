"""CALVIN's folders to a store: one npz a frame, and the sentences of windows of frames.

    training/episode_0000000.npz             rgb_static, rgb_gripper, robot_obs, rel_actions ...
    training/ep_start_end_ids.npy            (E, 2) frames, both ends inclusive
    training/lang_annotations/auto_lang_ann.npy   a pickled dictionary, read without running code

What state and action mean is what CALVIN's documentation says. Depth, tactile pictures and the
vectors of sentences are not carried.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.formats.converter import ImportOptions, importer
from telic.datasets.formats.into_store import (
    NOMINAL,
    EpisodeData,
    Recordings,
    joined,
    nominal_stamps,
    pixel_buffer,
    require_writable,
    spoken,
    write_store,
)
from telic.datasets.formats.numpy_files import load_npy, load_npz, load_object
from telic.datasets.store import Segment
from telic.spec import Array, ArraySpec

RATE_HZ = 30.0
ENDS = "ep_start_end_ids.npy"
LANGUAGE = "lang_annotations/auto_lang_ann.npy"
_POSE = tuple(f"tcp_{axis}" for axis in ("x", "y", "z", "roll", "pitch", "yaw"))
_ARM = tuple(f"arm_joint_{i}_pos" for i in range(1, 8))
_MEANING: dict[str, Any] = {
    "rotation": "euler_xyz_fixed",
    "gripper": "positive_opens",
    "frame": "world",
}
SPECS = {
    "robot_obs": ArraySpec(
        shape=(15,),
        names=(*_POSE, "gripper_width", *_ARM, "gripper_action"),
        unit="m; rad; gripper_action -1 or 1; lights 0 or 1",  # as of robot_obs and scene_obs
        **_MEANING,
    ),
    "rel_actions": ArraySpec(
        shape=(7,),
        minimum=(-1.0,),
        maximum=(1.0,),
        names=("tcp_dx", "tcp_dy", "tcp_dz", "tcp_droll", "tcp_dpitch", "tcp_dyaw", "gripper"),
        unit="0.02 m; 0.05 rad; gripper 1",
        note="change of the target pose in a step; gripper: above 0 opens, else closes",
        **_MEANING,
    ),
    "actions": ArraySpec(
        shape=(7,), names=(*_POSE, "gripper"), unit="m; rad; gripper -1 or 1", **_MEANING
    ),
}
CAMERAS = {"image/static": "rgb_static", "image/gripper": "rgb_gripper"}


def is_calvin(path: Path) -> bool:
    """Return whether a split of CALVIN stands at `path`, or a folder of its splits."""
    return any((path / part / ENDS).is_file() for part in (".", "training", "validation"))


def import_calvin(
    source: Path, target: Path, options: ImportOptions, overwrite: bool = False
) -> int:
    """Write one split of CALVIN to a store and return the number of episodes."""
    require_writable(source, target, overwrite)
    return write_store(_Split(source, options).recordings(), source, target, options, overwrite)


class _Split:
    """Reads a split episode by episode."""

    def __init__(self, root: Path, options: ImportOptions) -> None:
        if not (root / ENDS).is_file():
            splits = [p.parent.name for p in sorted(root.glob(f"*/{ENDS}"))]
            raise ValueError(f"{root}: holds the splits {', '.join(splits)}; give one of them")
        self.root, self.options = root, options
        self.ends = self._read_ends()
        self.language = self._read_language()
        self.keys = {
            "state": list(options.state_keys or ["robot_obs"]),
            "action": list(options.action_keys or ["rel_actions"]),
        }
        first = self._frame(int(self.ends[0, 0]))
        joined_keys = [key for keys in self.keys.values() for key in keys]
        for key in joined_keys:
            joined(str(root), {k: v[None] for k, v in first.items()}, [key])
        self.cameras = {name: key for name, key in CAMERAS.items() if key in first}
        self.others = [k for k in ("scene_obs",) if k in first and k not in joined_keys]
        self.first = first
        known = {*joined_keys, *self.cameras.values(), *self.others, "actions", "rel_actions"}
        if left := sorted(set(first) - known):
            warnings.warn(f"{root}: not carried: {', '.join(left)}", stacklevel=2)

    def recordings(self) -> Recordings:
        """What a store of the split holds."""
        fields = {name: self._joined_spec(keys) for name, keys in self.keys.items()}
        for name, key in self.cameras.items():
            fields[name] = ArraySpec(shape=self.first[key].shape, dtype=str(self.first[key].dtype))
        fields |= {key: ArraySpec(shape=self.first[key].shape) for key in self.others}
        fields["timestamp_ns"] = NOMINAL
        return Recordings(
            fields=fields,
            rate_hz=self.options.rate_hz or RATE_HZ,
            num_episodes=len(self.ends),
            read=self.read,
            files=[self.root / ENDS, self.root / LANGUAGE],
            about={
                "robot": "panda",
                "task_family": "calvin",
                "source": f"CALVIN {self.root.resolve().parent.name}/{self.root.resolve().name}",
            },
        )

    def read(self, index: int) -> EpisodeData:
        """All fields of an episode, frame by frame, and the sentences that lie in it."""
        start, stop = int(self.ends[index, 0]), int(self.ends[index, 1]) + 1
        steps = stop - start
        pixels = {
            name: pixel_buffer(f"{self.root}: {key}", (steps, *self.first[key].shape))
            for name, key in self.cameras.items()
        }
        wanted = [key for keys in self.keys.values() for key in keys] + self.others
        rows: dict[str, list[Array]] = {key: [] for key in wanted}
        for step in range(steps):
            frame = self._frame(start + step)
            for key in (*wanted, *self.cameras.values()):
                self._require_alike(start + step, key, frame)
            for key in wanted:
                rows[key].append(frame[key])
            for name, key in self.cameras.items():
                pixels[name][step] = frame[key]
        where = f"{self.root} episode {index}"
        stacked = {key: np.stack(found) for key, found in rows.items()}
        episode = {name: joined(where, stacked, keys) for name, keys in self.keys.items()}
        episode |= {key: stacked[key].astype(np.float32) for key in self.others}
        episode["timestamp_ns"] = nominal_stamps(steps, self.options.rate_hz or RATE_HZ)
        return {**episode, **pixels}, self._segments(start, stop) or spoken(self.options, steps)

    def _joined_spec(self, keys: list[str]) -> ArraySpec:
        if (
            len(keys) == 1
            and keys[0] in SPECS
            and SPECS[keys[0]].shape == self.first[keys[0]].shape
        ):
            return SPECS[keys[0]]
        names = tuple(f"{key}.{i}" for key in keys for i in range(self.first[key].size))
        return ArraySpec(shape=(len(names),), names=names)

    def _frame(self, number: int) -> Mapping[str, Array]:
        return load_npz(self.root / f"episode_{number:07d}.npz")

    def _require_alike(self, number: int, key: str, frame: Mapping[str, Array]) -> None:
        first = self.first[key]
        if key not in frame:
            raise ValueError(f"{self.root}/episode_{number:07d}.npz: has no {key}, others have")
        if (frame[key].shape, frame[key].dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"{self.root}/episode_{number:07d}.npz: {key} is {frame[key].dtype} "
                f"{frame[key].shape}, expected {first.dtype} {first.shape}"
            )

    def _read_ends(self) -> Array:
        path = self.root / ENDS
        ends = load_npy(path)
        if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu" or not len(ends):
            raise ValueError(f"{path}: is {ends.dtype} {ends.shape}, expected whole numbers (E, 2)")
        if (ends[:, 0] > ends[:, 1]).any() or (ends < 0).any():
            raise ValueError(f"{path}: an episode ends before it begins")
        return ends[np.argsort(ends[:, 0], kind="stable")]

    def _read_language(self) -> list[tuple[int, int, str, str]]:
        """(first frame, last frame, sentence, task) of each annotation, in order."""
        path = self.root / LANGUAGE
        if not path.is_file():
            return []
        found = load_object(path)
        try:
            language, windows = found["language"], found["info"]["indx"]
            rows = zip(*map(_entries, (language["ann"], language["task"], windows)), strict=True)
            listed = [_annotation(path, *row) for row in rows]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if str(error).startswith(str(path)):
                raise
            raise ValueError(
                f"{path}: has not language.ann, language.task and info.indx of one length"
            ) from error
        for first, last, sentence, _ in listed:
            if not ((self.ends[:, 0] <= first) & (last <= self.ends[:, 1])).any():
                raise ValueError(
                    f"{path}: frames {first} to {last}, {sentence!r:.40}, lie in no episode of "
                    f"{ENDS}; give the whole split"
                )
        return sorted(listed)

    def _segments(self, start: int, stop: int) -> list[Segment]:
        return [
            Segment(start=first - start, end=last + 1 - start, instruction=sentence, task=task)
            for first, last, sentence, task in self.language
            if start <= first and last < stop
        ]


def _entries(listed: Any) -> list[Any]:
    if not isinstance(listed, list | tuple | np.ndarray):
        raise TypeError(f"{listed!r:.40} is no list")
    return list(listed)


def _annotation(path: Path, sentence: Any, task: Any, window: Any) -> tuple[int, int, str, str]:
    """First frame, last frame, sentence and task of an annotation; ValueError unless they are."""
    frames = _entries(window)
    whole = [isinstance(n, int | np.integer) and not isinstance(n, bool) for n in frames]
    if whole != [True, True] or frames[0] > frames[1]:
        raise ValueError(f"{path}: frames {frames!r:.40} are no first and last frame")
    if not isinstance(sentence, str) or not sentence.strip() or not isinstance(task, str):
        raise ValueError(
            f"{path}: frames {frames[0]} to {frames[1]} have the sentence {sentence!r:.40} and the "
            f"task {task!r:.40}, expected texts"
        )
    return int(frames[0]), int(frames[1]), str(sentence), str(task)


def _small(folder: Path) -> Path:
    """Three episodes of four frames, a sentence over the second."""
    root = folder / "calvin/training"
    (root / "lang_annotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for frame in range(12):
        np.savez(
            root / f"episode_{frame:07d}.npz",
            rgb_static=rng.integers(0, 256, (20, 20, 3)).astype(np.uint8),
            robot_obs=rng.normal(size=15),
            rel_actions=rng.uniform(-1, 1, 7),
        )
    np.save(root / ENDS, np.array([[0, 3], [4, 7], [8, 11]]))
    language = {"ann": ["open the drawer"], "task": ["open_drawer"]}
    annotation: Any = {"language": language, "info": {"indx": [(5, 7)]}}
    np.save(root / LANGUAGE, annotation, allow_pickle=True)
    return root


FROM = importer(
    "from CALVIN", is_calvin, import_calvin, _small, arguments=["--instruction", "play"]
)
