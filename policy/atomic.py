"""Replacing a directory as a whole, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2): swap two paths in one step (Linux, most file systems)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` that takes its place when the block ends well.

    ValueError if it cannot be written (disk full, no permission); what stood at `path` stays.
    """
    fresh = path.with_name(f".{path.name}.writing")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        for file in sorted(fresh.rglob("*")):
            _sync(file)
        _put_in_place(fresh, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise ValueError(
            f"{path}: cannot be written ({error}); what was there before is kept; free some space "
            "or write elsewhere"
        ) from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def existing_directory(path: Path) -> Path:
    """Return `path`, put back first if a kill fell between the two renames of a replacement."""
    previous = _previous(path)
    if not path.exists() and previous.exists():
        previous.rename(path)
    return path


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _put_in_place(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    if _exchange(fresh, path):
        shutil.rmtree(fresh)
        return
    previous = _previous(path)
    shutil.rmtree(previous, ignore_errors=True)
    path.rename(previous)
    fresh.rename(path)
    shutil.rmtree(previous)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step; return False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(a), os.fsencode(b)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    """Wait until `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
