"""Camera images to tokens.

B samples, O observation horizon, V cameras, K latents, D width of tokens, h w of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from telic.policy.encoders.clip_vision import ClipVisionConfig
from telic.policy.encoders.towers import RESNET18, TOWERS, VisionTower, load_tower
from telic.policy.layers.feed_forward import Adaptor, goal_mlp
from telic.policy.layers.patches import CLIP_MEAN, CLIP_STD
from telic.policy.layers.perceiver import PerceiverConfig, grid_positions
from telic.ranges import require_range
from telic.spec import near_misses

_PLAIN_SIDE = 32  # of the picture of a camera that is not there; a tower resizes it


class Pooling(Enum):
    """What becomes of a tower's feature map."""

    average = "average"  # one mean per channel
    keypoints = "keypoints"  # where each channel looks: expected x and y (spatial softmax)
    patches = "patches"  # nothing: each patch of a vision transformer is a token (RDT)
    perceiver = "perceiver"  # a few tokens that gather from all places, cameras and frames (MDT-V)


@dataclass(kw_only=True, slots=True)
class ImageConfig:
    """Cameras, tower, pooling and projection of images."""

    cameras: list[str] | None = None  # names of the cameras used; None: all; []: none
    # one of these, or a vision model of Hugging Face by its name or folder
    tower: str = field(default=RESNET18, metadata={"choices": TOWERS})
    frozen: bool = False  # a pretrained tower's weights stay as they are; FiLM layers learn
    share_tower: bool = False  # one tower for all cameras
    share_projection: bool = False  # one projection to tokens for all, without a bias (MoDE's)
    adaptor: bool = False  # the projection is RDT's two layers, with biases
    mlp: bool = False  # the projection is MDT's two layers of goals
    absent: int = 0  # cameras of the network that this robot lacks: their pictures are plain
    pad_square: bool = False  # pad to a square with the tower's mean colour, not stretch (RDT)
    # camera -> side in pixels of the tower's input
    resize: dict[str, int] = field(default_factory=dict)
    pooling: Pooling = Pooling.average  # what becomes of a tower's feature map
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)  # of pooling=perceiver
    clip: ClipVisionConfig = field(default_factory=ClipVisionConfig)  # of tower=clip_vision
    clip_pixels: bool = False  # pixels scaled as CLIP's, not as the tower's (MDT)
    clip_pixels_first: bool = False  # pixels scaled as CLIP's and then as the tower's (MDT-V)
    random_shift: int = 4  # largest random shift of a picture in training, pixels
    place: ClassVar[str] = "policy.images"  # or policy.goal.image (typed_keys.py)

    def __post_init__(self) -> None:
        require_range(self, "random_shift", "absent", at_least=0, prefix="policy.images.")
        if self.clip_pixels and self.clip_pixels_first:
            raise ValueError(
                "policy.images.clip_pixels and policy.images.clip_pixels_first exclude each other"
            )
        if self.adaptor and self.mlp:
            raise ValueError(
                "policy.images.adaptor and policy.images.mlp are two projections; choose one"
            )
        if self.absent and not (self.share_tower and self.share_projection):
            raise ValueError(
                f"policy.images.absent={self.absent} needs policy.images.share_tower=true and "
                "policy.images.share_projection=true, for nothing is learnt of a camera never seen"
            )
        if self.absent and self.pooling is Pooling.perceiver:
            raise ValueError(
                f"policy.images.absent={self.absent} goes with any "
                "policy.images.pooling but perceiver"
            )
        for camera, side in self.resize.items():
            if side < 1:
                raise ValueError(f"policy.images.resize.{camera}={side} must be at least 1")

    def choose(self, offered: Mapping[str, object]) -> list[str]:
        """Return the cameras to use of those offered; ValueError for one that is not there."""
        if self.pooling is Pooling.perceiver and self.cameras is None and not offered:
            raise ValueError(
                "policy.images.pooling=perceiver needs a camera and the data have none; "
                "policy=mdt is the kind without"
            )
        if self.cameras is None:
            return list(offered)
        for camera in self.cameras:
            if camera not in offered:
                raise ValueError(
                    f"policy.images.cameras: no camera {camera!r}, the data have "
                    f"{', '.join(offered) or 'none'}{near_misses(camera, offered)}"
                )
        return list(self.cameras)


class ImageEncoder(nn.Module):
    """One token for each camera and frame, from a tower per camera or one for all.

    With a perceiver it is `num_tokens` for all cameras and frames together.
    """

    def __init__(
        self,
        config: ImageConfig,
        cameras: list[str],
        width: int,
        obs_horizon: int = 1,
        sentence_dim: int = 0,
        where: str = ImageConfig.place,
    ) -> None:
        """`sentence_dim`: size of the sentence vectors that towers may be conditioned on;
        where: the place of `config`, for errors."""
        super().__init__()
        self.config, self.cameras = config, cameras
        self.obs_horizon, self.num_patches = obs_horizon, 1
        self.towers = nn.ModuleList(
            build_tower(config, sentence_dim, where)
            for _ in range(1 if config.share_tower else len(cameras))
        )
        first = cast(VisionTower, self.towers[0])
        _require_pooled(config, first, where)
        channels, self.conditioned, self.pools = first.channels, first.conditioned, first.pools
        if config.pooling is Pooling.keypoints:
            channels *= 2
        if config.pooling is Pooling.patches:
            self.num_patches = first.num_patches or 1
        self.num_tokens = obs_horizon * (len(cameras) + config.absent) * self.num_patches
        if config.pooling is Pooling.perceiver:
            self.num_tokens = config.perceiver.latents
            perceived = channels if self.projects_last else width
            self.perceiver = config.perceiver.build(perceived, obs_horizon)
        shared = config.share_projection or self.projects_last
        self.projections = nn.ModuleList(
            _projection(config, channels, width) for _ in (cameras[:1] if shared else cameras)
        )

    @property
    def projects_last(self) -> bool:
        """Return whether what the perceiver answers is projected, not what it reads."""
        config = self.config
        return config.pooling is Pooling.perceiver and config.perceiver.projects_last

    def forward(
        self,
        images: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        sentences: Float[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Return [B, V * O * places, D], camera by camera, or [B K D].

        images: camera -> u8 [B O h w 3]; places is 1 unless each patch is a token.

        `generator` draws the shifts of training. `sentences`: the goals' vectors, where the
        towers are `conditioned` on them.
        """
        return self.tokens(self.maps(images, generator, sentences))

    def maps(
        self,
        images: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        sentences: Float[Tensor, "b s"] | None = None,
    ) -> list[Float[Tensor, "b o c _ _"]]:
        """Return the tower's map of each camera's frames; arguments as `forward`'s."""
        return self.encode_frames(self.frames(images, generator), sentences)

    def frames(
        self, images: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> list[UInt8[Tensor, "b o _ _ 3"]]:
        """Return each camera's frames as its tower reads them: resized, shifted, padded."""
        prepared = []
        for index, camera in enumerate(self.cameras):
            frames = resize(images[camera], self.config.resize.get(camera))
            if self.training and self.config.random_shift:
                frames = random_shift(frames, self.config.random_shift, generator)
            if self.config.pad_square:
                frames = pad_square(frames, self.tower(index).mean)
            prepared.append(frames)
        return prepared

    def encode_frames(
        self,
        frames: Sequence[UInt8[Tensor, "b o _ _ 3"]],
        sentences: Float[Tensor, "b s"] | None = None,
    ) -> list[Float[Tensor, "b o c _ _"]]:
        """Return the tower's map of each camera's frames, given as `frames` returns them."""
        maps = []
        for index, camera_frames in enumerate(frames):
            vectors = None
            if sentences is not None:
                vectors = sentences.repeat_interleave(camera_frames.shape[1], 0)
            features = self.tower(index)(camera_frames.flatten(0, 1), vectors)
            maps.append(features.unflatten(0, camera_frames.shape[:2]))
        return maps

    def tokens(self, maps: Sequence[Float[Tensor, "b o c ..."]]) -> Float[Tensor, "b t d"]:
        """Return what `forward` makes of the cameras' maps, which may be pooled [B O F]."""
        tokens, pooling = [], self.config.pooling
        for index, frames in enumerate(maps):
            features = frames.flatten(0, 1)
            if pooling is Pooling.perceiver:
                token = features.flatten(2).transpose(1, 2)
                if not self.projects_last:
                    token = self._projection(index)(token)
                token = self._place(token, features)
            else:
                token = self._projection(index)(pool(features, pooling))
            token = token.unflatten(0, frames.shape[:2])
            tokens.append(token.flatten(1, 2) if pooling is Pooling.patches else token)
        if self.config.absent:
            tokens.append(self._absent(len(tokens[0])))
        if pooling is not Pooling.perceiver:
            return torch.cat(tokens, 1)
        resampled: Tensor = self.perceiver(torch.cat(tokens, 2))
        return self.projections[0](resampled) if self.projects_last else resampled

    def _projection(self, index: int) -> nn.Module:
        return self.projections[0 if self.config.share_projection else index]

    def _absent(self, size: int) -> Float[Tensor, "b n d"]:
        """Return the tokens of the cameras that are not there: pictures of the mean colour."""
        tower = self.tower(0)
        picture = (tower.mean * 255).byte().permute(1, 2, 0)  # [1 1 3]
        features = tower(picture.expand(1, _PLAIN_SIDE, _PLAIN_SIDE, 3))
        token = self.projections[0](pool(features, self.config.pooling)).reshape(
            1, self.num_patches, -1
        )
        repeated: Tensor = token.repeat(size, self.obs_horizon * self.config.absent, 1)
        return repeated

    def _place(
        self, tokens: Float[Tensor, "n p d"], features: Float[Tensor, "n c x y"]
    ) -> Float[Tensor, "n p d"]:
        """Return the tokens with the place of each in the map, if they are to have it."""
        if not self.config.perceiver.positions:
            return tokens
        rows, columns = features.shape[-2:]
        return tokens + grid_positions(rows, columns, tokens.shape[-1], tokens.device)

    def tower(self, index: int) -> VisionTower:
        """Return the tower that sees the camera of that number."""
        return cast(VisionTower, self.towers[0 if self.config.share_tower else index])


def build_tower(
    config: ImageConfig, sentence_dim: int = 0, where: str = ImageConfig.place
) -> VisionTower:
    """Return the tower of a configuration, with pixels scaled as that says.

    sentence_dim, where: as `ImageEncoder` has them.
    """
    tower = load_tower(
        config.tower,
        config.frozen,
        patches=config.pooling in (Pooling.perceiver, Pooling.patches),
        sentence_dim=sentence_dim,
        clip=config.clip,
        where=where,
    )
    if config.clip_pixels:
        tower.scale_pixels(CLIP_MEAN, CLIP_STD)
    if config.clip_pixels_first:
        tower.scale_pixels_first(CLIP_MEAN, CLIP_STD)
    return tower


def _require_pooled(config: ImageConfig, tower: VisionTower, where: str) -> None:
    """Raise ValueError unless the pooling can read what the tower answers."""
    if config.pooling is not Pooling.average and tower.pools:
        raise ValueError(
            f"{where}.pooling={config.pooling.value} needs a feature map, and {where}.tower="
            f"{config.tower} answers one vector; use pooling=average"
        )
    if config.pooling is Pooling.patches and tower.num_patches is None:
        raise ValueError(
            f"{where}.pooling=patches needs a vision transformer that sees pictures of one "
            f"size, and {where}.tower={config.tower} is none; use pooling=average"
        )


def _projection(config: ImageConfig, channels: int, width: int) -> nn.Module:
    """Return what makes a token of a tower's output."""
    if config.mlp:
        return goal_mlp(channels, width)
    if config.adaptor:
        return Adaptor(channels, width, 2)
    return nn.Linear(channels, width, bias=not config.share_projection)


def pool(features: Float[Tensor, "n c ..."], pooling: Pooling) -> Float[Tensor, n * f]:
    """Return [N C] means, [N 2C] expected places in [-1, 1], rows then columns, or the places
    themselves, [N xy C]; what is pooled already [N F] as it is."""
    if features.ndim == 2:
        return features
    if pooling is Pooling.patches:
        return features.flatten(2).transpose(1, 2)
    if pooling is Pooling.average:
        return features.mean((-2, -1))
    weight = features.float().flatten(-2).softmax(-1).unflatten(-1, features.shape[-2:])
    axes = [torch.linspace(-1, 1, n, device=features.device) for n in features.shape[-2:]]
    row = (weight.sum(-1) * axes[0]).sum(-1)
    column = (weight.sum(-2) * axes[1]).sum(-1)
    return torch.cat([row, column], -1)


def resize(images: UInt8[Tensor, "b o h w 3"], side: int | None) -> UInt8[Tensor, "b o x y 3"]:
    """Return the frames at `side` x `side` pixels (bilinear, antialiased); None: as they are."""
    if side is None or images.shape[2:4] == (side, side):
        return images
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, images.shape[:2])


def pad_square(
    images: UInt8[Tensor, "b o h w 3"], colour: Float[Tensor, "3 1 1"]
) -> UInt8[Tensor, "b o s s2 3"]:
    """Return the frames in the middle of squares of a colour in [0, 1]."""
    h, w = images.shape[2:4]
    side = max(h, w)
    if h == w:
        return images
    square = (colour * 255).byte().flatten().expand(*images.shape[:2], side, side, 3).clone()
    top, left = (side - h) // 2, (side - w) // 2
    square[:, :, top : top + h, left : left + w] = images
    return square


def random_shift(
    images: UInt8[Tensor, "b o h w 3"], most: int, generator: torch.Generator | None
) -> UInt8[Tensor, "b o h w 3"]:
    """Return each sample's frames shifted by up to `most` pixels, edges repeated.

    All frames of a sample move alike.
    """
    shape = (2, len(images))
    return shifted(
        images,
        torch.randint(-most, most + 1, shape, generator=generator, device=images.device),
    )


def shifted(
    images: UInt8[Tensor, "b o h w 3"], shift: Int[Tensor, "2 b"]
) -> UInt8[Tensor, "b o h w 3"]:
    """Return each sample's frames shifted by rows and columns, edges repeated."""
    b, _, h, w, _ = images.shape
    device, shift = images.device, shift.unsqueeze(-1)
    rows = (torch.arange(h, device=device) + shift[0]).clamp(0, h - 1)
    columns = (torch.arange(w, device=device) + shift[1]).clamp(0, w - 1)
    sample = torch.arange(b, device=device)[:, None, None]
    places = images.transpose(1, 2).transpose(2, 3)  # [b h w o 3]: index the first three axes
    return places[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2, 4)
