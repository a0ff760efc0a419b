"""The finished episodes of an evaluation, one JSON object a line, so that a stop loses none."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from telic.envs.records import read_record
from telic.envs.rollout.rollout import EpisodeResult


class EpisodeLog:
    """`episodes.jsonl`: line 1 says of which evaluation, each further line is an episode's result.

    Use it as a context; `finished` holds what an earlier run of the same evaluation left, and what
    was appended. A line that is damaged, or cut off by a kill, is dropped with a word; its episode
    and those that crashed are run again.
    """

    def __init__(
        self,
        path: Path,
        evaluation: dict[str, Any],
        episodes: Collection[tuple[str, int]],
        resume: bool = True,
    ) -> None:
        """Open or begin the log at `path`; `evaluation` is all that its `episodes` depend on.

        episodes: (task, seed) of each. Raises ValueError where `path` holds another evaluation and
        `resume` would mix the two.
        """
        self._path = path
        header = json.loads(json.dumps(evaluation))
        # a byte that is no UTF-8 spoils its line alone
        text = path.read_text(errors="replace") if resume and path.exists() else ""
        first, *lines = text.split("\n") if text.strip() else [json.dumps({"evaluation": header})]
        if (found := _header(first)) != header:
            raise ValueError(_other_evaluation(path, found, header))
        results = _results(path, lines, episodes)
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


def _header(line: str) -> Any:
    """Return what the first line says of its evaluation, or None if it is no such line."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    return record.get("evaluation") if isinstance(record, dict) else None


def _results(
    path: Path, lines: Sequence[str], episodes: Collection[tuple[str, int]]
) -> list[EpisodeResult]:
    """Return one result for each episode that the lines tell of, the last that is told."""
    results: dict[tuple[str, int], EpisodeResult] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            result = read_record(EpisodeResult, json.loads(line))
            if (result.task, result.seed) not in episodes:
                raise ValueError(f"{result.task}, seed {result.seed} is not of this evaluation")
        except (ValueError, RecursionError) as error:
            torn = number == len(lines) + 1 and isinstance(error, json.JSONDecodeError)
            if not torn:  # that a kill cuts the last line off is nothing to tell of
                text = " ".join(str(error).split())
                warnings.warn(f"{path} line {number} is left out: {text}", stacklevel=2)
            continue
        results[result.task, result.seed] = result
    return list(results.values())


def _other_evaluation(path: Path, old: Any, new: dict[str, Any]) -> str:
    """Return the message that names the first thing in which the two evaluations differ."""
    end = f"go on in another out, or resume=false replaces what {path.parent} holds"
    if not isinstance(old, dict):
        return f"{path} is not the log of an evaluation; {end}"
    name = next(key for key in {**new, **old} if old.get(key) != new.get(key))
    return f"{path} is of {name}={old.get(name)}, this evaluation has {new.get(name)}; {end}"
