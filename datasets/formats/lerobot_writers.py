"""The files of a LeRobotDataset that is being written: parquet, mp4, metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from telic.datasets.formats import lerobot_layout as layout
from telic.datasets.formats.converter import optional
from telic.datasets.formats.video import VideoWriter
from telic.spec import Array


class DataFiles:
    """Parquet files of steps: one row group an episode (v3.0) or one file an episode (v2.1)."""

    def __init__(self, root: Path, features: Mapping[str, Any], v3: bool) -> None:
        self.root, self.features, self.v3 = root, features, v3
        self.task_indices: list[Array] = []
        self._arrow = optional("pyarrow", "lerobot")
        self._parquet = optional("pyarrow.parquet", "lerobot")
        self._writer: Any = None
        self._path: Path | None = None
        self._number = -1

    def append(self, index: int, columns: Mapping[str, Array]) -> dict[str, Any]:
        """Write an episode and return what the metadata say of where it lies."""
        self.task_indices.append(columns["task_index"])
        arrays = {key: self._column(key, columns[key]) for key in self.features if key in columns}
        table = self._arrow.table(arrays).replace_schema_metadata(self._metadata(list(arrays)))
        path = self._path_of(index)
        if path != self._path:
            self.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._parquet.ParquetWriter(
                path, table.schema, compression="snappy", use_dictionary=True
            )
            self._path = path
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        if not self.v3:
            return {}
        chunk, number = divmod(self._number, layout.CHUNK)
        return {"data/chunk_index": chunk, "data/file_index": number}

    def close(self) -> None:
        """Write the footer of the file that is open."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _path_of(self, index: int) -> Path:
        if not self.v3:
            chunk = index // layout.CHUNK
            return self.root / f"data/chunk-{chunk:03d}/episode_{index:06d}.parquet"
        full = self._path is None or self._path.stat().st_size >= layout.DATA_MB << 20
        self._number += full
        chunk, number = divmod(self._number, layout.CHUNK)
        return self.root / f"data/chunk-{chunk:03d}/file-{number:03d}.parquet"

    def _column(self, key: str, rows: Array) -> Any:
        feature, arrow = self.features[key], self._arrow
        if feature["dtype"] == "image":
            cells = [{"bytes": _png(rows[i]), "path": None} for i in range(len(rows))]
            kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
            return arrow.array(cells, kind)
        flat = arrow.array(np.ascontiguousarray(rows).reshape(-1))
        if feature["shape"] == [1]:
            return flat
        return arrow.FixedSizeListArray.from_arrays(flat, feature["shape"][0])

    def _metadata(self, keys: Sequence[str]) -> dict[str, str]:
        """What Hugging Face's datasets notes of the columns; before its version 4 a list was a
        Sequence, and v2.1 is read with that."""
        features: dict[str, Any] = {}
        vector = "List" if self.v3 else "Sequence"
        for key in keys:
            feature = self.features[key]
            value = {"dtype": feature["dtype"], "_type": "Value"}
            if feature["dtype"] == "image":
                features[key] = {"_type": "Image"}
            elif feature["shape"] == [1]:
                features[key] = value
            else:
                features[key] = {"feature": value, "length": feature["shape"][0], "_type": vector}
        return {"huggingface": json.dumps({"info": {"features": features}})}


class VideoFiles:
    """The mp4 files of one camera: many episodes a file (v3.0) or one (v2.1)."""

    def __init__(
        self,
        root: Path,
        key: str,
        v3: bool,
        encoding: tuple[str, int, Fraction],
        size: Sequence[int],
    ) -> None:
        """encoding: codec, crf, frames a second; size: height and width in pixels."""
        self.root, self.key, self.v3 = root, key, v3
        self.codec, self.crf, self.rate = encoding
        self.size = (size[0], size[1])
        self._writer: VideoWriter | None = None
        self._number = -1

    def append(self, index: int, pictures: Array) -> dict[str, Any]:
        """Write an episode and return what the metadata say of where it lies."""
        writer = self._next(index)
        first = writer.num_frames
        writer.append(pictures)
        if not self.v3:
            return {}
        chunk, number = divmod(self._number, layout.CHUNK)
        places = {
            "chunk_index": chunk,
            "file_index": number,
            "from_timestamp": float(first / self.rate),
            "to_timestamp": float((first + len(pictures)) / self.rate),
        }
        return {f"videos/{self.key}/{name}": value for name, value in places.items()}

    def _next(self, index: int) -> VideoWriter:
        """The file that the episode goes to."""
        writer = self._writer
        if self.v3 and writer is not None and writer.num_bytes < layout.VIDEO_MB << 20:
            return writer
        self.close()
        self._number += 1
        chunk, number = divmod(self._number, layout.CHUNK)
        name = f"{self.key}/chunk-{chunk:03d}/file-{number:03d}.mp4"
        if not self.v3:
            name = f"chunk-{index // layout.CHUNK:03d}/{self.key}/episode_{index:06d}.mp4"
        path = self.root / "videos" / name
        self._writer = VideoWriter(path, self.codec, self.crf, self.rate, self.size)
        return self._writer

    def close(self) -> None:
        """Finish the file that is open."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def write_metadata(
    root: Path,
    info: Mapping[str, Any],
    tasks: Mapping[str, int],
    episodes: Sequence[Mapping[str, Any]],
    stats: Mapping[str, Any],
    v3: bool,
) -> None:
    """Write all of meta/."""
    meta = root / "meta"
    meta.mkdir(parents=True, exist_ok=True)
    _write(meta / "info.json", _json(info, indent=4))
    if v3:
        _write(meta / "stats.json", _json(stats, indent=4))
        _write_tasks(meta / "tasks.parquet", tasks)
        _write_episodes(meta / "episodes/chunk-000/file-000.parquet", episodes)
        return
    listed = [{"task_index": number, "task": task} for task, number in tasks.items()]
    _write(meta / "tasks.jsonl", _lines(listed))
    kept = ("episode_index", "tasks", "length")
    _write(meta / "episodes.jsonl", _lines([{k: row[k] for k in kept} for row in episodes]))
    short = ("min", "max", "mean", "std", "count")
    each = [
        {
            "episode_index": row["episode_index"],
            "stats": {k: {s: v[s] for s in short} for k, v in row["stats"].items()},
        }
        for row in episodes
    ]
    _write(meta / "episodes_stats.jsonl", _lines(each))


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """A pandas table whose index is the sentence, as LeRobot reads it."""
    arrow, parquet = optional("pyarrow", "lerobot"), optional("pyarrow.parquet", "lerobot")
    table = arrow.table({"task_index": list(tasks.values()), "task": list(tasks)})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode"},
    ]
    types = ("int64", "object")
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {**column, "numpy_type": kind, "metadata": None}
            for column, kind in zip(columns, types, strict=True)
        ],
        "pandas_version": "2.0.0",
    }
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_episodes(path: Path, episodes: Sequence[Mapping[str, Any]]) -> None:
    arrow, parquet = optional("pyarrow", "lerobot"), optional("pyarrow.parquet", "lerobot")
    path.parent.mkdir(parents=True)
    rows = []
    for row in episodes:
        flat = {key: value for key, value in row.items() if key != "stats"}
        flat |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for key, stats in row["stats"].items():
            flat |= {f"stats/{key}/{name}": value for name, value in stats.items()}
        rows.append(flat)
    parquet.write_table(arrow.Table.from_pylist(rows), path, compression="snappy")


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(data: Any, indent: int | None = None) -> str:
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{_json(row)}\n" for row in rows)
