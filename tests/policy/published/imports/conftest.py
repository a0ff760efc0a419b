"""Tensors with published names and shapes; the values are random."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

MDT_CONFIG: dict[str, Any] = {
    "action_dim": 7,
    "goal_dim": 16,
    "obs_dim": 24,
    "embed_dim": 32,
    "n_enc_layers": 2,
    "n_dec_layers": 2,
    "n_heads": 4,
    "goal_seq_len": 1,
    "obs_seq_len": 1,
    "action_seq_len": 10,
    "use_ada_conditioning": True,
    "bias": False,
}
LISTS = Path(__file__).parent / "state_dicts"


def listed(name: str) -> dict[str, Tensor]:
    """Return a published list of tensors (state_dicts/NAME.txt) on the meta device."""
    tensors = {}
    for line in (LISTS / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, shape, dtype, *_ = line.split("\t")
        sizes = [int(n) for n in shape.strip("()").split(",") if n.strip()]
        tensors[key] = torch.empty(sizes, dtype=getattr(torch, dtype), device="meta")
    return tensors


def fill(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return random values of the same names, shapes and dtypes, sized so that signals survive."""
    generator = torch.Generator().manual_seed(seed)
    filled = {}
    for name, tensor in tensors.items():
        shape = tensor.shape
        if not tensor.is_floating_point():
            filled[name] = torch.zeros(shape, dtype=tensor.dtype)
            continue
        value = torch.randn(shape, generator=generator) / math.sqrt(max(1, shape[1:].numel()))
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith((".weight", ".g"))):
            value = torch.rand(shape, generator=generator) + 0.5  # variances and gains
        filled[name] = value.to(tensor.dtype)
    return filled


def clip_shapes(
    prefix: str, width: int, layers: int, vocabulary: int, out: int
) -> dict[str, Tensor]:
    """Return OpenAI's names of a small CLIP: both halves of `layers` layers."""
    half, full = torch.float16, torch.float32
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "positional_embedding": ((77, width), full),
        "text_projection": ((width, out), half),
        "logit_scale": ((), full),
        "token_embedding.weight": ((vocabulary, width), full),
        "ln_final.weight": ((width,), full),
        "ln_final.bias": ((width,), full),
        "visual.class_embedding": ((width,), full),
        "visual.positional_embedding": ((50, width), full),
        "visual.proj": ((width, out), half),
        "visual.conv1.weight": ((width, 3, 32, 32), half),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.{part}": ((width,), full) for part in ("weight", "bias")}
    for at in ("transformer", "visual.transformer"):
        for layer in range(layers):
            block = f"{at}.resblocks.{layer}"
            shapes |= {
                f"{block}.attn.in_proj_weight": ((3 * width, width), half),
                f"{block}.attn.in_proj_bias": ((3 * width,), half),
                f"{block}.attn.out_proj.weight": ((width, width), half),
                f"{block}.attn.out_proj.bias": ((width,), half),
                f"{block}.mlp.c_fc.weight": ((4 * width, width), half),
                f"{block}.mlp.c_fc.bias": ((4 * width,), half),
                f"{block}.mlp.c_proj.weight": ((width, 4 * width), half),
                f"{block}.mlp.c_proj.bias": ((width,), half),
            }
            for name in ("ln_1", "ln_2"):
                shapes |= {
                    f"{block}.{name}.{part}": ((width,), full) for part in ("weight", "bias")
                }
    return {
        f"{prefix}{name}": torch.empty(shape, dtype=dtype, device="meta")
        for name, (shape, dtype) in shapes.items()
    }


def agent_shapes(kind: str) -> dict[str, Tensor]:
    """Return all names of an MDT ("mdt", "mdtv") in their order.

    Denoiser, CLIPs and vocabulary are small, stacks of layers short; Voltron's encoder is whole.
    """
    d, shapes = MDT_CONFIG["embed_dim"], {}
    obs_dim = MDT_CONFIG["obs_dim"] if kind == "mdt" else 384
    full = 512 if kind == "mdt" else 384
    sizes = {full * factor: d * factor for factor in (1, 2, 4, 6, 8)}
    for name, tensor in listed(f"{kind}_agent_state_dict").items():
        shape, parts = list(tensor.shape), name.split(".")
        short = ("decoder_blocks.", "perceiver.layers.", "transformer.layer.", "inner_model.")
        numbers = [int(part) for part in parts if part.isdigit()]
        if any(at in name for at in short) and numbers and numbers[0] >= 2 and "_emb" not in name:
            continue
        if name.startswith("model.inner_model."):
            shape = [sizes.get(size, size) for size in shape]
            if parts[2] in ("tok_emb", "incam_embed") and parts[3] == "weight":
                shape[1] = obs_dim
            if parts[2] in ("goal_emb", "lang_emb") and parts[3:] == ["0", "weight"]:
                shape[1] = MDT_CONFIG["goal_dim"]
        elif name.startswith("clip_proj."):
            shape = [sizes.get(size, size) for size in shape]
        elif name == "gen_img.encoder2decoder.weight":
            shape[1] = d
        elif "fc_layers" in name:
            shape[0] = obs_dim
        elif "word_embeddings" in name:
            shape[0] = 150
        elif parts[0] in ("visual_goal", "language_goal"):
            if parts[-1] == "positional_embedding" and "visual" not in parts:
                at = name.removesuffix("positional_embedding")
                shapes |= clip_shapes(at, 64, 2, 300, MDT_CONFIG["goal_dim"])
            continue
        shapes[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    return shapes


def write_run(
    folder: Path, weights: dict[str, Tensor], average: Any, config: dict[str, Any] | None = None
) -> Path:
    """Return `folder`, now a run with one Lightning checkpoint of MDT or MDT-V."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "saved_models").mkdir()
    inner = {**MDT_CONFIG, "obs_seq_len": "${obs_seq_len}", "_target_": "mdt.MDTTransformer"}
    if "perceiver.latents" in weights:
        inner |= {"obs_dim": 384, "n_obs_token": 3}
    agent = {"num_sampling_steps": 3, "sigma_min": 0.01, "sigma_max": 80, "sampler_type": "ddim"}
    inner |= config or {}
    whole = {"obs_seq_len": 1, "model": agent | {"model": {"inner_model": inner}}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(whole))
    data = {"epoch": 19, "state_dict": weights, "pytorch-lightning_version": "1.9.5"}
    callbacks = {"EMA": {"ema_weights": average}} if average is not None else {}
    parts = OmegaConf.create({"seed": 242, "betas": [0.9, 0.9], "a": {"b": "${seed}", "c": None}})
    data |= {"callbacks": callbacks, "hyper_parameters": {"model": parts, "dir": Path("logs")}}
    torch.save(data, folder / "saved_models" / "epoch=19.ckpt")
    return folder


def write_vectors(folder: Path) -> Path:
    """Return a file with vectors of two sentences, "open the drawer" and "close the drawer"."""
    path = folder / "known.safetensors"
    sentences = ["open the drawer", "close the drawer"]
    vectors = torch.randn(2, MDT_CONFIG["goal_dim"], generator=torch.Generator().manual_seed(3))
    save_file({"vectors": vectors}, path, metadata={"sentences": json.dumps(sentences)})
    return path


@pytest.fixture(name="agent_shapes", scope="session")
def _agent_shapes() -> Callable[[str], dict[str, Tensor]]:
    return agent_shapes


@pytest.fixture
def mdt_config() -> dict[str, Any]:
    """Return the denoiser's section of the run's config."""
    return dict(MDT_CONFIG)


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(name="write_vectors", scope="session")
def _write_vectors() -> Callable[[Path], Path]:
    return write_vectors


@pytest.fixture(name="listed", scope="session")
def _listed() -> Callable[[str], dict[str, Tensor]]:
    return listed


@pytest.fixture(name="fill", scope="session")
def _fill() -> Callable[..., dict[str, Tensor]]:
    return fill


@pytest.fixture(name="clip_shapes", scope="session")
def _clip_shapes() -> Callable[..., dict[str, Tensor]]:
    return clip_shapes
