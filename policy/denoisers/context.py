"""What a denoiser is conditioned on, and the sizes that it is built for.

B samples, D width of tokens, G goal tokens, V cameras, O observation horizon, H actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class Context:
    """What depends neither on sigma nor on the actions, as tokens.

    goal: [B G D]; images: [B N D], camera by camera, each oldest first; state: [B O D], or
    normalised values [B O P] for a kind that embeds them itself (`embeds_state`).
    A part that a policy does without has no tokens (G, N or O is 0).
    goal_mask: bool [B G], False where a sentence is shorter than the longest; None: all count.
    state_mask: bool [B P], action_mask: bool [B A], the entries that a sample's robot has; None:
    all. rate_hz: f32 [B], actions a second; None or 0: not known.
    """

    goal: Tensor
    images: Tensor
    state: Tensor
    goal_mask: Tensor | None = None

    @property
    def token_mask(self) -> Bool[Tensor, "b n"] | None:
        """Return which tokens of [goal, images, state] count, or None where all do."""
        if self.goal_mask is None:
            return None
        others = self.images.shape[1] + self.state.shape[1]
        return F.pad(self.goal_mask, (0, others), value=True)

    state_mask: Tensor | None = None
    action_mask: Tensor | None = None
    rate_hz: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How many tokens a context has and what a chunk is: H actions of A numbers.

    num_goals: at most, for a kind that reads words. obs_horizon: how many frames of each camera
    are among the images. state_dim: numbers in a state. num_patches: tokens of one frame.
    """

    num_goals: int
    num_images: int
    num_states: int
    action_horizon: int
    action_dim: int
    obs_horizon: int = 1
    state_dim: int = 0
    num_patches: int = 1
