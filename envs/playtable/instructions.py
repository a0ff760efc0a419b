"""What a person says for each of PlayTable's tasks: to train on, and held out to evaluate with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from telic.envs.playtable.grammar import generated
from telic.envs.playtable.rules import COLOURS, TASK_RULES, task_rules
from telic.spec import near_misses
from telic.yaml_files import read_yaml

GENERATED: Final = 48  # sentences of the grammar, for each task, after those written by hand
Sentences = Mapping[str, tuple[str, ...]]


class Phrases(Enum):
    """Which of the sentences: those to train on, or those that nothing is trained on.

    To train on: 16 written by hand, then those of the grammar (envs/playtable/grammar.py).
    """

    training = "training"
    held_out = "held_out"


def sentences(phrases: Phrases = Phrases.training, language_file: str | None = None) -> Sentences:
    """Return task -> its sentences, for all 34 tasks in their order.

    language_file: a yaml of task -> list of sentences, as CALVIN's annotations are, instead of
    ours. ValueError for a file that is missing, leaves out a task or has another shape.
    """
    if language_file is not None:
        return read_language_file(Path(language_file))
    return _ours()[phrases]


def instructions(task: str, phrases: Phrases = Phrases.training) -> tuple[str, ...]:
    """Return our sentences for one task; ValueError with near misses for an unknown one."""
    task_rules(task)
    return _ours()[phrases][task]


@cache
def _ours() -> dict[Phrases, Sentences]:
    text = files("telic.envs.playtable").joinpath("instructions.yaml").read_text()
    table: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    written = {phrases: _filled(table, phrases.value) for phrases in Phrases}
    drawn = generated(GENERATED)
    training = {task: (*texts, *drawn[task]) for task, texts in written[Phrases.training].items()}
    return {**written, Phrases.training: training}


def _filled(table: Mapping[str, Mapping[str, list[str]]], part: str) -> Sentences:
    """Return task -> sentences of one part, the colours put in."""
    found = {
        task.format(colour=colour): tuple(text.format(colour=colour) for text in entry[part])
        for task, entry in table.items()
        for colour in COLOURS
    }
    return {task: found[task] for task in TASK_RULES}


def read_language_file(path: Path) -> Sentences:
    """Return task -> sentences of a yaml file with a list of them for each of the 34 tasks."""
    try:
        table = read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"language_file={path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"language_file={path}: is not yaml ({_one_line(error)})") from error
    if not isinstance(table, dict):
        raise ValueError(
            f"language_file={path}: is a {type(table).__name__}, expected task -> list of sentences"
        )
    for task in table:
        if task not in TASK_RULES:
            hint = near_misses(str(task), TASK_RULES)
            raise ValueError(f"language_file={path}: unknown task {task!r}{hint}")
    if missing := [task for task in TASK_RULES if task not in table]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"language_file={path}: no sentences for {missing[0]}{more}, expected all 34 tasks"
        )
    return {task: _listed(table[task], f"language_file={path}: {task}") for task in TASK_RULES}


def _listed(value: Any, where: str) -> tuple[str, ...]:
    """Return the sentences of one task; ValueError unless they are a list of some."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is {value!r}, expected a list of sentences")
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{where} has {entry!r} among its sentences, expected text")
    return tuple(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def main() -> None:
    """Print the sentences to train on as yaml, as `demo-store relabel --sentences` reads them."""
    table = {task: list(texts) for task, texts in sentences().items()}
    print(yaml.safe_dump(table, sort_keys=False, width=200), end="")


if __name__ == "__main__":
    main()
