"""MDT and MDT-V of any size against the published formulas written out, and their sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from telic.policy.layers.perceiver import PerceiverConfig
from telic.policy.published.check import build
from telic.policy.published.mdt.denoiser import (
    DEAD,
    POSITIONS,
    network_of,
    perceiver_names,
    published_names,
    translate_perceiver,
)

BASE = {
    "obs_dim": 6,
    "goal_dim": 5,
    "action_dim": 7,
    "embed_dim": 16,
    "n_obs_token": 3,
    "n_enc_layers": 2,
    "n_dec_layers": 2,
    "n_heads": 2,
    "action_seq_len": 10,
    "goal_seq_len": 1,
    "obs_seq_len": 1,
    "modality": "lang",
}
PUBLISHED = {
    "mdtv": {"embed_dim": 384, "n_heads": 8, "n_enc_layers": 4, "n_dec_layers": 4, "obs_dim": 384},
    "mdt": {"embed_dim": 512, "n_heads": 8, "n_enc_layers": 4, "n_dec_layers": 6, "obs_dim": 512},
}
COUNT = {"mdtv": 22_517_767, "mdt": 51_469_319}


def shapes(kind: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the published tensors by name, the dead ones too."""
    d, hidden, obs, act = (
        config["embed_dim"],
        4 * config["embed_dim"],
        config["obs_dim"],
        config["action_dim"],
    )
    positions = config["goal_seq_len"] + config["action_seq_len"]
    if kind == "mdtv":
        positions += config["obs_seq_len"] * config["n_obs_token"]
    linear = {"tok_emb": (d, obs), "action_emb": (d, act), "action_pred": (act, d)}
    if kind == "mdt":
        linear["incam_embed"] = (d, obs)
    for name, size in (("goal_emb", config["goal_dim"]), ("lang_emb", config["goal_dim"])):
        linear |= {f"{name}.0": (2 * d, size), f"{name}.2": (d, 2 * d)}
    linear |= {"proprio_emb.0": (2 * d, 8), "proprio_emb.2": (d, 2 * d)}
    linear |= {"sigma_emb.1": (2 * d, d), "sigma_emb.3": (d, 2 * d)}
    table: dict[str, tuple[int, ...]] = {"pos_emb": (1, positions, d)}
    table |= {"encoder.ln.weight": (d,), "decoder.ln.weight": (d,)}
    for side in ("enc", "dec"):
        for layer in range(config[f"n_{side}_layers"]):
            at = f"{side}oder.blocks.{layer}"
            table |= {f"{at}.ln_1.weight": (d,), f"{at}.ln_2.weight": (d,)}
            table |= {f"{at}.mlp.c_fc.weight": (hidden, d), f"{at}.mlp.c_proj.weight": (d, hidden)}
            for part in ("attn", "cross_att")[: 1 if side == "enc" else 2]:
                linear |= {f"{at}.{part}.{name}": (d, d) for name in ("query", "key", "value")}
                table[f"{at}.{part}.c_proj.weight"] = (d, d)
            if side == "dec":
                table |= {f"{at}.ln3.weight": (d,), f"{at}.ln3.bias": (d,)}
                linear[f"{at}.adaLN_zero.modulation.1"] = (6 * d, d)
    for name, shape in linear.items():
        table |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return table


def random_tensors(table: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return random tensors of these shapes."""
    return {name: torch.randn(shape) / math.sqrt(shape[-1]) for name, shape in table.items()}


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return x through the published map `name`, with its bias if it has one."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return x less its mean, over its standard deviation, times the weight, plus the bias."""
    centered = x - x.mean(-1, keepdim=True)
    unit = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * w[f"{name}.weight"] + w.get(f"{name}.bias", torch.tensor(0.0))


def attention(
    w: dict[str, Tensor], at: str, x: Tensor, seen: Tensor, heads: int, *, causal: bool
) -> Tensor:
    """Return attention of x to `seen`, one query and one head after the other."""
    q, k, v = (
        linear(w, f"{at}.{name}", y) for name, y in (("query", x), ("key", seen), ("value", seen))
    )
    size = x.shape[-1] // heads
    out = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(x.shape[1]):
            last = i + 1 if causal else seen.shape[1]
            score = (q[:, i : i + 1, part] * k[:, :last, part]).sum(-1) / math.sqrt(size)
            out[:, i, part] = (score.softmax(-1)[..., None] * v[:, :last, part]).sum(1)
    return linear(w, f"{at}.c_proj", out)


def mlp(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    """Return the feed-forward network of a block."""
    return linear(w, f"{at}.mlp.c_proj", F.gelu(linear(w, f"{at}.mlp.c_fc", x)))


def written_out(
    kind: str, w: dict[str, Tensor], config: dict[str, Any], inputs: dict[str, Tensor]
) -> Tensor:
    """Return the published network's answer."""
    d, heads, goals = config["embed_dim"], config["n_heads"], config["goal_seq_len"]
    text = kind == "mdtv" and config["modality"] == "lang"
    mlp_name = "lang_emb" if text else "goal_emb"
    goal = linear(w, f"{mlp_name}.2", F.gelu(linear(w, f"{mlp_name}.0", inputs["goal"])))
    if kind == "mdtv":
        seen = linear(w, "tok_emb", inputs["state_images"])
    else:
        seen = torch.cat(
            [linear(w, "tok_emb", inputs["static"]), linear(w, "incam_embed", inputs["gripper"])], 1
        )
        goal, seen = goal + w["pos_emb"][:, :goals], seen + w["pos_emb"][:, goals]
    context = torch.cat([goal, seen], 1)
    for layer in range(config["n_enc_layers"]):
        at = f"encoder.blocks.{layer}"
        h = norm(w, f"{at}.ln_1", context)
        context = context + attention(w, f"{at}.attn", h, h, heads, causal=False)
        context = context + mlp(w, at, norm(w, f"{at}.ln_2", context))
    context = norm(w, "encoder.ln", context)

    level = inputs["sigma"].log() / 4
    waves = torch.stack(
        [level * math.exp(-j * math.log(10000) / (d // 2 - 1)) for j in range(d // 2)], -1
    )
    e = linear(w, "sigma_emb.1", torch.cat([waves.sin(), waves.cos()], -1))
    e = linear(w, "sigma_emb.3", e * F.softplus(e).tanh())[:, None]
    x = linear(w, "action_emb", inputs["action"])
    for layer in range(config["n_dec_layers"]):
        at = f"decoder.blocks.{layer}"
        m = linear(w, f"{at}.adaLN_zero.modulation.1", e * e.sigmoid()).split(d, -1)
        h = norm(w, f"{at}.ln_1", x) * m[1] + m[0]
        x = x + m[2] * attention(w, f"{at}.attn", h, h, heads, causal=True)
        read = norm(w, f"{at}.ln3", x)
        x = x + attention(w, f"{at}.cross_att", read, context, heads, causal=True)
        x = x + m[5] * mlp(w, at, norm(w, f"{at}.ln_2", x) * m[4] + m[3])
    return linear(w, "action_pred", norm(w, "decoder.ln", x))


def random_inputs(kind: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return inputs of three samples."""
    images = {"state_images": config["n_obs_token"]}
    if kind == "mdt":
        images = {"static": 1, "gripper": 1}
    return {
        "action": torch.randn(3, config["action_seq_len"], config["action_dim"]),
        "sigma": torch.tensor([0.01, 1.0, 20.0]),
        "goal": torch.randn(3, config["goal_seq_len"], config["goal_dim"]),
        **{name: torch.randn(3, count, config["obs_dim"]) for name, count in images.items()},
    }


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_heads": 4, "n_enc_layers": 1, "n_dec_layers": 3, "embed_dim": 24},
        {"modality": "vis", "obs_dim": 9, "goal_dim": 11},
        {"action_dim": 4, "action_seq_len": 2},  # fewer actions than context tokens
        {"n_obs_token": 5, "action_seq_len": 1, "n_heads": 1, "embed_dim": 10},
        {"goal_seq_len": 2, "n_enc_layers": 3, "n_dec_layers": 1},
    ],
)
def test_any_size_answers_as_the_formulas_written_out(kind: str, change: dict[str, Any]) -> None:
    config = BASE | change
    weights = random_tensors(shapes(kind, config))
    inputs = random_inputs(kind, config)
    network = build(kind, config, weights)
    with torch.no_grad():
        want = written_out(kind, weights, config, inputs)
        assert (network(inputs["action"], inputs["sigma"], inputs) - want).abs().max() < 1e-5
        for row in range(3):  # one sigma for all, which is how sampling calls
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            got = network(one["action"], one["sigma"], one)
            assert (got - want[row : row + 1]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
def test_published_size_is_ours_and_the_dead_tensors(kind: str) -> None:
    config = BASE | {"goal_dim": 512} | PUBLISHED[kind]
    table = shapes(kind, config)
    assert sum(math.prod(shape) for shape in table.values()) == COUNT[kind]
    with torch.device("meta"):
        network = network_of(config, perceives=kind == "mdtv")
    ours = sum(p.numel() for p in network.parameters())
    dead = {name: math.prod(table[name]) for name in DEAD}
    used = 0 if kind == "mdtv" else config["goal_seq_len"] + 1
    dead[POSITIONS] = math.prod(table[POSITIONS]) - used * config["embed_dim"]
    assert ours + sum(dead.values()) == COUNT[kind]
    names = [name for _, group in published_names(network) for name in group]
    assert len(names) == len(set(names)) and {*names, *dead} == table.keys()


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("decoder.ln.weight", None, r"no tensor decoder.ln.weight; did you mean encoder.ln.weight"),
        ("decoder.ln.weigth", torch.ones(16), r"unknown tensor decoder.ln.weigth \(16,\); did you"),
        ("pos_emb", torch.ones(1, 9, 16), r"pos_emb is \(1, 9, 16\), expected \(1, 1[14], 16\)"),
        ("action_pred.bias", torch.ones(6), r"action_pred.bias is \(6,\), expected \(7,\)"),
        ("lang_emb.2.weight", torch.ones(16, 9), r"lang_emb.2.weight is .*expected \(16, 32\)"),
        ("decoder.blocks.1.cross_att.key.bias", torch.ones(15), r"1.cross_att.key.bias is \(15,\)"),
        ("encoder.blocks.2.ln_1.weight", torch.ones(16), r"unknown tensor encoder.blocks.2.ln_1"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(kind, name: str, tensor, message: str) -> None:
    weights = random_tensors(shapes(kind, BASE))
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    with pytest.raises(ValueError, match=message) as error:
        build(kind, BASE, weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
def test_config_without_a_size_is_one_line(kind: str) -> None:
    config = {**BASE, "n_head": 2}
    del config["n_heads"]
    with pytest.raises(ValueError, match="the config has no n_heads; did you mean n_head"):
        build(kind, config, random_tensors(shapes(kind, BASE)))


def perceiver_shapes(config: PerceiverConfig, d: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the published perceiver's tensors."""
    inner = config.num_heads * config.head_width
    table: dict[str, tuple[int, ...]] = {
        "latents": (config.latents, d),
        "time_pos_emb": (1, 1, d),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    for layer in range(config.depth):
        at = f"layers.{layer}.0"
        for name in (f"{at}.norm_media", f"{at}.norm_latents", f"layers.{layer}.1.0"):
            table |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
        table |= {f"{at}.to_{name}.weight": (inner, d) for name in "qkv"}
        table[f"{at}.to_out.weight"] = (d, inner)
        table[f"layers.{layer}.1.1.weight"] = (4 * d, d)
        table[f"layers.{layer}.1.3.weight"] = (d, 4 * d)
    return table


def perceiver_written_out(w: dict[str, Tensor], config: PerceiverConfig, x: Tensor) -> Tensor:
    """Return the published perceiver's latents for features [B P D], head by head."""
    x = x + w["time_pos_emb"][0]
    z = w["latents"].expand(len(x), -1, -1)
    for layer in range(config.depth):
        at, c = f"layers.{layer}.0", config.head_width
        latents = norm(w, f"{at}.norm_latents", z)
        seen = torch.cat([norm(w, f"{at}.norm_media", x), latents], 1)
        q, k, v = (
            linear(w, f"{at}.to_{name}", y)
            for name, y in (("q", latents * c**-0.5), ("k", seen), ("v", seen))
        )
        heads = []
        for head in range(config.num_heads):
            part = slice(head * c, (head + 1) * c)
            score = q[..., part] @ k[..., part].transpose(1, 2)
            heads.append(score.softmax(-1) @ v[..., part])
        z = z + linear(w, f"{at}.to_out", torch.cat(heads, -1))
        h = norm(w, f"layers.{layer}.1.0", z)
        z = z + linear(w, f"layers.{layer}.1.3", F.gelu(linear(w, f"layers.{layer}.1.1", h)))
    return norm(w, "norm", z)


def test_perceiver_answers_as_the_published_one_written_out() -> None:
    config = PerceiverConfig(latents=4, depth=3, num_heads=2, head_width=5, positions=False)
    weights = random_tensors(perceiver_shapes(config, 12))
    network = config.build(12, num_frames=1)
    network.load_state_dict(translate_perceiver(config, weights))
    features = torch.randn(2, 9, 12)
    with torch.no_grad():
        want = perceiver_written_out(weights, config, features)
        assert (network(features[:, None]) - want).abs().max() < 1e-5


def test_published_perceiver_has_the_published_size() -> None:
    config = PerceiverConfig.published()
    with torch.device("meta"):
        network = config.build(384, num_frames=1)
    assert sum(p.numel() for p in network.parameters()) == 11_812_608
    names = {name for _, group in perceiver_names(config) for name in group}
    assert names == perceiver_shapes(config, 384).keys() and len(names) == 76
