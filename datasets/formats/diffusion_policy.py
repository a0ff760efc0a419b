"""diffusion_policy's and UMI's replay buffers, zarr format 2, to a store and back.

    NAME.zarr or NAME.zarr.zip
        data/<key>          (T, ...)  all episodes end to end
        meta/episode_ends   (E,)      where each ends

Pictures may be compressed by JPEG 2000 or JPEG XL (`telic[umi]`). Arrays of Python objects, which
a zarr reader would unpickle, are refused.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

from telic.datasets import layout
from telic.datasets.formats.converter import Converter, ImportOptions, importer, small_store
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
from telic.datasets.formats.progress import tracked
from telic.datasets.formats.replay_buffer import ReplayBuffer, is_replay_buffer
from telic.datasets.formats.robomimic_hdf5_plan import checked_rate
from telic.datasets.store import EpisodeStore
from telic.replacement import Kind, Replacement
from telic.spec import Array, ArraySpec

BUFFER = Kind(
    "a replay buffer of diffusion_policy",
    is_replay_buffer,
    files=r"(?:(?:data|meta)/(?:.+/)?)?(?:\.z(?:array|attrs|group|metadata)|\d+(?:[./]\d+)*)",
)
CHUNK_BYTES = 2_000_000


def import_buffer(
    source: Path, target: Path, options: ImportOptions, overwrite: bool = False
) -> int:
    """Write the replay buffer at `source` to a store and return the number of episodes."""
    require_writable(source, target, overwrite)
    with ReplayBuffer(source) as buffer:
        recordings = _BufferReader(buffer, options).recordings()
        return write_store(recordings, source, target, options, overwrite)


class _BufferReader:
    """Which arrays are state, action, cameras and the rest."""

    def __init__(self, buffer: ReplayBuffer, options: ImportOptions) -> None:
        self.buffer, self.options = buffer, options
        where = str(buffer.path)
        rate_hz = options.rate_hz or buffer.own.get("rate_hz")
        if rate_hz is None:
            raise ValueError(f"{where}: does not say how many steps a second; pass --rate-hz")
        self.rate_hz = checked_rate(where, rate_hz)
        self.noted = layout.read_specs(f"{where}: attribute telic", buffer.own.get("fields", {}))
        arrays = buffer.arrays
        self.cameras = {
            f"image/{k.removesuffix('_rgb').removesuffix('_image')}": k
            for k, a in arrays.items()
            if len(a.shape) == 4 and a.shape[3] == 3
        }
        vectors = [k for k, a in arrays.items() if len(a.shape) <= 2 and k != "timestamp"]
        self.keys = {"state": options.state_keys, "action": options.action_keys}
        for name in self.keys:
            if self.keys[name] is None and name in arrays:
                self.keys[name] = [name]
            if not self.keys[name]:
                raise ValueError(
                    f"{where}: has no {name}; pass --{name}-keys, of {', '.join(vectors)}"
                )
        used = {key for keys in self.keys.values() for key in keys or ()}
        kept = used | set(self.cameras.values()) | {"timestamp"}
        self.others = [key for key in arrays if key not in kept]

    def recordings(self) -> Recordings:
        """What a store of the buffer holds."""
        return Recordings(
            fields=self._fields(),
            rate_hz=self.rate_hz,
            num_episodes=len(self.buffer.ends),
            read=self.read,
            files=[self.buffer.path, self.buffer.path / "meta/episode_ends/.zarray"],
            about={"source": f"replay buffer {self.buffer.path.name}"},
        )

    def read(self, index: int) -> EpisodeData:
        """All fields of an episode and its sentence."""
        ends = self.buffer.ends
        start, stop = (int(ends[index - 1]) if index else 0), int(ends[index])
        where = f"{self.buffer.path} episode {index}"

        def rows(key: str) -> Array:
            return self.buffer.read(where, key, start, stop)

        episode = {
            name: joined(where, {key: rows(key) for key in keys or ()}, list(keys or ()))
            for name, keys in self.keys.items()
        }
        for name, key in self.cameras.items():
            episode[name] = as_pixels(f"{where}: {key}", rows(key))
        for key in self.others:
            found = rows(key)
            episode[key] = found.astype(np.float32) if found.dtype.kind == "f" else found
        if "timestamp" in self.buffer.arrays:
            seconds = rows("timestamp").astype(np.float64).reshape(-1)
            if not np.isfinite(seconds).all():
                raise ValueError(f"{where}: a timestamp is not finite")
            episode["timestamp_ns"] = np.round((seconds - seconds[0]) * 1e9).astype(np.int64)
        else:
            episode["timestamp_ns"] = nominal_stamps(stop - start, self.rate_hz)
        return episode, spoken(self.options, stop - start)

    def _fields(self) -> dict[str, ArraySpec]:
        arrays, fields = self.buffer.arrays, {}
        for name, keys in self.keys.items():
            sizes = {
                key: int(np.prod(arrays[key].shape[1:])) for key in keys or () if key in arrays
            }
            names = tuple(f"{key}.{i}" for key, size in sizes.items() for i in range(size))
            fields[name] = ArraySpec(shape=(len(names),), names=names)
        for name, key in self.cameras.items():
            fields[name] = ArraySpec(shape=arrays[key].shape[1:], dtype="uint8")
        for key in self.others:
            dtype = "float32" if arrays[key].dtype.kind == "f" else arrays[key].dtype.name
            fields[key] = ArraySpec(shape=arrays[key].shape[1:], dtype=dtype)
        stamped = ArraySpec(shape=(), dtype="int64", unit="ns")
        fields["timestamp_ns"] = stamped if "timestamp" in arrays else NOMINAL
        return {name: self._as_noted(name, spec) for name, spec in fields.items()}

    def _as_noted(self, name: str, found: ArraySpec) -> ArraySpec:
        """What we noted of a field when we wrote the buffer, if it still is that field."""
        noted = self.noted.get(name, found)
        same = (noted.shape, noted.dtype) == (found.shape, found.dtype)
        return noted if same else found


def as_pixels(where: str, rows: Array) -> Array:
    """Pictures as uint8; floats must hold whole numbers from 0 to 255."""
    if rows.dtype == np.uint8:
        return rows
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{where} has dtype {rows.dtype}, expected pixels")
    if not (np.isfinite(rows).all() and rows.min() >= 0 and rows.max() <= 255):
        raise ValueError(f"{where} holds {rows.min():g} to {rows.max():g}, expected 0 to 255")
    whole = np.round(rows)
    if rows.dtype.kind == "f" and np.abs(rows - whole).max() > 1e-3:
        raise ValueError(f"{where} holds fractions; scale its pixels to whole numbers, 0 to 255")
    return whole.astype(np.uint8)


def export_buffer(source: Path, target: Path, overwrite: bool = False) -> int:
    """Write the store at `source` to a replay buffer, zipped if `target` ends in .zip."""
    store = EpisodeStore.open(source)
    if not store.num_episodes:
        raise ValueError(f"{source}: has no episodes to export")
    keys = {name: _key(name) for name in store.fields}
    if len(set(keys.values())) < len(keys):
        raise ValueError(f"{source}: fields {', '.join(keys)} do not fit into one replay buffer")
    replacement = Replacement(
        target, BUFFER, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    replacement.require()
    with replacement.writing() as fresh:
        if target.suffix != ".zip":
            _write_buffer(fresh, store, keys, target.name)
            return store.num_episodes
        folder = fresh.with_name("unpacked")
        _write_buffer(folder, store, keys, target.name)
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())
        shutil.rmtree(folder)  # beside the zip, in the folder that goes away
    return store.num_episodes


def _write_buffer(path: Path, store: EpisodeStore, keys: Mapping[str, str], label: str) -> None:
    root = zarr.create_group(path, zarr_format=2)
    root.attrs["telic"] = {
        "rate_hz": store.rate_hz,
        "fields": {name: spec.to_json() for name, spec in store.fields.items()},
    }
    meta, total = root.create_group("meta"), store.num_steps
    meta.create_array("episode_ends", data=store.episode_ends.astype(np.int64), compressors=None)
    arrays: dict[str, Any] = {}
    for name, spec in store.fields.items():
        row = layout.row_shape(spec)
        size = int(np.prod(row)) * np.dtype("f8" if name == "timestamp_ns" else spec.dtype).itemsize
        arrays[name] = root.create_array(
            f"data/{keys[name]}",
            shape=(total, *row),
            chunks=(int(np.clip(CHUNK_BYTES // size, 1, total)), *row),
            dtype="float64" if name == "timestamp_ns" else spec.dtype,
            compressors=Blosc("lz4", 5, Blosc.NOSHUFFLE),
        )
    for index in tracked(0, store.num_episodes, label):
        episode = store.episode(index)
        for name, array in arrays.items():
            rows = episode[name]
            array[episode.start : episode.stop] = rows * 1e-9 if name == "timestamp_ns" else rows


def _key(field: str) -> str:
    if field == "timestamp_ns":
        return "timestamp"
    return (
        f"{field[6:]}_rgb".replace("/", "_")
        if field.startswith("image/")
        else (field.replace("/", "_"))
    )


def _export(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    return export_buffer(source, target, overwrite)


def _small(folder: Path) -> Path:
    export_buffer(small_store(folder), folder / "small.zarr.zip")
    return folder / "small.zarr.zip"


FROM = importer(
    "from diffusion_policy's replay buffers",
    is_replay_buffer,
    import_buffer,
    _small,
    arguments=["--instruction", "go on"],
)
TO = Converter(
    title="to diffusion_policy's replay buffers",
    takes=layout.is_store,
    convert=_export,
    small=small_store,
    suffix=".zip",
)
