"""The dense feed-forward networks of a transformer layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu


def feed_forward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return Linear, GELU, Linear, dropout over the last axis; the Linear maps have no bias."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, width, bias=False),
        nn.Dropout(dropout),
    )


def goal_mlp(goal_dim: int, width: int) -> nn.Sequential:
    """Return MDT's projection of a goal vector to a token."""
    return nn.Sequential(nn.Linear(goal_dim, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class SwishGLU(nn.Module):
    """W2 (u * silu(g)) with u, g the halves of W1 x (Shazeer 2020); W1 has a bias."""

    def __init__(
        self, width: int, hidden: int, *, bias_out: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, width, bias=bias_out)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the layer's output, without x."""
        value, gate = self.up(x).chunk(2, -1)
        out: Tensor = self.down(self.dropout(value * silu(gate)))
        return out


class Adaptor(nn.Sequential):
    """RDT's way in ("mlpNx_gelu"): N Linear maps with GELU (tanh) between them."""

    def __init__(self, size: int, width: int, num_layers: int) -> None:
        layers: list[nn.Module] = [nn.Linear(size, width)]
        for _ in range(num_layers - 1):
            layers += [nn.GELU(approximate="tanh"), nn.Linear(width, width)]
        super().__init__(*layers)
