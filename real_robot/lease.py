"""A file that one process holds at a time: a robot's, so that no two runs drive it, or a summary's.

The lock ends with the process, however that one ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

_SHARED = Path("/run/lock")  # the same for all users, and gone with the next start of the machine


class Lease:
    """Holds the file `path`, which is made if there is none, until released."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Raise ValueError if another process holds it: `refusal`, where {} is that process."""
        self.path = path
        self.is_new = not path.exists()
        while True:
            self._file = _open(path)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(self._file)
                os.close(self._file)
                if not isinstance(error, BlockingIOError):
                    raise ValueError(f"{path} cannot be locked ({error.strerror})") from error
                raise ValueError(refusal.format(holder)) from error
            if _is_at(self._file, path):
                return
            os.close(self._file)  # replaced or removed between the two calls

    def release(self, remove: bool = False) -> None:
        """Let go of the file, and `remove` it first if nobody has put another in its place."""
        if remove and _is_at(self._file, self.path):
            self.path.unlink()
        os.close(self._file)


def robot_lease(identity: str) -> Lease:
    """Return the lease on the robot that `identity` names. ValueError if another run has it."""
    folder = _SHARED if os.access(_SHARED, os.W_OK) else Path(tempfile.gettempdir())
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Lease(
        folder / f"telic-robot-{digest}.lock",
        f"the robot ({identity}) is driven by {{}}; stop that run first",
    )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:  # another user's, which can be locked all the same
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_at(file: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _holder(file: int) -> str:
    """Return which process has locked the open `file`, as far as the kernel says."""
    inode = os.fstat(file).st_ino
    try:
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        locks = []
    for lock in locks:
        parts = lock.replace("-> ", "").split()
        if len(parts) > 5 and parts[5].split(":")[-1] == str(inode) and int(parts[4]) > 0:
            return f"process {parts[4]}"
    return "another process"
