"""ResNets conditioned on a sentence: FiLM layers scale and shift their channels.

Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", as the released code
of MoDE builds it: batch norms are kept, and the sentence is the raw vector of its text tower.

N images, C size of the sentence vector.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEATURES = {"film_resnet18": 512, "film_resnet34": 512, "film_resnet50": 2048}  # per image


def film_resnet(name: str, condition_dim: int) -> nn.Module:
    """Return one of FEATURES with random weights, for sentences of `condition_dim` values.

    It maps pixels [N 3 h w] and sentences [N C] to features as a map of one place [N F 1 1].
    """
    if name == "film_resnet18":
        return BlockFilmResNet(condition_dim)
    return StageFilmResNet(name.removeprefix("film_"), condition_dim)


class FilmLayer(nn.Module):
    """x (1 + gamma(c)) + beta(c), with gamma and beta 0 at first."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(condition_dim, channels)
        self.beta = nn.Linear(condition_dim, channels)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "n f h w"], condition: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n f h w"]:
        """Return x modulated channel by channel."""
        gamma, beta = (part(condition)[:, :, None, None] for part in (self.gamma, self.beta))
        return x * (1 + gamma) + beta


class StageFilmResNet(nn.Module):
    """ResNet-34 or -50 with a FiLM layer after each of its four stages."""

    def __init__(self, name: str, condition_dim: int) -> None:
        super().__init__()
        self.body = _resnet(name)
        channels = [64, 128, 256, 512] if name == "resnet34" else [256, 512, 1024, 2048]
        self.films = nn.ModuleList(FilmLayer(condition_dim, size) for size in channels)

    def forward(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return the mean over places of the last stage."""
        x = _stem(self.body, pixels)
        for film, stage in zip(self.films, _stages(self.body), strict=True):
            x = film(stage(x), condition)
        return x.mean((-2, -1), keepdim=True)


class BlockFilmResNet(nn.Module):
    """ResNet-18 with gamma x + beta in each block, before the shortcut is added.

    A stage draws gamma and beta of both its blocks, in this order, from one Linear map of SiLU(c);
    neither gamma nor beta starts at 0.
    """

    def __init__(self, condition_dim: int) -> None:
        super().__init__()
        self.body = _resnet("resnet18")
        self.films = nn.ModuleList(
            nn.Linear(condition_dim, 4 * channels) for channels in (64, 128, 256, 512)
        )
        self.out = nn.Linear(512, 512)

    def forward(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return the projected mean over places of the last stage."""
        x = _stem(self.body, pixels)
        condition = nn.functional.silu(condition)
        for film, stage in zip(self.films, _stages(self.body), strict=True):
            factors = film(condition)[:, :, None, None].chunk(4, 1)
            for block, gamma, beta in zip(stage, factors[::2], factors[1::2], strict=True):
                y = block.relu(block.bn1(block.conv1(x)))
                y = gamma * block.bn2(block.conv2(y)) + beta
                shortcut = x if block.downsample is None else block.downsample(x)
                x = block.relu(y + shortcut)
        features: Tensor = self.out(x.mean((-2, -1)))
        return features[:, :, None, None]


def _resnet(name: str) -> Any:
    """Return torchvision's ResNet without its classifier."""
    import torchvision  # takes a second; a policy without images does without

    body = torchvision.models.get_model(name, weights=None)
    body.fc = nn.Identity()
    return body.to(memory_format=torch.channels_last)


def _stem(body: Any, pixels: Tensor) -> Tensor:
    features: Tensor = body.maxpool(body.relu(body.bn1(body.conv1(pixels))))
    return features


def _stages(body: Any) -> list[Any]:
    return [body.layer1, body.layer2, body.layer3, body.layer4]
