"""What is wrong with a store, whoever wrote it: findings that name episode and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telic.datasets import layout, statistics
from telic.datasets.arrays import RowArray
from telic.datasets.checks import find_problems
from telic.datasets.language import Language
from telic.spec import Array, ArraySpec


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a step of an episode."""

    episode: int
    step: int
    text: str

    def __str__(self) -> str:
        return f"episode {self.episode} step {self.step}: {self.text}"


def validate(path: Path) -> Iterator[Finding]:
    """Yield what is wrong with the store at `path`; ValueError where it cannot be read at all.

    One episode's field is in memory at a time.
    """
    attributes = layout.read_attributes(path)
    fields = layout.read_fields(path, attributes)
    array = RowArray(path / "meta/episode_ends")
    lost = array.missing_rows()
    if lost:
        raise ValueError(f"{lost[0][1]}; without it no episode can be told from another")
    ends = array.read(0, len(array))
    problems = list(_of_ends(ends))
    yield from problems
    if problems:
        return  # no step can be ascribed to an episode
    for name, spec in fields.items():
        yield from _of_field(path, name, spec, ends)
    yield from _of_segments(path, ends)


def _of_ends(ends: Array) -> Iterator[Finding]:
    lengths = np.diff(ends, prepend=0)
    for episode in np.flatnonzero(lengths <= 0).tolist():
        before = int(ends[episode - 1]) if episode else 0
        yield Finding(
            episode, 0, f"meta/episode_ends says {ends[episode]}, expected more than {before}"
        )


def _of_field(path: Path, name: str, spec: ArraySpec, ends: Array) -> Iterator[Finding]:
    data = RowArray(path / "data" / name)
    if (data.row_shape, data.dtype) != (layout.row_shape(spec), np.dtype(spec.dtype)):
        expected = f"{spec.dtype} {layout.row_shape(spec)}"
        found = f"{data.dtype} {data.row_shape}"
        yield Finding(0, 0, f"{name} is {found} at every step, expected {expected}")
        return
    summaries = RowArray(path / "meta/stats" / name)
    total = int(ends[-1]) if len(ends) else 0
    lost = data.missing_rows()
    if len(data) < total:
        lost.append((len(data), f"the array has {len(data)} steps, the episodes {total}"))
    for row, why in lost:
        if row < total:
            yield _at(ends, row, f"{name} has no data from here on, {why}")
    whole = min((row for row, _ in lost), default=total)
    for episode, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=False)):
        if stop > whole:
            return
        if statistics.is_image(spec):
            rows = data.gather(start + statistics.summary_frames(stop - start))
        else:
            rows = data.read(start, stop)
            for step, text in find_problems(name, spec, rows):
                yield Finding(episode, step, f"{name} {text}")
        if not _same_summary(summaries, episode, statistics.summarize(spec, rows)):
            yield Finding(episode, 0, f"meta/stats/{name} does not fit the data of this episode")


def _same_summary(summaries: RowArray, episode: int, expected: Array) -> bool:
    if episode >= len(summaries) or summaries.row_shape != expected.shape:
        return False
    if not np.isfinite(expected).all():  # the data are at fault, and told already
        return True
    scale = np.abs(expected).max(initial=1.0)
    return np.allclose(summaries.read(episode, episode + 1)[0], expected, 1e-6, 1e-9 * scale)


def _of_segments(path: Path, ends: Array) -> Iterator[Finding]:
    total = int(ends[-1]) if len(ends) else 0
    language = Language(path, total)
    for number, (start, end, instruction, task) in enumerate(language.table.tolist()):
        row = min(max(start, 0), max(total - 1, 0))
        problems = []
        if not 0 <= start < end:
            problems.append("expected 0 <= start < end")
        elif np.searchsorted(ends, start, "right") != np.searchsorted(ends, end - 1, "right"):
            problems.append("crosses the end of the episode")
        if not 0 <= instruction < len(language.instructions):
            problems.append(f"instruction_id {instruction} is not in meta/instructions")
        elif not language.instructions[instruction].strip():
            problems.append(f"instruction {instruction} is empty")
        if not 0 <= task < len(language.tasks):
            problems.append(f"task_id {task} is not in meta/tasks")
        for problem in problems:
            first = _at(ends, row, "")
            yield Finding(
                first.episode,
                first.step,
                f"segment {number} of {end - start} steps: {problem}",
            )


def _at(ends: Array, row: int, text: str) -> Finding:
    """Return a finding at a step counted over all episodes."""
    episode = int(np.searchsorted(ends, row, side="right"))
    return Finding(episode, row - (int(ends[episode - 1]) if episode else 0), text)
