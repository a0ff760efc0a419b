"""Zarr v3 arrays that grow along their first axis, written so that a kill harms nothing committed.

The plain layout has whole rows in a chunk and no compressor, so row i lies at a fixed place of a
file: rows beyond the end are written in place without touching a byte before the end, and a
reader fetches exactly the rows it wants. Only `resize`, which replaces `zarr.json` in one rename,
moves the end. zarr-python creates these arrays and reads them like any other; going through it
for every append would cost 2.6 ms an array instead of 0.1 ms.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from telic.spec import Array

OPEN_FILES = 64  # kept open for reading, per array


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
        compressors=None,
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
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path}/zarr.json: not a zarr array's ({error!r})") from error
        if problem:
            raise ValueError(f"{path}: {problem}; telic reads rows stored whole and uncompressed")
        self.row_shape = tuple(cast(list[int], self._meta["shape"])[1:])
        self.dtype = np.dtype(self._meta["data_type"]).newbyteorder("<")
        self.chunk_rows = int(self._meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))
        self._separator = self._meta["chunk_key_encoding"]["configuration"]["separator"]
        self._files: OrderedDict[int, FileIO] = OrderedDict()

    def __len__(self) -> int:
        return int(self._meta["shape"][0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The array's own metadata."""
        return cast(Mapping[str, Any], self._meta["attributes"])

    def read(self, start: int, stop: int) -> Array:
        """Return rows [stop - start, *row_shape]."""
        return self.gather(np.arange(start, stop, dtype=np.int64))

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
        """Write `rows` from index `start` on, which may lie beyond the end and does not move it."""
        data = np.ascontiguousarray(rows, self.dtype)
        view = data.reshape(-1).view(np.uint8).data
        for first, count, row in _runs(np.arange(start, start + len(data)), self.chunk_rows):
            at, size = first * self.row_bytes, count * self.row_bytes
            self._write_from(row, view[at : at + size])

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
            self.drop_files_beyond_end()

    def missing_rows(self) -> list[tuple[int, str]]:
        """Return (first row lost, why) for each chunk file that is absent or too short."""
        lost = []
        for chunk, first in enumerate(range(0, len(self), self.chunk_rows)):
            path = self._chunk_path(chunk)
            rows = min(self.chunk_rows, len(self) - first)
            have = path.stat().st_size if path.is_file() else -1
            if have < rows * self.row_bytes:
                why = f"{path} is missing" if have < 0 else f"{path} ends after {have} bytes"
                lost.append((first + max(have, 0) // self.row_bytes, why))
        return lost

    def drop_files_beyond_end(self) -> None:
        """Delete the chunk files in which no row is left."""
        self._files.clear()
        for path in self.path.rglob("*"):
            key = path.relative_to(self.path).as_posix().replace("/", ".").split(".")
            if key[0] == "c" and path.is_file() and int(key[1]) * self.chunk_rows >= len(self):
                path.unlink(missing_ok=True)

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
            try:
                file = FileIO(self._chunk_path(chunk))
            except FileNotFoundError:
                raise ValueError(
                    f"{self._chunk_path(chunk)}: this part of the array is missing; restore the "
                    "file or truncate the store before it"
                ) from None
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)
        self._files[chunk] = file
        return file

    def _write_from(self, row: int, view: memoryview) -> None:
        chunk, offset = divmod(row, self.chunk_rows)
        path, position = self._chunk_path(chunk), offset * self.row_bytes
        if self._separator == "/":
            path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(file).st_size != self.chunk_rows * self.row_bytes:
                os.ftruncate(file, self.chunk_rows * self.row_bytes)  # sparse: costs no disk
            while view:
                done = os.pwrite(file, view, position)
                view, position = view[done:], position + done
        finally:
            os.close(file)


def read_meta(path: Path) -> dict[str, Any]:
    """Return the zarr v3 metadata of the node at `path`; ValueError where there is none."""
    try:
        meta = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no zarr v3 array or group here") from None
    except OSError as error:
        raise ValueError(f"{path}/zarr.json: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path}/zarr.json: not readable as JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("zarr_format") != 3:
        raise ValueError(f"{path}/zarr.json: not zarr format 3")
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
    codecs = meta["codecs"]
    if [codec["name"] for codec in codecs] != ["bytes"]:
        return f"has codecs {', '.join(codec['name'] for codec in codecs)}, expected bytes alone"
    if codecs[0].get("configuration", {}).get("endian", "little") != "little":
        return "is big-endian, expected little-endian"
    np.dtype(meta["data_type"]), meta["chunk_key_encoding"]["configuration"]["separator"]
    chunk = meta["chunk_grid"]["configuration"]["chunk_shape"]
    if list(chunk[1:]) != list(meta["shape"][1:]):
        return f"has chunks {tuple(chunk)}, expected whole rows of {tuple(meta['shape'][1:])}"
    return None


def _runs(rows: Array, chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (position in `rows`, count, first row) of consecutive rows within one chunk."""
    if not len(rows):
        return
    breaks = (np.diff(rows) != 1) | (rows[1:] % chunk_rows == 0)
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    counts = np.diff(np.append(starts, len(rows)))
    yield from zip(starts.tolist(), counts.tolist(), rows[starts].tolist(), strict=True)
