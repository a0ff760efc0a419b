"""MoDE: one causal stream [sigma, goal, observation, actions] with noise-routed experts.

Reuss et al. 2024, "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for
Multitask Learning", in the form of its released code:
- the sigma embedding is the first token, without a position, and is added to what every attention
  layer reads;
- after attention the residual stream goes on with the *normalised* x;
- attention is causal over all tokens, those of goal and observation too.

So no token of the prefix [sigma, goal, observation] sees an action, and `prepare` computes what
the actions read of it, keys and values, for all steps at once.

B samples, T = P + H tokens, P = 1 + G + N of them the prefix, D width, H actions, L layers, S noise
levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig, Level, Prediction
from telic.policy.layers.attention import CausalSelfAttention, KeysValues
from telic.policy.layers.norms import RMSNorm
from telic.policy.layers.sigma_embedding import LinearSigmaEmbedding
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.policy.routing.routing import (
    Losses,
    NoiseLevels,
    Route,
    RoutingConfig,
    add_losses,
    mask_in,
    mask_out,
)
from telic.ranges import require_range

# Tokens of a prefix from which computing it apart is faster. It saves no operation, as sigma is in
# all of it, and reads all weights once more; what it gains is larger products.
LONG_PREFIX = 32


class Positions(Enum):
    """Who shares a learned position.

    own: every token of goal, observation and chunk has one, drawn from N(0, 0.02).
    published: all observation tokens share one *with the first action*; all start at 0. Cameras
    and frames cannot be told apart by it.
    """

    own = "own"
    published = "published"


@dataclass(kw_only=True, slots=True)
class ModeConfig(DenoiserConfig):
    """MoDE; the defaults (0.9 M parameters) train in minutes on two CPU cores."""

    kind: str = "mode"
    width: int = 128  # of the tokens, D
    num_layers: int = 4  # causal blocks, L
    num_heads: int = 4  # attention heads
    feed_forward: int = 128  # hidden width for a token, in one expert or several
    positions: Positions = Positions.own  # which tokens share a learned position
    attention_dropout: float = 0.0  # probability of dropping an attention weight
    feed_forward_dropout: float = 0.0  # probability of dropping a hidden unit

    def __post_init__(self) -> None:
        counts = ("width", "num_layers", "num_heads", "feed_forward")
        require_range(self, *counts, at_least=1, prefix="policy.denoiser.")
        dropouts = ("attention_dropout", "feed_forward_dropout")
        require_range(self, *dropouts, at_least=0, at_most=1, prefix="policy.denoiser.")
        if self.width % self.num_heads:
            raise ValueError(
                f"policy.denoiser.width={self.width} must be a multiple of "
                f"num_heads={self.num_heads}"
            )

    def build(self, sizes: Sizes) -> Mode:
        """Return the network with random weights."""
        return Mode(self, sizes)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss of the routing."""
        return self.chosen_routing().loss_weights()

    def chosen_routing(self) -> RoutingConfig:
        """Return the routing that is given, or MoDE's own."""
        return self.routing or NoiseRoutingConfig()

    @classmethod
    def small(cls) -> ModeConfig:
        """What tests run."""
        return cls(width=32, num_layers=3, num_heads=2, feed_forward=32)

    @classmethod
    def published(cls) -> ModeConfig:
        """Return the published size and numerics: 12 layers of 1024, 686 M parameters."""
        return cls(
            width=1024,
            num_layers=12,
            num_heads=8,
            feed_forward=2 * 4096,
            positions=Positions.published,
            attention_dropout=0.3,
            feed_forward_dropout=0.1,
        )


class Mode(Denoiser[Tensor, list[KeysValues]]):
    """The denoiser. Contexts come as tokens of its width."""

    position_rows: Tensor

    def __init__(self, config: ModeConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        num_observations = sizes.num_images + sizes.num_states
        if config.positions is Positions.own:
            num_positions = sizes.num_goals + num_observations + sizes.action_horizon
            rows = list(range(num_positions))
            std = 0.02
        else:
            num_positions, std = sizes.num_goals + sizes.action_horizon, 0.0
            rows = list(range(num_positions))
            rows[sizes.num_goals : sizes.num_goals] = [sizes.num_goals] * num_observations
        self.register_buffer("position_rows", torch.tensor(rows), persistent=False)
        self.positions = nn.Parameter(torch.randn(num_positions, config.width) * std)
        self.sigma_embedding = LinearSigmaEmbedding(config.width)
        self.routing = config.chosen_routing().build(
            config.num_layers, config.width, config.feed_forward
        )
        self.action_in = nn.Linear(sizes.action_dim, config.width, bias=False)
        self.blocks = nn.ModuleList(ModeBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width)
        self.action_out = nn.Linear(config.width, sizes.action_dim)

    def encode(self, context: Context) -> Float[Tensor, "b n d"]:
        """Return goal, images and state with their positions: the prefix but for sigma."""
        prefix = torch.cat([context.goal, context.images, context.state], 1)
        return prefix + self.positions[self.position_rows[: prefix.shape[1]]]

    def latent(self, memory: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the memory itself."""
        return memory

    def level(self, sigma: Float[Tensor, " s"], generator: torch.Generator | None = None) -> Level:
        """Return the sigma embedding and every layer's route."""
        with torch.autocast(sigma.device.type, enabled=False):
            embedding = self.sigma_embedding(sigma)
            levels = NoiseLevels(sigma, embedding, self.sigma_embedding)
            num_tokens = 1 + len(self.position_rows)
            return Level(embedding=embedding, routes=self.routing(levels, num_tokens, generator))

    def step(
        self,
        x: Float[Tensor, "b h a"],
        level: Level,
        memory: Float[Tensor, "b n d"] | list[KeysValues],
    ) -> Prediction:
        """Return the output [B H A] and, in training, the losses of the routing.

        memory: of `encode`, then the whole stream is computed; or of `prepare`.
        """
        embedding = embeddings = level.embedding.unsqueeze(1)
        tokens = self.action_in(x) + self.positions[self.position_rows[-x.shape[1] :]]
        pasts: list[KeysValues] | list[None] = [None] * len(self.blocks)
        if isinstance(memory, list):
            pasts = memory
        else:
            tokens = torch.cat([embedding.expand(len(x), -1, -1), memory, tokens], 1)
        if level.fixed is not None:
            fixed = F.pad(level.fixed.mask, (tokens.shape[1] - x.shape[1], 0)).unsqueeze(2)
            embeddings = torch.where(fixed, level.fixed.level.unsqueeze(1), embedding)
        losses = [level.routes.losses]
        for block, route, past in zip(self.blocks, level.routes.layers, pasts, strict=True):
            tokens, own = block(tokens, embeddings, route, past)
            losses.append(own)
        actions = self.action_out(self.norm(tokens[:, -x.shape[1] :]))
        return Prediction(actions=actions, losses=add_losses(losses))

    def prepare(
        self, joined: Level, memory: Float[Tensor, "b n d"]
    ) -> list[Tensor] | list[list[KeysValues]]:
        """Return for each level every layer's keys and values of a long prefix.

        All levels are one batch [S, B P, D], so that a layer's weights are read once more, and
        each expert's once for the levels that chose it. Of a short prefix, or for one step, the
        memory itself: there the actions' tokens take the prefix along for less.
        """
        steps, batch = len(joined.embedding), len(memory)
        if steps == 1 or 1 + memory.shape[1] < LONG_PREFIX:
            return [memory] * steps
        embedding = joined.embedding.unsqueeze(1)
        first = joined.embedding[:, None, None].expand(-1, batch, -1, -1)
        prefix = torch.cat([first, memory.expand(steps, -1, -1, -1)], 2)
        tokens, length = prefix.flatten(1, 2), prefix.shape[2]
        layers: list[KeysValues] = []
        for block, route in zip(self.blocks, joined.routes.layers, strict=True):
            last = block is self.blocks[-1]
            tokens, read = cast(ModeBlock, block).remember(
                tokens, embedding, route, length, last=last
            )
            layers.append(read)
        rows = [slice(step * batch, (step + 1) * batch) for step in range(steps)]
        return [[(k[of], v[of]) for k, v in layers] for of in rows]

    def num_before(self, memory: Float[Tensor, "b n d"] | list[KeysValues]) -> int:
        """Return the length of the prefix, or 0 where it is computed apart."""
        return 0 if isinstance(memory, list) else 1 + memory.shape[1]

    def stacks(self) -> list[nn.Module]:
        """Return the blocks."""
        return [self.blocks]


class ModeBlock(nn.Module):
    """Attention conditioned on the noise level, then the routed feed-forward."""

    def __init__(self, config: ModeConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = CausalSelfAttention(
            config.width, config.num_heads, config.attention_dropout
        )
        self.routed_norm = RMSNorm(config.width)
        self.routed = config.chosen_routing().layer(
            config.width, config.feed_forward, config.feed_forward_dropout
        )

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        embedding: Float[Tensor, "s _t d"],
        route: Route,
        past: KeysValues | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Losses]:
        """Return the stream after this layer and the losses of its routing.

        past: keys and values of the tokens before x.
        """
        mask = self.routed.mask(x, route)
        y = mask_in(x, mask)
        y = y + self.attention(self.attention_norm(y) + embedding, past)
        y = self.routed_norm(y)
        routed, losses = self.routed(y, route)
        return mask_out(y + routed, x, mask), losses

    def remember(
        self,
        x: Float[Tensor, "s t d"],
        embedding: Float[Tensor, "s 1 d"],
        route: Route,
        length: int,
        *,
        last: bool,
    ) -> tuple[Float[Tensor, "s t d"], KeysValues]:
        """Return the stream after this layer, and keys and values in it [S T/length h length c].

        x: a row holds sequences of `length` tokens end to end, all of one noise level. Nothing
        reads what the `last` layer makes of them: it leaves them.
        """
        mask = self.routed.mask(x, route)
        y = mask_in(x, mask)
        conditioned = self.attention_norm(y) + embedding
        q, k, v = self.attention.heads(conditioned.view(-1, length, x.shape[-1]))
        if last:
            return x, (k, v)
        y = self.routed_norm(y + self.attention.gather(q, k, v).view_as(y))
        routed, _ = self.routed(y, route)
        return mask_out(y + routed, x, mask), (k, v)
