"""The published MoDE denoiser: its names and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.mode import Mode, ModeConfig
from telic.policy.layers.tensors import load_exactly
from telic.policy.published.weights import translate
from telic.policy.routing.noise import NoiseRoutingConfig

WHERE = "published MoDE weights"
NUM_CAMERAS = 2  # static, gripper
DEAD = "gripper_embed.weight"  # in the published files, used by nothing


class PublishedMode(nn.Module):
    """Our Mode behind the published projections of goal vectors and image features."""

    def __init__(self, config: ModeConfig, sizes: Sizes, goal_dim: int, image_dim: int) -> None:
        super().__init__()
        self.goal_in = nn.Linear(goal_dim, config.width, bias=False)
        self.image_in = nn.Linear(image_dim, config.width, bias=False)
        self.denoiser = Mode(config, sizes)

    def forward(self, x: Tensor, sigma: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the network's output [B H A]; inputs: goal [B G .], state_images [B V .]."""
        images = self.image_in(inputs["state_images"])
        context = Context(goal=self.goal_in(inputs["goal"]), images=images, state=images[:, :0])
        actions: Tensor = self.denoiser(x, sigma, self.denoiser.encode(context)).actions
        return actions


def build(config: Mapping[str, Any], state_dict: dict[str, Tensor]) -> PublishedMode:
    """Return the network of a published `config` with the weights of `state_dict`."""
    sizes = Sizes(
        num_goals=config["goal_seq_len"],
        num_images=NUM_CAMERAS * config["obs_seq_len"],
        num_states=0,
        action_horizon=config["action_seq_len"],
        action_dim=config["action_dim"],
    )
    ours = mode_config(config)
    network = PublishedMode(ours, sizes, config["goal_dim"], config["obs_dim"])
    load_exactly(network, translate_mode(ours, state_dict), WHERE)
    return network


def mode_config(config: Mapping[str, Any]) -> ModeConfig:
    """Return our config of a published one."""
    return dataclasses.replace(
        ModeConfig.published(),
        width=config["embed_dim"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        feed_forward=config["top_k"] * 4 * config["embed_dim"],
        routing=NoiseRoutingConfig(
            num_experts=config["num_experts"],
            top_k=config["top_k"],
            normalize_gates=config["router_normalize"],
        ),
    )


def translate_mode(config: ModeConfig, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `published` under our names; ValueError for a name that is absent or unknown."""
    ours = translate(_published_names(config), published, WHERE, dead=[DEAD], join=_join)
    ours["denoiser.positions"] = ours["denoiser.positions"].squeeze(0)
    return ours


def _join(key: str, tensors: list[Tensor]) -> Tensor:
    """Return as one tensor what the published code keeps apart."""
    if key.endswith(("routers.weight", "weight_in", "qk_gain")):
        return torch.stack(tensors)
    if key.endswith("weight_out"):
        return torch.stack([tensor.T for tensor in tensors])
    return torch.cat(tensors)


def _published_names(config: ModeConfig) -> Iterator[tuple[str, list[str]]]:
    """Yield each of our names with the published names of what it is made of."""
    yield "goal_in.weight", ["goal_emb.weight"]
    yield "image_in.weight", ["tok_emb.weight"]
    yield "denoiser.positions", ["pos_emb"]
    yield "denoiser.action_in.weight", ["action_emb.weight"]
    yield "denoiser.sigma_embedding.expand.weight", ["sigma_emb.weight"]
    yield "denoiser.sigma_embedding.expand.bias", ["sigma_emb.bias"]
    yield "denoiser.sigma_embedding.mix.weight", ["sigma_linear.weight"]
    yield "denoiser.norm.gain", ["ln.g"]
    yield "denoiser.action_out.weight", ["out.weight"]
    yield "denoiser.action_out.bias", ["out.bias"]
    assert isinstance(config.routing, NoiseRoutingConfig)
    layers = range(config.num_layers)
    routers = [f"blocks.{layer}.router.router.mlp" for layer in layers]
    yield "denoiser.routing.routers.hidden.weight", [f"{router}.0.weight" for router in routers]
    yield "denoiser.routing.routers.hidden.bias", [f"{router}.0.bias" for router in routers]
    yield "denoiser.routing.routers.weight", [f"{router}.3.weight" for router in routers]
    yield "denoiser.routing.routers.bias", [f"{router}.3.bias" for router in routers]
    for layer in layers:
        ours, theirs = f"denoiser.blocks.{layer}", f"blocks.{layer}"
        experts = [f"{theirs}.experts.expert_{n}.mlp" for n in range(config.routing.num_experts)]
        yield f"{ours}.attention_norm.gain", [f"{theirs}.ln_1.g"]
        yield f"{ours}.routed_norm.gain", [f"{theirs}.ln_2.g"]
        for part in ("weight", "bias"):
            qkv = [f"{theirs}.attn.{name}.{part}" for name in ("query", "key", "value")]
            yield f"{ours}.attention.to_qkv.{part}", qkv
        yield f"{ours}.attention.to_out.weight", [f"{theirs}.attn.c_proj.weight"]
        yield f"{ours}.attention.qk_gain", [f"{theirs}.attn.{n}_norm.g" for n in "qk"]
        yield f"{ours}.routed.experts.weight_in", [f"{e}.0.project.weight" for e in experts]
        yield f"{ours}.routed.experts.bias_in", [f"{e}.0.project.bias" for e in experts]
        yield f"{ours}.routed.experts.weight_out", [f"{e}.2.weight" for e in experts]
