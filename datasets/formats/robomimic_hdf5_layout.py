"""What lies where in a robomimic HDF5 file, and the digests by which ours are known again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from telic.datasets import hdf5
from telic.datasets.language import Segment
from telic.replacement import Kind
from telic.spec import Array

OWN_PATHS = {
    "action": "actions",
    "reward": "rewards",
    "done": "dones",
    "states": "states",  # robosuite's simulator states
    "timestamp_ns": "timestamp_ns",
}
WAY_OUT = (
    "restore the file, or, if it was edited on purpose, delete the attribute telic of /data and "
    "import it as robomimic's"
)
CARRIED = ("robot", "task_family", "licence", "source", "env_args")


def is_robomimic(path: Path) -> bool:
    """Return whether an HDF5 file of demonstrations stands at `path`."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with h5py.File(path, "r") as file:
            return file.get("data", getclass=True) is h5py.Group
    except (OSError, RuntimeError):
        return False


HDF5 = Kind("a robomimic HDF5 file", is_robomimic)


def hdf5_path(field: str) -> str:
    """The path of a field's array below a demo."""
    if field.startswith("image/"):
        return f"obs/{field[6:].replace('/', '_')}_image"
    return OWN_PATHS.get(field, f"obs/{field.replace('/', '_')}")


def demo_names(data: h5py.Group, source: Path) -> list[str]:
    """Return the demos in the order of their numbers, as robomimic does."""
    found = [name for name in hdf5.names(data, str(source)) if re.fullmatch(r"demo_\d{1,9}", name)]
    return sorted(found, key=lambda name: int(name[5:]))


def digest_of(episode: Mapping[str, Array], segments: Sequence[Segment]) -> str:
    """SHA-256 of an episode as it comes back: floats are float32."""
    digest = hashlib.sha256()
    for name in sorted(episode):
        rows = episode[name]
        rows = rows.astype(np.float32) if rows.dtype.kind == "f" else rows
        digest.update(f"{name} {rows.dtype.str} {rows.shape} ".encode())
        digest.update(np.ascontiguousarray(rows).tobytes())
    listed = [(s.start, s.end, s.instruction, s.task) for s in segments]
    return digest_of_text(digest.hexdigest() + json.dumps(listed))


def digest_of_text(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
