"""Checkpoint directories are replaced as a whole, so that a kill leaves the old one or the new."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from telic.replacement import Kind, Replacement, restore

_OURS = re.compile(r"^kind: .*^format: \d+$", re.MULTILINE | re.DOTALL)  # of config.yaml


def is_checkpoint(path: Path) -> bool:
    """Return whether one of our checkpoint directories stands at `path`."""
    try:
        text = (path / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return _OURS.search(text) is not None


def is_run(path: Path) -> bool:
    """Return whether `path` is a folder of our checkpoints and nothing else."""
    return path.is_dir() and all(
        is_checkpoint(entry) or re.fullmatch(r"\.\w+\.[a-z0-9_]{8}\.telic", entry.name)
        for entry in path.iterdir()
    )


# the trainer of a run holds the run's folder: out/checkpoints/last
CHECKPOINT = Kind("a checkpoint of ours", is_checkpoint, lambda path: (path, path.parent.parent))
CHECKPOINTS = Kind("a folder of checkpoints of ours", is_run, lambda path: (path, path.parent))


@contextmanager
def replacing_directory(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield an empty directory beside `path` that takes its place when the block ends well.

    Whoever asks for it holds the run. ValueError if something else than a checkpoint stands there,
    or one that `overwrite` spares, or it cannot be written (disk full, no permission); what stood
    at `path` stays.
    """
    checkpoint = Replacement(path, CHECKPOINT, overwrite=overwrite, locked_by_us=True)
    with checkpoint.writing(durable=True) as fresh:
        fresh.mkdir()
        try:
            yield fresh
        except SafetensorError as error:
            raise OSError(str(error)) from error


def existing_directory(path: Path) -> Path:
    """Return `path`, put back first if a kill fell between the two renames of a replacement."""
    restore(path)
    return path
