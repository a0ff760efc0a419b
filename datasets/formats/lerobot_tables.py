"""Rows of LeRobot's parquet files as numpy arrays, one episode at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.formats.converter import optional
from telic.datasets.formats.encoded_pictures import picture
from telic.datasets.formats.into_store import pixel_buffer, require_room
from telic.datasets.formats.lerobot_layout import EpisodePlace
from telic.spec import Array


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged content into one line."""
    try:
        yield
    except ValueError as error:  # pyarrow's ArrowInvalid is one too
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: not readable ({_line(error)})") from error
    except (OSError, RuntimeError, KeyError, TypeError, NotImplementedError, MemoryError) as error:
        raise ValueError(f"{where}: not readable ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


class ParquetTables:
    """Reads rows of parquet files; keeps the file and the row group that were read last."""

    def __init__(self) -> None:
        self._parquet = optional("pyarrow.parquet", "lerobot")
        self._path: Path | None = None
        self._file: Any = None
        self._group: tuple[int, Any] | None = None
        self._columns: list[str] = []

    def rows(self, place: EpisodePlace, columns: Sequence[str]) -> Any:
        """The rows of an episode, a pyarrow Table of the columns."""
        path, first, count = place.data, place.first, place.length
        with reading(str(path)):
            self._open(path, columns)
            meta, parts, num_rows = self._file.metadata, [], 0
            for index in range(meta.num_row_groups):
                size = meta.row_group(index).num_rows
                low, high = max(first - num_rows, 0), min(first + count - num_rows, size)
                if low < high:
                    parts.append(self._read_group(index).slice(low, high - low))
                num_rows += size
            table = optional("pyarrow", "lerobot").concat_tables(parts) if parts else None
        if table is None or table.num_rows != count or num_rows != place.file_rows:
            raise ValueError(
                f"{path}: has {num_rows} rows, by the lengths in meta/episodes it is "
                f"{place.file_rows}"
            )
        return table

    def columns(self, path: Path) -> list[str]:
        """The names of a file's columns."""
        with reading(str(path)):
            self._open(path, self._columns)
            return list(self._file.schema_arrow.names)

    def _open(self, path: Path, columns: Sequence[str]) -> None:
        if path != self._path:
            if not path.is_file():
                raise ValueError(f"{path}: is missing; the data set is not whole")
            if self._file is not None:
                self._file.close()
            self._path, self._group = None, None
            self._file = self._parquet.ParquetFile(path)
            self._path = path
        if list(columns) != self._columns:
            self._columns, self._group = list(columns), None

    def _read_group(self, index: int) -> Any:
        if self._group is None or self._group[0] != index:
            self._group = None
            size = self._file.metadata.row_group(index).total_byte_size
            require_room(f"{self._path} row group {index}", size)
            there = self._file.schema_arrow.names
            if missing := [name for name in self._columns if name not in there]:
                raise ValueError(f"{self._path}: has no column {missing[0]}")
            self._group = (index, self._file.read_row_group(index, columns=self._columns))
        return self._group[1]


def whole_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a small file of metadata as dictionaries."""
    parquet = optional("pyarrow.parquet", "lerobot")
    with reading(str(path)):
        if not path.is_file():
            raise ValueError(f"{path}: is missing; the data set is not whole")
        with parquet.ParquetFile(path) as file:
            sizes = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            require_room(str(path), sum(group.total_byte_size for group in sizes))
            there = file.schema_arrow.names
            kept = there if columns is None else [name for name in columns if name in there]
            return file.read(columns=kept).to_pylist()


def numeric_column(where: str, table: Any, key: str, shape: Sequence[int]) -> Array:
    """A numeric column [T *shape]; those of shape [1] may be scalars in the file."""
    column = table.column(key)
    with reading(where):
        if column.null_count:
            raise ValueError(f"{where}: {key} has rows without a value")
        values = column.combine_chunks()
        while hasattr(values, "storage"):  # Hugging Face's ArrayND
            values = values.storage
        while "list" in str(values.type):
            values = values.flatten()
        flat = np.asarray(values.to_numpy(zero_copy_only=False))
    if flat.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {key} holds {column.type}, expected numbers")
    rows, entries = table.num_rows, int(np.prod(shape))
    if flat.size != rows * entries:
        raise ValueError(
            f"{where}: {key} has {flat.size} numbers in {rows} rows, expected {entries} in each"
        )
    return flat.reshape(rows, *shape)


def pictures(where: str, table: Any, key: str, height: int, width: int) -> Array:
    """A column of encoded pictures, decoded, u8 [T h w 3]."""
    decoded = pixel_buffer(f"{where}: {key}", (table.num_rows, height, width, 3))
    for step, cell in enumerate(table.column(key)):
        entry = cell.as_py()
        data = entry.get("bytes") if isinstance(entry, dict) else entry
        at = f"{where} step {step}: {key}"
        if not isinstance(data, bytes):
            raise ValueError(f"{at} holds no picture in the file itself")
        decoded[step] = picture(at, data, height, width)
    return decoded
