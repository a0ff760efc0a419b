"""MMDiT: context and action tokens with weights of their own and one joint attention.

Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (SD3),
section 4 and figure 2, with three differences that let a chunk's context be computed once:
- actions attend to context and actions, context attends to context alone;
- sigma modulates the action stream alone (AdaLN), the context stream does not know it;
- layers start open (SD3's start shut, their gates at 0).
As there, each head's queries and keys are RMS-normalised, and the last layer takes keys and values
of the context alone.

B samples, N goal and observation tokens, H actions, D width, G heads of width C, L layers, S sigmas
(B or 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.denoiser import Denoiser, DenoiserConfig, Level, Prediction
from telic.policy.diffusion.flow import FlowConfig, time_of
from telic.policy.layers.attention import attend, join_heads, split_heads
from telic.policy.layers.feed_forward import feed_forward
from telic.policy.layers.norms import RMSNorm, rms_norm
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

TIME_SCALE = 1000  # flow time as SD3's embedding reads it


@dataclass(kw_only=True, slots=True)
class MmditConfig(DenoiserConfig):
    """MMDiT; the defaults (0.9 M parameters) train in minutes on two CPU cores."""

    kind: str = "mmdit"
    width: int = 112  # of the tokens, D
    num_layers: int = 3  # joint blocks, L
    num_heads: int = 4  # attention heads, G
    hidden: int = 256  # hidden width of the feed-forward networks; the actions' may be routed

    def __post_init__(self) -> None:
        counts = ("width", "num_layers", "num_heads", "hidden")
        require_range(self, *counts, at_least=1, prefix="policy.denoiser.")
        if self.width % self.num_heads:
            raise ValueError(
                f"policy.denoiser.width={self.width} must be a multiple of "
                f"num_heads={self.num_heads}"
            )

    @classmethod
    def small(cls) -> MmditConfig:
        """What tests run."""
        return cls(width=32, num_layers=2, num_heads=2, hidden=64)

    def build(self, sizes: Sizes) -> Mmdit:
        """Return the network with random weights."""
        return Mmdit(self, sizes)

    def default_formulation(self) -> FlowConfig:
        """Return flow matching, as SD3 trains."""
        return FlowConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class MmditMemory:
    """tokens: [B N D], the context stream before the last layer.

    keys, values: [B L G N C], the context's in each layer; mask: [B N + H], the tokens that actions
    see, context first.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None


class Mmdit(Denoiser[MmditMemory, MmditMemory]):
    """The denoiser. Contexts come as tokens of its width."""

    def __init__(self, config: MmditConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, layers = config.width, config.num_layers
        num_context = sizes.num_goals + sizes.num_images + sizes.num_states
        self.context_positions = nn.Parameter(torch.randn(num_context, width) * 0.02)
        self.action_positions = nn.Parameter(torch.randn(sizes.action_horizon, width) * 0.02)
        self.time_embedding = SinusoidalEmbedding(width)
        self.to_modulation = nn.Linear(width, (6 * layers + 2) * width)
        nn.init.normal_(self.to_modulation.weight, std=0.02)
        nn.init.zeros_(self.to_modulation.bias)
        self.action_in = nn.Linear(sizes.action_dim, width)
        self.context_stream = nn.ModuleList(
            ContextLayer(config, last=layer == layers - 1) for layer in range(layers)
        )
        self.action_stream = nn.ModuleList(ActionLayer(config) for _ in range(layers))
        self.routing = build_routing(config.routing, layers, width, config.hidden)
        self.norm = RMSNorm(width)
        self.action_out = nn.Linear(width, sizes.action_dim)

    def encode(self, context: Context) -> MmditMemory:
        """Return the context stream: each layer's keys and values, and the tokens at its end."""
        tokens = torch.cat([context.goal, context.images, context.state], 1)
        tokens = tokens + self.context_positions
        mask = context.token_mask
        keys, values = [], []
        for layer in self.context_stream:
            tokens, k, v = layer(tokens, mask)
            keys.append(k)
            values.append(v)
        if mask is not None:
            mask = nn.functional.pad(mask, (0, self.sizes.action_horizon), value=True)
        return MmditMemory(
            tokens=tokens, keys=torch.stack(keys, 1), values=torch.stack(values, 1), mask=mask
        )

    def latent(self, memory: MmditMemory) -> Float[Tensor, "b n d"]:
        """Return the context stream before the last layer."""
        return memory.tokens

    def level(self, sigma: Float[Tensor, " s"], generator: torch.Generator | None = None) -> Level:
        """Return sigma's embedding, every layer's modulation and route, and a last modulation."""
        layers = self.config.num_layers
        with torch.autocast(sigma.device.type, enabled=False):
            embedding = self.embed(sigma)
            levels = NoiseLevels(sigma, embedding, self.embed)
            return Level(
                embedding=embedding,
                routes=self.routing(levels, self.sizes.action_horizon, generator),
                modulations=list(self.modulations(embedding).split([6] * layers + [2], 1)),
            )

    def step(self, x: Float[Tensor, "b h a"], level: Level, memory: MmditMemory) -> Prediction:
        """Return the output [B H A] and, in training, the losses of the routing."""
        *modulations, last = level.modulations
        shift, scale = last.unbind(1)
        tokens = self.action_in(x) + self.action_positions
        keys, values = memory.keys.unbind(1), memory.values.unbind(1)
        losses, routes = [level.routes.losses], level.routes.layers
        stream = zip(self.action_stream, modulations, keys, values, routes, strict=True)
        for layer, *read, route in stream:
            tokens, own = layer(tokens, *read, memory.mask, route)
            losses.append(own)
        actions = self.action_out(torch.addcmul(shift, self.norm(tokens), scale))
        return Prediction(actions=actions, losses=add_losses(losses))

    def stacks(self) -> list[nn.Module]:
        """Return both streams."""
        return [self.context_stream, self.action_stream]

    def embed(self, sigma: Float[Tensor, " s"]) -> Float[Tensor, "s d"]:
        """Return the embedding of each sigma's flow time; run it outside autocast."""
        embedding: Tensor = self.time_embedding(TIME_SCALE * time_of(sigma))
        return embedding

    def modulations(self, embedding: Float[Tensor, "s d"]) -> Float[Tensor, "s m 1 d"]:
        """Return shifts, scales and gates, functions of sigma's embedding; outside autocast.

        M = 6 L + 2: shift, scale and gate of attention and feed-forward network, layer by layer,
        then shift and scale before the way out. Scales and gates are about 1.
        """
        factors: Tensor = self.to_modulation(nn.functional.silu(embedding))
        open_ = factors.new_tensor([0, 1, 1] * 2 * self.config.num_layers + [0, 1])
        return factors.unflatten(-1, (len(open_), 1, -1)) + open_[:, None, None]


class ContextLayer(nn.Module):
    """The context stream's half of a layer; the last one's has keys and values alone."""

    def __init__(self, config: MmditConfig, *, last: bool) -> None:
        super().__init__()
        width, self.num_heads, self.last = config.width, config.num_heads, last
        self.attention_norm = RMSNorm(width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.key_gain = nn.Parameter(torch.ones(width // config.num_heads))
        if not last:
            self.to_q = nn.Linear(width, width)
            self.query_gain = nn.Parameter(torch.ones(width // config.num_heads))
            self.to_out = nn.Linear(width, width)
            self.forward_norm = RMSNorm(width)
            self.feed_forward = feed_forward(width, config.hidden)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b g n c"], Float[Tensor, "b g n c"]]:
        """Return the context after this layer (the last leaves it) and its keys and values in it.

        mask: the tokens to see.
        """
        normed = self.attention_norm(x)
        k, v = (split_heads(part, self.num_heads) for part in self.to_kv(normed).chunk(2, -1))
        k = rms_norm(k, self.key_gain)
        if self.last:
            return x, k, v
        q = rms_norm(split_heads(self.to_q(normed), self.num_heads), self.query_gain)
        x = x + self.to_out(join_heads(attend(q, k, v, mask=mask)))
        return x + self.feed_forward(self.forward_norm(x)), k, v


class ActionLayer(nn.Module):
    """The action stream's half of a layer, modulated by sigma."""

    def __init__(self, config: MmditConfig) -> None:
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.attention_norm = RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.qk_gain = nn.Parameter(torch.ones(2, 1, 1, 1, width // config.num_heads))
        self.to_out = nn.Linear(width, width)
        self.forward_norm = RMSNorm(width)
        build = feed_forward if config.routing is None else config.routing.layer
        self.feed_forward = build(width, config.hidden)

    def forward(
        self,
        x: Float[Tensor, "b h d"],
        modulation: Float[Tensor, "s 6 _h d"],
        keys: Float[Tensor, "b g n c"],
        values: Float[Tensor, "b g n c"],
        mask: Bool[Tensor, "b t"] | None,
        route: Route,
    ) -> tuple[Float[Tensor, "b h d"], Losses]:
        """Return the actions after this layer and the losses of its routing.

        Actions see the context's keys and each other. mask: the tokens to see, context first.
        """
        channels = mask_of(self.feed_forward, x, route)
        y = mask_in(x, channels)
        shift, scale, gate, shift_2, scale_2, gate_2 = modulation.unbind(1)
        modulated = torch.addcmul(shift, self.attention_norm(y), scale)
        qkv = self.to_qkv(modulated).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = qkv.split([2, 1])
        q, k = rms_norm(qk, self.qk_gain).unbind()
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v.squeeze(0)], 2)
        y = y + gate * self.to_out(join_heads(attend(q, keys, values, mask=mask)))
        modulated = torch.addcmul(shift_2, self.forward_norm(y), scale_2)
        hidden, losses = apply_feed_forward(self.feed_forward, modulated, route)
        return mask_out(y + gate_2 * hidden, x, channels), losses
