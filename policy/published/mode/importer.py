"""MoDE's published directory: config.yaml and model_cleaned.safetensors, to a policy of ours.

The file holds a whole training module: the denoiser, a FiLM-ResNet for each of two cameras and the
CLIP whose text half reads the goal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.encoders.film_resnet import FEATURES
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.images import ImageConfig
from telic.policy.encoders.language import CLIP_NAME, LanguageConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.published.imported import (
    CheckpointImportOptions,
    Imported,
    read_hydra,
    read_tensors,
    require_kinds,
    require_prefixes,
    require_same,
    require_switches,
    section,
    shapes_of,
    split_off,
    with_bounds,
)
from telic.policy.published.mode.denoiser import NUM_CAMERAS, mode_config, translate_mode
from telic.policy.published.openai_clip import text_tower
from telic.policy.published.robots import calvin
from telic.policy.published.sampling import EXAMPLES, edm_sampling

WEIGHTS = "model_cleaned.safetensors"
DENOISER, CLIP = "model.inner_model.", "language_goal.clip_rn50."
TOWERS = ("static_resnet.", "gripper_resnet.")
# names that the published loader still knows
LEGACY = {"img_encoder_image_primary.": TOWERS[0], "img_encoder_image_wrist.": TOWERS[1]}
DEAD = {
    f"{DENOISER}gripper_embed.weight": "a projection of the gripper's camera that is never applied",
    f"{CLIP}visual.*": "CLIP's image half: goals are sentences",
    f"{CLIP}logit_scale": "of CLIP's own training",
}
PLAIN = {  # switches of the published code, at the only value that its weights were trained with
    "use_argmax": False,
    "use_goal_in_routing": False,
    "use_shared_expert": False,
    "cond_router": True,
    "use_noise_token_as_input": True,
}


def recognises(source: Path) -> bool:
    """Return whether `source` looks like a published MoDE."""
    return (source / WEIGHTS).is_file()


def read(source: Path, options: CheckpointImportOptions) -> Imported:
    """Return the policy at `source`; ValueError names what does not fit."""
    path = source / "config.yaml"
    config = read_hydra(path)
    network = section(config, {"n_heads", "top_k"}, path)
    agent = section(config, {"num_sampling_steps", "sigma_min", "sigma_max"}, path)
    return convert(network, agent, read_tensors(source / WEIGHTS), options, path)


def convert(
    network: Mapping[str, Any],
    agent: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    options: CheckpointImportOptions,
    path: Path,
) -> Imported:
    """Return the policy of the sections `network` and `agent` of the config at `path`."""
    where = str(path.parent / WEIGHTS)
    tensors = {_current_name(name): tensor for name, tensor in tensors.items()}
    known = (DENOISER, CLIP, *TOWERS)
    require_prefixes(tensors, known, where)
    sizes = _sizes(split_off(tensors, DENOISER), where)
    require_kinds(network, {"n_heads": 8, "top_k": 2, "router_normalize": True}, path)
    require_kinds(agent, EXAMPLES, path)
    require_switches(network, PLAIN, path)
    require_same(network, sizes, path)
    ours = mode_config({"router_normalize": True, **network, **sizes})
    tower, weights = _towers(tensors, where)
    denoiser = translate_mode(ours, split_off(tensors, DENOISER))
    weights["conditioner.goal_encoder.text_in.weight"] = denoiser.pop("goal_in.weight")
    weights["conditioner.image_encoder.projections.0.weight"] = denoiser.pop("image_in.weight")
    clip = split_off(tensors, CLIP)
    interface = options.interface or calvin()
    return Imported(
        config=policy_config(ours, tower, sizes, agent, list(interface.images)),
        interface=with_bounds(interface, sizes["action_dim"], NUM_CAMERAS, where),
        weights=weights | denoiser,
        source=where,
        dead=DEAD,
        language=text_tower(clip, where) if clip else None,
    )


def policy_config(
    denoiser: ModeConfig,
    tower: str,
    sizes: Mapping[str, int],
    agent: Mapping[str, Any],
    cameras: list[str],
) -> PolicyConfig:
    """Return the policy around a published denoiser."""
    cameras = cameras[:NUM_CAMERAS]
    return PolicyConfig(
        denoiser=denoiser,
        action_horizon=sizes["action_seq_len"],
        use_state=False,
        images=ImageConfig(
            cameras=cameras,
            tower=tower,
            share_projection=True,
            resize=dict.fromkeys(cameras, 224),
            random_shift=10,
        ),
        goal=GoalConfig(
            language=LanguageConfig(encoder=CLIP_NAME, dim=sizes["goal_dim"]), element_dropout=0.1
        ),
        state=NormalizerConfig(scaling=Scaling.identity),
        action=NormalizerConfig(scaling=Scaling.identity),
        formulation=EdmConfig(sigma_data=float(agent.get("sigma_data", 0.5))),
        sampling=edm_sampling(agent),
    )


def _current_name(name: str) -> str:
    for old, new in LEGACY.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _sizes(denoiser: Mapping[str, Tensor], where: str) -> dict[str, int]:
    """Return the sizes of a published denoiser, read off its tensors, under the config's names."""
    names = {
        "pos_emb": 3,
        "goal_emb.weight": 2,
        "tok_emb.weight": 2,
        "action_emb.weight": 2,
        "blocks.0.attn.q_norm.g": 1,
        "blocks.0.router.router.mlp.3.weight": 2,
    }
    shapes = shapes_of(denoiser, names, where, DENOISER)
    (_, positions, width), goal, image, action, head, router = shapes
    blocks = {name.split(".")[1] for name in denoiser if name.startswith("blocks.")}
    return {
        "embed_dim": width,
        "goal_dim": goal[1],
        "obs_dim": image[1],
        "action_dim": action[1],
        "n_layers": len(blocks),
        "n_heads": width // head[0],
        "num_experts": router[0],
        "goal_seq_len": 1,
        "obs_seq_len": 1,
        "action_seq_len": positions - 1,
    }


def _towers(tensors: Mapping[str, Tensor], where: str) -> tuple[str, dict[str, Tensor]]:
    """Return which tower the cameras have and its tensors under our names."""
    weights: dict[str, Tensor] = {}
    found = ""
    for index, prefix in enumerate(TOWERS):
        theirs = split_off(tensors, prefix)
        found = found or _tower_name(theirs)
        table = dict(_tower_names(found, theirs))
        weights |= {
            f"conditioner.image_encoder.towers.{index}.network.{ours}": theirs[name]
            for ours, name in table.items()
        }
    return found, weights


def _tower_name(tensors: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("resnet.") for name in tensors):
        return "film_resnet18"
    bottleneck = "resnet.layer1.0.conv3.weight" in tensors
    name = "film_resnet50" if bottleneck else "film_resnet34"
    assert name in FEATURES
    return name


def _tower_names(tower: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield our name of each tensor of a published tower; one without a place keeps its own."""
    for name in tensors:
        head, _, rest = name.partition(".")
        if head == "resnet":
            yield f"body.{rest}", name
        elif head.startswith("film_module") and rest.startswith("modulation.1."):
            index = int(head.removeprefix("film_module")) - 1
            yield f"films.{index}.{rest.removeprefix('modulation.1.')}", name
        elif head.startswith("film") and head.removeprefix("film").isdigit():
            yield f"films.{int(head.removeprefix('film')) - 1}.{rest}", name
        elif head == "fc":
            yield f"out.{rest}", name
        else:
            yield (f"body.{name}" if tower == "film_resnet18" else name), name
