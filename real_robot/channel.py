"""JSON messages and file descriptors between a parent and its child process, over a socket pair.

For what is said once: what a process needs, that it is ready, its summary. What flows all the
time goes through rings.
"""

from __future__ import annotations

import json
import socket
from multiprocessing.connection import wait
from typing import Any

_MAX_DESCRIPTORS = 8
_LENGTH = 4  # bytes


class ChannelClosedError(EOFError):
    """The process at the other end has closed it, or is gone."""

    def __init__(self) -> None:
        super().__init__("the other process closed its end of the channel")


class Channel:
    """One end of the pair. Methods raise ChannelClosedError once the other end is gone."""

    def __init__(self, end: socket.socket):
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two ends; either may be handed to a child process when it is started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), cls(theirs)

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send `message`, and copies of the open `descriptors` with it."""
        data = json.dumps(message).encode()
        head = len(data).to_bytes(_LENGTH, "little")
        try:
            socket.send_fds(self._socket, [head], list(descriptors))
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosedError from None

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], list[int]]:
        """Return the next message and the descriptors that came with it.

        Raises TimeoutError when none has begun after `timeout_s`.
        """
        if not self.has_message(timeout_s):
            raise TimeoutError(f"no message after {timeout_s} s")
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH, _MAX_DESCRIPTORS)
            head += self._exactly(_LENGTH - len(head)) if head else b""
            data = self._exactly(int.from_bytes(head, "little")) if head else b""
        except ConnectionResetError:
            data = b""
        if not data:
            raise ChannelClosedError
        return json.loads(data), list(descriptors)

    def has_message(self, timeout_s: float | None = 0.0) -> bool:
        """Return whether a message, or the end, is there within `timeout_s` (None: wait for it)."""
        return bool(wait([self._socket], timeout_s))

    def fileno(self) -> int:
        """Return the descriptor to wait on for messages."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other one finds it closed."""
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        """Return the next `count` bytes, or b"" if the end comes first."""
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                return b""
            data += part
        return data
