"""Published RDT numbers: the golden files, any other size written out, and the published sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.diffusion.ddpm import Betas, nearest_timestep, timestep_sigmas
from telic.policy.published.check import build, check_golden
from telic.policy.published.rdt.denoiser import outputs, published_size

GOLDENS = Path(__file__).parent / "goldens"
BASE: dict[str, Any] = {
    "hidden_size": 32,
    "depth": 3,
    "num_heads": 2,
    "lang_dim": 12,
    "img_dim": 10,
    "state_dim": 128,
    "horizon": 8,
    "max_lang_len": 9,
    "img_pos": [[2, 3, -4]],
    "norm": "variance",
    "num_train_timesteps": 1000,
    "num_inference_timesteps": 5,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
}


def random_weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Return random tensors under the published names."""
    d, slots = config["hidden_size"], config["state_dim"]
    images = abs(math.prod(config["img_pos"][0]))
    tables = {"x": 3 + config["horizon"], "lang_cond": config["max_lang_len"], "img_cond": images}
    w = {f"model.{name}_pos_embed": torch.randn(1, n, d) for name, n in tables.items()}
    linears = {
        "lang_adaptor.0": (d, config["lang_dim"]),
        "lang_adaptor.2": (d, d),
        "img_adaptor.0": (d, config["img_dim"]),
        "img_adaptor.2": (d, d),
        "state_adaptor.0": (d, 2 * slots),
        "state_adaptor.2": (d, d),
        "state_adaptor.4": (d, d),
        "model.t_embedder.mlp.0": (d, 256),
        "model.t_embedder.mlp.2": (d, d),
        "model.freq_embedder.mlp.0": (d, 256),
        "model.freq_embedder.mlp.2": (d, d),
        "model.final_layer.ffn_final.fc1": (d, d),
        "model.final_layer.ffn_final.fc2": (slots, d),
    }
    norms = {"model.final_layer.norm_final": d}
    for layer in range(config["depth"]):
        at = f"model.blocks.{layer}"
        linears |= {f"{at}.attn.qkv": (3 * d, d), f"{at}.attn.proj": (d, d)}
        linears |= {f"{at}.cross_attn.{n}": (d, d) for n in ("q", "proj")}
        linears |= {f"{at}.cross_attn.kv": (2 * d, d)}
        linears |= {f"{at}.ffn.{n}": (d, d) for n in ("fc1", "fc2")}
        norms |= {f"{at}.norm{n}": d for n in (1, 2, 3)}
        head = d // config["num_heads"]
        norms |= {f"{at}.{a}.{n}_norm": head for a in ("attn", "cross_attn") for n in "qk"}
    for name, shape in linears.items():
        w[f"{name}.weight"] = torch.randn(shape) / math.sqrt(shape[1])
        w[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    return w | {f"{name}.weight": 1 + 0.1 * torch.randn(n) for name, n in norms.items()}


def random_inputs(config: dict[str, Any], batch: int = 3) -> dict[str, Tensor]:
    """Return inputs of a golden file's names."""
    horizon, slots = config["horizon"], config["state_dim"]
    length = config["max_lang_len"] - 2
    return {
        "lang": torch.randn(batch, length, config["lang_dim"]),
        "lang_mask": torch.arange(length) < torch.tensor([[length], [3], [1]])[:batch],
        "img": torch.randn(batch, abs(math.prod(config["img_pos"][0])), config["img_dim"]),
        "state": torch.randn(batch, 1, slots),
        "action": torch.randn(batch, horizon, slots),
        "mask": (torch.rand(batch, 1, slots) < 0.4).float(),
        "freq": torch.tensor([25, 5, 50])[:batch],
        "t": torch.tensor([0, 37, config["num_train_timesteps"] - 1])[:batch],
        "x_T": torch.randn(batch, horizon, slots),
    }


def written_out(
    w: dict[str, Tensor], config: dict[str, Any], inputs: dict[str, Tensor], x: Tensor, t: Tensor
) -> Tensor:
    """Return the published network's answer to noisy actions x at timesteps t."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def mlp(name: str, x: Tensor, *layers: str) -> Tensor:
        for index, layer in enumerate(layers):
            x = linear(f"{name}.{layer}", x if index == 0 else F.gelu(x, approximate="tanh"))
        return x

    def norm(name: str, x: Tensor) -> Tensor:
        if config["norm"] == "variance":
            centred = x - x.mean(-1, keepdim=True)
            square = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
        else:
            square = x.square().sum(-1, keepdim=True) / x.shape[-1]
        return x / (square + 1e-6).sqrt() * w[f"{name}.weight"]

    def waves(name: str, value: Tensor) -> Tensor:
        angle = value[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        hidden = linear(f"{name}.mlp.0", torch.cat([angle.cos(), angle.sin()], -1))
        return linear(f"{name}.mlp.2", hidden * hidden.sigmoid())[:, None]

    heads = config["num_heads"]

    def attend(at: str, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        out = torch.zeros_like(q)
        size = q.shape[-1] // heads
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            qh, kh = norm(f"{at}.q_norm", q[..., part]), norm(f"{at}.k_norm", k[..., part])
            score = qh @ kh.transpose(1, 2) / math.sqrt(size)
            if seen is not None:
                score = score.masked_fill(~seen[:, None], -math.inf)
            out[..., part] = score.softmax(-1) @ v[..., part]
        return linear(f"{at}.proj", out)

    mask = inputs["mask"]
    known = torch.cat([inputs["state"], x], 1)
    known = torch.cat([known, mask.expand_as(known)], -1)
    tokens = torch.cat(
        [
            waves("model.t_embedder", t),
            waves("model.freq_embedder", inputs["freq"]),
            mlp("state_adaptor", known, "0", "2", "4"),
        ],
        1,
    )
    tokens = tokens + w["model.x_pos_embed"]
    lang = mlp("lang_adaptor", inputs["lang"], "0", "2")
    lang = lang + w["model.lang_cond_pos_embed"][:, : lang.shape[1]]
    image = mlp("img_adaptor", inputs["img"], "0", "2") + w["model.img_cond_pos_embed"]
    for layer in range(config["depth"]):
        at = f"model.blocks.{layer}"
        q, k, v = linear(f"{at}.attn.qkv", norm(f"{at}.norm1", tokens)).chunk(3, -1)
        tokens = tokens + attend(f"{at}.attn", q, k, v)
        context, seen = (lang, inputs["lang_mask"]) if layer % 2 == 0 else (image, None)
        q = linear(f"{at}.cross_attn.q", norm(f"{at}.norm2", tokens))
        k, v = linear(f"{at}.cross_attn.kv", context).chunk(2, -1)
        tokens = tokens + attend(f"{at}.cross_attn", q, k, v, seen)
        tokens = tokens + mlp(f"{at}.ffn", norm(f"{at}.norm3", tokens), "fc1", "fc2")
    last = norm("model.final_layer.norm_final", tokens)
    return mlp("model.final_layer.ffn_final", last, "fc1", "fc2")[:, -x.shape[1] :]


def sampled(w: dict[str, Tensor], config: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    """Return the sample of diffusers' DPM-Solver++ around the network written out."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=config["num_train_timesteps"],
        beta_schedule=config["beta_schedule"],
        prediction_type=config["prediction_type"],
        beta_start=1e-4,
        beta_end=0.02,
    )
    scheduler.set_timesteps(config["num_inference_timesteps"])
    x = inputs["x_T"]
    for t in scheduler.timesteps:
        out = written_out(w, config, inputs, x, t.expand(len(x)))
        x = scheduler.step(out, t, x).prev_sample
    return x * inputs["mask"]


@pytest.mark.parametrize("norm", ["variance", "rms"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"hidden_size": 48, "num_heads": 6, "depth": 4},
        {"depth": 1, "horizon": 1},
        {"horizon": 64, "max_lang_len": 32, "img_pos": [[1, 2, -9]]},
        {"state_dim": 20, "img_pos": [[3, 1, 1]]},
        {"num_inference_timesteps": 1},
        {"num_inference_timesteps": 20},
        {"num_train_timesteps": 100, "num_inference_timesteps": 7},
        {"beta_schedule": "linear"},
        {"prediction_type": "epsilon", "beta_schedule": "scaled_linear"},
    ],
)
def test_any_size_answers_as_the_formulas_written_out(change: dict[str, Any], norm: str) -> None:
    config = BASE | change | {"norm": norm}
    torch.manual_seed(5)
    weights, inputs = random_weights(config), random_inputs(config)
    with torch.inference_mode():
        got = outputs(build("rdt", config, weights), config, inputs)  # type: ignore[arg-type]
        want = written_out(weights, config, inputs, inputs["action"], inputs["t"])
        assert (got["denoiser_out"] - want).abs().max() < 1e-5
        sample = sampled(weights, config, inputs)
        assert (got["sample"] - sample).abs().max() < 1e-5 * max(1.0, float(sample.abs().max()))


@pytest.mark.parametrize("name", ["rdt", "rdt_rms"])
def test_golden_numbers_are_reproduced(name: str) -> None:
    differences = check_golden(GOLDENS / f"{name}.safetensors")
    assert differences.keys() == {"denoiser_out", "loss", "sample"}
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize("betas", Betas)
@pytest.mark.parametrize("num_timesteps", [2, 100, 1000])
def test_a_timestep_comes_back_from_its_sigma(betas: Betas, num_timesteps: int) -> None:
    sigmas = timestep_sigmas(betas, num_timesteps)
    found = nearest_timestep(sigmas, betas, num_timesteps)
    assert torch.equal(found, torch.arange(num_timesteps))


@pytest.mark.parametrize(
    ("config", "count", "tensors"),
    [
        (RdtConfig.published(), 166_229_888, 324),
        (RdtConfig.published_1b(), 1_228_319_872, 618),
    ],
)
def test_published_sizes(config: RdtConfig, count: int, tensors: int) -> None:
    with torch.device("meta"):
        parameters = list(published_size(config).parameters())
    assert sum(p.numel() for p in parameters) == count
    assert len(parameters) == tensors


@pytest.mark.parametrize(
    ("change", "drop", "add", "message"),
    [
        ({"norm": "variants"}, None, None, "norm='variants' is not one of .* did you mean varian"),
        ({"beta_schedule": "cosine"}, None, None, "beta_schedule='cosine' is not one of"),
        ({}, "model.x_pos_embed", None, "no tensor model.x_pos_embed"),
        ({}, None, "model.x_pos_embedding", r"unknown tensor model.x_pos_embedding \(1,\)"),
        ({"horizon": 9}, None, None, r"denoiser.positions is \(11, 32\), expected \(12, 32\)"),
        ({"img_pos": [[2, 3, 5]]}, None, None, r"image_positions is \(24, 32\), expected \(30, 32"),
    ],
)
def test_bad_files_are_refused(
    change: dict[str, Any], drop: str | None, add: str | None, message: str
) -> None:
    weights = random_weights(BASE)
    if drop is not None:
        del weights[drop]
    if add is not None:
        weights[add] = torch.ones(1)
    with pytest.raises(ValueError, match=message):
        build("rdt", BASE | change, weights)
