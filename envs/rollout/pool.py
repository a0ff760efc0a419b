"""Hosts in this process or in worker processes, behind one pair of verbs: send and receive.

A worker is a fresh interpreter, not a fork: it never imports torch, nor the caller's `__main__`.
When one dies, the request that it was at is reported as crashed and a new worker takes its place.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from multiprocessing import connection

from telic.envs.rollout.env_worker import Crashed, EnvRequest, EnvWorker, Ready, Report

START_TIMEOUT_S = 300.0
CLOSE_TIMEOUT_S = 5.0


class Pool(ABC):
    """Slots 0..num_slots-1, each able to hold one environment. A context manager that closes."""

    num_slots: int

    @abstractmethod
    def send(self, request: EnvRequest) -> None:
        """Give a request to the worker of its slot; at most one per slot at a time."""

    @abstractmethod
    def receive(self) -> Report:
        """Return the next report of any slot with a request outstanding."""

    @abstractmethod
    def close(self) -> None:
        """End all environments and processes. Harmless twice."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_pool(num_workers: int, slots_per_worker: int, timeout_s: float = 300.0) -> Pool:
    """Return a pool of worker processes, or for num_workers=0 one that works in this process.

    `timeout_s`: a worker process that takes longer over one request is killed and counted as dead.
    """
    if num_workers < 0 or slots_per_worker < 1:
        raise ValueError(
            f"num_workers={num_workers} must be >= 0 and envs per worker={slots_per_worker} >= 1"
        )
    if num_workers == 0:
        return LocalPool(slots_per_worker)
    return ProcessPool(num_workers, slots_per_worker, timeout_s)


class LocalPool(Pool):
    """All slots in this process; a request is executed when its report is asked for."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._env_worker = EnvWorker()
        self._requests: deque[EnvRequest] = deque()

    def send(self, request: EnvRequest) -> None:
        """Queue a request."""
        self._requests.append(request)

    def receive(self) -> Report:
        """Execute the oldest request and return its report."""
        return self._env_worker.execute(self._requests.popleft())

    def close(self) -> None:
        """Close all environments."""
        self._requests.clear()
        self._env_worker.close()


class ProcessPool(Pool):
    """`num_workers` worker processes with `slots_per_worker` slots each, dealt out in turn.

    A worker that does not answer for `timeout_s` is killed and counted as dead.
    """

    def __init__(self, num_workers: int, slots_per_worker: int, timeout_s: float) -> None:
        self.num_slots = num_workers * slots_per_worker
        self._timeout_s = timeout_s
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(_Worker())
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:  # Ctrl-C too: no half-started worker stays behind
            self.close()
            raise

    def __enter__(self) -> ProcessPool:
        return self

    @property
    def worker_processes(self) -> list[subprocess.Popen[bytes]]:
        """The processes that serve now, for who wants to watch them."""
        return [worker.process for worker in self._workers]

    def send(self, request: EnvRequest) -> None:
        """Send a request to the worker of its slot."""
        worker = self._workers[request.slot % len(self._workers)]
        worker.requests.append(request)
        worker.busy_since = worker.busy_since or time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # dead: receive() finds out
            worker.socket.send(request)

    def receive(self) -> Report:
        """Return the next report; a dead or silent worker's is a `Crashed` for what it was at."""
        while True:
            busy = {w.socket: (i, w) for i, w in enumerate(self._workers) if w.requests}
            assert busy, "receive() without a request outstanding"
            deadline = min(w.busy_since for _, w in busy.values()) + self._timeout_s
            ready = connection.wait(list(busy), timeout=max(0.0, deadline - time.monotonic()))
            for answering in ready:
                index, worker = busy[answering]  # type: ignore[index]
                try:
                    report = worker.socket.recv()
                except (EOFError, ConnectionResetError):
                    return self._replace_dead(index, worker.death())
                worker.requests.popleft()
                worker.busy_since = time.monotonic() if worker.requests else 0.0
                return report
            for index, worker in busy.values():
                if time.monotonic() - worker.busy_since >= self._timeout_s:
                    worker.process.kill()
                    return self._replace_dead(index, f"no answer for {self._timeout_s:g} s, killed")

    def _replace_dead(self, index: int, reason: str) -> Crashed:
        """Replace a dead worker; return the crash of the request it was at."""
        worker = self._workers[index]
        at = worker.requests[0].slot
        slots = range(index, self.num_slots, len(self._workers))
        worker.close(0.0)
        self._workers[index] = _Worker()
        self._workers[index].wait_until_ready()
        return Crashed(
            slot=at, reason=reason, lost_slots=tuple(slot for slot in slots if slot != at)
        )

    def close(self) -> None:
        """End the workers: they leave when their socket closes, or are killed after 5 s."""
        for worker in self._workers:
            worker.socket.close()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for worker in self._workers:
            worker.close(deadline - time.monotonic())
        self._workers.clear()


class _Worker:
    """One worker process, the socket to it and the requests that it has not answered yet."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [
                sys.executable,
                "-P",
                "-m",
                "telic.envs.rollout.worker",
                str(theirs.fileno()),
            ]
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=_worker_environment(),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal goes to the parent alone
            )
        self.socket = connection.Connection(ours.detach())
        self.requests: deque[EnvRequest] = deque()
        self.busy_since = 0.0

    def wait_until_ready(self) -> None:
        """Wait for the worker's first word; RuntimeError if it dies before."""
        try:
            if self.socket.poll(START_TIMEOUT_S) and isinstance(self.socket.recv(), Ready):
                return
            reason = f"it said nothing for {START_TIMEOUT_S:g} s"
        except (EOFError, ConnectionResetError):
            reason = self.death()
        raise RuntimeError(f"a rollout worker could not start: {reason}")

    def death(self) -> str:
        """Return how the process, known to be dying, has died."""
        try:
            code = self.process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "worker process closed its socket"
        if code < 0:
            return f"worker process died of {signal.Signals(-code).name}"
        return f"worker process exited with status {code}"

    def close(self, timeout_s: float) -> None:
        """End the process: it has `timeout_s` to leave by itself."""
        self.socket.close()
        try:
            self.process.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _worker_environment() -> dict[str, str]:
    """Return the environment of a worker: our import path, one thread for each library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 ("" too)
    return os.environ | threads | {"PYTHONPATH": path}
