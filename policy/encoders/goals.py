"""Goals of several kinds to the same goal token.

B samples, M kinds of goal, D width of tokens, P state size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.encoders.fields import Batch, camera_images, stored_features
from telic.policy.encoders.images import ImageConfig, ImageEncoder
from telic.policy.encoders.language import LanguageConfig, LanguageEncoder, WordEncoder
from telic.policy.encoders.state import StateEncoder
from telic.policy.layers.feed_forward import Adaptor, goal_mlp
from telic.registry import Registry

# What makes a token of a sentence vector: (size of the vector, width of the token) -> layers.
PROJECTIONS: Registry[Callable[[int, int], nn.Module]] = Registry(
    "projection",
    {
        # without a bias (MoDE)
        "linear": lambda size, width: nn.Linear(size, width, bias=False),
        # two layers with biases and a GELU between (MDT)
        "mlp": goal_mlp,
        # two layers of the token's width, GELU (tanh) between (RDT)
        "adaptor": lambda size, width: Adaptor(size, width, 2),
    },
)


@dataclass(kw_only=True, slots=True)
class GoalConfig:
    """Which goals a policy can be given, and what training hides of them."""

    text: bool = True  # sentences can be goals
    images: bool = False  # pictures can be goals
    state: bool = False  # states can be goals
    language: LanguageConfig = field(default_factory=LanguageConfig)
    # layers from a sentence vector to a token
    projection: str = field(default="linear", metadata={"choices": PROJECTIONS})
    image: ImageConfig = field(default_factory=ImageConfig)  # towers of goal pictures
    dropout: float = 0.0  # probability of hiding the whole goal
    # probability of hiding one entry of a sentence vector (published MoDE: 0.1)
    element_dropout: float = 0.0
    modality_dropout: float = 0.5  # probability of hiding each of several goals; one is always left

    def __post_init__(self) -> None:
        for name in ("dropout", "element_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"policy.goal.{name}={getattr(self, name)} must lie in [0, 1]")
        PROJECTIONS.require(self.projection, "policy.goal.projection")
        if not (self.text or self.images or self.state):
            raise ValueError("policy.goal has neither text, images nor state; switch one on")
        if self.reads_words and (self.images or self.state):
            raise ValueError(
                "policy.goal.language.words=true gives a token for each word, and goal images and "
                "states give one for the whole goal; switch policy.goal.images and state off"
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the kinds of goal, in the order of their tokens."""
        return tuple(name for name in ("text", "images", "state") if getattr(self, name))

    @property
    def reads_words(self) -> bool:
        """Return whether a goal is a token for each word of a sentence."""
        return self.text and self.language.words

    def resolved(self) -> GoalConfig:
        """Return the config with what only the text encoder knows written down."""
        return replace(self, language=self.language.resolved()) if self.text else self


class GoalTokens(NamedTuple):
    """The token of each kind of goal: names, M of them; tokens [B M D]; given bool [B M].

    words: bool [B L], where the only kind is a sentence of L words at most, and then tokens are
    [B L D] and given is [B 1].
    pictures: [B C], the mean over cameras of what the tower answers, where pictures are a goal and
    it answers one vector each.
    """

    names: tuple[str, ...]
    tokens: Tensor
    given: Tensor
    words: Tensor | None = None
    pictures: Tensor | None = None

    def alone(self, name: str) -> Float[Tensor, "b 1 d"]:
        """Return the goal token by one kind of goal; zero where it is not given."""
        index = self.names.index(name)
        return self.tokens[:, index : index + 1] * self.given[:, index, None, None]

    def has(self, name: str) -> Bool[Tensor, " b"]:
        """Return which samples hold that kind of goal."""
        return self.given[:, self.names.index(name)]


class GoalEncoder(nn.Module):
    """Each kind of goal has its own projection into the same token; several given are averaged.

    A goal not given, or hidden, contributes nothing; without any, the token is zero. Every
    projection takes part in every batch, so that all ranks have the same gradients. With
    `language.words` a goal is up to `num_tokens` tokens instead, one for each word.
    """

    def __init__(self, config: GoalConfig, cameras: list[str], state_dim: int, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.language = config.language.build() if config.text else None
        if self.language is not None:
            self.text_in = PROJECTIONS[config.projection](self.language.dim, width)
        self.picture_dim = 0
        self.num_tokens = config.language.max_words if config.reads_words else 1
        if config.images:
            if not cameras:
                raise ValueError("policy.goal.images is on, but there is no camera to show goals")
            self.image_in = ImageEncoder(config.image, cameras, width, where="policy.goal.image")
            self.picture_dim = self.image_in.tower(0).channels if self.image_in.pools else 0
        if config.state:
            self.state_in = StateEncoder(state_dim, width)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b g d"]:
        """Return the goal token of each sample: `tokens`, mixed."""
        return self.mix(self.tokens(batch, generator), generator)

    def tokens(self, batch: Batch, generator: torch.Generator | None = None) -> GoalTokens:
        """Return the token of each kind of goal; each tower runs once.

        `batch` has, as configured, `text` (list of str, "" for none), `goal_image/<camera>` u8
        [B h w 3] and normalised `goal_state` [B P]; `goal_images_given` and `goal_state_given`
        (bool [B]) say which rows hold one (default: all). `generator` draws what training hides of
        a sentence and by how much it shifts a picture. Where the batch has `goal_kinds`, these are
        the kinds that there are tokens of.
        """
        if isinstance(self.language, WordEncoder):
            return self._words(self.language, batch, generator)
        kinds = batch.get("goal_kinds", self.config.modalities)
        tokens, given, pictures = [], [], None
        if self.language is not None and "text" in kinds:
            vectors, known = self._vectors(self.language, batch)
            tokens.append(self.text_in(self._hide_elements(vectors, generator)))
            given.append(known)
        if self.config.images and "images" in kinds:
            pictures_given = batch.get("goal_images_given")
            maps = stored_features(batch, "goal_image", self.image_in.cameras)
            if maps is not None:
                token, pictures = self._encoded([m.unsqueeze(1) for m in maps])
            else:
                pictures_of = camera_images(batch, "goal_image", self.image_in.cameras)
                images = {camera: frame.unsqueeze(1) for camera, frame in pictures_of.items()}
                token, pictures = self._encode_pictures(images, pictures_given, generator)
            tokens.append(token)
            given.append(_given(pictures_given, token))
        if self.config.state and "state" in kinds:
            tokens.append(self.state_in(batch["goal_state"].unsqueeze(1)).squeeze(1))
            given.append(_given(batch.get("goal_state_given"), tokens[-1]))
        return GoalTokens(
            tuple(kinds),
            torch.stack(tokens, 1),
            torch.stack(given, 1),
            pictures=pictures,
        )

    def _encode_pictures(
        self, images: Mapping[str, Tensor], given: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b c"] | None]:
        """Return the token of each picture of a goal, and its vector before the projection.

        Where none is given, nothing is looked at but in training, where all ranks do the same.
        """
        if given is not None and not (self.training or bool(given.any())):
            return torch.zeros(len(given), self.width, device=given.device), None
        return self._encoded(self.image_in.maps(images, generator))

    def _encoded(
        self, maps: Sequence[Float[Tensor, "b 1 c ..."]]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b c"] | None]:
        """Return the token of each picture of a goal and its vector, by its map or pooled map."""
        token = self.image_in.tokens(maps).mean(1)
        if not self.image_in.pools:
            return token, None
        return token, torch.stack([m.flatten(1) for m in maps], 1).mean(1)

    def mix(
        self, goals: GoalTokens, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b g d"]:
        """Return the mean of the given goals; `generator` draws which of them training hides.

        Words remain tokens of their own.
        """
        given = goals.given
        if self.training:
            given = self._hide(given, generator)
        if goals.words is not None:
            return goals.tokens * (goals.words & given).unsqueeze(-1)
        weight = given / given.sum(1, keepdim=True).clamp_min(1)
        return (goals.tokens * weight.unsqueeze(-1)).sum(1, keepdim=True)

    def sentences(self, batch: Batch) -> Float[Tensor, "b s"]:
        """Return the text tower's own vectors of the goals' sentences, nothing hidden."""
        assert self.language is not None
        if isinstance(self.language, WordEncoder) and "sentence_words" in batch:
            words = batch["sentence_words"]
            return batch["sentence"].sum(1) / words.sum(1, keepdim=True)
        return self._vectors(self.language, batch)[0]

    def _vectors(
        self, language: LanguageEncoder, batch: Batch
    ) -> tuple[Float[Tensor, "b s"], Bool[Tensor, " b"]]:
        """Return the vector of each sentence, and which samples have one."""
        if "sentence" in batch:
            return batch["sentence"], batch["sentence"].any(-1)
        device = next(self.text_in.parameters()).device
        given = torch.tensor([text != "" for text in batch["text"]], device=device)
        return language(batch["text"], device), given

    def _words(
        self, language: WordEncoder, batch: Batch, generator: torch.Generator | None
    ) -> GoalTokens:
        if "sentence_words" in batch:
            vectors, words = batch["sentence"], batch["sentence_words"]
            given = vectors.flatten(1).any(-1, keepdim=True)
        else:
            device, sentences = next(self.text_in.parameters()).device, batch["text"]
            vectors, words = language.words(sentences, device)
            given = torch.tensor([[text != ""] for text in sentences], device=device)
        tokens = self.text_in(self._hide_elements(vectors, generator))
        return GoalTokens(self.config.modalities, tokens, given, words)

    def _hide_elements(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return sentence vectors with the entries zero that training hides."""
        if not (self.training and self.config.element_dropout):
            return vectors
        return vectors * keep(vectors.shape, self.config.element_dropout, generator, vectors.device)

    def _hide(
        self, given: Bool[Tensor, "b m"], generator: torch.Generator | None
    ) -> Bool[Tensor, "b m"]:
        """Return which goals of each sample training shows."""
        device = given.device
        if given.shape[1] > 1 and self.config.modality_dropout:
            uniform = torch.rand(given.shape, generator=generator, device=device) * given
            best = uniform == uniform.max(1, keepdim=True).values
            given = given & (best | (uniform > self.config.modality_dropout))
        if self.config.dropout:
            given = given & keep((len(given), 1), self.config.dropout, generator, device)
        return given


def word_mask(goals: GoalTokens, mixed: Float[Tensor, "b g d"]) -> Bool[Tensor, "b g"] | None:
    """Return which of the mixed tokens count, None for all; of a goal not shown, the first."""
    if goals.words is None:
        return None
    any_given = mixed.any(-1).any(-1, keepdim=True)
    first = torch.arange(mixed.shape[1], device=mixed.device) == 0
    return goals.words & (any_given | first)


def keep(
    shape: tuple[int, ...],
    dropout: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Bool[Tensor, ...]:
    """Return True with probability 1 - dropout."""
    return torch.rand(shape, generator=generator, device=device) >= dropout


def _given(given: Tensor | None, tokens: Tensor) -> Tensor:
    """The rows that hold a goal, bool [B]; None: all."""
    if given is None:
        return torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    return torch.as_tensor(given, device=tokens.device)
