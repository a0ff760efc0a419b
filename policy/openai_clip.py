"""OpenAI's CLIP in the networks of `transformers`: names and sizes, read off the tensors.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision". A head
is 64 wide in all released sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from telic.policy.published_weights import Names, translate
from telic.policy.tensors import load_exactly

HEAD = 64
LOGIT_SCALE = "logit_scale"  # of the contrastive training, used by no tower


def text_tower(published: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return a CLIPTextModelWithProjection, f32, with the weights of a whole CLIP's text half.

    ValueError, which begins with `where`, for a name that is absent or unknown, or a shape that
    does not fit. Names of the image half (`visual.`) are passed over.
    """
    import transformers  # takes seconds

    text = {k: v for k, v in published.items() if not k.startswith("visual.")}
    vocabulary, width = _shape(text, "token_embedding.weight", 2, where)
    positions, _ = _shape(text, "positional_embedding", 2, where)
    _, projection = _shape(text, "text_projection", 2, where)
    layers = _num_layers(text, "transformer.resblocks.")
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


def _load(model: Any, names: Names, published: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return `model` with the weights of `published`, the queries, keys and values taken apart."""
    joined = translate(names, published, where, dead=[LOGIT_SCALE])
    ours: dict[str, Tensor] = {}
    for name, tensor in joined.items():
        if ".self_attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                ours[name.replace(".qkv.", f".{part}_proj.")] = piece.float()
        else:
            transposed = name.endswith("_projection.weight")  # CLIP multiplies from the right
            ours[name] = (tensor.T if transposed else tensor).float().contiguous()
    model.float()
    load_exactly(model, ours, where)
    return model.eval()


def _text_names(layers: int) -> Names:
    yield "text_projection.weight", ["text_projection"]
    yield "text_model.embeddings.token_embedding.weight", ["token_embedding.weight"]
    yield "text_model.embeddings.position_embedding.weight", ["positional_embedding"]
    for part in ("weight", "bias"):
        yield f"text_model.final_layer_norm.{part}", [f"ln_final.{part}"]
    for layer in range(layers):
        ours, theirs = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        yield from _layer_names(ours, theirs)


def _layer_names(ours: str, theirs: str) -> Names:
    for part in ("weight", "bias"):
        yield f"{ours}.self_attn.qkv.{part}", [f"{theirs}.attn.in_proj_{part}"]
        yield f"{ours}.self_attn.out_proj.{part}", [f"{theirs}.attn.out_proj.{part}"]
        for number in "12":
            yield f"{ours}.layer_norm{number}.{part}", [f"{theirs}.ln_{number}.{part}"]
        yield f"{ours}.mlp.fc1.{part}", [f"{theirs}.mlp.c_fc.{part}"]
        yield f"{ours}.mlp.fc2.{part}", [f"{theirs}.mlp.c_proj.{part}"]


def _num_layers(published: Mapping[str, Tensor], prefix: str) -> int:
    return len({n.removeprefix(prefix).split(".")[0] for n in published if n.startswith(prefix)})


def _shape(published: Mapping[str, Tensor], name: str, rank: int, where: str) -> torch.Size:
    """Return the shape of a tensor that sizes are read off."""
    if name not in published:
        raise ValueError(f"{where}: no tensor {name}")
    if published[name].ndim != rank:
        raise ValueError(f"{where}: {name} is {tuple(published[name].shape)}, expected {rank} axes")
    return published[name].shape
