"""A worker process: `python -m telic.envs.rollout.worker FD` serves the socket of that descriptor.

It answers each request with a report, in order, until the other end closes.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from telic.envs.rollout.env_worker import EnvWorker, Ready


def main() -> None:
    """Serve until the socket closes."""
    connection = Connection(int(sys.argv[1]))
    env_worker = EnvWorker()
    try:
        connection.send(Ready(slot=-1))
        while True:
            connection.send(env_worker.execute(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        env_worker.close()


if __name__ == "__main__":
    main()
