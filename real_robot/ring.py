"""A ring of records in shared memory: one process writes, any number read, nobody ever waits.

The memory is anonymous (Linux: memfd) and goes from process to process as a file descriptor, so
the kernel frees it when the last process is gone, however that one ended.

Each slot carries a sequence number: 2n+1 while record n is being written, 2n+2 once it is whole.
A reader copies the slot and looks at the number again; if it changed, the copy is torn and is
thrown away. Readers leave no trace, so a slow or killed one harms nobody.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping

import numpy as np

from telic.spec import Array, ArraySpec

_ALIGN = 64  # bytes: a cache line
_HEADER = 16  # bytes: length of the description, number of whole records
_MAX_TRIES = 1000
_LOCK = threading.Lock()


def _fence() -> None:
    """Keep loads and stores before this call from mixing with those after it.

    x86 needs no help. On ARM, the release of a lock followed by its acquisition is a full barrier.
    """
    with _LOCK:
        pass
    with _LOCK:
        pass


def _anonymous_file(size: int) -> int:
    """Return the descriptor of a file of `size` zero bytes that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("telic-ring")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


class SharedRing:
    """The last `capacity` records that one writer wrote; a record is one array per field.

    Records are numbered from 0; `written` of them are whole.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        self._memory = mmap.mmap(descriptor, size)
        length = int.from_bytes(self._memory[:8], "little")
        description = json.loads(self._memory[_HEADER : _HEADER + length])
        self.capacity: int = description["capacity"]
        self.fields = {k: ArraySpec.from_json(v) for k, v in description["fields"].items()}
        self._written = np.frombuffer(self._memory, np.int64, 1, offset=8)
        offset = _aligned(_HEADER + length)
        self._sequence = np.frombuffer(self._memory, np.uint64, self.capacity, offset=offset)
        offset = _aligned(offset + self._sequence.nbytes)
        self._slots: dict[str, Array] = {}
        for name, shape in _shapes(self.fields, self.capacity).items():
            dtype = np.dtype(self.fields[name].dtype)
            flat = np.frombuffer(self._memory, dtype, int(np.prod(shape)), offset=offset)
            self._slots[name] = flat.reshape(shape)
            offset = _aligned(offset + flat.nbytes)

    @classmethod
    def create(cls, fields: Mapping[str, ArraySpec], capacity: int) -> SharedRing:
        """Return an empty ring in new memory.

        Raises ValueError if a field has a dimension of free size or the ring has no slot.
        """
        if capacity < 1:
            raise ValueError(f"a ring of {capacity} records cannot hold any")
        for name, spec in fields.items():
            if None in spec.shape:
                raise ValueError(f"field {name!r} has the shape {spec.shape}: no size is free here")
        text = json.dumps(
            {"capacity": capacity, "fields": {k: v.to_json() for k, v in fields.items()}}
        ).encode()
        size = _aligned(_aligned(_HEADER + len(text)) + 8 * capacity)
        for name, shape in _shapes(fields, capacity).items():
            size = _aligned(size + int(np.prod(shape)) * np.dtype(fields[name].dtype).itemsize)
        descriptor = _anonymous_file(size)
        os.pwrite(descriptor, len(text).to_bytes(8, "little"), 0)
        os.pwrite(descriptor, text, _HEADER)
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """Return the file descriptor that makes this ring, here or in a process it is sent to."""
        return self._descriptor

    @property
    def written(self) -> int:
        """Return how many records have been written since the ring was made."""
        return int(self._written[0])

    def write(self, record: Mapping[str, Array | int]) -> int:
        """Write one record over the oldest; return its number. Only one process may do this.

        Raises ValueError if a field's shape or dtype is not the ring's; an int fits an int64 [].
        """
        number = self.written
        slot = number % self.capacity
        for name, cells in self._slots.items():
            value = np.asarray(record[name])
            if value.shape != cells.shape[1:] or value.dtype != cells.dtype:
                raise ValueError(
                    f"ring field {name!r}: got {value.dtype}{list(value.shape)}, "
                    f"expected {cells.dtype}{list(cells.shape[1:])}"
                )
        self._sequence[slot] = 2 * number + 1
        _fence()
        for name, cells in self._slots.items():
            cells[slot] = record[name]
        _fence()
        self._sequence[slot] = 2 * number + 2
        self._written[0] = number + 1
        return number

    def read(self, number: int, names: Iterable[str] | None = None) -> dict[str, Array] | None:
        """Return a copy of record `number` (of the fields `names`, else all).

        None if it is not there: not written yet, overwritten, or overwritten while being copied.
        """
        slot = number % self.capacity
        whole = 2 * number + 2
        if number < 0 or int(self._sequence[slot]) != whole:
            return None
        _fence()
        record = {k: self._slots[k][slot].copy() for k in (self._slots if names is None else names)}
        _fence()
        return record if int(self._sequence[slot]) == whole else None

    def newest(self) -> tuple[int, dict[str, Array]] | None:
        """Return (number, copy) of the newest record, or None while there is none."""
        for _ in range(_MAX_TRIES):
            number = self.written - 1
            if number < 0:
                return None
            record = self.read(number)
            if record is not None:
                return number, record
        raise TimeoutError(
            f"the writer overwrote all {self.capacity} records in each of {_MAX_TRIES} reads; "
            "the ring is too small for this reader"
        )

    def close(self) -> None:
        """Give this process's hold on the memory back."""
        self._slots.clear()
        del self._sequence, self._written
        self._memory.close()
        os.close(self._descriptor)


def _shapes(fields: Mapping[str, ArraySpec], capacity: int) -> dict[str, tuple[int, ...]]:
    return {
        name: (capacity, *(size for size in spec.shape if size is not None))
        for name, spec in fields.items()
    }
