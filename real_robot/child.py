"""A child process that tells its parent why it ended, and never outlives it unnoticed."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from telic.real_robot.channel import Channel, ChannelClosedError
from telic.spec import warnings_in_one_line

_SPAWN = multiprocessing.get_context("spawn")  # fork would copy locks of threads that are not there
_POLL_S = 0.05
# What a terminal sends to every process of a command; the parent answers for all of them.
_FROM_TERMINALS = {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP}


class ChildDiedError(RuntimeError):
    """A child process ended before it was to; the text says which and how."""


class RefusedError(ValueError):
    """A child process says that its input is at fault; nothing has moved."""


class Child:
    """A process running `target(channel, *args)`, and our end of its channel.

    What a terminal sends (Ctrl-C, its own end) does not reach it: who ends it is the parent.
    """

    def __init__(self, name: str, target: Callable[..., None], *args: Any):
        self.name = name
        self.channel, theirs = Channel.pair()
        self._reason: str | None = None
        self._process = _SPAWN.Process(target=_child_main, args=(target, theirs, *args), name=name)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINALS)  # the child inherits it
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.is_alive()

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, and copies of the open `descriptors`. Raises as `message` does."""
        try:
            self.channel.send(message, descriptors)
        except ChannelClosedError:
            self.message(0.0)
            raise ChildDiedError(self.death()) from None

    def message(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message, or None if there is none within `timeout_s`.

        Raises RefusedError if the child says that its input was at fault, ChildDiedError if it has
        died.
        """
        if not wait([self.channel.fileno(), self._process.sentinel], timeout_s):
            return None
        if self.channel.has_message():
            try:
                message, _ = self.channel.receive()
            except ChannelClosedError:
                raise ChildDiedError(self.death()) from None
            if "error" not in message:
                return message
            self._reason = message["error"]
            if message["input"]:
                raise RefusedError(self._reason)
        raise ChildDiedError(self.death())

    def expect(self, timeout_s: float, interrupted: Callable[[], bool]) -> dict[str, Any] | None:
        """Return the next message; None as soon as `interrupted()`. Raises as `message` does."""
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            if interrupted():
                return None
            if (message := self.message(_POLL_S)) is not None:
                return message
        raise ChildDiedError(f"{self.name} said nothing for {timeout_s:g} s")

    def death(self) -> str:
        """Return how the process ended, which it has done or is about to do."""
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            return f"{self.name} closed its channel"
        if code < 0:
            return f"{self.name} was killed by {signal.Signals(-code).name}"
        return f"{self.name} died with exit status {code}" + (
            f": {self._reason}" if self._reason else ""
        )

    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for the process to end by itself; then terminate it, then kill it."""
        self.channel.close()
        self._process.join(grace_s)
        for force in (self._process.terminate, self._process.kill):
            if self._process.is_alive():
                force()
                self._process.join(1.0)


def _child_main(target: Callable[..., None], channel: Channel, *args: Any) -> None:
    for number in _FROM_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_TERMINALS)
    warnings_in_one_line()
    target(channel, *args)


@contextmanager
def reporting(channel: Channel, starting: bool) -> Iterator[None]:
    """Tell the parent what ends this block early, and end this process.

    While `starting`, a ValueError or OSError is about the input: status 2 and no traceback.
    Anything else is a crash: traceback and status 1. Quiet if the parent itself is gone.
    """
    try:
        yield
    except ChannelClosedError:
        sys.exit(1)
    except BaseException as error:
        is_input = starting and isinstance(error, ValueError | OSError)
        text = str(error) if is_input else f"{type(error).__name__}: {error}"
        with suppress(ChannelClosedError):
            channel.send({"error": " ".join(text.split()), "input": is_input})
        if is_input:
            sys.exit(2)
        raise
