"""Files of torch.save: tensors and plain values alone, and no more memory than the file speaks for.

A pickle is a program. torch runs it with `weights_only=True`, which calls nothing that is not on
its list; what may still be asked for is memory.
"""

from __future__ import annotations

import pickle
import re
import resource
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any
from warnings import catch_warnings

import torch
from omegaconf import AnyNode, DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata

# what OmegaConf's nodes are made of: Lightning keeps a run's config beside its weights
_CONFIG_PARTS: list[Any] = [
    *(DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata),
    *(Any, dict, list, int, defaultdict, PosixPath),
]
# what files of torch.save before its archives begin with, and what the oldest ones are
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_PROGRAM = 2**20  # bytes of a pickle beside an archive's tensors: some 5000 of them
_SPARE = 2**29  # bytes that reading may take besides a few times the size of the file


def read_pickle(path: Path) -> Any:
    """Return what torch saved at `path`: tensors, plain values and OmegaConf's nodes alone.

    ValueError for anything else, a damaged file, and one that asks for more memory than it holds.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path}: is empty; fetch it again")
    _require_honest(path, size)
    try:
        with (
            _memory(2 * size + _SPARE),
            torch.serialization.safe_globals(_CONFIG_PARTS),
            catch_warnings(action="ignore"),  # of what is refused below, in our words
        ):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path}: not to be read as tensors and plain values {_why(error)}") from (
            error
        )
    _require_plain(path, data)
    return data


def _require_plain(path: Path, data: Any) -> None:
    """Raise ValueError for a tensor that is not its own numbers in full, whole, dense and real."""
    known: set[int] = set()
    rest = [data]
    while rest:
        node = rest.pop()
        if id(node) in known:
            continue
        known.add(id(node))
        if isinstance(node, dict):
            rest.extend(node.values())
        elif isinstance(node, list | tuple):
            rest.extend(node)
        elif isinstance(node, torch.Tensor):
            dense = node.layout is torch.strided and not (node.is_meta or node.is_quantized)
            if not dense or node.is_complex():
                raise ValueError(
                    f"{path}: a tensor {tuple(node.shape)} is of {node.dtype} on {node.device}, "
                    f"{node.layout}; expected plain numbers"
                )
            size, held = node.numel() * node.element_size(), node.untyped_storage().nbytes()
            if size > held:
                raise ValueError(
                    f"{path}: a tensor {tuple(node.shape)} repeats {held:,} bytes to {size:,}, "
                    "which torch.save of weights does not; it is not read"
                )


def _require_honest(path: Path, size: int) -> None:
    """Raise ValueError for what torch never writes, before anything in it is run.

    That is an archive that unpacks to more than it is, or whose pickle is large beside its tensors:
    4 MB of its instructions take 8 s. Another large file begins with torch's own mark, or is
    a tar.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            marked = file.read(len(_MAGIC)) == _MAGIC
        if size > _PROGRAM and not (marked or tarfile.is_tarfile(path)):
            raise ValueError(f"{path}: damaged, or none of torch.save's; fetch it again")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            program = sum(e.file_size for e in archive.infolist() if e.filename.endswith(".pkl"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: a damaged archive ({error}); fetch it again") from error
    if unpacked > size:
        raise ValueError(
            f"{path}: unpacks to {unpacked:,} bytes from {size:,}, and torch.save does not "
            "compress; it is not read"
        )
    if program > _PROGRAM + (size - program) // 16:
        raise ValueError(
            f"{path}: {program:,} bytes of pickle for {size - program:,} of the rest, which "
            "torch.save of weights does not write; it is not read"
        )


@contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let this process have `more` bytes of address space than it has now (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + more
    limits = [limit for limit in (soft, hard, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _why(error: Exception) -> str:
    """Return the reason in our words: torch's own advise to let the pickle run."""
    text = str(error)
    refused = re.search(r"(?:GLOBAL|global) ([\w.]+)", text)
    if isinstance(error, MemoryError) or "memory" in text:
        return "(it asks for more memory than a file of its size holds); it is not loaded"
    if refused:
        return (
            f"(it holds a Python object, {refused.group(1)}, which could do anything); only such "
            "files are read as hold nothing else: ask its publisher for safetensors"
        )
    return f"(damaged, or none of torch.save's: {type(error).__name__}); fetch it again"
