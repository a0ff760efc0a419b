"""Self-attention with normalised queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from telic.policy.norms import rms_norm


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

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return what each token gathers; token i sees tokens 0..i."""
        b, t, d = x.shape
        qkv = self.to_qkv(x).view(b, t, 3, self.num_heads, d // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # [3 b h t d]
        q, k = rms_norm(qkv[:2], self.qk_gain[:, None, None, None])
        dropout = self.dropout if self.training else 0.0
        heads = attend(q, k, qkv[2], causal=True, dropout=dropout)
        out: Tensor = self.to_out(heads.transpose(1, 2).reshape(b, t, d))
        return out


def attend(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "b h t d"]:
    """Return softmax(q k^T / sqrt(d)) v; causal: query i sees keys 0..i.

    bf16 on a CPU takes explicit products, because torch's fused kernel is slow there.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return attend_explicitly(q, k, v, causal=causal, dropout=dropout)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)


def attend_explicitly(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "b h t d"]:
    """Return the same as `attend`, from two matrix products and a softmax in float32."""
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        hidden = _future(scores.shape[-2], scores.shape[-1], scores.device)
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = F.dropout(scores.softmax(-1), dropout) if dropout else scores.softmax(-1)
    return weights.to(v.dtype) @ v


def _future(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "t s"]:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(1)
