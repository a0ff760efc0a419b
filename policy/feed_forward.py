"""The dense feed-forward network of a transformer layer."""

from __future__ import annotations

from torch import nn


def feed_forward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return Linear, GELU, Linear, dropout over the last axis; the Linear maps have no bias."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, width, bias=False),
        nn.Dropout(dropout),
    )
