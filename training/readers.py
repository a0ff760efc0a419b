"""The processes that read batches: the death of one comes up between two steps alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader


class ReaderDied(RuntimeError):
    """A process that reads data has died; the message says which and of what."""


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of `loader`. Raises ReaderDied where a batch is asked for, only there.

    Torch raises it from a handler of SIGCHLD, wherever the main thread is: between the optimizer's
    step and the average of the weights, or in the middle of a checkpoint.
    """
    with _named():
        batches = iter(loader)  # torch's handler stands from here on
    with _Deaths(loader.num_workers) as deaths:
        while True:
            with _named(), deaths.raised():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


class _Deaths:
    """A context in which torch's handler of SIGCHLD raises within `raised()` alone."""

    def __init__(self, num_workers: int) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.handles = num_workers > 0 and main
        self._raises = False
        self._held: RuntimeError | None = None

    def __enter__(self) -> _Deaths:
        if self.handles:
            self._previous: Any = signal.signal(signal.SIGCHLD, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._previous)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise what was held back, and what comes until the end."""
        self._raises = True
        try:
            if self._held is not None:
                raise self._held
            yield
        finally:
            self._raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            if callable(self._previous):
                self._previous(number, frame)
        except RuntimeError as error:
            self._held = error
            if self._raises:
                raise


@contextmanager
def _named() -> Iterator[None]:
    """Raise ReaderDied for the RuntimeError that torch has for it."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise ReaderDied(" ".join(str(error).split()).rstrip(".")) from error
