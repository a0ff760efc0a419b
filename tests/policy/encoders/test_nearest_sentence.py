"""The nearest trained sentence, by the cosine of vectors, of one row or of words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from telic.policy.encoders.nearest_sentence import nearest_sentence
from telic.spec import Array


@dataclass
class Dictionary:
    """Two trained sentences; an unknown one points 60 degrees away from the second."""

    known_embeddings: dict[str, Array] = field(
        default_factory=lambda: {
            "open": np.array([2.0, 0.0, 0.0]),
            "close": np.array([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]]),
        }
    )

    def embed(self, sentences: Sequence[str]) -> Mapping[str, Array]:
        return {text: np.array([0.0, 0.5, 0.75**0.5]) for text in sentences}


def test_the_nearest_is_named_with_its_cosine() -> None:
    found = nearest_sentence(Dictionary(), "shut")
    assert found is not None
    assert (found.nearest, found.count, found.usual) == ("close", 2, 0.0)
    assert found.cosine == pytest.approx(0.5)
    assert str(found) == (
        "the policy was not trained on the sentence 'shut'; the nearest of 2 is 'close', cosine "
        "0.50; from one of them to its nearest 0.00"
    )


def test_there_is_nothing_to_say_of_what_was_trained_or_of_policies_without_sentences() -> None:
    assert nearest_sentence(Dictionary(), "open") is None
    assert nearest_sentence(Dictionary(known_embeddings={}), "open") is None
    assert nearest_sentence(object(), "open") is None
    alone = nearest_sentence(Dictionary(known_embeddings={"open": np.ones(3)}), "shut")
    assert alone is not None and alone.usual is None and "from one of them" not in str(alone)
