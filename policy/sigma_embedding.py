"""The noise level as a vector."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class LinearSigmaEmbedding(nn.Module):
    """MoDE's: two Linear maps of ln(sigma)/4 with nothing between them, so a line in R^D.

    Sigma enters as float32; run it outside autocast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(1, width)
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the embedding of each sigma."""
        level = sigma.log().unsqueeze(-1) / 4
        embedding: Tensor = self.mix(self.expand(level))
        return embedding
