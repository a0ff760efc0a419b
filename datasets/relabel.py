"""A store relabelled: the same steps, each label with other sentences of its task."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from telic.datasets import layout
from telic.datasets.language import EMBEDDINGS, Language, Segment
from telic.datasets.lock import WriterLock
from telic.datasets.store import EpisodeStore
from telic.replacement import Replacement
from telic.spec import near_misses
from telic.yaml_files import read_yaml

_TABLES = ("segments", "instructions", "tasks", EMBEDDINGS.rpartition("/")[2])


def relabel(
    source: Path, target: Path, sentences: Mapping[str, Sequence[str]], overwrite: bool = False
) -> int:
    """Write the store at `source` to `target` with `sentences`; return how many labels it has.

    sentences: task -> its sentences, the task as the store names it or without its family
    ("open_drawer" for "playtable/open_drawer"). Each stretch of steps labelled with a task is
    labelled with all of them. Vectors of sentences are not taken along. ValueError for a store
    that is not whole or being written, and for a task without sentences.
    """
    place = Replacement(
        target, layout.STORE, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    place.require()
    with EpisodeStore.open(source) as store:
        store.require_whole()
        texts = {task: _of_task(task, sentences, source) for task in store.tasks}
        starts = [0, *store.episode_ends.tolist()]
        relabelled = [_relabelled(store.segments_of(i), texts) for i in range(store.num_episodes)]
        lock = WriterLock(source)
        try:
            with place.writing() as fresh:
                _copy_without_language(source, fresh)
                Language.create(fresh)
                language = Language(fresh, 0)
                for start, segments in zip(starts, relabelled, strict=False):
                    language.append(start, segments)
        finally:
            lock.release()
    return sum(map(len, relabelled))


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Return task -> sentences of a yaml file; ValueError for another shape."""
    try:
        table: Any = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--sentences {path}: {' '.join(str(error).split()):.150}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f"--sentences {path}: holds no task -> list of sentences")
    for task, texts in table.items():
        whole = isinstance(texts, list) and texts
        if not whole or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"--sentences {path}: {task} is {texts!r:.60}, expected sentences")
        if len(set(texts)) < len(texts):
            raise ValueError(f"--sentences {path}: {task} has a sentence twice")
    return {str(task): list(texts) for task, texts in table.items()}


def _of_task(task: str, sentences: Mapping[str, Sequence[str]], source: Path) -> Sequence[str]:
    for name in (task, task.rpartition("/")[2]):
        if name in sentences:
            return sentences[name]
    raise ValueError(
        f"{source}: --sentences has none for its task {task!r}{near_misses(task, sentences)}"
    )


def _relabelled(segments: Sequence[Segment], texts: Mapping[str, Sequence[str]]) -> list[Segment]:
    """Return a segment for each stretch of a task and each of its sentences."""
    stretches = dict.fromkeys((each.start, each.end, each.task) for each in segments)
    return [
        Segment(start=start, end=end, instruction=text, task=task)
        for start, end, task in stretches
        for text in texts[task]
    ]


def _copy_without_language(source: Path, fresh: Path) -> None:
    """Copy the store's files to `fresh`, but for the tables of language."""

    def tables(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in _TABLES] if Path(folder).name == "meta" else []

    shutil.copytree(source, fresh, ignore=tables, dirs_exist_ok=True)
