"""What a collection has tried so far, one JSON line each, so that it can go on where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telic.envs.records import read_record
from telic.replacement import Kind, Replacement

_WAY_OUT = "pass overwrite=true or another out"
KEPT, FAILED, CRASHED = "kept", "failed", "crashed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One expert episode. outcome: KEPT (it is in the store), FAILED or CRASHED."""

    task: str
    number: int  # 0 is the task's first
    seed: int
    outcome: str
    steps: int = 0
    reason: str = ""


class CollectionLog:
    """A file of attempts, in the order they are settled; its first line is what was asked for.

    An attempt is noted before its episode is stored. So after a kill the log has the store's
    episodes, or one more, and that one is made again.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], attempts: Sequence[Attempt]) -> None:
        """Write the file anew with what is known so far."""
        self.path = path
        self.attempts = list(attempts)
        lines = [dict(plan), *(asdict(attempt) for attempt in attempts)]
        with Replacement(path, ATTEMPTS, overwrite=True).writing() as fresh:
            fresh.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def resume(cls, path: Path, plan: Mapping[str, Any], num_episodes: int) -> CollectionLog:
        """Return the log at `path`, cut back to the `num_episodes` that the store has.

        ValueError where another collection was begun, or log and store tell different stories.
        """
        if not path.is_file() and num_episodes == 0:
            return cls(path, plan, [])
        if not path.is_file():
            raise ValueError(
                f"{path}: is missing, so the store beside it cannot be continued; "
                "pass overwrite=true or another out"
            )
        header, *lines = _lines(path)
        for key in plan:
            if header.get(key) != plan[key]:
                raise ValueError(
                    f"{path}: was begun with {key}={header.get(key)}, now {key}={plan[key]}; "
                    "resume it as it was, or pass overwrite=true or another out"
                )
        attempts = [_attempt(path, number, line) for number, line in enumerate(lines, start=2)]
        kept = [i for i, attempt in enumerate(attempts) if attempt.outcome == KEPT]
        if not num_episodes <= len(kept) <= num_episodes + 1:
            raise ValueError(
                f"{path}: lists {len(kept)} episodes but the store has {num_episodes}; "
                "pass overwrite=true or another out"
            )
        if len(kept) > num_episodes:
            attempts = attempts[: kept[-1]]
        return cls(path, plan, attempts)

    def add(self, attempt: Attempt) -> None:
        """Note an attempt."""
        self.attempts.append(attempt)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(attempt)) + "\n")


def is_log(path: Path) -> bool:
    """Return whether the log of a collection stands at `path`: its first line is what was asked."""
    try:
        with path.open() as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and {"tasks", "episodes_per_task"} <= set(header)


ATTEMPTS = Kind("the log of a collection", is_log)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the log; a torn last one is left out."""
    texts = path.read_text(errors="replace").split("\n")
    texts = texts if texts[-1] else texts[:-1]
    lines: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            if index == len(texts) - 1 and index > 0:
                break
            raise ValueError(
                f"{path} line {index + 1}: is not JSON ({error}); {_WAY_OUT}"
            ) from error
        if not isinstance(line, dict):
            raise ValueError(f"{path} line {index + 1}: is {line!r:.40}, no attempt; {_WAY_OUT}")
        lines.append(line)
    if not lines:
        raise ValueError(f"{path}: is empty; {_WAY_OUT}")
    return lines


def _attempt(path: Path, number: int, line: dict[str, Any]) -> Attempt:
    """Return the attempt of a line; a damaged one leaves unknown what the store's episodes are."""
    try:
        attempt = read_record(Attempt, line)
        if attempt.outcome not in (KEPT, FAILED, CRASHED):
            raise ValueError(f"outcome={attempt.outcome!r} is none")
    except ValueError as error:
        raise ValueError(f"{path} line {number}: {error}; {_WAY_OUT}") from error
    return attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How many episodes of each task are wanted, and how often a task may be tried."""

    tasks: tuple[str, ...]
    episodes_per_task: int
    max_attempts: int

    def next_round(self, attempts: Sequence[Attempt]) -> list[tuple[str, int]]:
        """Return the (task, number) to try next, as many of each task as it still lacks.

        It depends on settled rounds alone: whoever is done first changes nothing.
        """
        tried = Counter(attempt.task for attempt in attempts)
        kept = Counter(attempt.task for attempt in attempts if attempt.outcome == KEPT)
        todo = []
        for task in self.tasks:
            first = tried[task]
            lacking = self.episodes_per_task - kept[task]
            last = min(first + lacking, self.max_attempts)
            todo += [(task, number) for number in range(first, last)]
        return todo
