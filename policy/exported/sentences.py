"""The sentences that an exported policy knows, and its text encoder for those it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telic.policy.exported.manifest import Manifest
from telic.policy.readable import load_embeddings
from telic.spec import Array


class Sentences:
    """Vectors by sentence; an unknown one has torch and the text encoder loaded."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._goal = folder, manifest.goal
        self._origin = Path(manifest.checkpoint["path"])
        self.known: dict[str, Array] = load_embeddings(folder / "embeddings.safetensors")

    def embed(self, texts: Sequence[str]) -> dict[str, Array]:
        """Return the vector, f32 [dim] or [words dim], of each sentence.

        ValueError where the text encoder that it takes is not there.
        """
        unknown = [text for text in dict.fromkeys(texts) if text not in self.known]
        if unknown:
            self.known |= self._encoded(unknown)
        return {text: self.known[text] for text in texts}

    def arrays(self, texts: Sequence[str]) -> dict[str, Array]:
        """Return the inputs `sentence` and, where goals are words, `sentence_words`."""
        known = self.embed(texts)
        vectors = [known[text] for text in texts]
        most = self._goal.words
        if not most:
            return {"sentence": np.stack(vectors).astype(np.float32)}
        table = np.zeros((len(texts), most, self._goal.dim), np.float32)
        words = np.zeros((len(texts), most), bool)
        for row, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            if len(vector) > most:
                raise ValueError(
                    f"the sentence {text!r} has {len(vector)} words, and the graph was made for "
                    f"{most}; export-policy --sentence {text!r} makes room for it"
                )
            table[row, : len(vector)], words[row, : len(vector)] = vector, True
        return {"sentence": table, "sentence_words": words}

    def _encoded(self, unknown: Sequence[str]) -> dict[str, Array]:
        goal = self._goal
        try:
            from telic.policy.encoders.language import LanguageConfig
        except ImportError as error:
            raise ValueError(
                f"the sentence {unknown[0]!r} is not among the {len(self.known)} exported ones, "
                "and its text encoder needs torch; export-policy --sentence adds it"
            ) from error
        config = LanguageConfig(encoder=goal.encoder, dim=goal.dim, words=goal.words > 0)
        encoder = config.build()
        if (self._origin / "language").is_dir():
            encoder.folder = self._origin / "language"
        return encoder.embed(unknown)
