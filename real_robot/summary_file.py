"""The file that a run's summary goes to: refused before the run, held during it, written after."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from telic.real_robot.lease import Lease


class SummaryFile:
    """`out`, held against other runs while the block runs; None: nowhere.

    What was there before stays until `write` has replaced it as a whole.
    """

    def __init__(self, out: str | None) -> None:
        """Raise ValueError if `out` cannot be written or another run writes it."""
        self._path = None if out is None else Path(out).resolve()
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
            if self._path.exists() and not self._path.is_file():  # a device or a pipe
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

    def __enter__(self) -> SummaryFile:
        return self

    def write(self, summary: Mapping[str, Any]) -> str | None:
        """Write `summary`; return why it could not be, or None."""
        if self._path is None:
            return None
        text = json.dumps(summary, indent=1, default=str)
        fresh = self._path.with_name(f".{self._path.name}.writing")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._lease is None:
                self._path.write_text(text)
                return None
            fresh.write_text(text)
            fresh.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            return f"the summary could not be written to {self._path} ({error.strerror or error})"
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lease is not None:  # an empty file is left to nobody
            empty = self._lease.is_new and self._lease.path.exists()
            self._lease.release(remove=empty and self._lease.path.stat().st_size == 0)
        for folder in self._made:  # nor is an empty folder
            with suppress(OSError):
                folder.rmdir()
