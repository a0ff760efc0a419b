"""Checkpoint directories are replaced as a whole, so that a kill leaves the old one or the new."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from telic.replacement import Kind, Replacement, restore

_OURS = re.compile(r"^kind: .*^format: \d+$", re.MULTILINE | re.DOTALL)  # of config.yaml
_LEFTOVER = r"\.\w+\.[a-z0-9_]{8}\.telic"  # what a killed replacement left


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
        is_checkpoint(entry) or re.fullmatch(_LEFTOVER, entry.name) for entry in path.iterdir()
    )


_FILES = (  # of a checkpoint, those of language/ as transformers names them
    r"config\.yaml|(spec|digests)\.json|(model|stats|embeddings)\.safetensors"
    r"|train_state/(tensors\.safetensors|tree\.json)"
    r"|language/(.+\.(json|safetensors|model)|(.+/)?(vocab|merges)\.txt)"
)
# the trainer of a run holds the run's folder: out/checkpoints/last
CHECKPOINT = Kind(
    "a checkpoint of ours", is_checkpoint, lambda path: (path, path.parent.parent), _FILES
)
CHECKPOINTS = Kind(
    "a folder of checkpoints of ours",
    is_run,
    lambda path: (path, path.parent),
    rf"[^/]+/({_FILES})|{_LEFTOVER}/.*",
)


@contextmanager
def replacing_directory(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield an empty directory beside `path` that takes its place when the block ends well.

    Whoever asks for it holds the run. ValueError if something else than a checkpoint stands there,
    or one that `overwrite` spares, or it cannot be written (disk full, no permission); what stood
    at `path` stays. A user's own files in it come along: they end no training.
    """
    checkpoint = Replacement(
        path, CHECKPOINT, overwrite=overwrite, locked_by_us=True, keep_strangers=True
    )
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
