"""The grammar of the sentences to train on: frames around clauses around nouns, drawn by a seed.

Its templates are none of the paraphrases' (envs/playtable/paraphrases.py): a test compares.
"""

from __future__ import annotations

import string
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import yaml

from telic.envs.playtable.slots import in_order, members

# an entry of a task's clauses -> the frames that it is put into
FRAMES_OF: Final = {
    "do": ("do",),
    "is": ("is",),
    "was": ("was",),
    "undo": ("instead", "reverse"),
    "instead": ("instead",),
    "doing": ("doing",),
    "else": ("else",),
}
# the kinds of sentence in turn: half of them are plain commands
TRIED: Final = 60  # templates among which the one of the rarest phrases is taken
TURNS_OF_KINDS: Final = ("do", "else", "do", "was", "do", "is", "do", "undo", "else", "doing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A sentence with slots for nouns, colours and sides. parts: the phrases it is made of."""

    kind: str
    text: str
    parts: tuple[str, ...]


@cache
def grammar() -> Mapping[str, Any]:
    """Return frames, nouns and tasks of grammar.yaml."""
    text = files("telic.envs.playtable").joinpath("grammar.yaml").read_text()
    found: Mapping[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def templates(family: str) -> Iterator[Template]:
    """Yield every template of a family of tasks."""
    frames, clauses = grammar()["frames"], grammar()["tasks"][family]
    for entry, kinds in FRAMES_OF.items():
        for clause in clauses.get(entry, []):
            for frame in (frame for kind in kinds for frame in frames[kind]):
                kind = "undo" if entry == "instead" else entry
                commands = clauses["do"] if entry != "do" and "{do}" in frame else [""]
                for command in commands:
                    text = frame.replace(f"{{{_SLOT.get(entry, entry)}}}", clause)
                    parts = (frame, clause, command)
                    yield Template(kind=kind, text=text.replace("{do}", command), parts=parts)


_SLOT: Final = {"instead": "undo"}


@cache
def generated(count: int, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Return task -> `count` different sentences of it, for all 34 tasks in their order.

    The tasks of a family have the same sentences but for colours and sides.
    """
    drawn: dict[str, tuple[str, ...]] = {}
    for family in grammar()["tasks"]:
        texts = _drawn(family, count, np.random.default_rng([seed, zlib.crc32(family.encode())]))
        for task, words in members(family).items():
            drawn[task] = tuple(text.format(**words) for text in texts)
    return {task: drawn[task] for task in in_order(drawn)}


def _drawn(family: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return sentences with slots for colours and sides, each phrase about as often as another."""
    left: dict[str, list[Template]] = {kind: [] for kind in TURNS_OF_KINDS}
    for template in templates(family):
        left[template.kind].append(template)
    for pool in left.values():
        pool[:] = [pool[i] for i in rng.permutation(len(pool))]
    used: Counter[str] = Counter()
    nouns = {name: _cycle(all_, rng) for name, all_ in grammar()["nouns"].items()}
    texts: dict[str, None] = {}
    turn = 0
    while len(texts) < count:
        pool = left[TURNS_OF_KINDS[turn % len(TURNS_OF_KINDS)]]
        turn += 1
        if not any(left.values()):
            raise ValueError(f"{family}: the grammar has {len(texts)} sentences, not {count}")
        if not pool:
            continue
        tried = range(min(len(pool), TRIED))
        least = min(tried, key=lambda i: sum(used[part] for part in pool[i].parts))
        template = pool.pop(least)
        used.update(part for part in template.parts if part)
        texts[_with_nouns(template.text, nouns)] = None
    return list(texts)


def _with_nouns(text: str, nouns: Mapping[str, Iterator[str]]) -> str:
    """Return the text with its slots for nouns filled, each slot with a noun of its own."""
    filled = ""
    for literal, slot, _, _ in string.Formatter().parse(text):
        filled += literal
        if slot is not None:
            filled += next(nouns[slot]) if slot in nouns else f"{{{slot}}}"
    return filled


def _cycle(nouns: list[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield the nouns in a random order, again and again, each time in another."""
    while True:
        yield from (nouns[i] for i in rng.permutation(len(nouns)))
