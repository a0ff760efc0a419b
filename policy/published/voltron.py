"""The published Voltron (v-cond) under our names, and what its language model makes of nothing.

MDT-V's file holds the whole of it: the encoder, the decoder that its pretraining completed pictures
with, and DistilBERT (Sanh et al. 2019), whose output for the null sentence is all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from telic.policy.encoders.voltron import DEPTH, NUM_WORDS, WIDTH
from telic.policy.layers.tensors import load_exactly
from telic.policy.published.imported import shapes_of, split_off
from telic.policy.published.openai_clip import HEAD, num_layers
from telic.policy.published.weights import Names, require_shape, translate

LANGUAGE_MODEL = "lm."
CLS = 101  # the number of the first word of every sentence
FIRST_HIDDEN = "transformer.layer.0.ffn.lin1"
OLD_BUFFER = "embeddings.position_ids"  # 0, 1, 2, ...; written by some versions of the model
DECODER = (
    *("mask_token", "decoder_pe", "encoder2decoder.", "decoder_blocks."),
    *("decoder_norm.", "decoder_prediction."),
)
DEAD = {
    **{
        f"{name}*" if name.endswith(".") else name: "Voltron's decoder of masked pictures"
        for name in DECODER
    },
    f"{LANGUAGE_MODEL}*": "Voltron's DistilBERT, of which its output for the null sentence is kept",
}


def translate_voltron(published: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of a published v-cond under the names of `voltron.Voltron`, f32.

    The null sentence passes through its language model here, once. ValueError, which begins with
    `where`, for a name that is absent or unknown, or a tensor of another shape.
    """
    encoder = {
        name: tensor
        for name, tensor in published.items()
        if not name.startswith((LANGUAGE_MODEL, *DECODER))
    }
    require_shape(encoder, "patch2embed.proj.bias", (WIDTH,), where)
    ours = translate(_names(), encoder, where)
    ours["patch_in.bias"] = ours["patch_in.bias"] + ours.pop("image_token").flatten()
    words = null_sentence(split_off(published, LANGUAGE_MODEL), f"{where}: lm")
    into, bias, token = (ours.pop(f"words_in.{part}") for part in ("weight", "bias", "token"))
    if into.shape != (WIDTH, words.shape[1]):
        raise ValueError(
            f"{where}: lang2encoder.weight is {tuple(into.shape)}, expected "
            f"{(WIDTH, words.shape[1])}, for the language model's words are {words.shape[1]} wide"
        )
    ours["null_sentence"] = words @ into.T + bias + token.flatten()
    ours["positions"] = ours["positions"].squeeze(0)
    return ours


@torch.no_grad()
def null_sentence(published: Mapping[str, Tensor], where: str) -> Tensor:
    """Return what DistilBERT makes of [CLS] and 19 blanks that it does not attend to, f32 [20 D].

    published: its tensors by the names of `transformers`.
    """
    import transformers  # takes seconds

    tensors = {name: tensor for name, tensor in published.items() if name != OLD_BUFFER}
    names = ("embeddings.word_embeddings", "embeddings.position_embeddings", FIRST_HIDDEN)
    shapes = shapes_of(tensors, {f"{name}.weight": 2 for name in names}, where)
    (vocabulary, width), (positions, _), (hidden, _) = shapes
    if vocabulary <= CLS or positions < NUM_WORDS or width % HEAD:
        raise ValueError(
            f"{where}: {vocabulary} words, {positions} positions, width {width}; expected more "
            f"than {CLS}, at least {NUM_WORDS} and a multiple of {HEAD}"
        )
    model = transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=vocabulary,
            dim=width,
            n_heads=width // HEAD,
            n_layers=num_layers(tensors, "transformer.layer."),
            hidden_dim=hidden,
            max_position_embeddings=positions,
        )
    ).eval()
    load_exactly(model, {name: tensor.float() for name, tensor in tensors.items()}, where)
    first = torch.arange(NUM_WORDS) == 0
    attention_mask = torch.zeros(1, 1, NUM_WORDS, NUM_WORDS).masked_fill(~first, torch.finfo().min)
    encoded: Tensor = model(
        input_ids=first[None] * CLS, attention_mask=attention_mask
    ).last_hidden_state
    return encoded[0]


def _names() -> Names:
    """Yield our name of each tensor of the encoder with its published one, and parts of ours."""
    yield "positions", ["encoder_pe"]
    yield "image_token", ["img_token"]
    yield "words_in.token", ["lang_token"]
    yield "norm.gain", ["encoder_norm.g"]
    for part in ("weight", "bias"):
        yield f"patch_in.{part}", [f"patch2embed.proj.{part}"]
        yield f"words_in.{part}", [f"lang2encoder.{part}"]
    yield from block_names("blocks", "encoder_blocks", DEPTH)


def block_names(ours: str, theirs: str, depth: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of `depth` of our `ScaledBlock` with Voltron's."""
    for layer in range(depth):
        us, them = f"{ours}.{layer}", f"{theirs}.{layer}"
        for branch, published in (("attention", "attn"), ("mlp", "mlp")):
            yield f"{us}.{branch}_norm.gain", [f"{them}.pre_norm_{published}.g"]
            yield f"{us}.{branch}_scale", [f"{them}.layer_scale_{published}.gamma"]
        for part in ("weight", "bias"):
            yield f"{us}.attention.to_qkv.{part}", [f"{them}.attn.qkv.{part}"]
            yield f"{us}.attention.to_out.{part}", [f"{them}.attn.proj.{part}"]
            yield f"{us}.mlp.up.{part}", [f"{them}.mlp.0.project.{part}"]
            yield f"{us}.mlp.down.{part}", [f"{them}.mlp.2.{part}"]
