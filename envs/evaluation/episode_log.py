"""The finished episodes of an evaluation, one JSON object a line, so that a stop loses none."""

from __future__ import annotations

import fcntl
import json
import signal
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TextIO

from telic.envs.evaluation.outputs import EPISODES
from telic.envs.records import read_record
from telic.envs.rollout.rollout import EpisodeResult
from telic.replacement import Replacement


class EpisodeLog:
    """`episodes.jsonl`: line 1 says of which evaluation, each further line is an episode's result.

    Use it as a context, which holds it against other runs. `resumed`: whether an earlier run of the
    same evaluation left one; `finished` holds what that one finished, and what was appended. A line
    that is damaged, or cut off by a kill, is dropped with a word; its episode and those that
    crashed are run again.
    """

    def __init__(
        self,
        path: Path,
        evaluation: dict[str, Any],
        episodes: Collection[tuple[str, int]],
        resume: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Read the log at `path`, if any; `evaluation` is all that its `episodes` depend on.

        episodes: (task, seed) of each. overwrite: begin anew. Raises ValueError where something
        else stands at `path`, another run writes it, or it is of another evaluation, which `resume`
        would mix with this one.
        """
        self._place = Replacement(path, EPISODES, overwrite=True)
        self._place.require()
        self._header = json.loads(json.dumps(evaluation))
        # a byte that is no UTF-8 spoils its line alone
        text = path.read_text(errors="replace") if path.exists() and not overwrite else ""
        self.resumed = bool(text.strip())
        if self.resumed and not resume:
            raise ValueError(
                f"{path}: is already there; resume=true goes on with it, overwrite=true replaces "
                "it, or give another out"
            )
        first, *lines = text.split("\n")
        if self.resumed and (found := _header(first)) != self._header:
            raise ValueError(_other_evaluation(path, found, self._header))
        results = _results(path, lines, episodes)
        self.finished = [result for result in results if result.crashed is None]

    def __enter__(self) -> Self:
        with self._place.writing() as fresh, fresh.open("w") as file:
            _write(file, {"evaluation": self._header})
            for result in self.finished:
                _write(file, asdict(result))
        self._file = self._place.path.open("a")
        _lock(self._file, self._place.path)
        return self

    def __exit__(self, *_: object) -> None:
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


def _lock(file: TextIO, path: Path) -> None:
    """Hold the open `file` until it is closed; ValueError if another run was faster."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"{path}: another evaluation writes it; give another out") from error
    except OSError:  # a file system without locks
        pass


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
    """Return one result for each episode of the lines, the last one there."""
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
    end = f"go on in another out, or overwrite=true replaces what {path.parent} holds"
    if not isinstance(old, dict):
        return f"{path} is not the log of an evaluation; {end}"
    name = next(key for key in {**new, **old} if old.get(key) != new.get(key))
    return f"{path} is of {name}={old.get(name)}, this evaluation has {new.get(name)}; {end}"
