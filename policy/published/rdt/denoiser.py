"""The published RDT denoiser: its names, its sizes, its outputs.

Its image tokens come frame by frame, each with all cameras; ours camera by camera, each with all
frames. The tokens and their positions are put into our order on the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from telic.policy.denoisers.context import Context, Sizes
from telic.policy.denoisers.rdt import Rdt, RdtConfig
from telic.policy.diffusion.ddpm import Betas, Ddpm, DdpmConfig, PredictionType, timestep_sigmas
from telic.policy.diffusion.formulation import squared_error
from telic.policy.diffusion.samplers import dpmpp_2m
from telic.policy.diffusion.schedules import Spacing, discrete
from telic.policy.layers.feed_forward import Adaptor
from telic.policy.layers.norms import Norm
from telic.policy.layers.tensors import load_exactly
from telic.policy.published.weights import translate
from telic.spec import near_misses

WHERE = "published RDT weights"
NORMS = {"variance": Norm.simple, "rms": Norm.rms}
BETAS = {
    "squaredcos_cap_v2": Betas.squared_cosine,
    "linear": Betas.linear,
    "scaled_linear": Betas.scaled_linear,
}
PREDICTION_TYPES = {
    "sample": PredictionType.sample,
    "epsilon": PredictionType.epsilon,
    "v_prediction": PredictionType.v_prediction,
}
LOSS_SEED = 3  # of the golden files' noise and timesteps


class PublishedRdt(nn.Module):
    """Our Rdt behind the published adaptors of sentence and image tokens.

    frames, cameras, patches: how many image tokens there are, and of what.
    """

    def __init__(
        self,
        config: RdtConfig,
        sizes: Sizes,
        lang_dim: int,
        img_dim: int,
        layout: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.layout = layout
        self.goal_in = Adaptor(lang_dim, config.width, 2)
        self.image_in = Adaptor(img_dim, config.width, 2)
        self.denoiser = Rdt(config, sizes)

    def context(self, inputs: Mapping[str, Tensor]) -> Context:
        """Return the context of lang, lang_mask, img, state, mask and freq."""
        mask = inputs["mask"].squeeze(1)
        return Context(
            goal=self.goal_in(inputs["lang"]),
            images=self.image_in(by_camera(inputs["img"], self.layout)),
            state=inputs["state"],
            goal_mask=inputs["lang_mask"],
            state_mask=mask,
            action_mask=mask,
            rate_hz=inputs["freq"].float(),
        )


def published_size(config: RdtConfig, horizon: int = 64) -> PublishedRdt:
    """Return the network at its published sizes, with random weights: two frames of three cameras
    as SigLIP's 729 patches, T5's sentences up to 1024 tokens, 128 slots."""
    sizes = Sizes(
        num_goals=1024,
        num_images=2 * 3 * 729,
        num_states=1,
        action_horizon=horizon,
        action_dim=128,
        state_dim=128,
        obs_horizon=2,
    )
    return PublishedRdt(config, sizes, lang_dim=4096, img_dim=1152, layout=(2, 3, 729))


def build(config: Mapping[str, Any], state_dict: dict[str, Tensor]) -> PublishedRdt:
    """Return the network of a published `config` with the weights of `state_dict`."""
    frames, cameras, patches = (abs(int(n)) for n in config["img_pos"][0])
    sizes = Sizes(
        num_goals=config["max_lang_len"],
        num_images=frames * cameras * patches,
        num_states=1,
        action_horizon=config["horizon"],
        action_dim=config["state_dim"],
        state_dim=config["state_dim"],
        obs_horizon=frames,
    )
    formulation = formulation_of(config)
    ours = RdtConfig(
        width=config["hidden_size"],
        num_layers=config["depth"],
        num_heads=config["num_heads"],
        norm=_choice(NORMS, config, "norm"),
        betas=formulation.betas,
        num_timesteps=formulation.num_timesteps,
    )
    layout = (frames, cameras, patches)
    network = PublishedRdt(ours, sizes, config["lang_dim"], config["img_dim"], layout)
    weights = translate(_published_names(ours), state_dict, WHERE)
    load_exactly(network, _in_our_order(layout, weights), WHERE)
    return network


def outputs(
    network: PublishedRdt, config: Mapping[str, Any], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return denoiser_out, loss and sample for the inputs of a golden file."""
    settings = formulation_of(config)
    formulation = Ddpm(settings)
    sigmas = timestep_sigmas(settings.betas, settings.num_timesteps)
    memory = network.denoiser.encode(network.context(inputs))

    def network_output(x: Tensor, sigma: Tensor) -> Tensor:
        actions: Tensor = network.denoiser(x, sigma, memory).actions
        return actions

    action = inputs["action"]
    generator = torch.Generator().manual_seed(LOSS_SEED)
    noise = torch.randn(action.shape, generator=generator)
    sigma = formulation.draw_sigma(len(action), generator, action.device)
    pair = formulation.training_pair(action, noise, sigma)
    levels = discrete(
        config["num_inference_timesteps"],
        Spacing.solver_linspace,
        settings.betas,
        settings.num_timesteps,
    )
    start = inputs["x_T"] * (1 + levels[0].square()).sqrt()  # c_in of it is x_T, whatever abar is
    sample = dpmpp_2m(lambda x, sigma: formulation.denoise(network_output, x, sigma), start, levels)
    return {
        "denoiser_out": network_output(action, sigmas[inputs["t"]]),
        "loss": squared_error(network_output(pair.network_input, sigma), pair.target).mean(),
        "sample": sample * inputs["mask"],
    }


def by_camera(
    tokens: Float[Tensor, "b n d"], layout: tuple[int, int, int]
) -> Float[Tensor, "b n d"]:
    """Return tokens that lie frame by frame in our order, camera by camera."""
    return tokens.unflatten(1, layout).transpose(1, 2).flatten(1, 3)


def formulation_of(config: Mapping[str, Any]) -> DdpmConfig:
    return DdpmConfig(
        num_timesteps=config["num_train_timesteps"],
        betas=_choice(BETAS, config, "beta_schedule"),
        prediction_type=_choice(PREDICTION_TYPES, config, "prediction_type"),
    )


def _choice(known: Mapping[str, Any], config: Mapping[str, Any], key: str) -> Any:
    if config[key] not in known:
        raise ValueError(
            f"published RDT config: {key}={config[key]!r} is not one of {', '.join(known)}"
            f"{near_misses(str(config[key]), known)}"
        )
    return known[config[key]]


def _in_our_order(layout: tuple[int, int, int], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with positions as rows, those of images camera by camera."""
    ours = dict(weights)
    key = "denoiser.image_positions"
    frames, cameras, patches = layout
    if ours[key].ndim == 3 and ours[key].shape[1] == frames * cameras * patches:
        ours[key] = by_camera(ours[key], layout)
    for key in ("positions", "goal_positions", "image_positions"):
        ours[f"denoiser.{key}"] = ours[f"denoiser.{key}"].squeeze(0)
    return ours


def _published_names(config: RdtConfig) -> Iterator[tuple[str, list[str]]]:
    """Yield each of our names with the published one."""
    yield "denoiser.positions", ["model.x_pos_embed"]
    yield "denoiser.goal_positions", ["model.lang_cond_pos_embed"]
    yield "denoiser.image_positions", ["model.img_cond_pos_embed"]
    linears = {
        "goal_in.0": "lang_adaptor.0",
        "goal_in.2": "lang_adaptor.2",
        "image_in.0": "img_adaptor.0",
        "image_in.2": "img_adaptor.2",
        "denoiser.slots_in.0": "state_adaptor.0",
        "denoiser.slots_in.2": "state_adaptor.2",
        "denoiser.slots_in.4": "state_adaptor.4",
        "denoiser.timestep_in.0": "model.t_embedder.mlp.0",
        "denoiser.timestep_in.2": "model.t_embedder.mlp.2",
        "denoiser.rate_in.0": "model.freq_embedder.mlp.0",
        "denoiser.rate_in.2": "model.freq_embedder.mlp.2",
        "denoiser.action_out.expand": "model.final_layer.ffn_final.fc1",
        "denoiser.action_out.contract": "model.final_layer.ffn_final.fc2",
    }
    norms = {"denoiser.norm": "model.final_layer.norm_final"}
    for layer in range(config.num_layers):
        ours, theirs = f"denoiser.blocks.{layer}", f"model.blocks.{layer}"
        linears |= {
            f"{ours}.attention.to_qkv": f"{theirs}.attn.qkv",
            f"{ours}.attention.to_out": f"{theirs}.attn.proj",
            f"{ours}.cross_attention.to_q": f"{theirs}.cross_attn.q",
            f"{ours}.cross_attention.to_kv": f"{theirs}.cross_attn.kv",
            f"{ours}.cross_attention.to_out": f"{theirs}.cross_attn.proj",
            f"{ours}.feed_forward.expand": f"{theirs}.ffn.fc1",
            f"{ours}.feed_forward.contract": f"{theirs}.ffn.fc2",
        }
        norms |= {
            f"{ours}.attention_norm": f"{theirs}.norm1",
            f"{ours}.cross_attention_norm": f"{theirs}.norm2",
            f"{ours}.forward_norm": f"{theirs}.norm3",
            f"{ours}.attention.query_norm": f"{theirs}.attn.q_norm",
            f"{ours}.attention.key_norm": f"{theirs}.attn.k_norm",
            f"{ours}.cross_attention.query_norm": f"{theirs}.cross_attn.q_norm",
            f"{ours}.cross_attention.key_norm": f"{theirs}.cross_attn.k_norm",
        }
    for key, name in linears.items():
        yield f"{key}.weight", [f"{name}.weight"]
        yield f"{key}.bias", [f"{name}.bias"]
    for key, name in norms.items():
        yield f"{key}.gain", [f"{name}.weight"]
