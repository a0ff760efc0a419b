"""Batches read ahead by threads of this process, in order.

Reading a window is one system call a field, made without the interpreter's lock, so a thread
reads while the training step computes, and nothing is copied between processes: for windows with
pictures this is faster than DataLoader workers, whose shared memory is the bottleneck (see
`benchmarks/windows.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from telic.datasets.sampler import BatchSampler
from telic.datasets.windows import Windows


def read_ahead(
    windows: Windows, sampler: BatchSampler, depth: int = 2, threads: int = 1
) -> Generator[dict[str, Any], None, None]:
    """Yield the batches of `sampler` from its position on, without end, `depth` read ahead.

    `sampler.position` counts the batches handed out, not those read ahead: save it to resume. An
    error while reading is raised where its batch would have come.
    """
    if depth < 1 or threads < 1:
        raise ValueError(f"depth={depth} and threads={threads} must be >= 1")
    pool = ThreadPoolExecutor(threads, "windows")
    coming: deque[Future[dict[str, Any]]] = deque()
    try:
        while True:
            while len(coming) < depth:
                position = sampler.position + len(coming)
                coming.append(pool.submit(windows.batch, sampler.at(position)))
            batch = coming.popleft().result()
            sampler.position += 1
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
