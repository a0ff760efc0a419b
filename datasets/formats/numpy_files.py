"""numpy's files of anybody's: arrays of numbers, and pickled dictionaries without running code."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from telic.spec import Array

LARGEST_FRAME = 256 << 20  # bytes of the arrays of one frame
LARGEST_OBJECT = 1 << 30  # bytes of a pickled dictionary
_ALLOWED = {  # what numpy's own pickles name
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}
_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError),
    *(MemoryError, OverflowError, RecursionError, zipfile.BadZipFile, pickle.UnpicklingError),
)


class _Restricted(pickle.Unpickler):
    """Makes numpy arrays and plain Python values, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # bytes in pickles of protocol 2
            return _latin1
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for encoding {encoding!r:.40}")
    return text.encode("latin1")


def load_npy(path: Path) -> Array:
    """An array of numbers in an .npy file."""
    try:
        with path.open("rb") as file:
            return _array(file, path.stat().st_size)
    except _ERRORS as error:
        raise ValueError(f"{path}: not readable as .npy ({_line(error)})") from error


def load_npz(path: Path) -> Mapping[str, Array]:
    """The arrays of numbers in an .npz file, by name; objects in it are left out."""
    if not path.is_file():
        raise ValueError(f"{path}: is missing; the data set is not whole")
    try:
        found = {}
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_FRAME:
                raise ValueError(f"it unpacks to more than {LARGEST_FRAME >> 20} MiB")
            for member in archive.infolist():
                with archive.open(member) as file:
                    content = file.read(LARGEST_FRAME)
                    name = member.filename.removesuffix(".npy")
                    found[name] = _array(io.BytesIO(content), len(content))
        return found
    except _ERRORS as error:
        raise ValueError(f"{path}: not readable as .npz ({_line(error)})") from error


def load_object(path: Path) -> Any:
    """The object in an .npy file of one, of plain values and numpy arrays alone."""
    try:
        if path.stat().st_size > LARGEST_OBJECT:
            raise ValueError(f"it has more than {LARGEST_OBJECT >> 20} MiB")
        with path.open("rb") as file:
            shape, dtype = _header(file)
            if dtype != np.dtype(object) or shape != ():
                raise ValueError(f"it holds {dtype} {shape}, expected one object")
            return np.asarray(_Restricted(file).load()).item()
    except _ERRORS as error:
        raise ValueError(f"{path}: not read ({_line(error)})") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of .npy is not read")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _array(file: IO[bytes], size: int) -> Array:
    shape, dtype = _header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, expected numbers")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it is declared as {dtype} {shape} and has {size} bytes; is it cut off?")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
