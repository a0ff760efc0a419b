"""MDT's or MDT-V's Lightning checkpoint (.ckpt, with .hydra/config.yaml) to a policy of ours.

It holds a whole training module: the denoiser, what the two cameras are seen through (a ResNet-18
each; MDT-V: Voltron and a perceiver), the CLIP whose text half reads sentences, another whose image
half sees pictures of the goal, and what its two objectives train. The averaged weights, by which
results were published, are a list without names, in the order of the raw ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from telic.policy.config import PolicyConfig
from telic.policy.diffusion.edm import EdmConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.published.imported import (
    CheckpointImportOptions,
    Imported,
    read_hydra,
    require_kinds,
    require_prefixes,
    require_same,
    require_switches,
    section,
    shapes_of,
    split_off,
    with_bounds,
)
from telic.policy.published.mdt.denoiser import network_of, translate_mdt
from telic.policy.published.mdt.objectives import POSITIONS
from telic.policy.published.mdt.parts import (
    DENOISER,
    FORESIGHT,
    LOG_SCALE,
    PERCEIVER,
    PICTURES,
    POOL,
    TOWERS,
    VOLTRON_AT,
    goals_of,
    objectives_of,
    perceived,
    resnets,
)
from telic.policy.published.openai_clip import text_tower
from telic.policy.published.pickles import read_pickle
from telic.policy.published.robots import calvin
from telic.policy.published.sampling import EXAMPLES, edm_sampling
from telic.policy.published.voltron import DEAD as DEAD_VOLTRON

CONFIG = Path(".hydra") / "config.yaml"
CLIP = "language_goal.clip_rn50."  # the text half of this one reads sentences
DEAD = {
    f"{DENOISER}proprio_emb.*": "a path for the robot's state that is never taken",
    f"{CLIP}visual.*": "the image half of the CLIP that reads sentences",
    f"{CLIP}logit_scale": "of CLIP's own training",
    f"{PICTURES}*": "the text half of the CLIP that sees pictures of the goal; visual.* is used",
    f"{FORESIGHT}{POSITIONS}": "sines and cosines, which are computed here",
}
DEAD_MDT = {f"{DENOISER}pos_emb (rows after the second)": "actions have no positions"}
DEAD_MDTV = {
    f"{DENOISER}pos_emb": "no token has a position",
    **{f"{VOLTRON_AT}{name}": reason for name, reason in DEAD_VOLTRON.items()},
}
_NEED_CLIP = "contrastive alignment, which needs the CLIP of goal pictures, absent from the file"
WITHOUT_PICTURES_MDT = {LOG_SCALE: _NEED_CLIP, f"{DENOISER}lang_emb.*": _NEED_CLIP}
WITHOUT_PICTURES_MDTV = {
    LOG_SCALE: _NEED_CLIP,
    f"{POOL}*": _NEED_CLIP,
    f"{DENOISER}goal_emb.*": "the projection of those pictures' vectors",
}
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


def read(source: Path, options: CheckpointImportOptions) -> Imported:
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
    options: CheckpointImportOptions,
    file: Path,
) -> Imported:
    """Return the policy of a run's config sections `network` and `agent` and its weights."""
    where = str(file)
    perceives = any(name.startswith(PERCEIVER) for name in tensors)
    eyes = (VOLTRON_AT, PERCEIVER, POOL) if perceives else TOWERS
    require_prefixes(tensors, (DENOISER, CLIP, PICTURES, FORESIGHT, LOG_SCALE, *eyes), where)
    require_kinds(network, {"n_heads": 8}, where)
    require_kinds(agent, EXAMPLES, where)
    require_switches(network, PLAIN, where)
    sizes = _sizes(tensors, perceives, where)
    require_same(network, sizes, file)
    heads = {"n_heads": network["n_heads"], "modality": "lang"}
    with torch.device("meta"):
        denoiser = network_of({**sizes, **heads}, perceives=perceives)
    weights = translate_mdt(denoiser, split_off(tensors, DENOISER))
    ours = {k: v for k, v in weights.items() if k.startswith("denoiser.")}
    interface = with_bounds(options.interface or calvin(), sizes["action_dim"], 2, where)
    cameras = list(interface.images)
    images, image_weights = (perceived if perceives else resnets)(tensors, weights, cameras, where)
    goal, aimed = goals_of(tensors, weights, sizes, cameras[0], perceives, where)
    foresight, alignment, learnt = objectives_of(tensors, weights, goal, perceives, where)
    config = PolicyConfig(
        denoiser=denoiser.denoiser.config,
        action_horizon=sizes["action_seq_len"],
        use_state=False,
        images=images,
        goal=goal,
        state=NormalizerConfig(scaling=Scaling.identity),
        action=NormalizerConfig(scaling=Scaling.identity),
        formulation=EdmConfig(sigma_data=float(agent.get("sigma_data", 0.5))),
        sampling=edm_sampling(agent),
        foresight=foresight,
        alignment=alignment,
    )
    dead = DEAD | (DEAD_MDTV if perceives else DEAD_MDT)
    if not goal.images:
        dead |= WITHOUT_PICTURES_MDTV if perceives else WITHOUT_PICTURES_MDT
    clip = split_off(tensors, CLIP)
    return Imported(
        config=config,
        interface=interface,
        weights=ours | image_weights | aimed | learnt,
        source=where,
        dead=dead,
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


def _sizes(tensors: Mapping[str, Tensor], perceives: bool, where: str) -> dict[str, int]:
    """Return the sizes of a published denoiser, read off the tensors, under the config's names."""
    denoiser = split_off(tensors, DENOISER)
    names = {"pos_emb": 3, "tok_emb.weight": 2, "goal_emb.0.weight": 2, "action_pred.weight": 2}
    (_, positions, width), image, goal, action = shapes_of(denoiser, names, where, DENOISER)
    layers = {
        part: len({n.split(".")[2] for n in denoiser if n.startswith(f"{part}.blocks.")})
        for part in ("encoder", "decoder")
    }
    image_tokens = {}
    if perceives:
        ((latents, _),) = shapes_of(tensors, {f"{PERCEIVER}latents": 2}, where)
        image_tokens = {"n_obs_token": latents}
    return {
        **image_tokens,
        "embed_dim": width,
        "goal_dim": goal[1],
        "obs_dim": image[1],
        "action_dim": action[0],
        "n_enc_layers": layers["encoder"],
        "n_dec_layers": layers["decoder"],
        "goal_seq_len": 1,
        "obs_seq_len": 1,
        "action_seq_len": positions - 1 - sum(image_tokens.values()),
    }
