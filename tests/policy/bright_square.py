"""Pictures with a bright square in them, whose place an image encoder learns to tell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from telic.policy.encoders.images import ImageEncoder


def learn_place(
    encoder: ImageEncoder, width: int, token: Callable[[Tensor], Tensor], lr: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Train an encoder and a linear readout of its token [B D] in pictures of 32 x 32 pixels.

    token: what makes it of the encoder's tokens [B N D]. Returned: the mean squared error of the
    last step, and the mean square of the places, which lie in [-1, 1].
    """
    readout = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *readout.parameters()], lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        corner = torch.randint(0, 28, (32, 2), generator=generator)
        images = torch.zeros(32, 1, 32, 32, 3, dtype=torch.uint8)
        for image, (row, column) in zip(images, corner.tolist(), strict=True):
            image[0, row : row + 4, column : column + 4] = 255
        place = corner / 14 - 1
        error = (readout(token(encoder({"front": images}))) - place).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return error, place.square().mean()
