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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from telic.datasets.array_metadata import (
    not_plain,
    read_meta,
    replace_file,
    separator,
)
from telic.datasets.chunk_files import ChunkFiles
from telic.spec import Array


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
            problem = not_plain(self._meta)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path}/zarr.json: not a zarr array's ({error!r})") from error
        if problem:
            raise ValueError(f"{path}: {problem}; telic reads rows stored whole and uncompressed")
        self.row_shape: tuple[int, ...] = tuple(self._meta["shape"][1:])
        self.dtype = np.dtype(self._meta["data_type"]).newbyteorder("<")
        self.chunk_rows = int(self._meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        self.row_bytes = self.dtype.itemsize * math.prod(self.row_shape)
        self.checksummed = len(self._meta["codecs"]) == 2
        self._chunks = ChunkFiles(
            path,
            separator(self._meta),
            len(self.row_shape),
            self.chunk_rows,
            self.row_bytes,
            self.checksummed,
        )
        self._last: tuple[int, Array] | None = None  # the chunk written last, and its bytes

    def __len__(self) -> int:
        return int(self._meta["shape"][0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

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
            content = self._chunks.read_whole(first // self.chunk_rows)[
                : len(part) * self.row_bytes
            ]
            part[...] = content.view(self.dtype).reshape(part.shape)
        return out

    def damaged_rows(self) -> Iterator[tuple[int, int, str]]:
        """Yield (first row, number of rows, why) of each chunk that does not fit its checksum.

        Of chunks that are there; `missing_rows` has the others.
        """
        chunks = self._chunks.sizes()
        for chunk in sorted(chunks):
            first = chunk * self.chunk_rows
            if first < len(self) and chunks[chunk] == self._chunks.file_bytes:
                try:
                    self._chunks.read_whole(chunk)
                except ValueError as error:
                    yield first, min(self.chunk_rows, len(self) - first), str(error)

    def gather(self, rows: Array) -> Array:
        """Return the rows at the indices `rows` [K], in that order; neighbours in one read."""
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        if out.nbytes:
            view = out.reshape(-1).view(np.uint8).data
            for first, count, row in _runs(rows, self.chunk_rows):
                at, size = first * self.row_bytes, count * self.row_bytes
                self._chunks.read_into(row, view[at : at + size])
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
            part = data[written : written + self._chunks.chunk_bytes - before]
            content = self._to_grow(chunk, before)
            content[before : before + len(part)] = part
            self._chunks.replace(chunk, content, before + len(part))
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
        chunks, lost, expected = self._chunks.sizes(), [], 0
        needed = -(-len(self) // self.chunk_rows)
        for chunk in sorted(c for c in chunks if c < needed):
            if chunk > expected:
                why = f"{self._chunks.path_of(expected)} is missing"
                lost.append((expected * self.chunk_rows, why))
            rows = min(self.chunk_rows, len(self) - chunk * self.chunk_rows)
            have = chunks[chunk]
            if have < rows * self.row_bytes or (
                self.checksummed and have != self._chunks.file_bytes
            ):
                whole = min(max(have, 0) // self.row_bytes, rows - 1) if self.row_bytes else 0
                size = f"has {have} bytes" if have >= 0 else "is no file"
                expected_size = f"expected {self._chunks.file_bytes} bytes"
                why = f"{self._chunks.path_of(chunk)} {size}, {expected_size}"
                lost.append((chunk * self.chunk_rows + whole, why))
            expected = chunk + 1
        if expected < needed:
            lost.append(
                (expected * self.chunk_rows, f"{self._chunks.path_of(expected)} is missing")
            )
        return lost

    def stray_files(self) -> list[Path]:
        """Return what lies in the array's folder and is no part of it."""
        return [
            path
            for path in sorted(self.path.rglob("*"))
            if path.name != "zarr.json"
            and not path.is_dir()
            and self._chunks.chunk_of(path) is None
        ]

    def _drop_files_beyond(self, rows: int) -> None:
        """Delete the chunk files in which none of the first `rows` rows lies."""
        self._chunks.close()
        for chunk in self._chunks.sizes():
            if chunk * self.chunk_rows >= rows:
                self._chunks.path_of(chunk).unlink(missing_ok=True)

    def _to_grow(self, chunk: int, before: int) -> Array:
        """Return the bytes of a chunk of which the first `before` are kept, the others 0."""
        last, self._last = self._last, None  # not kept if the write fails
        if last is not None and last[0] == chunk:
            content = last[1]
        elif before:
            content = self._chunks.read_whole(chunk)
        else:
            return np.zeros(self._chunks.chunk_bytes, np.uint8)
        content[before:] = 0
        return content


def _runs(rows: Array, chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (position in `rows`, count, first row) of consecutive rows within one chunk."""
    if not len(rows):
        return
    breaks = (np.diff(rows) != 1) | (rows[1:] % chunk_rows == 0)
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    counts = np.diff(np.append(starts, len(rows)))
    yield from zip(starts.tolist(), counts.tolist(), rows[starts].tolist(), strict=True)
