"""What a chunk is conditioned on: a batch's states, pictures and goals as tokens.

B batch, O observation horizon, P state size, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.context import Context
from telic.policy.denoisers.denoiser import Denoiser, MemoryT, PreparedT
from telic.policy.encoders.condition_dropout import NOTHING_HIDDEN, hide, hide_frames
from telic.policy.encoders.fields import Batch, camera_images, holds, stored_features
from telic.policy.encoders.goals import GoalEncoder, GoalTokens, word_mask
from telic.policy.encoders.images import ImageEncoder
from telic.policy.encoders.state import StateEncoder, StateTokens
from telic.policy.encoders.state_features import (
    StateFeatures,
    entries_named,
    entry_pairs,
    excluded_entries,
    token_entries,
)
from telic.policy.encoders.towers import VisionTower
from telic.policy.objectives.objective import NO_VIEWS, Encoded, Views
from telic.policy.requests import RequestSpec
from telic.spec import FieldStats, Interface


class Conditioner(nn.Module):
    """The encoders of a policy: `condition` makes a batch's context.

    cameras: those that observations are read from; num_states: tokens of states; request_spec:
    what a request must hold.
    """

    def __init__(
        self, config: PolicyConfig, interface: Interface, stats: Mapping[str, FieldStats]
    ) -> None:
        """`config` is resolved."""
        super().__init__()
        assert config.denoiser is not None
        self.config, width = config, config.denoiser.width
        self.cameras = config.images.choose(interface.images)
        goal_cameras = config.goal.image.choose(interface.images) if config.goal.images else []
        names = interface.state.names
        self.state_features = _state_features(config, interface, stats)
        columns = self.state_features.columns
        excluded = self.state_features.excluded
        tokens = [columns(own) for own in token_entries(config.state_tokens, names, excluded)]
        self.num_states = config.obs_horizon * (len(tokens) or 1) if config.use_state else 0
        size = self.state_features.size
        self.state_encoder: StateEncoder | StateTokens | None = None
        if config.use_state and not config.denoiser.embeds_state:
            self.state_encoder = StateTokens(tokens, width) if tokens else StateEncoder(size, width)
        self.sentence_dim = (config.goal.language.dim or 0) if config.goal.text else 0
        self.image_encoder: ImageEncoder | None = None
        if self.cameras:
            self.image_encoder = ImageEncoder(
                config.images, self.cameras, width, config.obs_horizon, self.sentence_dim
            )
        self.goal_encoder = GoalEncoder(config.goal, goal_cameras, size, width)
        self.request_spec = _request_spec(config, interface, self.cameras, goal_cameras)

    def condition(
        self, batch: Batch, rate_hz: float, generator: torch.Generator | None = None
    ) -> Context:
        """The context of a batch of windows, or of observations and goals.

        `rate_hz` is of batches that do not say. `generator` draws what training augments and hides.
        """
        return self.context(batch, self.goals(batch, generator), generator, rate_hz)

    def goals(self, batch: Batch, generator: torch.Generator | None = None) -> GoalTokens:
        """Return the token of each kind of goal; ValueError where the batch lacks something."""
        kinds = batch.get("goal_kinds", self.config.goal.modalities)
        needed = [n for n in self.request_spec.fields_for(kinds) if not holds(batch, n)]
        if missing := [n for n in needed if not (n == "text" and "sentence" in batch)]:
            raise ValueError(
                f"the windows have no {missing[0]}, which the policy reads; data.cameras "
                "and data.goal say what windows hold"
            )
        if self.config.goal.state and "state" in kinds:
            batch = {**batch, "goal_state": self._features(batch, batch["goal_state"])}
        return self.goal_encoder.tokens(batch, generator)

    def context(
        self,
        batch: Batch,
        goals: GoalTokens,
        generator: torch.Generator | None,
        rate_hz: float,
    ) -> Context:
        """Return what conditions the chunk; `rate_hz` is of batches that do not say.

        `generator` draws what training augments and hides.
        """
        return self.context_and_views(batch, goals, generator, rate_hz)[0]

    def context_and_views(
        self,
        batch: Batch,
        goals: GoalTokens,
        generator: torch.Generator | None,
        rate_hz: float,
    ) -> tuple[Context, Views]:
        """Return `context`, and what the towers read and answered for it."""
        views = NO_VIEWS
        goal = self.goal_encoder.mix(goals, generator)
        images = state = goal[:, :0]
        dropout = self.config.condition_dropout if self.goal_encoder.training else NOTHING_HIDDEN
        if self.image_encoder is not None:
            views = self._views(self.image_encoder, batch, dropout.images, generator)
            images = self.image_encoder.tokens(views.maps)
        if self.config.use_state:
            state = self._features(batch, batch["state"])
            if dropout.state:
                mean = self._features(batch, self.state_features.mean.expand_as(batch["state"]))
                state = hide(state, mean, dropout.state, generator)
        if self.state_encoder is not None:
            state = self.state_encoder(state)
        rates = batch.get("rate_hz")
        if rates is None:
            rates = torch.full((len(goal),), rate_hz, device=goal.device)
        mask = batch.get("action_slots")
        if mask is not None:
            mask = hide(mask, 0.0, dropout.action_mask, generator)
        context = Context(
            goal=goal,
            images=images,
            state=state,
            goal_mask=word_mask(goals, goal),
            state_mask=batch.get("state_slots"),
            action_mask=mask,
            rate_hz=hide(rates, 0.0, dropout.rate, generator),
        )
        return context, views

    def _views(
        self,
        encoder: ImageEncoder,
        batch: Batch,
        hidden: float,
        generator: torch.Generator | None,
    ) -> Views:
        """The frames of the cameras and the towers' maps; features kept beside a store are maps.

        hidden: the share of frames that training hides.
        """
        if (features := stored_features(batch, "image", encoder.cameras)) is not None:
            return Views([], features)
        images = camera_images(batch, "image", encoder.cameras)
        if hidden:
            colours = {camera: tower.mean for camera, tower in self.towers.items()}
            images = hide_frames(images, colours, hidden, generator)
        sentences = self.goal_encoder.sentences(batch) if encoder.conditioned else None
        frames = encoder.frames(images, generator)
        return Views(frames, encoder.encode_frames(frames, sentences))

    def _features(self, batch: Batch, state: Tensor) -> Tensor:
        """The features of states [B P] or [B O P], 0 in slots not in use."""
        features: Tensor = self.state_features(state)
        slots = batch.get("state_slots")
        if slots is None:
            return features
        return features * (slots if features.ndim == 2 else slots.unsqueeze(1))

    def encoded(
        self,
        batch: Batch,
        goals: GoalTokens,
        context: Context,
        memory: MemoryT,
        denoiser: Denoiser[MemoryT, PreparedT],
        views: Views,
    ) -> Encoded:
        """Return what the objectives read; memory: `Denoiser.encode` of the context."""

        def latent_of(goal: Tensor) -> Tensor:
            other = replace(context, goal=goal, goal_mask=None)
            return denoiser.latent(denoiser.encode(other))

        return Encoded(
            batch=batch,
            goals=goals,
            latent=denoiser.latent(memory),
            latent_of=latent_of,
            towers=self.towers,
            views=views,
            sentence_in=self.goal_encoder.text_in if self.config.goal.text else None,
        )

    @property
    def towers(self) -> dict[str, VisionTower]:
        """Return the vision tower of each camera."""
        encoder = self.image_encoder
        if encoder is None:
            return {}
        return {camera: encoder.tower(i) for i, camera in enumerate(encoder.cameras)}


def _state_features(
    config: PolicyConfig, interface: Interface, stats: Mapping[str, FieldStats]
) -> StateFeatures:
    """The features that networks read of a state, for the settings of a policy."""
    normalizer = config.state.build("state", interface.state, stats.get("state"))
    mean = stats["state"].mean if "state" in stats else normalizer.center.numpy()
    names = interface.state.names
    angles = entries_named(config.angles, names, "policy.angles")
    differences = entry_pairs(config.differences, names)
    excluded = excluded_entries(config.exclude_state, names, differences)
    return StateFeatures(normalizer, mean, angles, differences, excluded)


def _request_spec(
    config: PolicyConfig, interface: Interface, cameras: list[str], goal_cameras: list[str]
) -> RequestSpec:
    """What a policy's requests must hold; only the cameras that it reads are in the interface."""
    read = {*cameras, *goal_cameras}
    images = {camera: spec for camera, spec in interface.images.items() if camera in read}
    return RequestSpec(
        interface=replace(interface, images=images),
        obs_horizon=config.obs_horizon,
        cameras=cameras,
        goal_text=config.goal.text,
        goal_cameras=goal_cameras,
        goal_state=config.goal.state,
        action_horizon=config.action_horizon,
    )
