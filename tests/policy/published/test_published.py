"""Published numbers: the golden file, and any other size against the formulas written out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from telic.policy.published.check import build, check_golden, main

GOLDENS = Path(__file__).parent / "goldens"
GOLDEN = GOLDENS / "mode.safetensors"


def random_weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Return random tensors under the published names."""
    d, hidden = config["embed_dim"], 4 * config["embed_dim"]
    shapes = {
        "pos_emb": (1, config["goal_seq_len"] + config["action_seq_len"], d),
        "sigma_emb.weight": (d, 1),
        "sigma_emb.bias": (d,),
        "sigma_linear.weight": (d, d),
        "tok_emb.weight": (d, config["obs_dim"]),
        "gripper_embed.weight": (d, config["obs_dim"]),
        "goal_emb.weight": (d, config["goal_dim"]),
        "action_emb.weight": (d, config["action_dim"]),
        "ln.g": (d,),
        "out.weight": (config["action_dim"], d),
        "out.bias": (config["action_dim"],),
    }
    for layer in range(config["n_layers"]):
        at = f"blocks.{layer}"
        head = d // config["n_heads"]
        shapes |= {f"{at}.ln_1.g": (d,), f"{at}.ln_2.g": (d,)}
        shapes |= {f"{at}.attn.{n}.weight": (d, d) for n in ("key", "query", "value", "c_proj")}
        shapes |= {f"{at}.attn.{n}.bias": (d,) for n in ("key", "query", "value")}
        shapes |= {f"{at}.attn.{n}_norm.g": (head,) for n in "qk"}
        router = f"{at}.router.router.mlp"
        experts = config["num_experts"]
        shapes |= {f"{router}.0.weight": (2 * d, d), f"{router}.0.bias": (2 * d,)}
        shapes |= {f"{router}.3.weight": (experts, 2 * d), f"{router}.3.bias": (experts,)}
        for n in range(experts):
            expert = f"{at}.experts.expert_{n}.mlp"
            shapes[f"{expert}.0.project.weight"] = (2 * hidden, d)
            shapes[f"{expert}.0.project.bias"] = (2 * hidden,)
            shapes[f"{expert}.2.weight"] = (d, hidden)
    return {name: torch.randn(shape) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def written_out(w: dict[str, Tensor], config: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    """Return the published network's answer, token by token and expert by expert."""

    def norm(x: Tensor, g: Tensor) -> Tensor:
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        return x / rms.clamp_min(1e-6) * g

    action, sigma, pos = inputs["action"], inputs["sigma"], w["pos_emb"][0]
    e = F.linear((sigma.log() / 4)[:, None], w["sigma_emb.weight"], w["sigma_emb.bias"])
    e = (e @ w["sigma_linear.weight"].T)[:, None]
    goals = config["goal_seq_len"]
    x = torch.cat(
        [
            e,
            inputs["goal"] @ w["goal_emb.weight"].T + pos[:goals],
            inputs["state_images"] @ w["tok_emb.weight"].T + pos[goals],
            action @ w["action_emb.weight"].T + pos[goals:],
        ],
        1,
    )
    b, t, d = x.shape
    for layer in range(config["n_layers"]):
        at = f"blocks.{layer}"
        h = norm(x, w[f"{at}.ln_1.g"]) + e
        q, k, v = (
            F.linear(h, w[f"{at}.attn.{n}.weight"], w[f"{at}.attn.{n}.bias"])
            .view(b, t, config["n_heads"], -1)
            .transpose(1, 2)
            for n in ("query", "key", "value")
        )
        q, k = norm(q, w[f"{at}.attn.q_norm.g"]), norm(k, w[f"{at}.attn.k_norm.g"])
        score = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        score = score.masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf)
        heads = (score.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d)
        x = norm(x + heads @ w[f"{at}.attn.c_proj.weight"].T, w[f"{at}.ln_2.g"])
        router = f"{at}.router.router.mlp"
        hidden = F.gelu(F.linear(e, w[f"{router}.0.weight"], w[f"{router}.0.bias"]))
        logits = F.linear(hidden, w[f"{router}.3.weight"], w[f"{router}.3.bias"])
        gate, index = logits.softmax(-1).topk(config["top_k"])
        if config["router_normalize"]:
            gate = gate / gate.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for row in range(b):
            for g, n in zip(gate[row, 0], index[row, 0].tolist(), strict=True):
                expert = f"{at}.experts.expert_{n}.mlp"
                project = w[f"{expert}.0.project.weight"], w[f"{expert}.0.project.bias"]
                up, swish = F.linear(x[row], *project).chunk(2, -1)
                out[row] += g * (up * F.silu(swish)) @ w[f"{expert}.2.weight"].T
        x = x + out
    x = norm(x, w["ln.g"])[:, -action.shape[1] :]
    return F.linear(x, w["out.weight"], w["out.bias"])


BASE = {
    "obs_dim": 6,
    "goal_dim": 5,
    "action_dim": 7,
    "embed_dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "action_seq_len": 10,
    "num_experts": 4,
    "top_k": 2,
    "router_normalize": True,
    "goal_seq_len": 1,
    "obs_seq_len": 1,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_heads": 4, "n_layers": 3, "embed_dim": 24},
        {"num_experts": 2, "top_k": 1},
        {"num_experts": 8, "top_k": 3, "router_normalize": False},
        {"num_experts": 1, "top_k": 1},
        {"action_dim": 4, "action_seq_len": 3, "goal_seq_len": 2},
        {"embed_dim": 64, "n_heads": 4},  # experts wide enough to be picked out
    ],
)
def test_any_size_answers_as_the_formulas_written_out(change: dict[str, Any]) -> None:
    config = BASE | change
    weights = random_weights(config)
    inputs = {
        "action": torch.randn(3, config["action_seq_len"], config["action_dim"]),
        "sigma": torch.tensor([0.01, 1.0, 20.0]),
        "goal": torch.randn(3, config["goal_seq_len"], config["goal_dim"]),
        "state_images": torch.randn(3, 2, config["obs_dim"]),
    }
    network = build("mode", config, weights)
    with torch.no_grad():
        got = network(inputs["action"], inputs["sigma"], inputs)
        want = written_out(weights, config, inputs)
        assert (got - want).abs().max() < 1e-5
        for row in range(3):  # one sigma for all, which is how sampling calls
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            got = network(one["action"], one["sigma"], one)
            assert (got - want[row : row + 1]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["mode", "mdt", "mdtv"])
def test_golden_numbers_are_reproduced(kind: str) -> None:
    differences = check_golden(GOLDENS / f"{kind}.safetensors")
    assert differences.keys() == {"inner", "denoised", "loss", "sample"}
    assert max(differences.values()) < 1e-5


def golden_with(tmp_path: Path, kind: str | None = "mode", **changed: Tensor) -> Path:
    """Return a copy of the golden file with other tensors."""
    tensors = load_file(GOLDEN)
    for name, tensor in changed.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    metadata = {"notes": ""}
    if kind is not None:
        metadata |= {"kind": kind, "config": golden_config()}
    path = tmp_path / "golden.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path


def golden_config() -> str:
    """Return the golden file's config as its JSON text."""
    length = int.from_bytes(GOLDEN.read_bytes()[:8], "little")
    header = json.loads(GOLDEN.read_bytes()[8 : 8 + length])
    return str(header["__metadata__"]["config"])


def test_command_says_ok_or_how_far_off(tmp_path: Path, capsys) -> None:
    assert main(["check", str(GOLDEN)]) == 0
    assert "ok" in capsys.readouterr().out
    wrong = golden_with(tmp_path, output__sample=torch.zeros(3, 10, 7))
    assert main(["check", str(GOLDEN), str(wrong)]) == 1
    assert "ABOVE" in capsys.readouterr().out
    broken = golden_with(tmp_path, input__sigma=torch.full((3,), math.nan))
    assert main(["check", str(broken)]) == 1


def test_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telic.policy.published.check", "check", str(GOLDEN)],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("mood", {}, "; did you mean mode"),
        (None, {}, "its metadata lack kind and config"),
        ("mode", {"state_dict__ln.g": None}, "no tensor ln.g"),
        ("mode", {"state_dict__ln.gg": torch.ones(64)}, r"unknown tensor ln.gg (64,)"),
        ("mode", {"state_dict__out.bias": torch.ones(6)}, r"is (6,), expected (7,)"),
        ("mode", {"state_dict__blocks.1.attn.key.bias": torch.ones(6)}, r"key.bias is (6,), exp"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, capsys, kind, changed, message: str) -> None:
    assert main(["check", str(golden_with(tmp_path, kind, **changed))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_missing_file_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["check", str(tmp_path / "none.safetensors")]) == 2
    (tmp_path / "text.safetensors").write_text("no tensors")
    assert main(["check", str(tmp_path / "text.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
