"""The finished episodes of an evaluation, one JSON object a line, so that a stop loses none."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from telic.envs.rollout.rollout import EpisodeResult


class EpisodeLog:
    """`episodes.jsonl`: line 1 says of which evaluation, each further line is an episode's result.

    Use it as a context; `finished` holds what an earlier run of the same evaluation left, and what
    was appended. A line cut off by a kill is dropped, a crashed episode is run again.
    """

    def __init__(self, path: Path, evaluation: dict[str, Any], resume: bool = True) -> None:
        """Open or begin the log at `path`; `evaluation` is all that its episodes depend on.

        Raises ValueError where `path` holds another evaluation and `resume` would mix the two.
        """
        self._path = path
        header = json.loads(json.dumps(evaluation))
        lines = path.read_text().splitlines() if resume and path.exists() else []
        records = [record for record in map(_record, lines) if record is not None]
        if records and records[0].get("evaluation") != header:
            raise ValueError(_other_evaluation(path, records[0].get("evaluation"), header))
        results = [EpisodeResult(**record) for record in records[1:]]
        self.finished = [result for result in results if result.crashed is None]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            _write(file, {"evaluation": header})
            for result in self.finished:
                _write(file, asdict(result))
        partial.replace(path)

    def __enter__(self) -> Self:
        self._file = self._path.open("a")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, result: EpisodeResult) -> None:
        """Write one result so that it outlives this process.

        A Ctrl-C meanwhile comes through afterwards: it is in the file and in `finished`.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            _write(self._file, asdict(result))
            self._file.flush()
            self.finished.append(result)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _write(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _other_evaluation(path: Path, old: Any, new: dict[str, Any]) -> str:
    """Return the message that names the first thing in which the two evaluations differ."""
    end = f"go on in another out, or resume=false replaces what {path.parent} holds"
    if not isinstance(old, dict):
        return f"{path} is not the log of an evaluation; {end}"
    name = next(key for key in {**new, **old} if old.get(key) != new.get(key))
    return f"{path} is of {name}={old.get(name)}, this evaluation has {new.get(name)}; {end}"
