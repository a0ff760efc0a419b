"""What a collection has tried so far, one JSON line each, so that it can go on where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


class AttemptLog:
    """A file of attempts, in the order they are settled; its first line is what was asked for.

    An attempt is noted before its episode is stored. So after a kill the log has the store's
    episodes, or one more, and that one is made again.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any], attempts: Sequence[Attempt]) -> None:
        """Write the file anew with what is known so far."""
        self.path = path
        self.attempts = list(attempts)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [dict(plan), *(asdict(attempt) for attempt in attempts)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def resume(cls, path: Path, plan: Mapping[str, Any], num_episodes: int) -> AttemptLog:
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
        begun, *lines = _lines(path)
        for key in plan:
            if begun.get(key) != plan[key]:
                raise ValueError(
                    f"{path}: was begun with {key}={begun.get(key)}, now {key}={plan[key]}; "
                    "resume it as it was, or pass overwrite=true or another out"
                )
        attempts = [Attempt(**line) for line in lines]
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


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the log; a torn last one is left out."""
    texts = path.read_text().splitlines()
    lines = []
    for index, text in enumerate(texts):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if index == len(texts) - 1 and index > 0:
                break
            raise ValueError(f"{path} line {index + 1}: is not JSON ({error.msg})") from error
    if not lines:
        raise ValueError(f"{path}: is empty; pass overwrite=true or another out")
    return lines


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
