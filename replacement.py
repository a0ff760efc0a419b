"""The one place where something that a user named is replaced or deleted.

It goes only if that was asked for, if it is of the kind that takes its place, if nobody is writing
it, and if nothing lies in it that is read meanwhile or is no part of it. The new one is made beside
it, under a name that nobody else has, and the two are exchanged in one step: a kill, an error or a
full disk leaves the old one or the new one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

_C = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # renameat2(2): Linux, most file systems
_SUFFIX = ".telic"  # of the folder beside `path` in which the new one is made
_PREVIOUS = "previous"  # in it: the old one, where the file system cannot exchange


@dataclass(frozen=True, slots=True)
class Kind:
    """What may give way to what.

    noun: "an episode store"; recognises: whether that is what stands at a path; locks: the folders
    and files that a writer of it would hold. files: a regular expression of the files that a folder
    of it may hold, by their paths in it; None: `recognises` looks at all of them.
    """

    noun: str
    recognises: Callable[[Path], bool]
    locks: Callable[[Path], Sequence[Path]] = lambda path: (path,)
    files: str | None = None

    def strangers(self, path: Path) -> Iterator[Path]:
        """Yield the files and links in the folder `path` that are no part of one of this kind."""
        if self.files is None:
            return
        ours = re.compile(self.files)
        for folder, folders, names in os.walk(path):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in sorted([*names, *links]):
                found = Path(folder, name)
                if name in links or not ours.fullmatch(found.relative_to(path).as_posix()):
                    yield found


@dataclass(frozen=True, slots=True)
class Replacement:
    """Something of `kind` that is to stand at `path`, and on which conditions.

    overwrite: whether the user asked that what is there be replaced; by: how they ask for it.
    None of `sources`, which are read for it, may be what is written, lie in it or hold it.
    locked_by_us: the caller holds what a writer of it would hold. keep_strangers: files in the old
    one that are no part of it come along; else it is not replaced while they lie there.
    """

    path: Path
    kind: Kind
    _: KW_ONLY
    overwrite: bool
    by: str = "overwrite=true"
    sources: Sequence[Path | str] = ()
    locked_by_us: bool = False
    keep_strangers: bool = False

    def require(self) -> None:
        """Raise ValueError unless it may be written."""
        path, kind, place = self.path, self.kind, self._place
        for source in self.sources:
            _require_apart(path, place, Path(source))
        if not os.path.lexists(place):
            return
        plain = place.is_file() or place.is_dir()  # to read a pipe may take for ever
        ours = plain and kind.recognises(place)
        if not self.overwrite:
            way = f"; {self.by} replaces it, or" if ours else f" and is not {kind.noun};"
            raise ValueError(f"{path}: is already there{way} give another path")
        if not ours:
            raise ValueError(
                f"{path}: is not {kind.noun}, so it is not replaced; give another path, or remove "
                "it yourself"
            )
        if not self.locked_by_us:
            _require_unlocked(path, kind.locks(place))
        if not self.keep_strangers and (found := next(kind.strangers(place), None)) is not None:
            raise ValueError(
                f"{path}: holds {found.relative_to(place)}, which is no part of {kind.noun}, so it "
                "is not replaced; move that file elsewhere, or give another path"
            )

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Path]:
        """Yield a path at which to make what takes the place of `path` when the block ends well.

        `durable` waits until it is on the disk. ValueError if it may not be replaced or cannot be
        written; what stood at `path` stays.
        """
        self.require()
        place = self._place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self.tidy()
            with _folder_beside(place) as folder:
                fresh = folder / place.name
                yield fresh
                self._bring_strangers(fresh)
                if durable:
                    for file in (fresh, *sorted(fresh.rglob("*"))):
                        if not file.is_symlink():
                            _sync(file)
                self.require()  # it was long ago
                _put_in_place(fresh, place, folder)
                if durable:
                    _sync(place.parent)
        except FileExistsError as error:
            if os.path.lexists(place) and not self.overwrite:
                raise ValueError(
                    f"{self.path}: is already there; somebody made it meanwhile"
                ) from error
            raise _unwritable(self.path, error) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def remove(self) -> None:
        """Delete what stands at `path`, if anything, where it might be replaced."""
        self.require()
        place = self._place
        if not os.path.lexists(place):
            return
        try:
            self.tidy()
            with _folder_beside(place) as folder:
                place.rename(folder / place.name)  # gone in one step, then emptied
        except OSError as error:
            raise ValueError(
                f"{self.path}: cannot be removed ({error.strerror or error})"
            ) from error

    def _bring_strangers(self, fresh: Path) -> None:
        for found in self.kind.strangers(self._place) if self.keep_strangers else ():
            brought = fresh / found.relative_to(self._place)
            if not os.path.lexists(brought):
                brought.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, brought, follow_symlinks=False)

    def tidy(self) -> None:
        """Delete what killed processes left beside `path` of what was to stand there."""
        restore(self.path)
        for leftover in _leftovers(self._place):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def _place(self) -> Path:
        return _place(self.path)


def restore(path: Path) -> None:
    """Put back what stood at `path` if a kill fell between the two renames of a replacement."""
    place = _place(path)
    if os.path.lexists(place):
        return
    for folder in _leftovers(place):
        if (previous := folder / _PREVIOUS).exists():
            previous.rename(place)
            return


def _place(path: Path) -> Path:
    """Return where `path` leads: what a link points to is replaced, not the link."""
    return Path(os.path.realpath(path))


def _require_apart(path: Path, place: Path, source: Path) -> None:
    real = _place(source)
    same = real == place
    with suppress(OSError):
        same = same or place.samefile(real)  # two names of one file
    if same or real.is_relative_to(place) or place.is_relative_to(real):
        what = "is" if same else "holds" if real.is_relative_to(place) else "lies in"
        raise ValueError(f"{path}: {what} {source}, which is read for it; give another path")


def _require_unlocked(path: Path, held: Sequence[Path]) -> None:
    """Raise ValueError if a writer holds one of the files and folders."""
    for target in held:
        if not target.exists():
            continue
        handle = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{path}: somebody is writing {target}; close it first or give another path"
            ) from error
        except OSError:  # a file system without locks
            continue
        finally:
            os.close(handle)


@contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """Yield a folder of our own beside `place`, locked, and delete it with all that is in it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=_SUFFIX, dir=place.parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # taken for a leftover at once
            continue
        with suppress(OSError):  # waits for one who takes it for a leftover, and deletes it
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            if folder.stat().st_ino == os.fstat(lock).st_ino:
                break
        os.close(lock)  # taken for a leftover before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _leftovers(place: Path) -> Iterator[Path]:
    """Yield the folders beside `place` that killed processes left for it, each locked meanwhile."""
    ours = re.compile(rf"\.{re.escape(place.name)}\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}")
    for folder in sorted(place.parent.iterdir()) if place.parent.is_dir() else ():
        if not ours.fullmatch(folder.name):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        except OSError:  # its maker is alive
            continue
        finally:
            os.close(lock)


def _put_in_place(fresh: Path, place: Path, folder: Path) -> None:
    if not os.path.lexists(place):
        if not _renameat2(fresh, place, _RENAME_NOREPLACE):
            fresh.rename(place)
        return
    if _renameat2(fresh, place, _RENAME_EXCHANGE):
        return
    previous = folder / _PREVIOUS
    place.rename(previous)
    try:
        fresh.rename(place)
    except OSError:
        previous.rename(place)
        raise


def swap_file(fresh: Path, path: Path) -> None:
    """Put the file `fresh` in the place of `path` in one step.

    Unlike a rename over a file, an exchange has ext4 not wait for the disk.
    """
    if path.exists() and _renameat2(fresh, path, _RENAME_EXCHANGE):
        fresh.unlink()
    else:
        fresh.replace(path)


def _renameat2(a: Path, b: Path, flags: int) -> bool:
    """Rename `a` to `b` as the flags say; return False where the system cannot."""
    try:
        rename = _C.renameat2
    except AttributeError:
        return False
    sys.audit("os.rename", a, b, -1, -1)  # as os.rename does
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(b))


def _sync(path: Path) -> None:
    """Wait until `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> ValueError:
    why = error.strerror or " ".join(str(error).split())  # HDF5 tells it in several lines
    return ValueError(
        f"{path}: cannot be written ({why}); what was there before is kept; "
        "free some space or write elsewhere"
    )
