"""MDT's Lightning checkpoint (.ckpt, with .hydra/config.yaml) to a policy of ours.

It holds a whole training module: the denoiser, a ResNet-18 for each of two cameras, the CLIP whose
text half reads sentences, another CLIP for pictures of the goal, and what its objectives train.
The averaged weights, by which results were published, are a list without names, in the order of
the raw ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from telic.policy.edm import EdmConfig
from telic.policy.goal_encoder import GoalConfig, GoalProjection
from telic.policy.image_encoder import ImageConfig
from telic.policy.imported import (
    Imported,
    ImportOptions,
    read_hydra,
    read_pickle,
    require_prefixes,
    require_same,
    require_switches,
    section,
    shapes_of,
    split_off,
    with_bounds,
)
from telic.policy.language_encoder import CLIP_NAME, LanguageConfig
from telic.policy.normalizer import NormalizerConfig, Scaling
from telic.policy.openai_clip import text_tower
from telic.policy.policy import PolicyConfig
from telic.policy.published_mdt import network_of, translate_mdt
from telic.policy.published_robots import calvin
from telic.policy.published_sampling import edm_sampling
from telic.policy.vision_tower import RESNET18

CONFIG = Path(".hydra") / "config.yaml"
DENOISER, CLIP = "model.inner_model.", "language_goal.clip_rn50."
TOWERS = ("static_resnet.", "gripper_resnet.")
SIDES = (224, 84)  # pixels at which the two cameras are seen
DEAD = {
    f"{DENOISER}lang_emb.*": "a projection of sentences that only the contrastive objective uses",
    f"{DENOISER}proprio_emb.*": "a path for the robot's state that is never taken",
    f"{DENOISER}pos_emb (rows after the second)": "actions have no positions",
    f"{CLIP}visual.*": "the image half of the CLIP that reads sentences",
    f"{CLIP}logit_scale": "of CLIP's own training",
    "visual_goal.*": "the CLIP of goal images, which are not imported: the goal is a sentence",
    "gen_img.*": "masked generative foresight, a training objective",
    "logit_scale": "contrastive latent alignment, a training objective",
}
PASSED_OVER = ("visual_goal.", "gen_img.", "logit_scale")
PLAIN = {  # switches of the published code, at the only value that its weights were trained with
    "use_ada_conditioning": True,
    "use_mlp_goal": True,
    "use_noise_encoder": False,
    "use_rot_embed": False,
    "bias": False,
}


def recognises(source: Path) -> bool:
    """Return whether `source` is a Lightning checkpoint, or the folder of a run that has some."""
    return source.suffix == ".ckpt" or (source / CONFIG).is_file()


def read(source: Path, options: ImportOptions) -> Imported:
    """Return the policy at `source`; ValueError names what does not fit."""
    file = _checkpoint_file(source)
    path = next((f / CONFIG for f in file.parents[:3] if (f / CONFIG).is_file()), None)
    if path is None:
        raise ValueError(f"{file}: no {CONFIG} in its folder or one of the two above")
    config = read_hydra(path)
    network = section(config, {"n_heads", "n_dec_layers", "n_enc_layers"}, path)
    agent = section(config, {"num_sampling_steps", "sigma_min", "sigma_max"}, path)
    return convert(network, agent, named_weights(file, raw=options.raw), options, file)


def named_weights(file: Path, *, raw: bool) -> dict[str, Tensor]:
    """Return the averaged weights of a Lightning checkpoint by name, or the raw ones."""
    data = read_pickle(file)
    if not isinstance(data, Mapping) or not isinstance(data.get("state_dict"), Mapping):
        raise ValueError(f"{file}: no state_dict in it; it is no Lightning checkpoint")
    weights: dict[str, Tensor] = dict(data["state_dict"])
    if raw:
        return weights
    callbacks = data.get("callbacks")
    ema = callbacks.get("EMA") if isinstance(callbacks, Mapping) else None
    average = ema.get("ema_weights") if isinstance(ema, Mapping) else None
    if average is None:
        raise ValueError(f"{file}: no callbacks.EMA.ema_weights in it; --raw takes the raw weights")
    if len(average) != len(weights):
        raise ValueError(
            f"{file}: {len(average)} averaged tensors for {len(weights)} names, so which is which "
            "is unknown; --raw takes the raw weights"
        )
    for (name, tensor), mean in zip(weights.items(), average, strict=True):
        if mean.shape != tensor.shape:
            raise ValueError(
                f"{file}: the averaged tensor in the place of {name} is {tuple(mean.shape)}, "
                f"expected {tuple(tensor.shape)}; --raw takes the raw weights"
            )
    return dict(zip(weights, average, strict=True))


def convert(
    network: Mapping[str, Any],
    agent: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    options: ImportOptions,
    file: Path,
) -> Imported:
    """Return the policy of a run's config sections `network` and `agent` and its weights."""
    where = str(file)
    known = (DENOISER, CLIP, *TOWERS, *PASSED_OVER)
    if any(name.startswith("perceiver.") for name in tensors):
        raise ValueError(
            f"{where}: MDT-V looks through Voltron, which this project does not have; MDT with "
            "ResNets can be imported, and telic.policy.published builds MDT-V's denoiser alone"
        )
    require_prefixes(tensors, known, where)
    require_switches(network, PLAIN, where)
    sizes = _sizes(split_off(tensors, DENOISER), where)
    require_same(network, sizes, file)
    with torch.device("meta"):
        denoiser = network_of({**sizes, "n_heads": network["n_heads"]}, perceives=False)
    weights = translate_mdt(denoiser, split_off(tensors, DENOISER))
    ours = {k: v for k, v in weights.items() if k.startswith("denoiser.")}
    for name, tensor in split_off(weights, "goal_in.image.").items():  # for sentences too
        ours[f"goal_encoder.text_in.{name}"] = tensor
    for index, prefix in enumerate(TOWERS):
        into = weights[f"images_in.{index}.weight"], weights[f"images_in.{index}.bias"]
        ours |= _camera(index, split_off(tensors, prefix), into, f"{where}: {prefix}")
    clip = split_off(tensors, CLIP)
    interface = with_bounds(options.interface or calvin(), sizes["action_dim"], 2, where)
    cameras = list(interface.images)
    config = PolicyConfig(
        denoiser=denoiser.denoiser.config,
        action_horizon=sizes["action_seq_len"],
        use_state=False,
        images=ImageConfig(
            cameras=cameras,
            tower=RESNET18,
            clip_pixels=True,
            resize=dict(zip(cameras, SIDES, strict=True)),
        ),
        goal=GoalConfig(
            language=LanguageConfig(encoder=CLIP_NAME, dim=sizes["goal_dim"]),
            projection=GoalProjection.mlp,
        ),
        state=NormalizerConfig(scaling=Scaling.identity),
        action=NormalizerConfig(scaling=Scaling.identity),
        formulation=EdmConfig(sigma_data=float(agent.get("sigma_data", 0.5))),
        sampling=edm_sampling(agent),
    )
    return Imported(
        config=config,
        interface=interface,
        weights=ours,
        source=where,
        dead=DEAD,
        language=text_tower(clip, where) if clip else None,
    )


def _checkpoint_file(source: Path) -> Path:
    if source.suffix == ".ckpt":
        return source
    files = sorted(source.rglob("*.ckpt"))
    if len(files) != 1:
        found = ", ".join(str(file.relative_to(source)) for file in files) or "none"
        raise ValueError(f"{source}: expected one .ckpt below it, found {found}; give its path")
    return files[0]


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
            place = f"image_encoder.towers.{index}.network.{name.removeprefix('backbone.')}"
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
    ours[f"image_encoder.projections.{index}.weight"] = (last @ weight).float()
    ours[f"image_encoder.projections.{index}.bias"] = (last @ bias + into[1].double()).float()
    return ours


def _sizes(denoiser: Mapping[str, Tensor], where: str) -> dict[str, int]:
    """Return the sizes of a published denoiser, read off its tensors, under the config's names."""
    names = {"pos_emb": 3, "tok_emb.weight": 2, "goal_emb.0.weight": 2, "action_pred.weight": 2}
    (_, positions, width), image, goal, action = shapes_of(denoiser, names, where, DENOISER)
    layers = {
        part: len({n.split(".")[2] for n in denoiser if n.startswith(f"{part}.blocks.")})
        for part in ("encoder", "decoder")
    }
    return {
        "embed_dim": width,
        "goal_dim": goal[1],
        "obs_dim": image[1],
        "action_dim": action[0],
        "n_enc_layers": layers["encoder"],
        "n_dec_layers": layers["decoder"],
        "goal_seq_len": 1,
        "obs_seq_len": 1,
        "action_seq_len": positions - 1,
    }
