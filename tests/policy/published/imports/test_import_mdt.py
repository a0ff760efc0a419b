"""MDT's Lightning checkpoint, whole: averaged weights by place, names, numbers, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from telic.policy.checkpoint import load_policy
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.policy import Policy
from telic.policy.published.check import build
from telic.policy.published.import_checkpoint import main
from telic.policy.published.imported import CheckpointImportOptions
from telic.policy.published.mdt import importer as import_mdt
from telic.spec import Goal, Observation

Tensors = dict[str, Tensor]
SENTENCE = "open the drawer"
Write = Callable[..., Path]


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
    raw: bool,
    tmp_path: Path,
    agent_shapes: Callable[[str], Tensors],
    mdt_config: dict[str, Any],
    write_run: Write,
    write_vectors: Callable[[Path], Path],
    fill: Any,
) -> None:
    """The averaged weights are found by their place, the raw ones by name."""
    tensors = fill(agent_shapes("mdt"))
    blank = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    if raw:
        source = write_run(tmp_path / "run", tensors, list(blank.values()))
    else:
        source = write_run(tmp_path / "run", blank, list(tensors.values()))
    known = ["--embeddings", str(write_vectors(tmp_path))]
    main([str(source), str(tmp_path / "ours"), *known, *(["--raw"] if raw else [])])
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy) and policy.kind == "mdt"
    vector = torch.from_numpy(policy.known_embeddings[SENTENCE])[None]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    batch: dict[str, Any] = {
        "state": torch.zeros(1, 1, 15),
        "text": [SENTENCE],
        "goal_image/rgb_static": torch.zeros(1, 224, 224, 3, dtype=torch.uint8),
        "goal_images_given": torch.tensor([False]),
    }
    inputs: Tensors = {"goal": vector[:, None]}
    with torch.inference_mode():
        for camera, side in (("static", 224), ("gripper", 84)):
            frame = torch.randint(0, 256, (1, 1, side, side, 3), dtype=torch.uint8)
            batch[f"image/rgb_{camera}"] = frame
            pixels = (frame[:, 0].permute(0, 3, 1, 2) / 255 - mean) / std
            seen = published_resnet18(under(tensors, f"{camera}_resnet."), pixels)
            inputs[camera] = seen[:, None]
        published = build("mdt", mdt_config, under(tensors, "model.inner_model."))
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
            {"n_heads": 8},
            agent,
            listed("mdt_agent_state_dict"),
            CheckpointImportOptions(),
            Path("x.ckpt"),
        )
        policy = imported.build()
    used = sum(p.numel() for p in policy.parameters())
    both, goal, camera = 51_469_319, 512 * 1024 + 1024 + 1024 * 512 + 512, 512 * 512 + 512
    proprio, positions = 8 * 1024 + 1024 + 1024 * 512 + 512, 9 * 512
    denoiser = both - proprio - positions
    # each camera's two Linear maps are one, and sentences and pictures have a projection each
    assert used == denoiser + 2 * (11_439_168 - camera) + goal + 3_953_664 + 1 + 86_192_640
    assert policy.config.foresight == ForesightConfig.published()
    assert policy.config.alignment == AlignmentConfig.published()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, a: a.pop(), "averaged tensors for .* names"),
        (lambda w, a: a.insert(1, a.pop()), "in the place of static_resnet.backbone.0.weight is"),
        (lambda w, a: a.clear(), "0 averaged tensors"),
        (lambda w, a: w.update(odd=torch.zeros(2)) or a.append(w["odd"]), "unknown tensor odd"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[Tensors, list[Tensor]], Any],
    message: str,
    tmp_path: Path,
    agent_shapes: Callable[[str], Tensors],
    write_run: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {
        k: v for k, v in agent_shapes("mdt").items() if "goal." not in k and "gen_img" not in k
    }
    weights = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in shapes.items()}
    average = list(weights.values())
    change(weights, average)
    source = write_run(tmp_path / "run", weights, average)
    assert re.search(message, refused(source, tmp_path, capsys))


def test_another_kind_of_file_is_one_line(
    tmp_path: Path, write_run: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or directory" in refused(tmp_path / "none", tmp_path, capsys)
    assert "no published checkpoint that is known" in refused(tmp_path, tmp_path, capsys)
    source = write_run(tmp_path / "run", {}, None)
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
