"""What MDT's and MDT-V's checkpoints hold around their denoisers: eyes, goals, objectives.

Each function returns a part of the policy's config and its weights under our names.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.encoders.language import CLIP_NAME, LanguageConfig
from telic.policy.encoders.towers import CLIP_VISION, RESNET18, VOLTRON
from telic.policy.layers.perceiver import PerceiverConfig
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.published.imported import shapes_of, split_off
from telic.policy.published.mdt.denoiser import translate_perceiver
from telic.policy.published.mdt.objectives import (
    foresight_config,
    translate_foresight,
    translate_pool,
)
from telic.policy.published.openai_clip import image_half, num_layers
from telic.policy.published.voltron import translate_voltron

DENOISER, PICTURES = "model.inner_model.", "visual_goal.clip_model."
FORESIGHT, POOL, LOG_SCALE = "gen_img.", "clip_proj.", "logit_scale"
TOWERS = ("static_resnet.", "gripper_resnet.")  # MDT
VOLTRON_AT, PERCEIVER = "img_encoder.vcond.", "perceiver."  # MDT-V
SIDES = (224, 84)  # pixels at which the two cameras are seen


def resnets(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], cameras: list[str], where: str
) -> tuple[ImageConfig, dict[str, Tensor]]:
    """Return how MDT sees, and its weights; `weights`: `translate_mdt` of its denoiser."""
    ours: dict[str, Tensor] = {}
    for index, prefix in enumerate(TOWERS):
        into = weights[f"images_in.{index}.weight"], weights[f"images_in.{index}.bias"]
        ours |= _camera(index, split_off(tensors, prefix), into, f"{where}: {prefix}")
    resized = dict(zip(cameras, SIDES, strict=True))
    config = ImageConfig(cameras=cameras, tower=RESNET18, clip_pixels=True, resize=resized)
    return config, ours


def perceived(
    tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], cameras: list[str], where: str
) -> tuple[ImageConfig, dict[str, Tensor]]:
    """Return how MDT-V sees and its weights, likewise."""
    resampler = split_off(tensors, PERCEIVER)
    ranks = {"latents": 2, "layers.0.0.to_q.weight": 2}
    (latents, _), (inner, _) = shapes_of(resampler, ranks, where, PERCEIVER)
    perceiver = PerceiverConfig.published()
    perceiver.latents, perceiver.depth = latents, num_layers(resampler, "layers.")
    perceiver.num_heads = inner // perceiver.head_width
    config = ImageConfig(
        cameras=cameras,
        tower=VOLTRON,
        frozen=True,
        share_tower=True,
        clip_pixels_first=True,
        resize=dict(zip(cameras, SIDES, strict=True)),
        pooling=Pooling.perceiver,
        perceiver=perceiver,
    )
    tower = translate_voltron(split_off(tensors, VOLTRON_AT), f"{where}: {VOLTRON_AT[:-1]}")
    few = translate_perceiver(perceiver, resampler)
    ours = {
        f"conditioner.image_encoder.towers.0.network.{name}": tensor
        for name, tensor in tower.items()
    }
    ours |= {f"conditioner.image_encoder.perceiver.{name}": tensor for name, tensor in few.items()}
    for part in ("weight", "bias"):
        ours[f"conditioner.image_encoder.projections.0.{part}"] = weights[f"images_in.0.{part}"]
    return config, ours


def goals_of(
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    camera: str,
    perceives: bool,
    where: str,
) -> tuple[GoalConfig, dict[str, Tensor]]:
    """Return the kinds of goal and the weights of their encoders; pictures are the first camera's.

    MDT denoises with one projection whatever the goal, which here begins as two alike.
    """
    config = GoalConfig(
        language=LanguageConfig(encoder=CLIP_NAME, dim=sizes["goal_dim"]),
        projection="mlp",
    )
    sentences = split_off(weights, "goal_in.text." if perceives else "goal_in.image.")
    ours = {
        f"conditioner.goal_encoder.text_in.{name}": tensor for name, tensor in sentences.items()
    }
    clip = split_off(tensors, PICTURES)
    if not clip:
        return config, ours
    sizes_of_clip, tower = image_half(clip, f"{where}: {PICTURES[:-1]}")
    config.images = True
    config.image = ImageConfig(
        cameras=[camera],
        tower=CLIP_VISION,
        clip=sizes_of_clip,
        frozen=True,
        mlp=True,
        resize={camera: SIDES[0]},
        random_shift=10,
    )
    at = "conditioner.goal_encoder.image_in"
    ours |= {f"{at}.towers.0.network.{name}": tensor for name, tensor in tower.items()}
    pictures = split_off(weights, "goal_in.image.")
    return config, ours | {f"{at}.projections.0.{name}": t for name, t in pictures.items()}


def objectives_of(
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    goal: GoalConfig,
    perceives: bool,
    where: str,
) -> tuple[ForesightConfig, AlignmentConfig, dict[str, Tensor]]:
    """Return both objectives, of weight 1 as released, with the weights that they had learnt.

    Off is foresight where a file lacks its tensors, and alignment where it lacks the CLIP that sees
    pictures of the goal.
    """
    foresight, alignment = ForesightConfig(), AlignmentConfig()
    ours: dict[str, Tensor] = {}
    if frames := split_off(tensors, FORESIGHT):
        foresight = foresight_config(frames, f"{where}: {FORESIGHT[:-1]}")
        made = translate_foresight(foresight, frames, f"{where}: {FORESIGHT[:-1]}")
        ours |= {f"objectives.foresight.{name}": tensor for name, tensor in made.items()}
    if goal.images:
        shapes_of(tensors, {LOG_SCALE: 0}, where)
        alignment = AlignmentConfig.published_v() if perceives else AlignmentConfig.published()
        ours["objectives.alignment.log_scale"] = tensors[LOG_SCALE]
        if perceives:
            pool = translate_pool(split_off(tensors, POOL), f"{where}: {POOL[:-1]}")
        else:
            pool = split_off(weights, "goal_in.text.")
        at = "objectives.alignment." + ("pool" if perceives else "picture_in")
        ours |= {f"{at}.{name}": tensor for name, tensor in pool.items()}
    return foresight, alignment, ours


def _camera(
    index: int, tensors: Mapping[str, Tensor], into: tuple[Tensor, Tensor], where: str
) -> dict[str, Tensor]:
    """Return a camera's tower and projection under our names.

    The published tower ends in a Linear map, and the denoiser begins with one (`into`: weight,
    bias); nothing lies between, so our projection is their product.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            place = (
                f"conditioner.image_encoder.towers.{index}.network.{name.removeprefix('backbone.')}"
            )
            ours[place] = tensor
        elif name not in ("fc_layers.0.weight", "fc_layers.0.bias"):
            raise ValueError(f"{where}{name} {tuple(tensor.shape)} is an unknown tensor")
    for part in ("weight", "bias"):
        if f"fc_layers.0.{part}" not in tensors:
            raise ValueError(f"{where}fc_layers.0.{part}: no such tensor")
    weight, bias = (tensors[f"fc_layers.0.{part}"].double() for part in ("weight", "bias"))
    if weight.shape[0] != into[0].shape[1]:
        raise ValueError(
            f"{where}fc_layers.0.weight is {tuple(weight.shape)}, expected ({into[0].shape[1]}, .)"
        )
    last = into[0].double()
    ours[f"conditioner.image_encoder.projections.{index}.weight"] = (last @ weight).float()
    ours[f"conditioner.image_encoder.projections.{index}.bias"] = (
        last @ bias + into[1].double()
    ).float()
    return ours
