"""Reading zarr format 2 groups of anybody's: arrays of numbers, in a folder or in a zip file."""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore, ZipStore

from telic.datasets.formats.converter import optional
from telic.datasets.formats.into_store import require_room
from telic.spec import Array
from telic.text_files import LARGEST_TEXT, read_text

HELD_BYTES = 64 << 20  # an array up to here is read once: many have one chunk
LARGEST_CHUNK = 1 << 30
_CODECS = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
_PICTURE_CODECS = ("imagecodecs_jpeg2k", "imagecodecs_jpegxl", "imagecodecs_jpeg")
_ENDS = "meta/episode_ends/.zarray"


def is_replay_buffer(path: Path) -> bool:
    """Return whether a replay buffer stands at `path`."""
    if path.is_dir():
        return (path / _ENDS).is_file()
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _ENDS in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


class ReplayBuffer:
    """arrays: those of data/, one row a step; ends: i64 [E], steps up to each episode's end; own:
    what we noted in the attribute `telic`, {} in anybody else's."""

    def __init__(self, path: Path) -> None:
        """ValueError for what is damaged, or would run code or fill the memory when it is read."""
        self.path = path
        self._held: dict[str, Array] = {}
        try:
            self._store: Any = LocalStore(path, read_only=True)
            if not path.is_dir():
                _require_sane_zip(path)
                self._store = ZipStore(path, mode="r")
            names = self._names()
            for name in (*(f"data/{key}" for key in names), "meta/episode_ends"):
                self._require_readable(name)
            group: Any = zarr.open_group(self._store, mode="r", zarr_format=2)
            own = group.attrs.get("telic")
            self.own: dict[str, Any] = own if isinstance(own, dict) else {}
            self.arrays: dict[str, Any] = {key: group[f"data/{key}"] for key in names}
            self.ends = np.asarray(group["meta/episode_ends"][:]).astype(np.int64)
        except (zipfile.BadZipFile, KeyError, TypeError, OSError, RuntimeError) as error:
            raise ValueError(f"{path}: not readable as zarr ({_line(error)})") from error
        except ValueError as error:
            if str(error).startswith(str(path)):
                raise
            raise ValueError(f"{path}: not readable as zarr ({_line(error)})") from error
        self._require_ends()

    def __enter__(self) -> ReplayBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def read(self, where: str, key: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of an array."""
        if key not in self.arrays:
            raise ValueError(f"{where}: has no {key}, only {', '.join(self.arrays)}")
        array = self.arrays[key]
        row = math.prod(array.shape[1:]) * array.dtype.itemsize
        require_room(f"{where}: {key}", (stop - start) * row)
        try:
            if array.shape[0] * row <= HELD_BYTES:
                if key not in self._held:
                    self._held[key] = np.asarray(array[:])
                return self._held[key][start:stop]
            return np.asarray(array[start:stop])
        except Exception as error:  # codecs raise anything where chunks are damaged
            raise ValueError(f"{where}: {key} is not readable ({_line(error)})") from error

    def _names(self) -> list[str]:
        """The arrays of data/."""
        if self.path.is_dir():
            found = [file.parent.name for file in self.path.glob("data/*/.zarray")]
        else:
            with zipfile.ZipFile(self.path) as archive:
                parts = [name.split("/") for name in archive.namelist()]
            found = [p[1] for p in parts if len(p) == 3 and (p[0], p[2]) == ("data", ".zarray")]
        if not found:
            raise ValueError(f"{self.path}: data/ holds no arrays")
        return sorted(set(found))

    def _require_readable(self, name: str) -> None:
        """Look at an array's metadata before zarr does, which would make what they ask for."""
        raw, where = self._metadata(f"{name}/.zarray"), f"{self.path}: {name}"
        compressor, filters = raw.get("compressor"), raw.get("filters")
        codec = compressor.get("id") if isinstance(compressor, dict) else compressor
        if filters or codec not in (None, *_CODECS, *_PICTURE_CODECS):
            raise ValueError(
                f"{where} is encoded by {codec!r:.40} with filters {filters!r:.80}, this program "
                f"reads {', '.join((*_CODECS, *_PICTURE_CODECS))} without filters"
            )
        dtype, chunks = raw.get("dtype"), raw.get("chunks")
        if not isinstance(dtype, str) or not re.fullmatch(r"[<>|][biuf][1248]", dtype):
            raise ValueError(f"{where} has dtype {dtype!r:.60}, expected numbers")
        if not isinstance(chunks, list) or not all(type(n) is int and n > 0 for n in chunks):
            raise ValueError(f"{where} has chunks {chunks!r:.60}")
        size = math.prod(chunks) * np.dtype(dtype).itemsize
        if not chunks or size > LARGEST_CHUNK:
            raise ValueError(
                f"{where} has chunks of {size} bytes, at most {LARGEST_CHUNK} are read"
            )
        if codec == "blosc":
            self._require_whole_chunks(name, size)
        if codec in _PICTURE_CODECS:
            optional("imagecodecs.numcodecs", "umi").register_codecs(verbose=False)

    def _require_whole_chunks(self, name: str, most: int) -> None:
        """Hold Blosc's chunks against their headers: it decodes one cut short as what lies behind.

        A header, 16 bytes, ends with how many bytes a chunk unpacks to, of a block, and has itself.
        """
        for chunk, size, head in self._chunks(name):
            unpacks, _, held = struct.unpack("<3I", head[4:].ljust(12, b"\0"))
            if held != size or unpacks > most:
                raise ValueError(
                    f"{self.path}: {chunk} has {size} bytes, by its header {held} that unpack to "
                    f"{unpacks} of at most {most}; it is cut short or damaged"
                )

    def _chunks(self, name: str) -> Iterator[tuple[str, int, bytes]]:
        """Yield name, size and first 16 bytes of each chunk of an array."""
        if self.path.is_dir():
            for file in sorted((self.path / name).rglob("[0-9]*")):
                if file.is_file():
                    with file.open("rb") as opened:
                        about = file.relative_to(self.path).as_posix(), file.stat().st_size
                        yield *about, opened.read(16)
            return
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                key = member.filename.removeprefix(f"{name}/")
                if key != member.filename and key[:1].isdigit():
                    with archive.open(member) as opened:
                        yield member.filename, member.file_size, opened.read(16)

    def _metadata(self, name: str) -> dict[str, Any]:
        try:
            if self.path.is_dir():
                text = read_text(self.path / name)
            else:
                with zipfile.ZipFile(self.path) as archive:
                    if (size := archive.getinfo(name).file_size) > LARGEST_TEXT:
                        raise ValueError(f"it unpacks to {size:,} bytes")
                    text = archive.read(name).decode()
            found = json.loads(text)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path}: {name} is not readable ({_line(error)})") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self.path}: {name} describes no array")
        return found

    def _require_ends(self) -> None:
        ends, path = self.ends, self.path
        if ends.ndim != 1 or not len(ends):
            raise ValueError(f"{path}: meta/episode_ends is {ends.shape}, expected episodes")
        if (np.diff(ends, prepend=0) <= 0).any():
            index = int(np.argmax(np.diff(ends, prepend=0) <= 0))
            raise ValueError(f"{path}: episode {index} ends at {ends[index]}, where it begins")
        for key, array in self.arrays.items():
            if array.shape[0] < ends[-1]:
                raise ValueError(
                    f"{path}: {key} has {array.shape[0]} steps, the episodes {ends[-1]}; the "
                    "buffer is not whole"
                )


def _require_sane_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > LARGEST_CHUNK:
                raise ValueError(f"{path}: {member.filename!r:.60} unpacks to {member.file_size} B")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
