"""MDT and MDT-V: an encoder over goal and observation, a decoder over the actions.

Reuss et al. 2024, "Multimodal Diffusion Transformer: Learning Versatile Behavior from Multimodal
Goals", in the form of its released code. Sigma enters the decoder alone (AdaLN), so the encoder,
and the keys and values that the decoder's cross-attention reads from it, run once per chunk.

Both denoisers are this one. MDT-V differs in having no positions, and in its images: they come
from a perceiver (perceiver.py) over the patches of a vision tower.

B samples, N = goal and observation tokens, D width, H actions, L decoder layers, S sigmas (B or 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig, Level, Prediction
from telic.policy.layers.attention import SelfAttention, attend, join_heads, split_heads
from telic.policy.layers.feed_forward import feed_forward
from telic.policy.layers.sigma_embedding import WaveSigmaEmbedding
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


class MdtPositions(Enum):
    """Which tokens have a learned position.

    own: every token of goal, observation and chunk.
    shared: those of the goal; all observation tokens share one; actions have none (MDT).
    none: no token; only the causal masks tell one action from another (MDT-V).
    """

    own = "own"
    shared = "shared"
    none = "none"


@dataclass(kw_only=True, slots=True)
class MdtConfig(DenoiserConfig):
    """MDT; the defaults (0.9 M parameters) train in minutes on two CPU cores.

    causal_memory: action i sees only the first i + 1 tokens of the encoder, so that the first
    action sees nothing but the goal. The released code masks so; nothing speaks for it.
    plain_scale: AdaLN multiplies by the scale, not by 1 + scale, and all Linear maps start at
    N(0, 0.02): layers start almost shut. Released code again; otherwise they start open.
    """

    kind: str = "mdt"
    width: int = 128  # of the tokens, D
    num_heads: int = 4  # attention heads
    encoder_layers: int = 1  # layers of the encoder over goal and observation
    decoder_layers: int = 2  # layers of the decoder over the actions, L
    hidden: int = 320  # hidden width of the feed-forward networks; the decoder's may be routed
    positions: MdtPositions = MdtPositions.own  # which tokens have a learned position
    causal_memory: bool = False
    plain_scale: bool = False
    attention_dropout: float = 0.0  # probability of dropping an attention weight
    residual_dropout: float = 0.0  # probability of dropping an output of attention
    hidden_dropout: float = 0.0  # probability of dropping an output of feed-forward networks

    def __post_init__(self) -> None:
        counts = ("num_heads", "encoder_layers", "decoder_layers", "hidden")
        require_range(self, *counts, at_least=1, prefix="policy.denoiser.")
        dropouts = ("attention_dropout", "residual_dropout", "hidden_dropout")
        require_range(self, *dropouts, at_least=0, at_most=1, prefix="policy.denoiser.")
        if self.width % self.num_heads or self.width % 2 or self.width < 4:
            raise ValueError(
                f"policy.denoiser.width={self.width} must be even, at least 4, and a multiple of "
                f"num_heads={self.num_heads}"
            )

    def build(self, sizes: Sizes) -> Mdt:
        """Return the network with random weights."""
        return Mdt(self, sizes)

    @classmethod
    def small(cls) -> MdtConfig:
        """What tests run."""
        return cls(width=32, num_heads=2, hidden=64)

    @classmethod
    def published(cls) -> MdtConfig:
        """Return MDT's published size and numerics: 51 M parameters with its input projections."""
        return cls(
            width=512,
            num_heads=8,
            encoder_layers=4,
            decoder_layers=6,
            hidden=2048,
            positions=MdtPositions.shared,
            causal_memory=True,
            plain_scale=True,
            attention_dropout=0.3,
            residual_dropout=0.1,
            hidden_dropout=0.05,
        )

    @classmethod
    def published_v(cls) -> MdtConfig:
        """Return MDT-V's published size and numerics: 23 M parameters likewise."""
        config = cls.published()
        config.width, config.hidden, config.decoder_layers = 384, 1536, 4
        config.positions = MdtPositions.none
        return config


@dataclass(frozen=True, kw_only=True, slots=True)
class MdtMemory:
    """tokens: [B N D], what the encoder answers.

    keys, values: [B L heads N D/heads], what each decoder layer reads of them.
    mask: bool [B N], which tokens count; None: all do.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class Mdt(Denoiser[MdtMemory, MdtMemory]):
    """The denoiser. Contexts come as tokens of its width."""

    position_rows: Tensor
    start: Tensor  # what shifts, scales and gates are added to

    def __init__(self, config: MdtConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, layers = config.width, config.decoder_layers
        rows = _position_rows(config.positions, sizes)
        self.register_buffer("position_rows", torch.tensor(rows).long(), persistent=False)
        self.positions = nn.Parameter(torch.randn(max(rows) + 1, width) * 0.02) if rows else None
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width, bias=False)
        self.to_keys = nn.Linear(width, layers * width)  # of all decoder layers
        self.to_values = nn.Linear(width, layers * width)
        self.sigma_embedding = WaveSigmaEmbedding(width)
        self.to_modulation = nn.Linear(width, layers * 6 * width)
        start = torch.zeros(6) if config.plain_scale else torch.tensor([0.0, 1, 1, 0, 1, 1])
        self.register_buffer("start", start[:, None, None], persistent=False)
        self.action_in = nn.Linear(sizes.action_dim, width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(layers))
        self.routing = build_routing(config.routing, layers, width, config.hidden)
        self.decoder_norm = nn.LayerNorm(width, bias=False)
        self.action_out = nn.Linear(width, sizes.action_dim)
        for linear in self.modules() if config.plain_scale else [self.to_modulation]:
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def encode(self, context: Context) -> MdtMemory:
        """Return the encoder's tokens and each decoder layer's keys and values of them."""
        tokens = torch.cat([context.goal, context.images, context.state], 1)
        if self.positions is not None:
            tokens = tokens + self.positions[self.position_rows[: tokens.shape[1]]]
        for layer in self.encoder:
            tokens = layer(tokens, context.token_mask)
        tokens = self.encoder_norm(tokens)
        shape = (self.config.decoder_layers, self.config.num_heads, -1)
        keys, values = (
            project(tokens).unflatten(-1, shape).permute(0, 2, 3, 1, 4)
            for project in (self.to_keys, self.to_values)
        )
        return MdtMemory(tokens=tokens, keys=keys, values=values, mask=context.token_mask)

    def latent(self, memory: MdtMemory) -> Float[Tensor, "b n d"]:
        """Return the encoder's tokens."""
        return memory.tokens

    def level(self, sigma: Float[Tensor, " s"], generator: torch.Generator | None = None) -> Level:
        """Return the sigma embedding, and every decoder layer's modulation and route."""
        with torch.autocast(sigma.device.type, enabled=False):
            embedding = self.sigma_embedding(sigma)
            levels = NoiseLevels(sigma, embedding, self.sigma_embedding)
            return Level(
                embedding=embedding,
                routes=self.routing(levels, self.sizes.action_horizon, generator),
                modulations=list(self.modulations(embedding).unbind(1)),
            )

    def step(self, x: Float[Tensor, "b h a"], level: Level, memory: MdtMemory) -> Prediction:
        """Return the output [B H A] and, in training, the losses of the routing."""
        tokens = self.action_in(x)
        if self.positions is not None and self.config.positions is MdtPositions.own:
            tokens = tokens + self.positions[self.position_rows[-x.shape[1] :]]
        keys, values = memory.keys.unbind(1), memory.values.unbind(1)
        losses, routes = [level.routes.losses], level.routes.layers
        layers = zip(self.decoder, level.modulations, keys, values, routes, strict=True)
        for layer, *read, route in layers:
            tokens, own = layer(tokens, *read, memory.mask, route)
            losses.append(own)
        actions = self.action_out(self.decoder_norm(tokens))
        return Prediction(actions=actions, losses=add_losses(losses))

    def stacks(self) -> list[nn.Module]:
        """Return encoder and decoder."""
        return [self.encoder, self.decoder]

    def modulations(self, embedding: Float[Tensor, "s d"]) -> Float[Tensor, "s l 6 1 d"]:
        """Return each layer's shift, scale and gate, for attention and feed-forward network.

        A function of the embedding of sigma; run it outside autocast.
        """
        factors: Tensor = self.to_modulation(nn.functional.silu(embedding))
        return factors.unflatten(-1, (self.config.decoder_layers, 6, 1, -1)) + self.start


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, both behind a norm."""

    def __init__(self, config: MdtConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, bias=False)
        self.attention = SelfAttention(config.width, config.num_heads, config.attention_dropout)
        self.dropout = nn.Dropout(config.residual_dropout)
        self.forward_norm = nn.LayerNorm(config.width, bias=False)
        self.feed_forward = feed_forward(config.width, config.hidden, config.hidden_dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens after this layer."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        y: Tensor = x + self.feed_forward(self.forward_norm(x))
        return y


class DecoderLayer(nn.Module):
    """Causal attention among actions, attention to the memory, feed-forward network.

    The first and the last are modulated by sigma; attention to the memory is not.
    """

    def __init__(self, config: MdtConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout_p = config.num_heads, config.attention_dropout
        self.causal_memory = config.causal_memory
        self.attention_norm = nn.LayerNorm(config.width, bias=False)
        self.attention = SelfAttention(
            config.width, config.num_heads, config.attention_dropout, causal=True
        )
        self.memory_norm = nn.LayerNorm(config.width)
        self.to_queries = nn.Linear(config.width, config.width)
        self.to_out = nn.Linear(config.width, config.width, bias=False)
        self.forward_norm = nn.LayerNorm(config.width, bias=False)
        build = feed_forward if config.routing is None else config.routing.layer
        self.feed_forward = build(config.width, config.hidden, config.hidden_dropout)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        x: Float[Tensor, "b h d"],
        modulation: Float[Tensor, "s 6 _h d"],
        keys: Float[Tensor, "b g n c"],
        values: Float[Tensor, "b g n c"],
        mask: Bool[Tensor, "b n"] | None,
        route: Route,
    ) -> tuple[Float[Tensor, "b h d"], Losses]:
        """Return the action tokens after this layer and the losses of its routing."""
        shift, scale, gate, shift_2, scale_2, gate_2 = modulation.unbind(1)
        channels = mask_of(self.feed_forward, x, route)
        y = mask_in(x, channels)
        attended = self.attention(torch.addcmul(shift, self.attention_norm(y), scale))
        y = y + gate * self.dropout(attended)
        y = y + self.dropout(self._read(self.memory_norm(y), keys, values, mask))
        modulated = torch.addcmul(shift_2, self.forward_norm(y), scale_2)
        hidden, losses = apply_feed_forward(self.feed_forward, modulated, route)
        return mask_out(y + gate_2 * hidden, x, channels), losses

    def _read(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return what each action gathers from the memory."""
        queries = split_heads(self.to_queries(x), self.num_heads)
        dropout = self.dropout_p if self.training else 0.0
        heads = attend(queries, keys, values, causal=self.causal_memory, dropout=dropout, mask=mask)
        read: Tensor = self.to_out(join_heads(heads))
        return read


def _position_rows(positions: MdtPositions, sizes: Sizes) -> list[int]:
    """Return which learned position each token of goal, observation and chunk has."""
    num_observations = sizes.num_images + sizes.num_states
    if positions is MdtPositions.none:
        return []
    if positions is MdtPositions.shared:
        return [*range(sizes.num_goals), *[sizes.num_goals] * num_observations]
    return list(range(sizes.num_goals + num_observations + sizes.action_horizon))
