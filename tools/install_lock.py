"""Run a command while nobody else installs here: `python tools/install_lock.py COMMAND...`.

The lock is the kernel's, on the repository's folder: the command and its children inherit it, and
it ends with the last of them, whatever ends them. Who comes second waits and says so. The command
runs under this process's id and finds in INSTALL_LOCK that id, and whether it had to wait
("123 waited").
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130


def main() -> None:
    """Wait for the lock, then become the command."""
    folder = os.open(ROOT, os.O_RDONLY)
    waited = ""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waited = " waited"
        try:
            _say(f"another installation is at work in {ROOT}; waiting for its end (Ctrl-C leaves)")
            fcntl.flock(folder, fcntl.LOCK_EX)
        except KeyboardInterrupt:
            _say("stopped while waiting; nothing was changed")
            sys.exit(INTERRUPTED)
    except OSError as error:
        _say(f"{ROOT} cannot be locked ({error.strerror}); do not install here twice at once")
    os.set_inheritable(folder, True)
    os.environ["INSTALL_LOCK"] = f"{os.getpid()}{waited}"
    os.execvp(sys.argv[1], sys.argv[1:])


def _say(line: str) -> None:
    print(f"install: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
