"""Where each episode of a LeRobotDataset lies, and its tasks, by its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from telic.datasets.formats import lerobot_layout as layout
from telic.datasets.formats.lerobot_layout import EpisodePlace
from telic.datasets.formats.lerobot_tables import whole_table


def read_tasks(root: Path) -> dict[int, str]:
    """Sentences by task_index."""
    table = root / "meta/tasks.parquet"
    rows = whole_table(table) if table.exists() else layout.read_lines(root / "meta/tasks.jsonl")
    tasks: dict[int, str] = {}
    for row in rows:
        sentence = row.get("task", row.get("__index_level_0__"))
        number = row.get("task_index")
        if type(number) is not int or not isinstance(sentence, str):
            raise ValueError(f"{root}/meta/tasks: {row!r:.80} names no task")
        if tasks.get(number, sentence) != sentence:
            raise ValueError(f"{root}/meta/tasks: task_index {number} stands for two sentences")
        tasks[number] = sentence
    return tasks


def episode_places(root: Path, info: Mapping[str, Any]) -> list[EpisodePlace]:
    """Where each episode lies, in their order; ValueError where the metadata contradict it."""
    videos = [key for key, f in info["features"].items() if f["dtype"] == "video"]
    v2 = info["codebase_version"].startswith("v2")
    rows = _episodes_v2(root) if v2 else _episodes_v3(root, videos)
    _require_totals(root, info, rows)
    if v2:
        return [_place_v2(root, info, row, videos) for row in rows]
    spans = _spans_v3(root, info, rows)
    return [_place_v3(root, info, row, videos, spans) for row in rows]


def _require_totals(root: Path, info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where an episode is there twice, or info.json counts others."""
    indices = [_whole(root, row, "episode_index") for row in rows]
    for index, following in pairwise(indices):
        if index == following:
            raise ValueError(f"{root}/meta/episodes: episode {index} is there twice")
    totals = {"total_episodes": len(rows), "total_frames": sum(_length(root, row) for row in rows)}
    for key, found in totals.items():
        if info.get(key, found) != found:
            raise ValueError(
                f"{root}/meta/info.json: {key} is {info[key]!r:.40}, by meta/episodes it is {found}"
            )


def _spans_v3(
    root: Path, info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[Path, tuple[int, int]]:
    """The rows of the data set that each file holds, by its episodes: which it begins and ends at.

    ValueError unless one episode begins where another one ends.
    """
    spans: dict[Path, tuple[int, int]] = {}
    ordered = sorted(rows, key=lambda row: _whole(root, row, "dataset_from_index"))
    for row in ordered:
        path, first = _data_v3(root, info, row), _whole(root, row, "dataset_from_index")
        begin, end = spans.get(path, (first, first))
        if first != end:
            raise ValueError(
                f"{root}/meta/episodes: episode {row['episode_index']} begins at row {first}, the "
                f"one before it in {path.name} ends at row {end} by its length"
            )
        spans[path] = (begin, first + _length(root, row))
    return spans


def _episodes_v2(root: Path) -> list[dict[str, Any]]:
    rows = list(layout.read_lines(root / "meta/episodes.jsonl"))
    return sorted(rows, key=lambda row: _whole(root, row, "episode_index"))


def _place_v2(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], videos: list[str]
) -> EpisodePlace:
    index = _whole(root, row, "episode_index")
    size = info.get("chunks_size", 1000)
    if type(size) is not int or size < 1:
        raise ValueError(f"{root}/meta/info.json: chunks_size is {size!r:.40}")
    at: dict[str, int | str] = {"episode_chunk": index // size, "episode_index": index}
    return EpisodePlace(
        index=index,
        length=_length(root, row),
        data=layout.filled(root, info.get("data_path"), **at),
        first=0,
        file_rows=_length(root, row),
        videos={
            key: (layout.filled(root, info.get("video_path"), video_key=key, **at), 0.0)
            for key in videos
        },
    )


def _episodes_v3(root: Path, videos: list[str]) -> list[dict[str, Any]]:
    columns = ["episode_index", "length", "dataset_from_index"]
    columns += ["data/chunk_index", "data/file_index"]
    parts = ("chunk_index", "file_index", "from_timestamp")
    columns += [f"videos/{key}/{part}" for key in videos for part in parts]
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    if not files:
        raise ValueError(f"{root}/meta/episodes: is missing; the data set is not whole")
    rows = [row for file in files for row in whole_table(file, columns)]
    return sorted(rows, key=lambda row: _whole(root, row, "episode_index"))


def _data_v3(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> Path:
    return layout.filled(
        root,
        info.get("data_path"),
        chunk_index=_whole(root, row, "data/chunk_index"),
        file_index=_whole(root, row, "data/file_index"),
    )


def _place_v3(
    root: Path,
    info: Mapping[str, Any],
    row: Mapping[str, Any],
    videos: list[str],
    spans: Mapping[Path, tuple[int, int]],
) -> EpisodePlace:
    found = {}
    for key in videos:
        path = layout.filled(
            root,
            info.get("video_path"),
            video_key=key,
            chunk_index=_whole(root, row, f"videos/{key}/chunk_index"),
            file_index=_whole(root, row, f"videos/{key}/file_index"),
        )
        start_s = row.get(f"videos/{key}/from_timestamp")
        if not isinstance(start_s, int | float) or not 0 <= start_s < 1e9:
            raise ValueError(f"{root}/meta/episodes: {key} begins at {start_s!r:.40} s")
        found[key] = (path, float(start_s))
    data = _data_v3(root, info, row)
    begin, end = spans[data]
    return EpisodePlace(
        index=_whole(root, row, "episode_index"),
        length=_length(root, row),
        data=data,
        first=_whole(root, row, "dataset_from_index") - begin,
        file_rows=end - begin,
        videos=found,
    )


def _length(root: Path, row: Mapping[str, Any]) -> int:
    length = _whole(root, row, "length")
    if not length:
        raise ValueError(f"{root}/meta/episodes: episode {row.get('episode_index')} has no steps")
    return length


def _whole(root: Path, row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{root}/meta/episodes: {key} is {value!r:.40}, expected a whole number")
    return value
