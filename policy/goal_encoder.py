"""Goals of several kinds to the same goal token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.language_encoder import LanguageConfig
from telic.policy.state_encoder import StateEncoder


@dataclass(kw_only=True, slots=True)
class GoalConfig:
    """Which goals a policy can be given, and what training hides of them."""

    text: bool = True
    state: bool = False
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dropout: float = 0.0  # probability of hiding the whole goal
    element_dropout: float = 0.0  # probability of hiding an entry of a text vector (published: 0.1)
    modality_dropout: float = 0.5  # probability of hiding each of several goals, never all

    def __post_init__(self) -> None:
        for name in ("dropout", "element_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"policy.goal.{name}={getattr(self, name)} must lie in [0, 1]")
        if not (self.text or self.state):
            raise ValueError("policy.goal has neither text, images nor state; switch one on")

    def build(self, state_dim: int, width: int) -> GoalEncoder:
        """Return the encoder of goals to one token of `width`."""
        return GoalEncoder(self, state_dim, width)


class GoalEncoder(nn.Module):
    """Each kind of goal has its own projection into the same token; several given are averaged.

    Every trainable projection takes part in every batch (masked where a sample lacks that goal),
    so that gradients exist on all ranks.
    """

    num_tokens = 1

    def __init__(self, config: GoalConfig, state_dim: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.language = config.language.build() if config.text else None
        if self.language is not None:
            config.language.dim = self.language.dim
            self.text_in = nn.Linear(self.language.dim, width, bias=False)
        if config.state:
            self.state_in = StateEncoder(state_dim, width)

    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b 1 d"]:
        """Return the goal token of each sample.

        `batch` has `text` (list of str, "" for none) and, where configured, normalised
        `goal_state` [B P]; `goal_state_given` (bool [B]) says which rows hold one (default: all).
        `generator` draws what training hides.
        """
        tokens, given = [], []
        if self.language is not None:
            vectors = self.language(batch["text"], self.text_in.weight.device)
            if self.training and self.config.element_dropout:
                vectors = vectors * _kept(
                    vectors.shape, self.config.element_dropout, generator, vectors.device
                )
            tokens.append(self.text_in(vectors))
            given.append(torch.tensor([text != "" for text in batch["text"]]))
        if self.config.state:
            state = batch["goal_state"]
            tokens.append(self.state_in(state.unsqueeze(1)).squeeze(1))
            given.append(batch.get("goal_state_given", torch.ones(len(state), dtype=torch.bool)))
        token = torch.stack(tokens, 1)
        shown = torch.stack([g.to(token.device) for g in given], 1)
        if self.training:
            shown = self._hide(shown, generator)
        weight = shown / shown.sum(1, keepdim=True).clamp_min(1)
        return (token * weight.unsqueeze(-1)).sum(1, keepdim=True)

    def _hide(
        self, given: Bool[Tensor, "b m"], generator: torch.Generator | None
    ) -> Bool[Tensor, "b m"]:
        """Return which goals of each sample training shows."""
        if given.shape[1] > 1 and self.config.modality_dropout:
            score = torch.rand(given.shape, generator=generator, device=given.device)
            score = score.masked_fill(~given, 2.0)
            least = score == score.min(1, keepdim=True).values  # one stays in any case
            given = given & (least | (score > self.config.modality_dropout))
        if self.config.dropout:
            given = given & _kept((len(given), 1), self.config.dropout, generator, given.device)
        return given


def _kept(
    shape: tuple[int, ...],
    dropout: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Return True with probability 1 - dropout."""
    return torch.rand(shape, generator=generator, device=device) >= dropout
