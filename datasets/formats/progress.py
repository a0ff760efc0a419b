"""How far a conversion is, on stderr: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress

LINE_EVERY_S = 10.0  # where stderr is no terminal


def tracked(first: int, total: int, label: str) -> Iterator[int]:
    """Yield first ... total - 1 and show meanwhile how many are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            yield from progress.track(
                range(first, total), total=total, completed=first, description=label
            )
        return
    printed_s = time.monotonic()
    for index in range(first, total):
        yield index
        if time.monotonic() - printed_s >= LINE_EVERY_S:
            printed_s = time.monotonic()
            print(f"{label}: {index + 1} of {total} episodes", file=sys.stderr, flush=True)
