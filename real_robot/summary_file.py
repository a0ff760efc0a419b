"""The file that a run's summary goes to: refused before the run, held during it, written after."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from telic.real_robot.lease import Lease
from telic.replacement import Kind, Replacement


def is_summary(path: Path) -> bool:
    """Return whether the summary of a run stands at `path`, or an empty file: a killed run's."""
    try:
        text = path.read_text(encoding="utf-8")
        summary = json.loads(text) if text else None
    except (OSError, ValueError, RecursionError):
        return False
    return not text or (isinstance(summary, dict) and {"ended", "ticks", "events"} <= set(summary))


CONTROL = Kind("the summary of a run", is_summary)


class SummaryFile:
    """`out`, held against other runs while the block runs; None: nowhere.

    What was there before stays until `write` has replaced it as a whole.
    """

    def __init__(self, out: str | None, overwrite: bool = False) -> None:
        """Raise ValueError if `out` cannot be written or another run writes it.

        Nor is it written over what is no summary of a run, nor unasked over one that is.
        """
        self._path = None if out is None else Path(out).resolve()
        self._overwrite = overwrite
        self._lease: Lease | None = None
        self._made: list[Path] = []
        if self._path is None:
            return
        if self._path.is_dir():
            raise ValueError(f"out={out} is a folder; give a file in it: out={out}/control.json")
        above = self._path.parents
        self._made = [folder for folder in above if not folder.exists()]  # the deepest first
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if _is_stream(self._path):
                return
            if not os.access(self._path.parent, os.W_OK):
                raise PermissionError(f"{self._path.parent} may not be written to")
            self._lease = Lease(
                self._path, f"out={out} is being written by {{}}, another run; give another out=..."
            )
        except OSError as error:
            raise ValueError(
                f"out={out} cannot be written ({error.strerror or error}); give another file, or "
                "out=null"
            ) from error
        try:
            self._replacement(Path(str(out))).require()
        except ValueError:
            self._release()
            raise

    def __enter__(self) -> SummaryFile:
        return self

    def write(self, summary: Mapping[str, Any]) -> str | None:
        """Write `summary`; return why it could not be, or None."""
        if self._path is None:
            return None
        text = json.dumps(summary, indent=1, default=str)
        try:
            if self._lease is None:
                self._path.write_text(text)
                return None
            with self._replacement(self._path).writing() as fresh:
                fresh.write_text(text)
        except (OSError, ValueError) as error:
            why = str(error).removeprefix(f"{self._path}: ")
            return f"the summary could not be written to {self._path}: {why}"
        return None

    def __exit__(self, *_: object) -> None:
        self._release()

    def _replacement(self, displayed: Path) -> Replacement:
        """What is to stand at `shown`, the path under another name; an empty file is no loss."""
        empty = self._path is not None and self._path.is_file() and not self._path.stat().st_size
        return Replacement(
            displayed, CONTROL, overwrite=self._overwrite or empty, locked_by_us=True
        )

    def _release(self) -> None:
        if self._lease is not None:  # an empty file is left to nobody
            empty = self._lease.is_new and self._lease.path.exists()
            self._lease.release(remove=empty and self._lease.path.stat().st_size == 0)
        for folder in self._made:  # nor is an empty folder
            with suppress(OSError):
                folder.rmdir()


def _is_stream(path: Path) -> bool:
    """Return whether a device or a pipe stands at `path`: it takes what comes and keeps nothing."""
    return path.exists() and not path.is_file()
