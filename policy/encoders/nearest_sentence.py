"""The trained sentence nearest to one that a policy was not trained on, and how near it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from telic.spec import Array

_COMPARED = 1000  # trained sentences among which the usual distance is measured


@runtime_checkable
class KnowsSentences(Protocol):
    """A policy that keeps the vectors of the sentences that it was trained on."""

    @property
    def known_embeddings(self) -> Mapping[str, Array]:
        """Return the vectors, [dim] or [words dim], by sentence."""
        ...

    def embed(self, sentences: Sequence[str]) -> Mapping[str, Array]:
        """Return the vectors of any sentences; the policy knows them from then on."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestSentence:
    """`nearest` of the `count` trained sentences to `sentence`, by the cosine of their vectors.

    `usual` is the median cosine from a trained sentence to its own nearest one, None for one alone.
    """

    sentence: str
    nearest: str
    cosine: float
    count: int
    usual: float | None

    def __str__(self) -> str:
        usual = "" if self.usual is None else f"; from one of them to its nearest {self.usual:.2f}"
        return (
            f"the policy was not trained on the sentence {self.sentence!r}; the nearest of "
            f"{self.count} is {self.nearest!r}, cosine {self.cosine:.2f}{usual}"
        )


def nearest_sentence(policy: object, sentence: str) -> NearestSentence | None:
    """Return the trained sentence nearest to `sentence`.

    None where it was trained itself, or where the policy knows no sentences. To be asked before the
    policy acts: what it has once acted on it knows.
    """
    if not isinstance(policy, KnowsSentences):
        return None
    known = {text: _direction(vector) for text, vector in policy.known_embeddings.items()}
    if not known or sentence in known:
        return None
    texts, table = list(known), np.stack(list(known.values()))
    cosines = table @ _direction(policy.embed([sentence])[sentence])
    best = int(cosines.argmax())
    return NearestSentence(
        sentence=sentence,
        nearest=texts[best],
        cosine=float(cosines[best]),
        count=len(texts),
        usual=_usual(table[:_COMPARED]),
    )


def _direction(vector: Array) -> Array:
    """Return the unit vector [dim] of a sentence, of its words the mean."""
    mean = np.atleast_2d(np.asarray(vector, np.float64)).mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _usual(table: Array) -> float | None:
    if len(table) < 2:
        return None
    cosines = table @ table.T
    np.fill_diagonal(cosines, -np.inf)
    return float(np.median(cosines.max(1)))
