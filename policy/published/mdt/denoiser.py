"""The published denoisers of MDT and MDT-V, and MDT-V's perceiver: their names and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.mdt import Mdt, MdtConfig
from telic.policy.layers.feed_forward import goal_mlp
from telic.policy.layers.perceiver import PerceiverConfig
from telic.policy.layers.tensors import load_exactly
from telic.policy.published.weights import require_shape, translate

# in the published files, used by nothing: a path for the robot's state that is never taken
DEAD = [f"proprio_emb.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
POSITIONS = "pos_emb"  # MDT-V's is dead; MDT uses the first rows alone


class PublishedMdt(nn.Module):
    """Our Mdt behind the published projections of goal vectors and image features.

    MDT has a projection per camera, MDT-V one for the perceiver's tokens. Of the two projections of
    goals, MDT takes the one for images whatever the goal is, in denoising; the one for text serves
    its contrastive objective.
    """

    def __init__(
        self, config: MdtConfig, sizes: Sizes, goal_dim: int, image_dims: list[int], goal: str
    ) -> None:
        """`goal`: which projection goals take, "text" or "image"."""
        super().__init__()
        self.goal = goal
        self.goal_in = nn.ModuleDict(
            {name: goal_mlp(goal_dim, config.width) for name in ("text", "image")}
        )
        self.images_in = nn.ModuleList(nn.Linear(dim, config.width) for dim in image_dims)
        self.denoiser = Mdt(config, sizes)

    def forward(self, x: Tensor, sigma: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the network's output [B H A].

        inputs: goal [B G .], and static, gripper [B 1 .] (MDT) or state_images [B N .] (MDT-V).
        """
        names = ["static", "gripper"] if len(self.images_in) == 2 else ["state_images"]
        images = torch.cat(
            [project(inputs[name]) for name, project in zip(names, self.images_in, strict=True)],
            1,
        )
        goal = self.goal_in[self.goal](inputs["goal"])
        context = Context(goal=goal, images=images, state=images[:, :0])
        actions: Tensor = self.denoiser(x, sigma, self.denoiser.encode(context)).actions
        return actions


def network_of(config: Mapping[str, Any], *, perceives: bool) -> PublishedMdt:
    """Return the network of a published `config` with random weights; perceives: MDT-V."""
    sizes = Sizes(
        num_goals=config["goal_seq_len"],
        num_images=config["obs_seq_len"] * (config["n_obs_token"] if perceives else 2),
        num_states=0,
        action_horizon=config["action_seq_len"],
        action_dim=config["action_dim"],
    )
    ours = dataclasses.replace(
        MdtConfig.published_v() if perceives else MdtConfig.published(),
        width=config["embed_dim"],
        num_heads=config["n_heads"],
        encoder_layers=config["n_enc_layers"],
        decoder_layers=config["n_dec_layers"],
        hidden=4 * config["embed_dim"],
    )
    goal = "text" if perceives and config["modality"] == "lang" else "image"
    image_dims = [config["obs_dim"]] * (1 if perceives else 2)
    return PublishedMdt(ours, sizes, config["goal_dim"], image_dims, goal)


def build_mdt(config: Mapping[str, Any], state_dict: dict[str, Tensor]) -> PublishedMdt:
    """Return MDT's network of a published `config` with the weights of `state_dict`."""
    network = network_of(config, perceives=False)
    load_exactly(network, translate_mdt(network, state_dict), "published MDT weights")
    return network


def build_mdtv(config: Mapping[str, Any], state_dict: dict[str, Tensor]) -> PublishedMdt:
    """Return MDT-V's network of a published `config` with the weights of `state_dict`."""
    network = network_of(config, perceives=True)
    load_exactly(network, translate_mdt(network, state_dict), "published MDT-V weights")
    return network


def translate_mdt(network: PublishedMdt, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published denoiser under the names of `network`.

    ValueError for a name that is absent or unknown, or a tensor of another shape.
    """
    sizes, positions = network.denoiser.sizes, network.denoiser.positions
    where = f"published {'MDT-V' if positions is None else 'MDT'} weights"
    dead = [*DEAD, POSITIONS] if positions is None else DEAD
    num_positions = sizes.num_goals + sizes.action_horizon
    if positions is None:
        num_positions += sizes.num_images
    shape = (1, num_positions, network.denoiser.config.width)
    require_shape(published, POSITIONS, shape, where)
    wanted = network.state_dict()
    wanted.pop("denoiser.positions", None)  # theirs are more than are used
    ours = translate(published_names(network), published, where, dead=dead, wanted=wanted)
    if positions is not None:
        ours["denoiser.positions"] = ours["denoiser.positions"][0, : len(positions)]
    return ours


def published_names(network: PublishedMdt) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of `network` with the published names of what it is made of."""
    config, both = network.denoiser.config, ("weight", "bias")
    if network.denoiser.positions is not None:
        yield "denoiser.positions", [POSITIONS]
    for part in both:
        for ours, theirs in (("text", "lang_emb"), ("image", "goal_emb")):
            for layer in (0, 2):
                yield f"goal_in.{ours}.{layer}.{part}", [f"{theirs}.{layer}.{part}"]
        for index, name in enumerate(["tok_emb", "incam_embed"][: len(network.images_in)]):
            yield f"images_in.{index}.{part}", [f"{name}.{part}"]
        yield f"denoiser.action_in.{part}", [f"action_emb.{part}"]
        yield f"denoiser.action_out.{part}", [f"action_pred.{part}"]
        yield f"denoiser.sigma_embedding.expand.{part}", [f"sigma_emb.1.{part}"]
        yield f"denoiser.sigma_embedding.mix.{part}", [f"sigma_emb.3.{part}"]
        blocks = [f"decoder.blocks.{layer}" for layer in range(config.decoder_layers)]
        yield f"denoiser.to_keys.{part}", [f"{block}.cross_att.key.{part}" for block in blocks]
        yield f"denoiser.to_values.{part}", [f"{block}.cross_att.value.{part}" for block in blocks]
        modulation = "adaLN_zero.modulation.1"
        yield f"denoiser.to_modulation.{part}", [f"{b}.{modulation}.{part}" for b in blocks]
    yield "denoiser.encoder_norm.weight", ["encoder.ln.weight"]
    yield "denoiser.decoder_norm.weight", ["decoder.ln.weight"]
    for layer in range(config.encoder_layers):
        yield from _layer_names(f"denoiser.encoder.{layer}", f"encoder.blocks.{layer}")
    for layer in range(config.decoder_layers):
        ours, theirs = f"denoiser.decoder.{layer}", f"decoder.blocks.{layer}"
        yield from _layer_names(ours, theirs)
        yield f"{ours}.to_out.weight", [f"{theirs}.cross_att.c_proj.weight"]
        for part in both:
            yield f"{ours}.to_queries.{part}", [f"{theirs}.cross_att.query.{part}"]
            yield f"{ours}.memory_norm.{part}", [f"{theirs}.ln3.{part}"]


def _layer_names(ours: str, theirs: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what layers of encoder and decoder have alike."""
    for part in ("weight", "bias"):
        qkv = [f"{theirs}.attn.{name}.{part}" for name in ("query", "key", "value")]
        yield f"{ours}.attention.to_qkv.{part}", qkv
    yield f"{ours}.attention.to_out.weight", [f"{theirs}.attn.c_proj.weight"]
    yield f"{ours}.attention_norm.weight", [f"{theirs}.ln_1.weight"]
    yield f"{ours}.forward_norm.weight", [f"{theirs}.ln_2.weight"]
    yield f"{ours}.feed_forward.0.weight", [f"{theirs}.mlp.c_fc.weight"]
    yield f"{ours}.feed_forward.2.weight", [f"{theirs}.mlp.c_proj.weight"]


def perceiver_names(config: PerceiverConfig) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of a `Perceiver` with the published names of what it is made of.

    The frame's position is [1 1 D] there, [1 D] with us.
    """
    yield "latents", ["latents"]
    yield "frame_positions", ["time_pos_emb"]
    for part in ("weight", "bias"):
        yield f"norm.{part}", [f"norm.{part}"]
    for layer in range(config.depth):
        ours, attention, forward = f"layers.{layer}", f"layers.{layer}.0", f"layers.{layer}.1"
        for part in ("weight", "bias"):
            yield f"{ours}.token_norm.{part}", [f"{attention}.norm_media.{part}"]
            yield f"{ours}.latent_norm.{part}", [f"{attention}.norm_latents.{part}"]
            yield f"{ours}.forward_norm.{part}", [f"{forward}.0.{part}"]
        yield f"{ours}.to_queries.weight", [f"{attention}.to_q.weight"]
        keys_values = [f"{attention}.to_k.weight", f"{attention}.to_v.weight"]
        yield f"{ours}.to_keys_values.weight", keys_values
        yield f"{ours}.to_out.weight", [f"{attention}.to_out.weight"]
        yield f"{ours}.feed_forward.0.weight", [f"{forward}.1.weight"]
        yield f"{ours}.feed_forward.2.weight", [f"{forward}.3.weight"]


def translate_perceiver(
    config: PerceiverConfig, published: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of MDT-V's published perceiver under the names of our `Perceiver`."""
    ours = translate(perceiver_names(config), published, "published MDT-V perceiver")
    ours["frame_positions"] = ours["frame_positions"].squeeze(1)
    return ours
