"""The files of an array in the plain layout: one for each chunk of rows, with its checksum."""

from __future__ import annotations

import os
import re
import stat
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from telic.replacement import swap_file
from telic.spec import Array

OPEN_FILES = 128  # kept open for reading, per array
CHECKSUM_BYTES = 4


class ChunkFiles:
    """The chunk files in an array's folder; a chunk is `chunk_rows` rows of `row_bytes` bytes.

    separator: between the parts of a file's name; row_dims: dimensions of a row.
    """

    def __init__(
        self,
        folder: Path,
        separator: str,
        row_dims: int,
        chunk_rows: int,
        row_bytes: int,
        checksummed: bool,
    ) -> None:
        self.folder = folder
        self._separator, self._row_dims = separator, row_dims
        self._chunk_rows, self._row_bytes = chunk_rows, row_bytes
        self._checksummed = checksummed
        self._open_files: OrderedDict[int, FileIO] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": OrderedDict()}

    def close(self) -> None:
        """Close what was kept open for reading."""
        self._open_files.clear()

    def sizes(self) -> dict[int, int]:
        """Return the size of each chunk file that is there, -1 for what is no file."""
        found = {}
        for path in self.folder.rglob("*") if self._separator == "/" else self.folder.iterdir():
            chunk = self.chunk_of(path)
            if chunk is not None:
                try:
                    about = path.stat()
                except OSError:  # a link that leads nowhere
                    found[chunk] = -1
                    continue
                found[chunk] = about.st_size if stat.S_ISREG(about.st_mode) else -1
        return found

    def chunk_of(self, path: Path) -> int | None:
        """Return the number of the chunk that a file in the array's folder is, or None."""
        ends = re.escape(self._separator + "0") * self._row_dims
        key = path.relative_to(self.folder).as_posix()
        match = re.fullmatch(rf"c{re.escape(self._separator)}(0|[1-9]\d{{0,17}}){ends}", key)
        return int(match.group(1)) if match else None

    def path_of(self, chunk: int) -> Path:
        """The file of a chunk."""
        key = ["c", str(chunk), *("0" for _ in range(self._row_dims))]
        return self.folder / self._separator.join(key)

    def read_into(self, row: int, view: memoryview) -> None:
        """Fill `view` from the file in which `row` lies, from that row on; its rows lie there."""
        chunk, offset = divmod(row, self._chunk_rows)
        position = offset * self._row_bytes
        file = self._open(chunk)
        while view:
            got = os.preadv(file.fileno(), [view], position)
            if not got:
                raise ValueError(
                    f"{self.path_of(chunk)}: ends at byte {position} where row {row} should "
                    "be; the file is damaged, restore it or run demo-store validate"
                )
            view, position = view[got:], position + got

    def _open(self, chunk: int) -> FileIO:
        file = self._open_files.pop(chunk, None)
        if file is None:
            path = self.path_of(chunk)
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
            while len(self._open_files) >= OPEN_FILES:
                self._open_files.popitem(last=False)
        self._open_files[chunk] = file
        return file

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a whole chunk's rows."""
        return self._chunk_rows * self._row_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of a chunk's file: the rows and, where one is kept, their checksum."""
        return self.chunk_bytes + (CHECKSUM_BYTES if self._checksummed else 0)

    def read_whole(self, chunk: int) -> Array:
        """Return the bytes of a chunk, u8; ValueError if they do not fit its checksum."""
        content = np.zeros(self.file_bytes, np.uint8)
        file = self._open(chunk)
        got = 0
        while more := os.preadv(file.fileno(), [content.data[got:]], got):
            got += more
        rows, checksum = content[: self.chunk_bytes], content[self.chunk_bytes :]
        if self._checksummed and _checksum(rows) != checksum.tobytes():
            first = chunk * self._chunk_rows
            raise ValueError(
                f"{self.path_of(chunk)}: does not fit its checksum, so some of the rows from "
                f"{first} on are not what was written; restore the file, demo-store validate "
                "--deep names the episodes"
            )
        return rows

    def replace(self, chunk: int, content: Array, used: int) -> None:
        """Put a chunk of which all beyond `used` bytes is 0 in the place of the old one."""
        path = self.path_of(chunk)
        if self._separator == "/":
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            with temporary.open("wb", buffering=0) as file:
                _write_fully(file.fileno(), content[:used], 0)
                os.ftruncate(file.fileno(), self.file_bytes)  # sparse: costs no disk
                if self._checksummed:
                    checksum = np.frombuffer(_checksum(content), np.uint8)
                    _write_fully(file.fileno(), checksum, self.chunk_bytes)
            swap_file(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._open_files.pop(chunk, None)  # of the old one


def _checksum(content: Array) -> bytes:
    """Return what the crc32c codec appends."""
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")


def _write_fully(file: int, content: Array, position: int) -> None:
    view = content.data
    while view:
        done = os.pwrite(file, view, position)
        view, position = view[done:], position + done
