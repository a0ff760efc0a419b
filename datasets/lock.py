"""One writer at a time: a lock on the folder of a store or a run, which ends with the process."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class WriterLock:
    """Holds the folder against other writers until released, collected, or the process ends."""

    def __init__(self, folder: Path, what: str = "store") -> None:
        """Raise ValueError if another object or process holds the folder, which has `what`."""
        try:
            self._file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ValueError(f"{folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            why = f"another writer has this {what} open; close it first or write elsewhere"
            if not isinstance(error, BlockingIOError):
                why = f"cannot be locked ({error.strerror}); the file system must support flock"
            raise ValueError(f"{folder}: {why}") from error
        self.release = weakref.finalize(self, os.close, self._file)
        _held.add(self)


def _drop_in_child() -> None:
    """Forked workers must not keep the lock of a parent that died."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_drop_in_child)
