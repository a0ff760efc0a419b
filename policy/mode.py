"""MoDE: one causal stream [sigma, goal, observation, actions] with noise-routed experts.

Reuss et al. 2024, "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for
Multitask Learning", in the form of its released code:
- the sigma embedding is the first token, without a position, and is added to what every attention
  layer reads;
- after attention the residual stream goes on with the *normalised* x;
- attention is causal over all tokens, those of goal and observation too.

B samples, T = 1 + G + N + H tokens, D width, H actions, E experts, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.attention import CausalSelfAttention
from telic.policy.denoiser import Context, Denoiser, DenoiserConfig, Prediction, Sizes
from telic.policy.experts import Experts
from telic.policy.norms import RMSNorm
from telic.policy.router import NoiseRouters, Routing, load_balance_loss
from telic.policy.sigma_embedding import LinearSigmaEmbedding

PICKING_PAYS = 256  # hidden width of an expert from which computing only the chosen ones is faster


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
    width: int = 128  # D
    num_layers: int = 4
    num_heads: int = 4
    num_experts: int = 4
    top_k: int = 2  # experts per token
    expert_hidden: int = 64  # hidden width of one expert
    normalize_gates: bool = True  # the chosen experts' gates sum to 1
    positions: Positions = Positions.own
    attention_dropout: float = 0.0
    expert_dropout: float = 0.0
    load_balance: float = 0.01  # weight of the load-balance loss (paper, table 3)

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"policy.denoiser.top_k={self.top_k} must lie in 1..num_experts={self.num_experts}"
            )
        if self.width % self.num_heads:
            raise ValueError(
                f"policy.denoiser.width={self.width} must be a multiple of "
                f"num_heads={self.num_heads}"
            )

    def build(self, sizes: Sizes) -> Mode:
        """Return the network with random weights."""
        return Mode(self, sizes)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of the load-balance loss."""
        return {"load_balance": self.load_balance}

    @classmethod
    def published(cls) -> ModeConfig:
        """Return the published size and numerics: 12 layers of 1024, 686 M parameters."""
        return cls(
            width=1024,
            num_layers=12,
            num_heads=8,
            expert_hidden=4096,
            positions=Positions.published,
            attention_dropout=0.3,
            expert_dropout=0.1,
        )


class Mode(Denoiser):
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
        self.routers = NoiseRouters(
            config.num_layers,
            config.width,
            config.num_experts,
            config.top_k,
            config.normalize_gates,
        )
        self.action_in = nn.Linear(sizes.action_dim, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width)
        self.action_out = nn.Linear(config.width, sizes.action_dim)

    def encode(self, context: Context) -> Float[Tensor, "b n d"]:
        """Return the stream's prefix: goal, images and state with their positions."""
        prefix = torch.cat([context.goal, context.images, context.state], 1)
        return prefix + self.positions[self.position_rows[: prefix.shape[1]]]

    def latent(self, memory: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the prefix itself."""
        return memory

    def forward(
        self,
        x: Float[Tensor, "b h a"],
        sigma: Float[Tensor, " s"],
        memory: Float[Tensor, "b n d"],
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Return the answer [B H A] and, in training, the load-balance loss."""
        num_tokens = 1 + len(self.position_rows)
        embedding, routing = self.condition(sigma, num_tokens, generator)
        choices = self._shared_choices(routing)
        actions = self.action_in(x) + self.positions[self.position_rows[-x.shape[1] :]]
        embedding = embedding.unsqueeze(1)
        tokens = torch.cat([embedding.expand(len(x), -1, -1), memory, actions], 1)
        for block, gates, chosen in zip(self.blocks, routing.gates, choices, strict=True):
            tokens = block(tokens, embedding, gates, chosen)
        actions = self.action_out(self.norm(tokens[:, -x.shape[1] :]))
        losses = {"load_balance": load_balance_loss(routing)} if self.training else {}
        return Prediction(actions=actions, losses=losses)

    def condition(
        self,
        sigma: Float[Tensor, " s"],
        num_tokens: int = 1,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "s d"], Routing]:
        """Return the sigma embedding and every layer's routing, both functions of sigma alone."""
        with torch.autocast(sigma.device.type, enabled=False):
            embedding = self.sigma_embedding(sigma)
            return embedding, self.routers(embedding, num_tokens, generator)

    def _shared_choices(self, routing: Routing) -> list[list[int] | None]:
        """Return each layer's experts if all tokens share them and picking them out pays."""
        shared = not self.training and routing.chosen.shape[1] == 1
        if not shared or self.config.expert_hidden < PICKING_PAYS:
            return [None] * len(self.blocks)
        top_k = self.config.top_k
        return routing.chosen.int().topk(top_k, dim=-1).indices.view(-1, top_k).tolist()


class Block(nn.Module):
    """Attention conditioned on the noise level, then experts."""

    def __init__(self, config: ModeConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = CausalSelfAttention(
            config.width, config.num_heads, config.attention_dropout
        )
        self.expert_norm = RMSNorm(config.width)
        self.experts = Experts(
            config.width, config.num_experts, config.expert_hidden, config.expert_dropout
        )

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        embedding: Float[Tensor, "s 1 d"],
        gates: Float[Tensor, "s t2 e"],
        chosen: list[int] | None,
    ) -> Float[Tensor, "b t d"]:
        """Return the stream after this layer."""
        x = x + self.attention(self.attention_norm(x) + embedding)
        x = self.expert_norm(x)
        y: Tensor = x + self.experts(x, gates, chosen)
        return y
