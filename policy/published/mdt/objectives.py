"""MDT's two objectives as published, under our names: sizes and weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.published.imported import shapes_of
from telic.policy.published.openai_clip import num_layers
from telic.policy.published.voltron import block_names
from telic.policy.published.weights import Names, translate

POSITIONS = "decoder_pe"  # of foresight: fixed sines and cosines, which are computed here


def foresight_config(published: Mapping[str, Tensor], where: str) -> ForesightConfig:
    """Return the published foresight at the sizes of these tensors (heads: the published 8)."""
    ranks = {POSITIONS: 3, "patch2embed.proj.weight": 4}
    (_, places, width), patch = shapes_of(published, ranks, where)
    config = ForesightConfig.published()
    config.patch, config.width = patch[-1], width
    config.side = patch[-1] * round(places**0.5)
    config.num_layers = num_layers(published, "decoder_blocks.")
    return config


def translate_foresight(
    config: ForesightConfig, published: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the tensors of `gen_img` under the names of our `Foresight`.

    ValueError, which begins with `where`, for a name that is absent or unknown.
    """
    ours = translate(_foresight_names(config), published, where, dead=[POSITIONS])
    ours["mask_token"] = ours["mask_token"].flatten()
    ours["camera_positions"] = ours["camera_positions"].squeeze(0)
    ours["patch_in.weight"] = ours["patch_in.weight"].permute(0, 2, 3, 1).flatten(1)
    return ours


def translate_pool(published: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of MDT-V's `clip_proj` under the names of our `LatentPool`.

    ValueError, which begins with `where`, for a name that is absent or unknown.
    """
    return translate(_pool_names(), published, where)


def _foresight_names(config: ForesightConfig) -> Names:
    yield "mask_token", ["mask_token"]
    yield "camera_positions", ["ctx_dec_pe"]
    yield "norm.gain", ["decoder_norm.g"]
    for part in ("weight", "bias"):
        yield f"patch_in.{part}", [f"patch2embed.proj.{part}"]
        yield f"latent_in.{part}", [f"encoder2decoder.{part}"]
        yield f"patch_out.{part}", [f"decoder_patch_prediction.{part}"]
    yield from block_names("blocks", "decoder_blocks", config.num_layers)


def _pool_names() -> Names:
    at = "latent_proj"
    yield "query", [f"{at}.latents"]
    yield "to_q.weight", [f"{at}.attn.q.weight"]
    yield "to_kv.weight", [f"{at}.attn.kv.weight"]
    yield "attention_norm.gain", [f"{at}.attn_norm.g"]
    yield "mlp_norm.gain", [f"{at}.mlp_norm.g"]
    for part in ("weight", "bias"):
        yield f"tokens_in.{part}", [f"{at}.projection.{part}"]
        yield f"to_out.{part}", [f"{at}.attn.proj.{part}"]
        yield f"mlp.up.{part}", [f"{at}.mlp.0.project.{part}"]
        yield f"mlp.down.{part}", [f"{at}.mlp.1.{part}"]
