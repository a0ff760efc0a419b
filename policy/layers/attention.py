"""Attention: over one sequence, and the products that all kinds of it share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.layers.norms import Norm, rms_norm

KeysValues = tuple[Tensor, Tensor]  # each [b h s c]

_SHORT = 64 * 64  # queries times keys up to which explicit products train faster on a CPU


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention; each head's queries and keys are RMS-normalised.

    Projections to queries, keys, values are one matrix with a bias; the way out has none.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width, bias=False)
        self.qk_gain = nn.Parameter(torch.ones(2, width // num_heads))

    def forward(
        self, x: Float[Tensor, "b t d"], past: KeysValues | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return what each token gathers; token i sees tokens 0..i, and all of the past.

        past: keys and values of the tokens before x.
        """
        return self.gather(*self.heads(x), past)

    def gather(
        self,
        q: Float[Tensor, "b h t c"],
        k: Float[Tensor, "b h t c"],
        v: Float[Tensor, "b h t c"],
        past: KeysValues | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the same from the tokens' own queries, keys and values."""
        num_past = 0
        if past is not None:
            num_past = past[0].shape[2]
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        dropout = self.dropout if self.training else 0.0
        heads = attend(q, k, v, causal=True, past=num_past, dropout=dropout)
        out: Tensor = self.to_out(join_heads(heads))
        return out

    def heads(
        self, x: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b h t c"], Float[Tensor, "b h t c"], Float[Tensor, "b h t c"]]:
        """Return the tokens' normalised queries and keys, and values, by head."""
        b, t, d = x.shape
        qkv = self.to_qkv(x).view(b, t, 3, self.num_heads, d // self.num_heads)
        qk, v = qkv.permute(2, 0, 3, 1, 4).split([2, 1])
        q, k = rms_norm(qk, self.qk_gain[:, None, None, None]).unbind()
        return q, k, v.squeeze(0)


class SelfAttention(nn.Module):
    """Multi-head self-attention; causal: token i sees tokens 0..i, else all see all.

    Projections to queries, keys, values are one matrix with a bias; `out_bias`: so has the way out.
    `blind`: tokens at these places see all alike, whatever their queries (Voltron's padding).
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        causal: bool = False,
        out_bias: bool = False,
        blind: slice | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.causal = num_heads, dropout, causal
        self.blind = blind
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width, bias=out_bias)

    def forward(
        self, x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return what each token gathers from those within `mask`."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.to_qkv(x).chunk(3, -1))
        if self.blind is not None:
            q = q.clone()
            q[:, :, self.blind] = 0  # equal scores
        dropout = self.dropout if self.training else 0.0
        heads = attend(q, k, v, causal=self.causal, dropout=dropout, mask=mask)
        out: Tensor = self.to_out(join_heads(heads))
        return out


def split_heads(x: Float[Tensor, "b t d"], num_heads: int) -> Float[Tensor, "b h t c"]:
    """Return the tokens as `num_heads` heads of width d / num_heads."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(heads: Float[Tensor, "b h t c"]) -> Float[Tensor, "b t d"]:
    """Return the heads side by side, the inverse of `split_heads`."""
    return heads.transpose(1, 2).flatten(2)


class NormedSelfAttention(nn.Module):
    """Multi-head self-attention over all tokens; each head's queries and keys are normalised.

    RDT's: biases everywhere, gains of queries and keys apart.
    """

    def __init__(self, width: int, num_heads: int, norm: Norm) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.query_norm = norm.build(width // num_heads)
        self.key_norm = norm.build(width // num_heads)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return what each token gathers."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.to_qkv(x).chunk(3, -1))
        out: Tensor = self.to_out(join_heads(attend(self.query_norm(q), self.key_norm(k), v)))
        return out


class NormedCrossAttention(nn.Module):
    """Multi-head attention into a context, whose keys and values are computed once.

    As `NormedSelfAttention` otherwise.
    """

    def __init__(self, width: int, num_heads: int, norm: Norm) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)
        self.query_norm = norm.build(width // num_heads)
        self.key_norm = norm.build(width // num_heads)

    def keys_values(
        self, context: Float[Tensor, "b s d"]
    ) -> tuple[Float[Tensor, "b h s e"], Float[Tensor, "b h s e"]]:
        """Return the context's normalised keys and its values, by head."""
        k, v = (split_heads(part, self.num_heads) for part in self.to_kv(context).chunk(2, -1))
        return self.key_norm(k), v

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        keys: Float[Tensor, "b h s e"],
        values: Float[Tensor, "b h s e"],
        mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return what each token gathers from the context's tokens within `mask`."""
        q = self.query_norm(split_heads(self.to_q(x), self.num_heads))
        out: Tensor = self.to_out(join_heads(attend(q, keys, values, mask=mask)))
        return out


def attend(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    *,
    causal: bool = False,
    past: int = 0,
    dropout: float = 0.0,
    mask: Bool[Tensor, "b s"] | None = None,
) -> Float[Tensor, "b h t d"]:
    """Return softmax(q k^T / sqrt(d)) v; causal: query i sees keys 0..past + i, if fewer all.

    mask: the keys to see (at least one in each row).

    On a CPU torch's fused kernel is slow in bf16, and slow to train through where sequences are
    short; then explicit products are taken.
    """
    training_short = torch.is_grad_enabled() and q.shape[2] * k.shape[2] <= _SHORT
    # kernels differ in the corner from which an uneven causal mask starts, and take no second mask
    uneven = causal and not past and (q.shape[2] != k.shape[2] or mask is not None)
    on_cpu = q.device.type == "cpu" and (q.dtype == torch.bfloat16 or training_short)
    if uneven or on_cpu:
        return attend_explicitly(q, k, v, causal=causal, past=past, dropout=dropout, mask=mask)
    attn_mask = None if mask is None else mask[:, None, None]
    if causal and past:
        behind = q.new_ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(past)
        attn_mask, causal = behind if attn_mask is None else attn_mask & behind, False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, is_causal=causal, dropout_p=dropout
    )


def attend_explicitly(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    *,
    causal: bool = False,
    past: int = 0,
    dropout: float = 0.0,
    mask: Bool[Tensor, "b s"] | None = None,
) -> Float[Tensor, "b h t d"]:
    """Return the same as `attend`, from two matrix products and a softmax in float32.

    The softmax is spelled out: torch's own takes seven times longer over rows of a few tokens.
    """
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        queries, keys = scores.shape[-2:]
        scores = scores + scores.new_full((queries, keys), float("-inf")).triu(past + 1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights.to(v.dtype) @ v
