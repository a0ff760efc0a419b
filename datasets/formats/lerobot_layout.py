"""What lies where in a LeRobotDataset, v2.0, v2.1 and v3.0, and which field is which feature.

v3.0  data/chunk-000/file-000.parquet             many episodes a file
      videos/<key>/chunk-000/file-000.mp4         many episodes a file
      meta/info.json stats.json tasks.parquet     meta/episodes/chunk-000/file-000.parquet
v2.1  data/chunk-000/episode_000000.parquet       videos/chunk-000/<key>/episode_000000.mp4
      meta/info.json tasks.jsonl episodes.jsonl episodes_stats.jsonl
      meta/telic.json                             ours: units, gripper sign, segments; optional
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from telic.replacement import Kind
from telic.text_files import read_text

READS = ("v2.0", "v2.1", "v3.0")
INDEX_FEATURES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
OWN = "meta/telic.json"
CHUNK = 1000  # files (v3.0) or episodes (v2.1) in a folder
DATA_MB, VIDEO_MB = 100, 200  # a file of v3.0 that has reached this is followed by another
DATA_PATH = {
    True: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    False: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}  # by whether it is v3.0
VIDEO_PATH = {
    True: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    False: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
MOST_META_BYTES = 256 << 20  # of a metadata file that is read whole
_OWN_KEYS = {"state": "observation.state", "reward": "next.reward", "done": "next.done"}
_IMAGES = "observation.images."


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodePlace:
    """Where an episode lies: its rows are [first, first + length) of the `file_rows` of a parquet
    file, its pictures begin at a time (s) of a video file."""

    index: int
    length: int
    data: Path
    first: int
    file_rows: int
    videos: Mapping[str, tuple[Path, float]]


def is_lerobot(path: Path) -> bool:
    """Return whether a LeRobotDataset stands at `path`, of whatever version."""
    described = path / "meta/info.json"
    try:
        info = json.loads(read_text(described)) if described.is_file() else None
    except (OSError, ValueError):
        return False
    return isinstance(info, dict) and "codebase_version" in info


LEROBOT = Kind(
    "a LeRobotDataset",
    is_lerobot,
    files=r"meta/(?:info|stats|telic)\.json|meta/(?:episodes|episodes_stats|tasks)\.jsonl"
    r"|meta/tasks\.parquet|meta/episodes/.+\.parquet|data/.+\.parquet|videos/.+\.mp4",
)


def field_of(key: str) -> str:
    """The store's name of a feature: image/front for observation.images.front."""
    for field, known in _OWN_KEYS.items():
        if key == known:
            return field
    if key.startswith("observation.image"):
        return f"image/{_plain(key.removeprefix(_IMAGES).removeprefix('observation.'))}"
    return _plain(key).replace(".", "/")


def key_of(field: str) -> str:
    """The feature of a store's field, the inverse of `field_of`."""
    if field.startswith("image/"):
        return _IMAGES + field[6:].replace("/", ".")
    return _OWN_KEYS.get(field, field.replace("/", "."))


def _plain(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_./]", "_", key)


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json, checked: a version that is read, fps, features, templates of paths."""
    path = root / "meta/info.json"
    info = read_json(path)
    version = info.get("codebase_version")
    if version not in READS:
        raise ValueError(
            f"{path}: codebase_version is {version!r:.40}, this program reads {', '.join(READS)}; "
            "convert the data set with LeRobot's own scripts, or install a newer telic"
        )
    fps, features = info.get("fps"), info.get("features")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise ValueError(f"{path}: fps is {fps!r:.40}, expected more than 0")
    if not isinstance(features, dict) or not features:
        raise ValueError(f"{path}: features are missing")
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        whole = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
        if not whole or not isinstance(feature.get("dtype"), str):
            raise ValueError(f"{path}: feature {key!r:.60} is {feature!r:.80}, expected its shape")
    return info


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds {found!r:.60}, expected a JSON object")
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number}: is not JSON; is it truncated?") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} line {number}: holds {found!r:.60}, expected an object")
        yield found


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: is missing; the data set is not whole")
    if path.stat().st_size > MOST_META_BYTES:
        raise ValueError(f"{path}: is larger than {MOST_META_BYTES >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not readable ({error})") from error


def filled(root: Path, template: Any, **values: int | str) -> Path:
    """The path that a template of info.json names, in the data set's folder and not beyond it."""
    if not isinstance(template, str):
        raise ValueError(f"{root}/meta/info.json: a path is {template!r:.60}, expected a text")

    def value(match: re.Match[str]) -> str:
        name, width = match.groups()
        if name not in values:
            raise ValueError(f"{root}/meta/info.json: path {template!r:.80} asks for {name}")
        return str(values[name]).zfill(int(width or 0))

    text = re.sub(r"\{(\w+)(?::0?(\d{1,2})d)?\}", value, template)
    parts = PurePosixPath(text)
    if parts.is_absolute() or ".." in parts.parts or re.search(r"[{}\0]", text):
        raise ValueError(f"{root}/meta/info.json: path {text!r:.80} leaves the data set")
    return root / parts


def entry_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a vector's entries, () where the feature does not tell them."""
    names = feature.get("names")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}
        (names,) = names.values()
    size = feature["shape"][0] if len(feature["shape"]) == 1 else None
    if not isinstance(names, list) or len(names) != size:
        return ()
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def picture_axes(where: str, feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a feature's pictures; ValueError unless they have three channels."""
    shape, names = feature["shape"], feature.get("names")
    if len(shape) == 3:
        named = names if isinstance(names, list) and len(names) == 3 else []
        first = named[:1] in (["channels"], ["channel"]) or (not named and shape[2] != 3)
        channels, height, width = shape if first else (shape[2], *shape[:2])
        if channels == 3:
            return height, width
    raise ValueError(f"{where}: pictures have shape {shape}, expected [height, width, 3]")
