"""A command that is interrupted in the midst of its work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def interrupted(
    words: Sequence[str], env: Mapping[str, str], log: Path, lines: int, within_s: float
) -> tuple[str, str]:
    """Send a command SIGINT once its log has so many lines; return its stdout and its stderr.

    It must still run then, come there within so many seconds, and end with exit code 130.
    """
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + within_s
        while not log.exists() or len(log.read_text().splitlines()) < lines:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    return output, errors
