"""The bank of paraphrases: 30 sentences a task that nothing is trained on, by axis and difficulty.

What is reworded (the axis): the verb, the object, both; or the task is told by its opposite, or
beside something that it has nothing to do with. Easy: a usual synonym in a plain request; medium: a
rarer word or another kind of clause; hard: what shall come about, or a comparison.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
import yaml

from telic.envs.playtable.slots import in_order, members

AXES: Final = ("verb", "object", "verb_object", "antonym", "distractor")
DIFFICULTIES: Final = ("easy", "medium", "hard")
BANK: Final = "paraphrases.yaml"
DEVELOPMENT: Final = "paraphrases_development.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Paraphrase:
    """A sentence of the bank, and by what it differs from those that are trained on."""

    text: str
    axis: str
    difficulty: str


@cache
def paraphrases(file: str = BANK) -> Mapping[str, tuple[Paraphrase, ...]]:
    """Return task -> its paraphrases, for all 34 tasks in their order.

    file: `BANK`, 30 a task, six of each axis; `DEVELOPMENT`, 15 others by which sentences to train
    on may be chosen.
    """
    text = files("telic.envs.playtable").joinpath(file).read_text()
    table = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found = {
        task: tuple(
            Paraphrase(text=template.format(**words), axis=axis, difficulty=difficulty)
            for axis in AXES
            for difficulty in DIFFICULTIES
            for template in entry[axis][difficulty]
        )
        for family, entry in table.items()
        for task, words in members(family).items()
    }
    return {task: found[task] for task in in_order(found)}


def drawn(task: str, index: int, seed: int = 0) -> tuple[Paraphrase, ...]:
    """Return one paraphrase of each difficulty: those that start number `index` is met with.

    Ten starts in a row meet all 30, in an order of the task's own, drawn from `seed`.
    """
    chosen = []
    for number, difficulty in enumerate(DIFFICULTIES):
        texts = [each for each in paraphrases()[task] if each.difficulty == difficulty]
        rng = np.random.default_rng([seed, number, zlib.crc32(task.encode())])
        order = rng.permutation(len(texts))
        chosen.append(texts[order[index % len(texts)]])
    return tuple(chosen)
