"""OpenAI's CLIP in the networks of `transformers`: names and sizes, read off the tensors.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision". A head
is 64 wide in all released sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from telic.policy.encoders.clip_vision import HEAD, ClipVisionConfig
from telic.policy.layers.tensors import load_exactly
from telic.policy.published.imported import shapes_of, split_off
from telic.policy.published.weights import Names, translate

IMAGES = "visual."  # what names of the image half begin with
LOGIT_SCALE = "logit_scale"  # of the contrastive training, used by no tower


def text_tower(published: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return a CLIPTextModelWithProjection, f32, with the weights of a whole CLIP's text half.

    ValueError, which begins with `where`, for a name that is absent or unknown, or a shape that
    does not fit. Names of the image half (`visual.`) are passed over.
    """
    import transformers  # takes seconds

    text = {k: v for k, v in published.items() if not k.startswith(IMAGES)}
    ranks = {"token_embedding.weight": 2, "positional_embedding": 2, "text_projection": 2}
    (vocabulary, width), (positions, _), (_, projection) = shapes_of(text, ranks, where)
    layers = num_layers(text, "transformer.resblocks.")
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=positions,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return _load(transformers.CLIPTextModelWithProjection(config), _text_names(layers), text, where)


def image_half(
    published: Mapping[str, Tensor], where: str
) -> tuple[ClipVisionConfig, dict[str, Tensor]]:
    """Return the sizes of a whole CLIP's image half and its weights, f32, by `ClipVision`'s names.

    ValueError, which begins with `where`, for a name that is absent or unknown, or a shape that
    does not fit. Names of the text half are passed over.
    """
    images = split_off(published, IMAGES)
    ranks = {"conv1.weight": 4, "positional_embedding": 2, "proj": 2}
    (width, _, patch, _), (places, _), (_, out) = shapes_of(images, ranks, where)
    layers = num_layers(images, "transformer.resblocks.")
    side = patch * round((places - 1) ** 0.5)
    config = ClipVisionConfig(side=side, patch=patch, width=width, layers=layers, out=out)
    return config, {f"model.{k}": v for k, v in _parts(_image_names(layers), images, where)}


def _load(model: Any, names: Names, published: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return `model` with the weights of `published`."""
    model.float()
    load_exactly(model, dict(_parts(names, published, where)), where)
    return model.eval()


def _parts(
    names: Names, published: Mapping[str, Tensor], where: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor by our name, f32, queries, keys and values taken apart."""
    for name, tensor in translate(names, published, where, dead=[LOGIT_SCALE]).items():
        if ".self_attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                yield name.replace(".qkv.", f".{part}_proj."), piece.float()
        else:
            transposed = name.endswith("_projection.weight")  # CLIP multiplies from the right
            yield name, (tensor.T if transposed else tensor).float().contiguous()


def _text_names(layers: int) -> Names:
    yield "text_projection.weight", ["text_projection"]
    yield "text_model.embeddings.token_embedding.weight", ["token_embedding.weight"]
    yield "text_model.embeddings.position_embedding.weight", ["positional_embedding"]
    for part in ("weight", "bias"):
        yield f"text_model.final_layer_norm.{part}", [f"ln_final.{part}"]
    for layer in range(layers):
        ours, theirs = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        yield from _layer_names(ours, theirs)


def _image_names(layers: int) -> Names:
    yield "visual_projection.weight", ["proj"]
    ours = "vision_model.embeddings"
    yield f"{ours}.class_embedding", ["class_embedding"]
    yield f"{ours}.patch_embedding.weight", ["conv1.weight"]
    yield f"{ours}.position_embedding.weight", ["positional_embedding"]
    for part in ("weight", "bias"):
        yield f"vision_model.pre_layrnorm.{part}", [f"ln_pre.{part}"]
        yield f"vision_model.post_layernorm.{part}", [f"ln_post.{part}"]
    for layer in range(layers):
        ours, theirs = f"vision_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        yield from _layer_names(ours, theirs)


def _layer_names(ours: str, theirs: str) -> Names:
    for part in ("weight", "bias"):
        yield f"{ours}.self_attn.qkv.{part}", [f"{theirs}.attn.in_proj_{part}"]
        yield f"{ours}.self_attn.out_proj.{part}", [f"{theirs}.attn.out_proj.{part}"]
        for number in "12":
            yield f"{ours}.layer_norm{number}.{part}", [f"{theirs}.ln_{number}.{part}"]
        yield f"{ours}.mlp.fc1.{part}", [f"{theirs}.mlp.c_fc.{part}"]
        yield f"{ours}.mlp.fc2.{part}", [f"{theirs}.mlp.c_proj.{part}"]


def num_layers(published: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many layers there are, whose names go on with a number after `prefix`."""
    return len({n.removeprefix(prefix).split(".")[0] for n in published if n.startswith(prefix)})
