"""SIGINT and SIGTERM as a request that a loop answers when it is at a good place to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignals:
    """A context in which the first SIGINT or SIGTERM only sets `received`.

    The second one acts as it would have without: whoever waits too long can still leave at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def leave_stopping_to_parent(_: int = 0) -> None:
    """Have this worker process end with its parent alone.

    Ctrl-C in a terminal, systemd and slurm signal the whole group: a worker that died of it would
    fail the checkpoint that its parent is about to write.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
