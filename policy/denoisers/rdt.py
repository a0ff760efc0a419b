"""RDT: a stream [timestep, rate, state, actions] that looks at language and images in turn.

Liu et al. 2024, "RDT-1B: a Diffusion Foundation Model for Bimanual Manipulation", in the form of
its released code:
- even layers attend to language, odd ones to images ("alternating condition injection"); the
  context is not normalised and its keys and values, which no step changes, are computed once;
- state and actions enter through one MLP as values with a mask of those that the robot has;
- the feed-forward part of a block is as wide as the stream, the way out is an MLP.

Here a state and an action of different sizes are padded to the longer one, a layer whose part of
the context is absent (no camera) attends to the other part, and several states are several tokens.
The timestep is a token of the whole chunk, so a fixed action (Denoiser.blend) has the embedding of
its own timestep added to its token.

B samples, T = 2 + O + H tokens, D width, H actions, A entries, S = max(A, P) slots of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig, Level, Prediction
from telic.policy.diffusion.ddpm import Betas, DdpmConfig, nearest_timestep
from telic.policy.diffusion.formulation import FormulationConfig
from telic.policy.layers.attention import KeysValues, NormedCrossAttention, NormedSelfAttention
from telic.policy.layers.feed_forward import Adaptor
from telic.policy.layers.norms import Norm
from telic.policy.layers.sigma_embedding import SinusoidalEmbedding
from telic.policy.routing.dense import build_routing
from telic.policy.routing.routing import (
    Losses,
    NoiseLevels,
    Route,
    add_losses,
    apply_feed_forward,
    mask_in,
    mask_of,
    mask_out,
)
from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class RdtConfig(DenoiserConfig):
    """RDT; the defaults (0.9 M parameters) train in minutes on two CPU cores."""

    embeds_state: ClassVar[bool] = True
    reads_words: ClassVar[bool] = True

    kind: str = "rdt"
    width: int = 128  # of the tokens, D
    num_layers: int = 4  # blocks, cross-attention to language and images in turn
    num_heads: int = 4  # attention heads
    hidden_ratio: int = 1  # hidden width of the feed-forward networks, in token widths
    norm: Norm = Norm.rms  # what a norm divides by
    newest_state_only: bool = False  # one token for the newest state, as published
    betas: Betas = Betas.squared_cosine  # beta schedule whose timestep the sigma embedding is given
    num_timesteps: int = 1000  # timesteps of those betas

    def __post_init__(self) -> None:
        counts = ("width", "num_layers", "num_heads", "hidden_ratio")
        require_range(self, *counts, at_least=1, prefix="policy.denoiser.")
        require_range(self, "num_timesteps", at_least=2, at_most=1e5, prefix="policy.denoiser.")
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(
                f"policy.denoiser.width={self.width} must be a multiple of 4 and of "
                f"num_heads={self.num_heads}"
            )

    def build(self, sizes: Sizes) -> Rdt:
        """Return the network with random weights."""
        return Rdt(self, sizes)

    def default_formulation(self) -> FormulationConfig:
        """Return the published training: 1000 timesteps, x0 is predicted."""
        return DdpmConfig()

    @classmethod
    def small(cls) -> RdtConfig:
        """What tests run."""
        return cls(width=32, num_layers=2, num_heads=2)

    @classmethod
    def published(cls) -> RdtConfig:
        """Return the published RDT-170M: 14 layers of 1024."""
        return cls(
            width=1024, num_layers=14, num_heads=32, norm=Norm.simple, newest_state_only=True
        )

    @classmethod
    def published_1b(cls) -> RdtConfig:
        """Return the published RDT-1B: 28 layers of 2048."""
        return cls(
            width=2048, num_layers=28, num_heads=32, norm=Norm.simple, newest_state_only=True
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RdtMemory:
    """What no step changes: the tokens between timestep and actions, and each layer's context.

    prefix: rate and states [B 1+O D]; context: all tokens of goal and images [B G+N D];
    keys_values: of each layer; masks: bool [B G], None for a layer that looks at all there is;
    action_mask: f32 [B 1 A].
    """

    prefix: Tensor
    context: Tensor
    keys_values: list[KeysValues]
    masks: list[Tensor | None]
    action_mask: Tensor


class Rdt(Denoiser[RdtMemory, RdtMemory]):
    """The denoiser. Goals and images come as tokens of its width, states as values."""

    def __init__(self, config: RdtConfig, sizes: Sizes) -> None:
        super().__init__()
        if config.newest_state_only:
            sizes = replace(sizes, num_states=min(sizes.num_states, 1))
        self.config, self.sizes = config, sizes
        if not sizes.num_goals + sizes.num_images:
            raise ValueError("RDT attends to goals and images, and this policy has neither")
        width = config.width
        self.num_slots = max(sizes.action_dim, sizes.state_dim)
        self.timestep_in = SinusoidalEmbedding(width)
        self.rate_in = SinusoidalEmbedding(width)
        self.slots_in = Adaptor(2 * self.num_slots, width, 3)
        self.positions = nn.Parameter(stream_positions(sizes, width))
        if sizes.num_goals:
            self.goal_positions = nn.Parameter(goal_positions(sizes.num_goals, width))
        if sizes.num_images:
            self.image_positions = nn.Parameter(image_positions(sizes, width))
        self.blocks = nn.ModuleList(RdtBlock(config) for _ in range(config.num_layers))
        self.norm = config.norm.build(width)
        self.action_out = FeedForward(width, width, sizes.action_dim)
        self.apply(_initialize)
        hidden = config.hidden_ratio * width
        self.routing = build_routing(config.routing, config.num_layers, width, hidden)
        nn.init.normal_(self.action_out.contract.weight, std=0.02)

    def encode(self, context: Context) -> RdtMemory:
        """Return the tokens of rate and state, and every layer's keys and values."""
        tokens, masks = self._parts(context)
        layers = [
            (cast(RdtBlock, block).cross_attention, layer % len(tokens))
            for layer, block in enumerate(self.blocks)
        ]
        rate_hz = context.rate_hz
        if rate_hz is None:
            rate_hz = torch.zeros(len(context.goal), device=context.goal.device)
        with torch.autocast(rate_hz.device.type, enabled=False):
            rate = self.rate_in(rate_hz).unsqueeze(1)
        prefix = [rate]
        if self.sizes.num_states:
            mask = _entries(context.state_mask, context.state)
            states = context.state[:, -self.sizes.num_states :]
            prefix.append(self.slots_in(self._slots(states, mask)))
        actions = context.goal.new_empty(len(context.goal), 1, self.sizes.action_dim)
        return RdtMemory(
            prefix=torch.cat(prefix, 1) + self.positions[1 : 2 + self.sizes.num_states],
            context=torch.cat(tokens, 1),
            keys_values=[attention.keys_values(tokens[part]) for attention, part in layers],
            masks=[masks[part] for _, part in layers],
            action_mask=_entries(context.action_mask, actions),
        )

    def latent(self, memory: RdtMemory) -> Float[Tensor, "b n d"]:
        """Return the tokens that the layers attend to."""
        return memory.context

    def level(self, sigma: Float[Tensor, " s"], generator: torch.Generator | None = None) -> Level:
        """Return the embedding of the timestep and every layer's route."""
        num_tokens = 2 + self.sizes.num_states + self.sizes.action_horizon
        with torch.autocast(sigma.device.type, enabled=False):
            noise = self.embed(sigma)
            routes = self.routing(NoiseLevels(sigma, noise, self.embed), num_tokens, generator)
        return Level(embedding=noise, routes=routes)

    def step(self, x: Float[Tensor, "b h a"], level: Level, memory: RdtMemory) -> Prediction:
        """Return the output [B H A] and, in training, the losses of the routing."""
        first = (level.embedding.unsqueeze(1) + self.positions[:1]).expand(len(x), -1, -1)
        actions = self.slots_in(self._slots(x, memory.action_mask))
        actions = actions + self.positions[-x.shape[1] :]
        if level.fixed is not None:
            actions = actions + level.fixed.mask.unsqueeze(2) * level.fixed.level.unsqueeze(1)
        tokens = torch.cat([first, memory.prefix, actions], 1)
        losses = [level.routes.losses]
        layers = zip(
            self.blocks, memory.keys_values, memory.masks, level.routes.layers, strict=True
        )
        for block, *read in layers:
            tokens, own = block(tokens, *read)
            losses.append(own)
        actions = self.action_out(self.norm(tokens[:, -x.shape[1] :]))
        return Prediction(actions=actions, losses=add_losses(losses))

    def num_before(self, memory: RdtMemory) -> int:
        """Return the tokens of timestep, rate and states."""
        return 1 + memory.prefix.shape[1]

    def stacks(self) -> list[nn.Module]:
        """Return the blocks."""
        return [self.blocks]

    def embed(self, sigma: Float[Tensor, " s"]) -> Float[Tensor, "s d"]:
        """Return the embedding of each sigma's timestep; run it outside autocast."""
        timestep = nearest_timestep(sigma, self.config.betas, self.config.num_timesteps)
        embedding: Tensor = self.timestep_in(timestep.float())
        return embedding

    def _parts(self, context: Context) -> tuple[list[Tensor], list[Tensor | None]]:
        """Return what even and odd layers attend to, with positions, and the masks of both.

        A row whose goal has no token in its mask sees all of them.
        """
        tokens: list[Tensor] = []
        masks: list[Tensor | None] = []
        if self.sizes.num_goals:
            tokens.append(context.goal + self.goal_positions[: context.goal.shape[1]])
            mask = context.goal_mask
            masks.append(None if mask is None else mask | ~mask.any(-1, keepdim=True))
        if self.sizes.num_images:
            tokens.append(context.images + self.image_positions)
            masks.append(None)
        return tokens, masks

    def _slots(
        self, values: Float[Tensor, "b n p"], mask: Float[Tensor, "b 1 p"]
    ) -> Float[Tensor, "b n s2"]:
        """Return values and mask side by side, each padded to the slots of the MLP."""
        padding = (0, self.num_slots - values.shape[-1])
        both = [values, mask.expand_as(values)]
        return torch.cat([F.pad(part, padding) for part in both], -1)


class RdtBlock(nn.Module):
    """Self-attention, attention into one part of the context, feed-forward; all pre-norm."""

    def __init__(self, config: RdtConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = config.norm.build(width)
        self.attention = NormedSelfAttention(width, config.num_heads, config.norm)
        self.cross_attention_norm = config.norm.build(width)
        self.cross_attention = NormedCrossAttention(width, config.num_heads, config.norm)
        self.forward_norm = config.norm.build(width)
        hidden = config.hidden_ratio * width
        self.feed_forward: nn.Module = (
            FeedForward(width, hidden, width)
            if config.routing is None
            else config.routing.layer(width, hidden)
        )

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        keys_values: KeysValues,
        mask: Bool[Tensor, "b s"] | None,
        route: Route,
    ) -> tuple[Float[Tensor, "b t d"], Losses]:
        """Return the stream after this layer and the losses of its routing."""
        channels = mask_of(self.feed_forward, x, route)
        y = mask_in(x, channels)
        y = y + self.attention(self.attention_norm(y))
        y = y + self.cross_attention(self.cross_attention_norm(y), *keys_values, mask)
        hidden, losses = apply_feed_forward(self.feed_forward, self.forward_norm(y), route)
        return mask_out(y + hidden, x, channels), losses


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width_in, hidden)
        self.contract = nn.Linear(hidden, width_out)

    def forward(self, x: Float[Tensor, "b t i"]) -> Float[Tensor, "b t o"]:
        """Return the same for each token."""
        out: Tensor = self.contract(F.gelu(self.expand(x), approximate="tanh"))
        return out


def waves(place: Float[Tensor, " n"], width: int) -> Float[Tensor, "n d"]:
    """Return sines and cosines of places, at frequencies from 1 down to 1e-4."""
    half = width // 2
    angles = place[:, None] * 10_000 ** -(torch.arange(half) / half)
    return torch.cat([angles.sin(), angles.cos()], -1)


def stream_positions(sizes: Sizes, width: int) -> Float[Tensor, "t d"]:
    """Return the first values of the stream's positions: which kind of token, and which of them."""
    counts = (1, 1, sizes.num_states, sizes.action_horizon)
    kind = torch.cat([torch.full((count,), float(number)) for number, count in enumerate(counts)])
    place = torch.cat([torch.arange(float(count)) for count in counts])
    return torch.cat([waves(kind, width // 2), waves(place, width // 2)], -1)


def goal_positions(count: int, width: int) -> Float[Tensor, "g d"]:
    """Return the first values of the goal's positions, all alike: zeros, then ones."""
    return torch.cat([torch.zeros(count, width // 2), torch.ones(count, width // 2)], -1)


def image_positions(sizes: Sizes, width: int) -> Float[Tensor, "n d"]:
    """Return the first values of the images' positions: which frame, which camera."""
    number = torch.arange(sizes.num_images)
    picture = number.div(sizes.num_patches, rounding_mode="floor")
    frame = (picture % sizes.obs_horizon).float()
    camera = picture.div(sizes.obs_horizon, rounding_mode="floor").float()
    return torch.cat([waves(frame, width // 2), waves(camera, width // 2)], -1)


def _entries(mask: Tensor | None, like: Float[Tensor, "b n p"]) -> Float[Tensor, "b 1 p"]:
    """Return the mask as f32 values, 1 for all entries where there is none."""
    if mask is None:
        return torch.ones_like(like[:, :1])
    return mask.to(like.dtype).unsqueeze(1)


def _initialize(module: nn.Module) -> None:
    """Initialize as published, but for two parts: there the embeddings of timestep and rate begin
    with N(0, 0.02), which at small widths is too small to matter, and the last map with 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
