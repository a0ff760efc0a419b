"""RDT's published directory (config.json and one file of weights) to a policy of ours.

The weights are the denoiser's and its adaptors'. SigLIP, which sees, and T5-XXL, which reads, are
published elsewhere: a folder each, or their names on the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from telic.embodiment import Embodiment, unified_interface
from telic.policy.config import PolicyConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.encoders.language import LanguageConfig
from telic.policy.encoders.towers import load_tower
from telic.policy.presets import POLICIES
from telic.policy.published.check import build
from telic.policy.published.imported import (
    CheckpointImportOptions,
    Imported,
    read_json,
    read_tensors,
    require_kinds,
    require_same,
    require_switches,
    shapes_of,
)
from telic.policy.published.pickles import read_pickle
from telic.policy.published.rdt.denoiser import PublishedRdt, formulation_of
from telic.spec import Interface

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt")
T5, SIGLIP = "google/t5-v1_1-xxl", "google/siglip-so400m-patch14-384"
ROBOT = "robot"
ADAPTORS = {
    "goal_in.": "conditioner.goal_encoder.text_in.",
    "image_in.": "conditioner.image_encoder.projections.0.",
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "num_inference_timesteps": 5,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
}
PLAIN = {"lang_adaptor": "mlp2x_gelu", "img_adaptor": "mlp2x_gelu", "state_adaptor": "mlp3x_gelu"}
# the config's name of a size -> ours
SIZES = {
    "hidden_size": "hidden_size",
    "depth": "depth",
    "num_heads": "num_heads",
    "lang_token_dim": "lang_dim",
    "img_token_dim": "img_dim",
    "state_token_dim": "state_dim",
    "pred_horizon": "horizon",
    "max_lang_cond_len": "max_lang_len",
}


def recognises(source: Path) -> bool:
    """Return whether `source` looks like a published RDT."""
    return (source / CONFIG).is_file() and _weights_file(source) is not None


def read(source: Path, options: CheckpointImportOptions) -> Imported:
    """Return the policy at `source`; ValueError names what does not fit."""
    file = _weights_file(source)
    assert file is not None
    return convert(read_json(source / CONFIG), _tensors(file), options, file)


def convert(
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    options: CheckpointImportOptions,
    file: Path,
) -> Imported:
    """Return the policy of a published config and its weights, read from `file`."""
    where, path = str(file), file.parent / CONFIG
    if options.interface is None:
        raise ValueError(
            f"{where}: RDT is of no robot; --interface FILE names the entries of the robot's state "
            "and action, such as right_arm_joint_0_pos (embodiment.py)"
        )
    stated = dict(_flat(config))
    require_switches(stated, PLAIN, path)
    require_kinds(stated, SCHEDULER, path)
    sizes = _sizes(tensors, where)
    require_same(stated, {name: sizes[ours] for name, ours in SIZES.items()}, path)
    layout = _layout(stated, sizes.pop("num_images"), path)
    settings = {key: stated.get(key, value) for key, value in SCHEDULER.items()}
    whole = {**sizes, **settings, "img_pos": [layout], "norm": "variance"}
    try:
        network = build("rdt", whole, tensors)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    assert isinstance(network, PublishedRdt)
    weights = network.state_dict()
    for theirs, ours in ADAPTORS.items():
        for name in [name for name in weights if name.startswith(theirs)]:
            weights[ours + name.removeprefix(theirs)] = weights.pop(name)
    robot = _robot(options.interface, layout[1], where)
    return Imported(
        config=policy_config(network, whole, robot, options),
        interface=unified_interface({ROBOT: robot}),
        robots={ROBOT: robot},
        weights=weights,
        source=where,
        kept="conditioner.image_encoder.towers.",
    )


def policy_config(
    network: PublishedRdt,
    config: Mapping[str, Any],
    robot: Interface,
    options: CheckpointImportOptions,
) -> PolicyConfig:
    """Return the policy around a published denoiser; ValueError where a tower does not fit."""
    frames, cameras, patches = network.layout
    tower = str(options.vision.resolve()) if options.vision else SIGLIP
    try:
        vision = load_tower(tower, frozen=True, patches=True)
    except ValueError as error:
        raise ValueError(f"{error}; --vision DIR names SigLIP's folder") from error
    got, want = (vision.num_patches, vision.channels), (patches, config["img_dim"])
    if got != want:
        raise ValueError(
            f"--vision {tower}: gives {got[0]} patches of {got[1]} numbers, expected {want[0]} of "
            f"{want[1]}; it is another model than RDT was trained with"
        )
    language = LanguageConfig(
        encoder=str(options.language.resolve()) if options.language else T5,
        dim=None if options.language else config["lang_dim"],
        words=True,
        max_words=config["max_lang_len"],
    ).resolved()
    if language.dim != config["lang_dim"]:
        raise ValueError(
            f"--language {options.language}: gives {language.dim} numbers a word, expected "
            f"{config['lang_dim']}; it is another model than RDT was trained with"
        )
    preset = POLICIES["rdt_published"]
    return replace(
        preset,
        denoiser=replace(network.denoiser.config, newest_state_only=True),
        formulation=formulation_of(config),
        obs_horizon=frames,
        action_horizon=config["horizon"],
        images=ImageConfig(
            cameras=list(robot.images),
            tower=tower,
            frozen=True,
            share_tower=True,
            share_projection=True,
            pooling=Pooling.patches,
            adaptor=True,
            absent=cameras - len(robot.images),
            pad_square=True,
            random_shift=0,
        ),
        goal=GoalConfig(language=language, projection="adaptor", dropout=0.1),
        sampling=replace(
            preset.sampling,
            steps=config["num_inference_timesteps"],
            betas=network.denoiser.config.betas,
            num_timesteps=config["num_train_timesteps"],
        ),
    )


def _weights_file(source: Path) -> Path | None:
    return next((source / name for name in WEIGHTS if (source / name).is_file()), None)


def _tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file in float32, those under `module` in DeepSpeed's."""
    if file.suffix == ".safetensors":
        data: Any = read_tensors(file)
    else:
        data = read_pickle(file)
        data = data.get("module", data) if isinstance(data, Mapping) else data
    if not isinstance(data, Mapping) or not all(isinstance(v, Tensor) for v in data.values()):
        raise ValueError(f"{file}: holds more or other than tensors by name; it is no RDT")
    return {str(name): tensor.float() for name, tensor in data.items()}


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each entry of nested mappings by its own name."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _layout(stated: Mapping[str, Any], num_images: int, path: Path) -> list[int]:
    """Return how many frames, cameras and patches the image tokens are."""
    try:
        ((_, sizes),) = stated.get("img_pos_embed_config", [["image", [2, 3, num_images // 6]]])
        frames, cameras, patches = (abs(int(n)) for n in sizes)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{path}: img_pos_embed_config is not [["image", [frames, cameras, patches]]]'
        ) from error
    if frames * cameras * patches != num_images:
        raise ValueError(
            f"{path}: img_pos_embed_config has {frames} x {cameras} x {patches} image tokens, the "
            f"tensors have {num_images}; config and weights belong to different checkpoints"
        )
    return [frames, cameras, patches]


def _sizes(tensors: Mapping[str, Tensor], where: str) -> dict[str, int]:
    """Return the sizes of a published RDT, read off its tensors."""
    names = {
        "model.x_pos_embed": 3,
        "model.lang_cond_pos_embed": 3,
        "model.img_cond_pos_embed": 3,
        "model.blocks.0.attn.q_norm.weight": 1,
        "lang_adaptor.0.weight": 2,
        "img_adaptor.0.weight": 2,
        "model.final_layer.ffn_final.fc2.weight": 2,
    }
    stream, goals, images, head, words, patches, out = shapes_of(tensors, names, where)
    return {
        "hidden_size": stream[2],
        "depth": len({n.split(".")[2] for n in tensors if n.startswith("model.blocks.")}),
        "num_heads": stream[2] // head[0],
        "lang_dim": words[1],
        "img_dim": patches[1],
        "state_dim": out[0],
        "horizon": stream[1] - 3,
        "max_lang_len": goals[1],
        "num_images": images[1],
    }


def _robot(interface: Interface, num_cameras: int, where: str) -> Interface:
    """Return the robot with its first cameras; ValueError unless its names have slots."""
    Embodiment.of(interface, "--interface")
    if not interface.images:
        raise ValueError(f"{where}: looks through cameras, the interface has none")
    return replace(interface, images=dict(list(interface.images.items())[:num_cameras]))
