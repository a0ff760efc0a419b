"""What is wrong with a store, whoever wrote it: findings that name episode and step."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telic.datasets import conventions, language, layout, statistics
from telic.datasets.array_metadata import PARTIAL, read_meta
from telic.datasets.arrays import RowArray
from telic.datasets.checks import find_problems, unlike_picture
from telic.datasets.language import Language
from telic.spec import Array, ArraySpec, near_misses

KNOWN_FIELDS = ("state", "action", "timestamp_ns", "reward", "done", "states")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a step of an episode; episode None: in what belongs to none."""

    episode: int | None
    step: int
    text: str

    def __str__(self) -> str:
        if self.episode is None:
            return self.text
        return f"episode {self.episode} step {self.step}: {self.text}"


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that is not wrong by itself, but that training would not use, or refuse."""

    text: str

    def __str__(self) -> str:
        return f"warning: {self.text}"


def validate(path: Path, deep: bool = False) -> Iterator[Finding | Warned]:
    """Yield what is wrong with the store at `path`; ValueError where it cannot be read at all.

    `deep` also reads every picture and holds every chunk against its checksum. One chunk and one
    episode's field are in memory at a time.
    """
    attributes = layout.read_attributes(path)
    fields, rate_hz = layout.read_fields(path, attributes), float(attributes["rate_hz"])
    array = RowArray(path / "meta/episode_ends")
    lost = array.missing_rows()
    if lost:
        raise ValueError(f"{lost[0][1]}; without it no episode can be told from another")
    ends = array.read_whole()
    problems = list(_of_ends(ends))
    yield from problems
    if problems:
        return  # no step can be ascribed to an episode
    found = False
    for name, spec in fields.items():
        for finding in _of_field(path, name, spec, ends, rate_hz, deep):
            found = True
            yield finding
    for finding in _of_segments(path, ends):
        found = True
        yield finding
    if not found:
        yield from _of_the_whole(path, deep)
        yield from _of_conventions(path)
    yield from _of_groups(path)
    yield from _of_embeddings(path)
    yield from of_training(path, fields, ends)
    yield from _of_files(path, fields, deep)


def _of_groups(path: Path) -> Iterator[Finding]:
    """Yield which groups other zarr readers would not find."""
    folders = {file.parent for top in ("data", "meta") for file in (path / top).rglob("zarr.json")}
    groups = {parent for folder in folders for parent in folder.parents if path in parent.parents}
    for group in sorted(groups - {path}):
        try:
            kind = read_meta(group).get("node_type")
        except ValueError as error:
            yield Finding(None, 0, f"{error}; other zarr readers need it")
            continue
        if kind != "group":
            yield Finding(None, 0, f"{group}/zarr.json: is of {kind!r:.40}, expected a group")


def _of_embeddings(path: Path) -> Iterator[Finding]:
    """Yield which vectors of sentences cannot be read."""
    for meta in sorted((path / language.EMBEDDINGS).glob("*/zarr.json")):
        try:
            language.read_vectors(RowArray(meta.parent))
        except ValueError as error:
            yield Finding(None, 0, str(error))


def _of_the_whole(path: Path, deep: bool) -> Iterator[Finding]:
    """Yield why the store cannot be opened, or not for writing, if no episode is at fault."""
    from telic.datasets.store import EpisodeStore

    try:
        store = EpisodeStore.open(path)
        if deep:
            store.require_whole()
    except ValueError as error:
        yield Finding(None, 0, str(error))


def _of_conventions(path: Path) -> Iterator[Warned]:
    """Yield what looks wrong although every number is one that a store accepts."""
    from telic.datasets.store import EpisodeStore

    try:
        store = EpisodeStore.open(path)
    except ValueError:
        return  # told already
    for text in conventions.suspicions(store):
        yield Warned(text)


def of_training(path: Path, fields: Mapping[str, ArraySpec], ends: Array) -> Iterator[Warned]:
    """Yield what a training on the store would not use, or why it would be refused."""
    for name, what in (("state", "what is sensed"), ("action", "what is done")):
        if name not in fields:
            near = near_misses(name, fields)
            yield Warned(f"no field {name!r} ({what}), without which training is refused{near}")
    for name, spec in fields.items():
        if name in ("state", "action") and len(spec.shape) != 1:
            yield Warned(f"{name} has shape {spec.shape}, expected a vector; training is refused")
        if problem := unlike_picture(name, spec):
            yield Warned(f"{problem}; training is refused")
        if name.startswith("image/") or name in KNOWN_FIELDS:
            continue
        if len(spec.shape) == 3 and (spec.dtype == "uint8" or 3 in spec.shape[::2]):
            camera = name.rpartition("/")[2]
            way = unlike_picture(f"image/{camera}", spec)
            yield Warned(
                f"{name} holds pictures that training does not use; "
                + (f"name it image/{camera}" if way is None else f"{way}")
            )
        elif close := difflib.get_close_matches(name, KNOWN_FIELDS[:3], 1, 0.8):
            yield Warned(f"{name} is not used by training; did you mean {close[0]}?")
    if not len(ends):
        yield Warned("no episode, so there is nothing to train on")
        return
    table = Language(path, int(ends[-1])).table
    if not len(table):
        yield Warned(
            "no segment has a sentence: training needs goal.text=optional or none, and "
            "goal.hindsight=uniform"
        )
        return
    episodes = np.unique(np.searchsorted(ends, table[:, 0], side="right"))
    if bare := len(ends) - len(episodes):
        yield Warned(
            f"{bare} of {len(ends)} episodes have no sentence; by default training passes over them"
        )


def _of_files(path: Path, fields: Mapping[str, ArraySpec], deep: bool) -> Iterator[Warned]:
    """Yield which files are no part of the store, and which arrays carry no checksums."""
    known = [*(f"data/{n}" for n in fields), *(f"meta/stats/{n}" for n in fields)]
    known += ["meta/episode_ends", "meta/segments"]
    without = 0
    for name in known:
        array = RowArray(path / name)
        without += not array.checksummed
        for stray in array.stray_files():
            if not PARTIAL.fullmatch(stray.name):
                yield Warned(f"{stray.relative_to(path)} is no part of the store")
    for folder in ("data", "meta/stats"):
        for meta in sorted((path / folder).rglob("zarr.json")):
            name = meta.parent.relative_to(path).as_posix()
            is_group = any(other.startswith(f"{name}/") for other in known) or name == folder
            if name not in known and not is_group:
                yield Warned(f"{name} is no field of the store, and is not used")
    if deep and without:
        yield Warned(
            f"{without} arrays were written without checksums, so flipped bytes in them cannot be "
            "told; a copy of the store has checksums"
        )


def _of_ends(ends: Array) -> Iterator[Finding]:
    lengths = np.diff(ends, prepend=0)
    for episode in np.flatnonzero(lengths <= 0).tolist():
        before = int(ends[episode - 1]) if episode else 0
        yield Finding(
            episode, 0, f"meta/episode_ends says {ends[episode]}, expected more than {before}"
        )


def _of_field(
    path: Path, name: str, spec: ArraySpec, ends: Array, rate_hz: float, deep: bool
) -> Iterator[Finding]:
    data, summaries = RowArray(path / "data" / name), RowArray(path / "meta/stats" / name)
    if (data.row_shape, data.dtype) != (layout.row_shape(spec), np.dtype(spec.dtype)):
        expected = f"{spec.dtype} {layout.row_shape(spec)}"
        found = f"{data.dtype} {data.row_shape}"
        yield Finding(0, 0, f"{name} is {found} at every step, expected {expected}")
        return
    total = int(ends[-1]) if len(ends) else 0
    lost = data.missing_rows()
    if len(data) < total:
        lost.append((len(data), f"the array has {len(data)} steps, the episodes {total}"))
    for row, why in lost:
        if row < total:
            yield _at(ends, row, f"{name} has no data from here on, {why}")
    if deep:
        yield from _damaged(data, name, ends)
    whole = min((row for row, _ in lost), default=total)
    for episode, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=False)):
        if stop > whole:
            return
        yield from _of_episode(data, summaries, episode, start, stop, name, spec, rate_hz)


def _damaged(data: RowArray, name: str, ends: Array) -> Iterator[Finding]:
    """Yield the first step of each chunk that does not fit its checksum, and how many follow."""
    total = int(ends[-1]) if len(ends) else 0
    for first, count, _ in data.damaged_rows():
        last = min(first + count, total) - 1
        if first < total:
            end = _at(ends, last, "")
            yield _at(
                ends,
                first,
                f"{name} does not fit its checksum between here and episode {end.episode} step "
                f"{end.step}",
            )


def _of_episode(
    data: RowArray,
    summaries: RowArray,
    episode: int,
    start: int,
    stop: int,
    name: str,
    spec: ArraySpec,
    rate_hz: float,
) -> Iterator[Finding]:
    if statistics.is_image(spec):
        rows = data.gather(start + statistics.summary_frames(stop - start))
    else:
        rows = data.read(start, stop)
        for step, text in find_problems(name, spec, rows, rate_hz):
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
    spoken = Language(path, total)
    for number, (start, end, instruction, task) in enumerate(spoken.table.tolist()):
        row = min(max(start, 0), max(total - 1, 0))
        problems = []
        if not 0 <= start < end:
            problems.append("expected 0 <= start < end")
        elif np.searchsorted(ends, start, "right") != np.searchsorted(ends, end - 1, "right"):
            problems.append("crosses the end of the episode")
        if not 0 <= instruction < len(spoken.instructions):
            problems.append(f"instruction_id {instruction} is not in meta/instructions")
        elif not spoken.instructions[instruction].strip():
            problems.append(f"instruction {instruction} is empty")
        if not 0 <= task < len(spoken.tasks):
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
