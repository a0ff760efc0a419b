"""MDT's Lightning checkpoint, whole: averaged weights by place, names, numbers, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from telic.policy import import_mdt
from telic.policy.checkpoint import load_policy
from telic.policy.import_checkpoint import main
from telic.policy.imported import ImportOptions
from telic.policy.policy import Policy
from telic.policy.published import build
from telic.spec import Goal, Observation

Tensors = dict[str, Tensor]
CONFIG: dict[str, Any] = {
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
SENTENCE = "open the drawer"


@pytest.fixture
def mdt_shapes(
    listed: Callable[[str], Tensors], clip_shapes: Callable[..., Tensors]
) -> Callable[[], Tensors]:
    """Return a maker of all names of an MDT in their order: small denoiser and CLIPs."""

    def make() -> Tensors:
        d, full = CONFIG["embed_dim"], listed("mdt_agent_state_dict")
        sizes = {512: d, 1024: 2 * d, 2048: 4 * d, 3072: 6 * d}
        shapes: Tensors = {}
        for name, tensor in full.items():
            prefix, _, rest = name.partition(".")
            shape = list(tensor.shape)
            if name.startswith("model.inner_model."):
                parts = name.split(".")
                if "blocks" in parts and int(parts[4]) >= 2:
                    continue
                shape = [sizes.get(size, size) for size in shape]
                if parts[2] in ("tok_emb", "incam_embed") and parts[3] == "weight":
                    shape[1] = CONFIG["obs_dim"]
                if parts[2] in ("goal_emb", "lang_emb") and parts[3:] == ["0", "weight"]:
                    shape[1] = CONFIG["goal_dim"]
            elif "fc_layers" in name:
                shape[0] = CONFIG["obs_dim"]
            elif prefix in ("visual_goal", "language_goal"):
                if rest.endswith("positional_embedding") and "visual.pos" not in rest:
                    at = name.removesuffix("positional_embedding")
                    shapes |= clip_shapes(at, 64, 2, 300, CONFIG["goal_dim"])
                continue
            shapes[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
        return shapes

    return make


def write(folder: Path, weights: Tensors, average: Any, config: dict[str, Any] = CONFIG) -> Path:
    """Return `folder`, now a run with one Lightning checkpoint."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "saved_models").mkdir()
    inner = {**config, "obs_seq_len": "${obs_seq_len}", "_target_": "mdt.MDTTransformer"}
    agent = {"num_sampling_steps": 3, "sigma_min": 0.01, "sigma_max": 80, "sampler_type": "ddim"}
    whole = {"obs_seq_len": 1, "model": agent | {"model": {"inner_model": inner}}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(whole))
    data = {"epoch": 19, "state_dict": weights, "pytorch-lightning_version": "1.9.5"}
    callbacks = {"EMA": {"ema_weights": average}} if average is not None else {}
    parts = OmegaConf.create({"seed": 242, "betas": [0.9, 0.9], "a": {"b": "${seed}", "c": None}})
    data |= {"callbacks": callbacks, "hyper_parameters": {"model": parts, "dir": Path("logs")}}
    torch.save(data, folder / "saved_models" / "epoch=19.ckpt")
    return folder


def embeddings(folder: Path) -> Path:
    """Return a file with the vector of SENTENCE."""
    path = folder / "known.safetensors"
    vector = torch.randn(1, CONFIG["goal_dim"], generator=torch.Generator().manual_seed(3))
    save_file({"vectors": vector}, path, metadata={"sentences": json.dumps([SENTENCE])})
    return path


def published_resnet18(w: Tensors, pixels: Tensor) -> Tensor:
    """Return the features of the published ResNet-18 with group norms, over its names."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, x.shape[1] // 16, w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.relu(norm(F.conv2d(pixels, w["backbone.0.weight"], None, 2, 3), "backbone.1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(4, 8):
        for block in range(2):
            at, stride = f"backbone.{stage}.{block}", 2 if stage > 4 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, w[f"{at}.conv1.weight"], None, stride, 1), f"{at}.bn1"))
            y = norm(F.conv2d(y, w[f"{at}.conv2.weight"], None, 1, 1), f"{at}.bn2")
            if f"{at}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], None, stride)
                x = norm(x, f"{at}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((-2, -1)), w["fc_layers.0.weight"], w["fc_layers.0.bias"])


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.parametrize("raw", [False, True])
def test_imported_policy_answers_what_the_published_parts_answer(
    raw: bool, tmp_path: Path, mdt_shapes: Callable[[], Tensors], fill: Any
) -> None:
    """The averaged weights are found by their place, the raw ones by name."""
    tensors = fill(mdt_shapes())
    blank = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    if raw:
        source = write(tmp_path / "run", tensors, list(blank.values()))
    else:
        source = write(tmp_path / "run", blank, list(tensors.values()))
    known = ["--embeddings", str(embeddings(tmp_path))]
    main([str(source), str(tmp_path / "ours"), *known, *(["--raw"] if raw else [])])
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy) and policy.kind == "mdt"
    vector = torch.from_numpy(policy.known_embeddings[SENTENCE])[None]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    batch: dict[str, Any] = {"state": torch.zeros(1, 1, 15), "text": [SENTENCE]}
    inputs: Tensors = {"goal": vector[:, None]}
    with torch.inference_mode():
        for camera, side in (("static", 224), ("gripper", 84)):
            frame = torch.randint(0, 256, (1, 1, side, side, 3), dtype=torch.uint8)
            batch[f"image/rgb_{camera}"] = frame
            pixels = (frame[:, 0].permute(0, 3, 1, 2) / 255 - mean) / std
            seen = published_resnet18(under(tensors, f"{camera}_resnet."), pixels)
            inputs[camera] = seen[:, None]
        published = build("mdt", CONFIG, under(tensors, "model.inner_model."))
        x, sigma = torch.randn(1, 10, 7), torch.tensor([0.7])
        want = published(x, sigma, inputs)
        got = policy.denoiser(x, sigma, policy.denoiser.encode(policy.encode(batch))).actions
    assert want.abs().max() > 1e-2
    assert (got - want).abs().max() < 1e-5
    rng = np.random.default_rng(0)
    images = {"rgb_static": (1, 200, 200, 3), "rgb_gripper": (1, 84, 84, 3)}
    observation = Observation(
        state=np.zeros((1, 15), np.float32),
        images={c: rng.integers(0, 256, shape, np.uint8) for c, shape in images.items()},
    )
    assert policy.act(observation, Goal(text=SENTENCE)).actions.shape == (10, 7)


def test_every_published_name_has_a_place_at_the_published_size(
    listed: Callable[[str], Tensors],
) -> None:
    agent = {"num_sampling_steps": 10, "sigma_min": 0.001, "sigma_max": 80.0}
    with torch.device("meta"):
        imported = import_mdt.convert(
            {"n_heads": 8}, agent, listed("mdt_agent_state_dict"), ImportOptions(), Path("x.ckpt")
        )
        policy = imported.build()
    used = sum(p.numel() for p in policy.parameters())
    both, goal, camera = 51_469_319, 512 * 1024 + 1024 + 1024 * 512 + 512, 512 * 512 + 512
    proprio, positions = 8 * 1024 + 1024 + 1024 * 512 + 512, 9 * 512
    # without the dead parts, and with each camera's two Linear maps as one
    assert used == both - goal - proprio - positions + 2 * (11_439_168 - camera)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, a: a.pop(), "averaged tensors for .* names"),
        (lambda w, a: a.insert(1, a.pop()), "in the place of static_resnet.backbone.0.weight is"),
        (lambda w, a: a.clear(), "0 averaged tensors"),
        (lambda w, a: w.update(odd=torch.zeros(2)) or a.append(w["odd"]), "unknown tensor odd"),
        (
            lambda w, a: w.update({"perceiver.x": w["logit_scale"]}) or a.append(w["logit_scale"]),
            "MDT-V looks through Voltron",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[Tensors, list[Tensor]], Any],
    message: str,
    tmp_path: Path,
    mdt_shapes: Callable[[], Tensors],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {k: v for k, v in mdt_shapes().items() if "goal." not in k and "gen_img" not in k}
    weights = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in shapes.items()}
    average = list(weights.values())
    change(weights, average)
    source = write(tmp_path / "run", weights, average)
    assert re.search(message, refused(source, tmp_path, capsys))


def test_another_kind_of_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or directory" in refused(tmp_path / "none", tmp_path, capsys)
    assert "no published checkpoint that is known" in refused(tmp_path, tmp_path, capsys)
    source = write(tmp_path / "run", {}, None)
    assert "no callbacks.EMA.ema_weights in it" in refused(source, tmp_path, capsys)
    file = source / "saved_models" / "epoch=19.ckpt"
    torch.save({"weights": Observation(state=np.zeros(1))}, file)
    assert "not to be read as tensors and plain values" in refused(source, tmp_path, capsys)
    torch.save({"weights": 1}, file)
    assert "no state_dict in it" in refused(source, tmp_path, capsys)
    (source / ".hydra" / "config.yaml").unlink()
    assert "no .hydra/config.yaml" in refused(file, tmp_path, capsys)
    file.unlink()
    (source / ".hydra" / "config.yaml").write_text("{}")
    assert "expected one .ckpt below it, found none" in refused(source, tmp_path, capsys)


def refused(source: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the import of `source` ends."""
    with pytest.raises(SystemExit) as exit_:
        main([str(source), str(folder / "ours")])
    line = capsys.readouterr().err
    assert exit_.value.code == 2 and line.count("\n") == 1, line
    assert not (folder / "ours").exists()
    return line
