"""Reading HDF5 files that anybody may have written: arrays of numbers that lie in the file itself.

A link to another place or file, data kept outside of the file and datasets put together from
others are refused, since they bring in what the file does not hold; so is what is declared larger
than memory allows. Whatever is wrong is one ValueError that begins with where.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from telic.spec import Array

SHARE_OF_MEMORY = 0.25  # of the machine's: the largest array that is read at once
MOST_PACKED = 1032 * 2  # bytes of a byte: deflate's most, and float16 that become float32
_ERRORS = (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError, AttributeError)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Yield the HDF5 file at `path`, open for reading."""
    if not path.is_file():
        raise ValueError(f"{path}: is no file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not readable as HDF5 ({_line(error)})") from error
    with file:
        yield file


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what the library raises for damaged content into one line."""
    try:
        yield
    except _ERRORS as error:
        raise ValueError(f"{where}: not readable ({_line(error)})") from error


def names(group: h5py.Group, where: str) -> list[str]:
    """Return the names of what lies in the group, in their order."""
    with reading(where):
        return [str(name) for name in group]


def group(parent: h5py.Group, path: str, where: str) -> h5py.Group:
    """Return the group at `path` below `parent`, reached without links."""
    found = _entry(parent, path, where)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{where}: {path} is an array, expected a group")
    return found


def has(parent: h5py.Group, path: str, where: str) -> bool:
    """Return whether there is something at `path` below `parent`."""
    with reading(where):
        return path in parent


def array(parent: h5py.Group, path: str, where: str) -> h5py.Dataset:
    """Return the array of numbers at `path` below `parent`, one row a step, not read yet."""
    found = _entry(parent, path, where)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where}: {path} is a group, expected an array of numbers")
    with reading(f"{where}: {path}"):
        if found.is_virtual:
            raise ValueError(
                f"{where}: {path} is put together from other datasets, which is refused; copy the "
                "file with h5repack first"
            )
        if found.external:
            raise ValueError(
                f"{where}: {path} keeps its data in another file, {found.external[0][0]!r:.60}, "
                "which is refused; copy the file with h5repack first"
            )
        if found.shape is None or not found.shape:
            raise ValueError(f"{where}: {path} is a single value, expected a row for each step")
        if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:
            raise ValueError(f"{where}: {path} has dtype {found.dtype}, expected numbers")
    return found


def rows(parent: h5py.Group, path: str, where: str) -> Array:
    """Return what `array` has, read, in native byte order, float64 as float32."""
    found = array(parent, path, where)
    dtype = np.dtype(np.float32) if found.dtype.kind == "f" else found.dtype.newbyteorder("=")
    size = math.prod(found.shape) * max(found.dtype.itemsize, dtype.itemsize)
    most = SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > most:
        raise ValueError(
            f"{where}: {path} is declared as {found.dtype} {found.shape}, {size / 2**30:.3g} GiB, "
            f"more than the {most / 2**30:.3g} GiB that one array may have on this machine"
        )
    if size > MOST_PACKED * found.id.get_storage_size() + 2**20:
        raise ValueError(
            f"{where}: {path} is declared as {found.dtype} {found.shape}, the file holds "
            f"{found.id.get_storage_size()} bytes of it; it was never written in full"
        )
    with reading(f"{where}: {path}"), np.errstate(over="ignore"):
        return np.asarray(found[()]).astype(dtype)


def json_object(owner: h5py.Group, name: str, where: str) -> Mapping[str, Any]:
    """Return the JSON object in an attribute, {} where there is no such attribute."""
    value = json_value(owner, name, where, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}: attribute {name} is {value!r:.60}, expected a JSON object")
    return value


def json_value(owner: h5py.Group, name: str, where: str, absent: Any) -> Any:
    """Return what the JSON text in an attribute says, `absent` where there is no such attribute."""
    with reading(f"{where}: attribute {name}"):
        if name not in owner.attrs:
            return absent
        text = owner.attrs[name]
    if isinstance(text, bytes | np.bytes_):
        text = bytes(text).decode("utf-8", "replace")
    if not isinstance(text, str):
        raise ValueError(f"{where}: attribute {name} is {text!r:.60}, expected JSON text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: attribute {name} is not JSON ({_line(error)})") from error


def _entry(parent: h5py.Group, path: str, where: str) -> Any:
    here: Any = parent
    for part in path.split("/"):
        with reading(f"{where}: {path}"):
            if not part or not isinstance(here, h5py.Group) or part not in here:
                raise ValueError(f"{where}: has no {path}")
            link = here.get(part, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(
                    f"{where}: {path} is a link to {_target(link)}, which is refused; copy the "
                    "file with h5repack or copy what it leads to"
                )
            here = here[part]
    return here


def _target(link: Any) -> str:
    file = getattr(link, "filename", None)
    return f"{link.path!r:.60}" if file is None else f"{link.path!r:.60} in file {file!r:.60}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
