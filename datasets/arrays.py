"""Zarr v3 arrays that grow along their first axis, written so that a kill harms nothing committed.

A chunk holds whole rows as they are, and zarr's crc32c codec after them, so row i lies at a fixed
place of a file: a reader fetches exactly the rows it wants, and whoever reads a whole chunk knows
whether it is what was written. A chunk that grows is made anew beside the old one and put in its
place in one rename: it has the rows that were there and a checksum that fits, killed or not. Only
`resize`, which replaces `zarr.json` in one rename, moves the end. zarr-python creates these arrays
and reads them like any other; going through it for every append would cost 2.6 ms an array.

Arrays of stores written before checksums were kept lack the codec; they are read and grow alike.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from telic.replacement import swap_file
from telic.spec import Array

OPEN_FILES = 128  # kept open for reading, per array
LARGEST_META = 64 << 20  # bytes of a zarr.json
LARGEST_CHUNK = 1 << 30  # bytes; what is said to be larger is damaged
CHECKSUM_BYTES = 4
# a file that was being replaced, by us or by zarr
PARTIAL = re.compile(
    r"(zarr\.json|c[.0-9]*|[0-9]+)\.\d+\.partial|(zarr|[0-9]+)\.[0-9a-f]{32}\.partial"
)


def create_rows(
    root: Path, name: str, row_shape: Sequence[int], dtype: str, chunk_rows: int
) -> RowArray:
    """Return the new, empty array `name` of the zarr group at `root`; a file holds `chunk_rows`."""
    zarr.create_array(
        root,
        name=name,
        shape=(0, *row_shape),
        chunks=(chunk_rows, *row_shape),
        dtype=dtype,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    return RowArray(root / name)


class RowArray:
    """One zarr array [n, *row_shape] in the plain layout. `len` is the number of rows in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._meta = read_meta(path)
        try:
            problem = _not_plain(self._meta)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path}/zarr.json: not a zarr array's ({error!r})") from error
        if problem:
            raise ValueError(f"{path}: {problem}; telic reads rows stored whole and uncompressed")
        self.row_shape: tuple[int, ...] = tuple(self._meta["shape"][1:])
        self.dtype = np.dtype(self._meta["data_type"]).newbyteorder("<")
        self.chunk_rows = int(self._meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        self.row_bytes = self.dtype.itemsize * math.prod(self.row_shape)
        self.checksummed = len(self._meta["codecs"]) == 2
        self._separator = _separator(self._meta)
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._last: tuple[int, Array] | None = None  # the chunk written last, and its bytes

    def __len__(self) -> int:
        return int(self._meta["shape"][0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_last": None}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The array's own metadata."""
        attributes: Mapping[str, Any] = self._meta.get("attributes", {})
        return attributes

    def read(self, start: int, stop: int) -> Array:
        """Return rows [stop - start, *row_shape]."""
        return self.gather(np.arange(start, stop, dtype=np.int64))

    def read_whole(self, rows: int | None = None) -> Array:
        """Return the first `rows` rows, or all, read in whole chunks; ValueError if a part is
        missing or does not fit its checksum."""
        count = len(self) if rows is None else min(rows, len(self))
        if lost := [why for row, why in self.missing_rows() if row < count]:
            raise ValueError(f"{lost[0]}; restore the file or run demo-store validate")
        try:
            out = np.empty((count, *self.row_shape), self.dtype)
        except MemoryError as error:
            raise ValueError(f"{self.path}: {count} rows do not fit into memory") from error
        for first in range(0, count, self.chunk_rows):
            part = out[first : first + self.chunk_rows]
            content = self._whole_chunk(first // self.chunk_rows)[: len(part) * self.row_bytes]
            part[...] = content.view(self.dtype).reshape(part.shape)
        return out

    def damaged_rows(self) -> Iterator[tuple[int, int, str]]:
        """Yield (first row, number of rows, why) of each chunk that does not fit its checksum.

        Of chunks that are there; `missing_rows` has the others.
        """
        chunks = self._chunk_files()
        for chunk in sorted(chunks):
            first = chunk * self.chunk_rows
            if first < len(self) and chunks[chunk] == self._file_bytes:
                try:
                    self._whole_chunk(chunk)
                except ValueError as error:
                    yield first, min(self.chunk_rows, len(self) - first), str(error)

    def gather(self, rows: Array) -> Array:
        """Return the rows at the indices `rows` [K], in that order; neighbours in one read."""
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        if out.nbytes:
            view = out.reshape(-1).view(np.uint8).data
            for first, count, row in _runs(rows, self.chunk_rows):
                at, size = first * self.row_bytes, count * self.row_bytes
                self._read_into(row, view[at : at + size])
        return out

    def write(self, start: int, rows: Array) -> None:
        """Write `rows` from index `start` on, which lies at the end or beyond it.

        The end is not moved. What lies beyond the rows written is lost. ValueError if the chunk
        that grows is damaged.
        """
        data = np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8)
        written = 0
        while written < len(data):
            chunk, offset = divmod(start + written // self.row_bytes, self.chunk_rows)
            before = offset * self.row_bytes
            part = data[written : written + self._chunk_bytes - before]
            content = self._to_grow(chunk, before)
            content[before : before + len(part)] = part
            self._replace_chunk(chunk, content, before + len(part))
            self._last = chunk, content
            written += len(part)

    def resize(self, rows: int, attributes: Mapping[str, Any] | None = None) -> None:
        """Make the array `rows` long, in one atomic step, and drop the files beyond the end."""
        meta = dict(self._meta)
        meta["shape"] = [rows, *self.row_shape]
        if attributes is not None:
            meta["attributes"] = dict(attributes)
        shrinks = rows < len(self)
        if meta != self._meta:
            replace_file(self.path / "zarr.json", json.dumps(meta))
            self._meta = meta
        if shrinks:
            self._drop_files_beyond(rows)

    def cut(self, rows: int) -> None:
        """Make the array at most `rows` long; files are dropped first, which makes room."""
        self._drop_files_beyond(rows)
        if len(self) > rows:
            self.resize(rows)

    def missing_rows(self) -> list[tuple[int, str]]:
        """Return (first row lost, why) for each run of chunk files that are absent or damaged."""
        chunks, lost, expected = self._chunk_files(), [], 0
        needed = -(-len(self) // self.chunk_rows)
        for chunk in sorted(c for c in chunks if c < needed):
            if chunk > expected:
                why = f"{self._chunk_path(expected)} is missing"
                lost.append((expected * self.chunk_rows, why))
            rows = min(self.chunk_rows, len(self) - chunk * self.chunk_rows)
            have = chunks[chunk]
            if have < rows * self.row_bytes or (self.checksummed and have != self._file_bytes):
                whole = min(max(have, 0) // self.row_bytes, rows - 1) if self.row_bytes else 0
                size = f"has {have} bytes" if have >= 0 else "is no file"
                why = f"{self._chunk_path(chunk)} {size}, expected {self._file_bytes} bytes"
                lost.append((chunk * self.chunk_rows + whole, why))
            expected = chunk + 1
        if expected < needed:
            lost.append((expected * self.chunk_rows, f"{self._chunk_path(expected)} is missing"))
        return lost

    def stray_files(self) -> list[Path]:
        """Return what lies in the array's folder and is no part of it."""
        return [
            path
            for path in sorted(self.path.rglob("*"))
            if path.name != "zarr.json" and not path.is_dir() and self._chunk_of(path) is None
        ]

    def _drop_files_beyond(self, rows: int) -> None:
        """Delete the chunk files in which none of the first `rows` rows lies."""
        self._files.clear()
        for chunk in self._chunk_files():
            if chunk * self.chunk_rows >= rows:
                self._chunk_path(chunk).unlink(missing_ok=True)

    def _chunk_files(self) -> dict[int, int]:
        """Return the size of each chunk file that is there, -1 for what is no file."""
        found = {}
        for path in self.path.rglob("*") if self._separator == "/" else self.path.iterdir():
            chunk = self._chunk_of(path)
            if chunk is not None:
                try:
                    about = path.stat()
                except OSError:  # a link that leads nowhere
                    found[chunk] = -1
                    continue
                found[chunk] = about.st_size if stat.S_ISREG(about.st_mode) else -1
        return found

    def _chunk_of(self, path: Path) -> int | None:
        """Return the number of the chunk that a file in the array's folder is, or None."""
        ends = re.escape(self._separator + "0") * len(self.row_shape)
        key = path.relative_to(self.path).as_posix()
        match = re.fullmatch(rf"c{re.escape(self._separator)}(0|[1-9]\d{{0,17}}){ends}", key)
        return int(match.group(1)) if match else None

    def _chunk_path(self, chunk: int) -> Path:
        key = ["c", str(chunk), *("0" for _ in self.row_shape)]
        return self.path / self._separator.join(key)

    def _read_into(self, row: int, view: memoryview) -> None:
        chunk, offset = divmod(row, self.chunk_rows)
        position = offset * self.row_bytes
        file = self._open_file(chunk)
        while view:
            got = os.preadv(file.fileno(), [view], position)
            if not got:
                raise ValueError(
                    f"{self._chunk_path(chunk)}: ends at byte {position} where row {row} should "
                    "be; the file is damaged, restore it or run demo-store validate"
                )
            view, position = view[got:], position + got

    def _open_file(self, chunk: int) -> FileIO:
        file = self._files.pop(chunk, None)
        if file is None:
            path = self._chunk_path(chunk)
            try:
                file = FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            except OSError as error:
                what = "missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
                raise ValueError(
                    f"{path}: this part of the array is {what}; restore the file or truncate the "
                    "store before it"
                ) from None
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise ValueError(f"{path}: is no file; restore it")
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)
        self._files[chunk] = file
        return file

    @property
    def _chunk_bytes(self) -> int:
        return self.chunk_rows * self.row_bytes

    @property
    def _file_bytes(self) -> int:
        return self._chunk_bytes + (CHECKSUM_BYTES if self.checksummed else 0)

    def _whole_chunk(self, chunk: int) -> Array:
        """Return the bytes of a chunk, u8; ValueError if they do not fit its checksum."""
        content = np.zeros(self._file_bytes, np.uint8)
        file = self._open_file(chunk)
        got = 0
        while more := os.preadv(file.fileno(), [content.data[got:]], got):
            got += more
        rows, checksum = content[: self._chunk_bytes], content[self._chunk_bytes :]
        if self.checksummed and _checksum(rows) != checksum.tobytes():
            first = chunk * self.chunk_rows
            raise ValueError(
                f"{self._chunk_path(chunk)}: does not fit its checksum, so some of the rows from "
                f"{first} on are not what was written; restore the file, demo-store validate "
                "--deep names the episodes"
            )
        return rows

    def _to_grow(self, chunk: int, before: int) -> Array:
        """Return the bytes of a chunk of which the first `before` are kept, the others 0."""
        last, self._last = self._last, None  # not kept if the write fails
        if last is not None and last[0] == chunk:
            content = last[1]
        elif before:
            content = self._whole_chunk(chunk)
        else:
            return np.zeros(self._chunk_bytes, np.uint8)
        content[before:] = 0
        return content

    def _replace_chunk(self, chunk: int, content: Array, used: int) -> None:
        """Put a chunk of which all beyond `used` bytes is 0 in the place of the old one."""
        path = self._chunk_path(chunk)
        if self._separator == "/":
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            with temporary.open("wb", buffering=0) as file:
                _write_fully(file.fileno(), content[:used], 0)
                os.ftruncate(file.fileno(), self._file_bytes)  # sparse: costs no disk
                if self.checksummed:
                    checksum = np.frombuffer(_checksum(content), np.uint8)
                    _write_fully(file.fileno(), checksum, self._chunk_bytes)
            swap_file(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._files.pop(chunk, None)  # of the old one


def read_meta(path: Path) -> dict[str, Any]:
    """Return the zarr v3 metadata of the node at `path`; ValueError where there is none."""
    file = path / "zarr.json"
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no file")
        if about.st_size > LARGEST_META:
            raise ValueError(f"it has {about.st_size} bytes")
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no zarr v3 array or group here") from None
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("zarr_format") != 3:
        raise ValueError(f"{file}: not zarr format 3")
    if not isinstance(meta.get("attributes", {}), dict):
        raise ValueError(f"{file}: attributes are {meta['attributes']!r:.40}, expected an object")
    return meta


def replace_file(path: Path, text: str) -> None:
    """Make `text` the content of `path` in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _not_plain(meta: Mapping[str, Any]) -> str | None:
    """Return why the array is not in the plain layout, or None; KeyError where keys lack."""
    if meta.get("node_type") != "array":
        return "is a group, expected an array"
    names = [codec["name"] for codec in meta["codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        return f"has codecs {', '.join(map(str, names))}, expected bytes and crc32c"
    if (meta["codecs"][0].get("configuration") or {}).get("endian", "little") != "little":
        return "is big-endian, expected little-endian"
    dtype = meta["data_type"]
    if not isinstance(dtype, str) or np.dtype(dtype).kind not in "biuf":
        return f"has data_type {dtype!r:.40}, expected a kind of number"
    if (grid := meta["chunk_grid"]["name"]) != "regular":
        return f"has chunk grid {grid!r:.40}, expected regular"
    if (separator := _separator(meta)) not in (".", "/"):
        return f"separates chunk keys by {separator!r:.40}, expected . or /"
    shape, chunk = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    for name, sizes, least in (("shape", shape, 0), ("chunk_shape", chunk, 1)):
        if not isinstance(sizes, list) or not sizes:
            return f"has {name} {sizes!r:.40}, expected a list of sizes"
        if any(type(n) is not int or not least <= n < 2**53 for n in sizes):
            return f"has {name} {sizes!r:.60}, expected whole numbers from {least} on"
    if chunk[1:] != shape[1:]:
        return f"has chunks {tuple(chunk)}, expected whole rows of {tuple(shape[1:])}"
    if (size := math.prod(chunk) * np.dtype(dtype).itemsize) > LARGEST_CHUNK:
        return f"has chunks of {size} bytes, expected at most {LARGEST_CHUNK}"
    return None


def _separator(meta: Mapping[str, Any]) -> Any:
    return (meta["chunk_key_encoding"].get("configuration") or {}).get("separator", "/")


def _checksum(content: Array) -> bytes:
    """Return what the crc32c codec appends."""
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")


def _write_fully(file: int, content: Array, position: int) -> None:
    view = content.data
    while view:
        done = os.pwrite(file, view, position)
        view, position = view[done:], position + done


def _runs(rows: Array, chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (position in `rows`, count, first row) of consecutive rows within one chunk."""
    if not len(rows):
        return
    breaks = (np.diff(rows) != 1) | (rows[1:] % chunk_rows == 0)
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    counts = np.diff(np.append(starts, len(rows)))
    yield from zip(starts.tolist(), counts.tolist(), rows[starts].tolist(), strict=True)
