"""RDT's and ALOHA's HDF5 episodes to a store: one file an episode.

    FOLDER/episode_0.hdf5
        action (T, A)   observations/qpos (T, P)   [observations/qvel, effort ...]
        observations/images/<camera>   pixels (T, h, w, 3), or encoded pictures, one a step
    FOLDER/expanded_instruction_gpt-4-turbo.json   the sentence and its phrasings; optional

Whether red or blue comes first in an encoded picture depends on who encoded it, and the file does
not say: the user does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.datasets import hdf5
from telic.datasets.formats.converter import ImportOptions, importer
from telic.datasets.formats.encoded_pictures import picture, picture_size
from telic.datasets.formats.into_store import (
    NOMINAL,
    EpisodeData,
    Recordings,
    joined,
    nominal_stamps,
    pixel_buffer,
    require_room,
    require_writable,
    spoken,
    write_store,
)
from telic.datasets.store import Segment
from telic.spec import Array, ArraySpec

PHRASINGS = "expanded_instruction_gpt-4-turbo.json"
_IMAGES = "observations/images"


def episode_files(path: Path) -> list[Path]:
    """The files of the episodes in a folder and those below it, by their numbers."""
    if path.is_file():
        return [path]

    def by_number(file: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(file.relative_to(path)))
        return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]

    return sorted((f for f in path.rglob("*.hdf5") if f.is_file()), key=by_number)


def is_rdt(path: Path) -> bool:
    """Return whether `path` is an episode of RDT's, or a folder of such."""
    try:
        first = next(iter(episode_files(path)), None)
        if first is None:
            return False
        with h5py.File(first, "r") as file:
            return "observations" in file and "action" in file
    except (OSError, RuntimeError):
        return False


def import_rdt(source: Path, target: Path, options: ImportOptions, overwrite: bool = False) -> int:
    """Write the episodes at `source` to a store and return their number."""
    require_writable(source, target, overwrite)
    return write_store(_RdtReader(source, options).recordings(), source, target, options, overwrite)


class _RdtReader:
    """Reads one file after another; all must be like the first."""

    def __init__(self, source: Path, options: ImportOptions) -> None:
        self.source, self.options = source, options
        missing = f"{source}: does not say how many steps a second; pass --rate-hz"
        self.rate_hz = options.stated_rate_hz(missing)
        self.files = episode_files(source)
        if not self.files:
            raise ValueError(f"{source}: holds no .hdf5")
        first = self.files[0]
        self.keys = {
            "state": list(options.state_keys or ["observations/qpos"]),
            "action": list(options.action_keys or ["action"]),
        }
        with hdf5.opened(first) as file:
            images = hdf5.has(file, _IMAGES, str(first))
            cameras = hdf5.names(hdf5.group(file, _IMAGES, str(first)), str(first))
            self.cameras = cameras if images else []
            below = hdf5.names(hdf5.group(file, "observations", str(first)), str(first))
            used = {key for keys in self.keys.values() for key in keys}
            self.others = [
                name
                for name in below
                if isinstance(file[f"observations/{name}"], h5py.Dataset)
                and f"observations/{name}" not in used
                and file[f"observations/{name}"].ndim == 2
            ]
        self.fields = self._fields()

    def recordings(self) -> Recordings:
        """What a store of the episodes holds."""
        return Recordings(
            fields=self.fields,
            rate_hz=self.rate_hz,
            num_episodes=len(self.files),
            read=self.read,
            files=self.files,
            about={"source": f"RDT HDF5 {self.source.name}"},
        )

    def read(self, index: int) -> EpisodeData:
        """All fields of an episode, and its sentence with all phrasings."""
        path = self.files[index]
        where = str(path)
        with hdf5.opened(path) as file:
            episode = {
                name: joined(where, {key: hdf5.rows(file, key, where) for key in keys}, keys)
                for name, keys in self.keys.items()
            }
            for name in self.others:
                episode[name] = hdf5.rows(file, f"observations/{name}", where)
            for camera in self.cameras:
                episode[f"image/{camera}"] = self._pictures(where, file, camera)
        steps = len(episode["action"])
        episode["timestamp_ns"] = nominal_stamps(steps, self.rate_hz)
        own = [] if self.options.instruction else _phrasings(path.parent / PHRASINGS)
        segments = [
            Segment(start=0, end=steps, instruction=sentence, task=self.options.task)
            for sentence in own
        ]
        return episode, segments or spoken(self.options, steps)

    def _fields(self) -> dict[str, ArraySpec]:
        episode, _ = self.read(0)
        fields = {}
        for name, rows in episode.items():
            names: tuple[str, ...] = ()
            if name in self.keys and len(self.keys[name]) == 1:
                key = self.keys[name][0].rpartition("/")[2]
                names = tuple(f"{key}.{i}" for i in range(rows.shape[1]))
            fields[name] = ArraySpec(shape=rows.shape[1:], dtype=str(rows.dtype), names=names)
        return {**fields, "timestamp_ns": NOMINAL}

    def _pictures(self, where: str, file: h5py.File, camera: str) -> Array:
        path = f"{_IMAGES}/{camera}"
        group = hdf5.group(file, _IMAGES, where)
        if camera not in hdf5.names(group, where):
            raise ValueError(f"{where}: has no {path}, the first episode has")
        with hdf5.reading(f"{where}: {path}"):
            kind, ndim = group[camera].dtype.kind, group[camera].ndim
        if kind == "u" and ndim == 4:
            return hdf5.rows(file, path, where)
        if self.options.colours is None:
            raise ValueError(
                f"{where}: {path} holds encoded pictures; pass --colours rgb, or --colours bgr if "
                "OpenCV encoded RGB pixels"
            )
        with hdf5.reading(f"{where}: {path}"):
            require_room(f"{where}: {path}", group[camera].id.get_storage_size())
            cells = list(group[camera])
        if not cells:
            raise ValueError(f"{where}: {path} holds no pictures")
        encoded = [bytes(np.asarray(cell).tobytes()) for cell in cells]
        size = picture_size(f"{where} step 0: {path}", encoded[0])
        pixels = pixel_buffer(f"{where}: {path}", (len(encoded), *size, 3))
        for step, data in enumerate(encoded):
            pixels[step] = picture(f"{where} step {step}: {path}", data, *size)
        return pixels


def _phrasings(path: Path) -> list[str]:
    """The sentences that lie beside an episode, each once."""
    if not path.is_file():
        return []
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        parts = [
            found[k] for k in ("instruction", "simplified_instruction", "expanded_instruction")
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: holds no instruction and its phrasings") from error
    sentences: list[str] = []
    for part in parts:
        sentences += _texts(path, part)
    return list(dict.fromkeys(s.strip() for s in sentences if s.strip()))


def _texts(path: Path, part: Any) -> Sequence[str]:
    listed = part if isinstance(part, list) else [part]
    if not all(isinstance(text, str) for text in listed):
        raise ValueError(f"{path}: holds {part!r:.60}, expected sentences")
    return listed


def _small(folder: Path) -> Path:
    """Three episodes of a two-armed robot that say nothing of their rate."""
    root = folder / "rdt"
    root.mkdir()
    for index in range(3):
        rng = np.random.default_rng(index)
        with h5py.File(root / f"episode_{index}.hdf5", "w") as file:
            file["action"] = rng.normal(size=(4, 14)).astype(np.float32)
            file["observations/qpos"] = rng.normal(size=(4, 14)).astype(np.float32)
            file[f"{_IMAGES}/cam_high"] = rng.integers(0, 256, (4, 6, 8, 3)).astype(np.uint8)
    (root / PHRASINGS).write_text(
        json.dumps(
            {
                "instruction": "Pour the water.",
                "simplified_instruction": ["Pour."],
                "expanded_instruction": ["Take the bottle and pour the water."],
            }
        )
    )
    return root


FROM = importer("from RDT HDF5", is_rdt, import_rdt, _small, arguments=["--rate-hz", "25"])
