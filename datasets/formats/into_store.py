"""Episodes of any format into a new store, one at a time, in a way that a kill does not undo.

The store is built in `.NAME.DIGEST.unfinished` beside the target and takes the target's place when
it is whole. Interrupted or killed, it stays there, and the same command goes on after its last
episode: the digest is of source and options. Another conversion to that target removes it. What
cannot be converted leaves neither.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.checks import check_fields
from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.progress import tracked
from telic.datasets.formats.stated import with_statements
from telic.datasets.hdf5 import SHARE_OF_MEMORY
from telic.datasets.layout import STORE
from telic.datasets.store import EpisodeStore, Segment
from telic.replacement import Replacement
from telic.spec import Array, ArraySpec, near_misses

_DIGITS = 12  # of a digest
NOMINAL = ArraySpec(
    shape=(), dtype="int64", unit="ns", note="nominal, step / rate_hz: the source has none"
)
HELD_BYTES = 256 << 20  # of the pictures of one camera in an episode: beyond, they are in a file
EpisodeData = tuple[dict[str, Array], list[Segment]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recordings:
    """The episodes of a source: fields of one step each, and how episode i is read.

    files: those whose change makes it another source. about: robot, task_family, licence, and
    what else the store shall say in its attributes.
    """

    fields: Mapping[str, ArraySpec]
    rate_hz: float
    num_episodes: int
    read: Callable[[int], EpisodeData]
    files: Iterable[Path]
    about: Mapping[str, Any] = field(default_factory=dict)


def write_store(
    recordings: Recordings, source: Path, target: Path, options: ImportOptions, overwrite: bool
) -> int:
    """Write the episodes to a store at `target` and return their number.

    One episode is in memory at a time. ValueError for what a store does not accept.
    """
    replacement = require_writable(source, target, overwrite)
    if not recordings.num_episodes:
        raise ValueError(f"{source}: holds no episodes")
    place = Path(os.path.realpath(target))
    fields = with_statements(recordings.fields, options)
    for name, spec in fields.items():
        row = math.prod(int(n or 0) for n in spec.shape) * np.dtype(spec.dtype).itemsize
        require_room(f"{source}: one step of {name}", row)
    check_fields(source, fields, recordings.rate_hz)
    digest = _digest(source, recordings, options)
    unfinished = place.with_name(f".{place.name}.{digest}.unfinished")
    for other in _unfinished(place):
        if other != unfinished:
            Replacement(other, STORE, overwrite=True).remove()
    target_store = _open_unfinished(unfinished, fields, recordings)
    total = recordings.num_episodes
    try:
        with target_store as store:
            if store.num_episodes:
                print(f"{target}: going on after {store.num_episodes} of {total}", file=sys.stderr)
            for index in tracked(store.num_episodes, total, target.name):
                episode, segments = recordings.read(index)
                store.append(_turned(episode, options), segments, where=f"{source} episode {index}")
        with replacement.writing() as fresh:
            unfinished.rename(fresh)
    except ValueError:
        Replacement(unfinished, STORE, overwrite=True).remove()
        raise
    return total


def require_writable(source: Path, target: Path, overwrite: bool) -> Replacement:
    """The replacement of what stands at `target`; ValueError unless a store may come there."""
    replacement = Replacement(
        target, STORE, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    replacement.require()
    return replacement


def _unfinished(place: Path) -> list[Path]:
    """What earlier conversions to `place` left."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{{_DIGITS}}}\.unfinished")
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    return sorted(path for path in beside if name.fullmatch(path.name))


def _open_unfinished(
    unfinished: Path, fields: Mapping[str, ArraySpec], recordings: Recordings
) -> EpisodeStore:
    """The store that an earlier run of this conversion began, else a new one."""
    if unfinished.exists():
        try:
            store = EpisodeStore.open(unfinished, "a")
        except ValueError:  # damaged; one that is being written is refused below
            store = None
        if store is not None:
            if store.fields == fields and store.num_episodes <= recordings.num_episodes:
                return store
            store.close()
    about = dict(recordings.about)
    named = {k: str(about.pop(k, "")) for k in ("robot", "task_family", "licence", "source")}
    return EpisodeStore.create(
        unfinished,
        fields,
        recordings.rate_hz,
        **named,
        overwrite=True,
        extra=about,
    )


def _digest(source: Path, recordings: Recordings, options: ImportOptions) -> str:
    """A digest of which files are converted, and how."""
    digest = hashlib.sha256(json.dumps([os.path.realpath(source), asdict(options)]).encode())
    for file in recordings.files:
        stat = file.stat() if file.exists() else None  # reading says which is missing
        digest.update(f"{file.name} {stat and (stat.st_size, stat.st_mtime_ns)}".encode())
    return digest.hexdigest()[:_DIGITS]


def _turned(episode: Mapping[str, Array], options: ImportOptions) -> dict[str, Array]:
    """The episode with its pictures as the user says they lie in the source."""
    result = dict(episode)
    for name, rows in episode.items():
        if name.startswith("image/") and rows.ndim == 4:
            if options.colours == "bgr":
                rows = rows[..., ::-1]
            if options.flip in ("rows", "both"):
                rows = rows[:, ::-1]
            result[name] = rows[:, :, ::-1] if options.flip == "both" else rows
    return result


def spoken(options: ImportOptions, steps: int) -> list[Segment]:
    """The sentence that the user gave, over a whole episode; none without."""
    if not options.instruction:
        return []
    return [Segment(start=0, end=steps, instruction=options.instruction, task=options.task)]


def nominal_stamps(steps: int, rate_hz: float) -> Array:
    """Time stamps of an episode of a source that has none, i64 [T], nanoseconds."""
    return np.round(np.arange(steps) * 1e9 / rate_hz).astype(np.int64)


def joined(where: str, arrays: Mapping[str, Array], keys: Sequence[str]) -> Array:
    """The arrays [T ...] of the keys end to end, f32 [T D]."""
    for key in keys:
        if key not in arrays:
            raise ValueError(f"{where}: has no {key}{near_misses(key, arrays)}")
    parts = [np.asarray(arrays[key]) for key in keys]
    for key, part in zip(keys, parts, strict=True):
        if part.dtype.kind not in "biuf":
            raise ValueError(f"{where}: {key} has dtype {part.dtype}, expected numbers")
    if len({len(part) for part in parts}) > 1:
        listed = ", ".join(f"{key} {len(part)}" for key, part in zip(keys, parts, strict=True))
        raise ValueError(f"{where}: arrays differ in their number of steps: {listed}")
    if parts and not len(parts[0]):
        raise ValueError(f"{where}: {keys[0]} has no steps")
    with np.errstate(over="ignore"):
        return np.concatenate([p.reshape(len(p), -1).astype(np.float32) for p in parts], 1)


def pixel_buffer(where: str, shape: tuple[int, ...]) -> Array:
    """A new array of pixels u8; a large one is a file without a name, in the folder of TMPDIR."""
    size = math.prod(shape)
    if size <= HELD_BYTES:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            free = shutil.disk_usage(tempfile.gettempdir()).free
            if size > free:
                raise OSError(f"{size / 2**30:.3g} GiB are needed, {free / 2**30:.3g} are free")
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(
            f"{where}: {shape} has no room in {tempfile.gettempdir()} ({error})"
        ) from (error)


def require_room(where: str, num_bytes: int) -> None:
    """Raise ValueError for what is declared larger than memory allows."""
    most = SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > most:
        raise ValueError(
            f"{where}: is declared as {num_bytes / 2**30:.3g} GiB, more than the "
            f"{most / 2**30:.3g} GiB that may be in memory at once on this machine"
        )
