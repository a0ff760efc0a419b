"""The metadata of a zarr node, and whether an array's is that of the plain layout."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_META = 64 << 20  # bytes of a zarr.json
LARGEST_CHUNK = 1 << 30  # bytes; a larger declared size is damage
# a file that was being replaced, by us or by zarr
PARTIAL = re.compile(
    r"(zarr\.json|c[.0-9]*|[0-9]+)\.\d+\.partial|(zarr|[0-9]+)\.[0-9a-f]{32}\.partial"
)
# the files of zarr v3's arrays and groups, by their paths
NODE_FILES = rf"(?:.+/)?(?:zarr\.json|c(?:[./]\d+)*|{PARTIAL.pattern})"


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


def not_plain(meta: Mapping[str, Any]) -> str | None:
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
    if (between := separator(meta)) not in (".", "/"):
        return f"separates chunk keys by {between!r:.40}, expected . or /"
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


def separator(meta: Mapping[str, Any]) -> Any:
    """What stands between the parts of a chunk's key, "." or "/" in the plain layout."""
    return (meta["chunk_key_encoding"].get("configuration") or {}).get("separator", "/")
