"""RDT's directory, whole: every container, the published answer, the published sizes, refusals."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from telic.policy.checkpoint import load_policy
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.policy import Policy
from telic.policy.published.check import build
from telic.policy.published.import_checkpoint import main
from telic.policy.published.rdt.denoiser import published_size
from telic.policy.published.rdt.importer import SCHEDULER, _sizes
from telic.spec import ArraySpec, Goal, Interface, Observation

Tensors = dict[str, Tensor]
WIDTH, DEPTH, HEADS, WORDS, SEEN, MOST, PATCHES, HORIZON = 32, 3, 2, 12, 16, 9, 4, 8
CONFIG: dict[str, Any] = {
    "lang_token_dim": WORDS,
    "img_token_dim": SEEN,
    "state_token_dim": 128,
    "max_lang_cond_len": MOST,
    "pred_horizon": HORIZON,
    "img_pos_embed_config": [["image", [2, 3, -PATCHES]]],
    "config": {
        "rdt": {"hidden_size": WIDTH, "depth": DEPTH, "num_heads": HEADS},
        "lang_adaptor": "mlp2x_gelu",
        "noise_scheduler": SCHEDULER,
    },
}
FLAT: dict[str, Any] = {
    **SCHEDULER,
    "hidden_size": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "lang_dim": WORDS,
    "img_dim": SEEN,
    "state_dim": 128,
    "horizon": HORIZON,
    "max_lang_len": MOST,
    "img_pos": [[2, 3, -PATCHES]],
    "norm": "variance",
}
SENTENCE = "pour the water"
NAMES = (*(f"right_arm_joint_{i}_pos" for i in range(6)), "right_gripper_open")
ROBOT = Interface(
    state=ArraySpec(shape=(7,), names=NAMES),
    action=ArraySpec(shape=(7,), names=NAMES),
    rate_hz=25.0,
    images={c: ArraySpec(shape=(24, 32, 3), dtype="uint8") for c in ("high", "right_wrist")},
)


def names(width: int, depth: int, horizon: int, most: int, images: int) -> dict[str, list[int]]:
    """Return the published names and shapes of a network of these sizes."""
    d = width
    linears = {
        **{f"lang_adaptor.{n}": [d, WORDS if n == 0 else d] for n in (0, 2)},
        **{f"img_adaptor.{n}": [d, SEEN if n == 0 else d] for n in (0, 2)},
        **{f"state_adaptor.{n}": [d, 256 if n == 0 else d] for n in (0, 2, 4)},
        **{f"model.{e}_embedder.mlp.{n}": [d, 256 if n == 0 else d] for e in "t" for n in (0, 2)},
        **{f"model.freq_embedder.mlp.{n}": [d, 256 if n == 0 else d] for n in (0, 2)},
        "model.final_layer.ffn_final.fc1": [d, d],
        "model.final_layer.ffn_final.fc2": [128, d],
    }
    norms = {"model.final_layer.norm_final": d}
    for layer in range(depth):
        at = f"model.blocks.{layer}"
        linears |= {f"{at}.attn.qkv": [3 * d, d], f"{at}.cross_attn.kv": [2 * d, d]}
        for part in ("attn.proj", "cross_attn.q", "cross_attn.proj", "ffn.fc1", "ffn.fc2"):
            linears[f"{at}.{part}"] = [d, d]
        norms |= {f"{at}.norm{n}": d for n in (1, 2, 3)}
        norms |= {f"{at}.{a}.{n}_norm": d // HEADS for a in ("attn", "cross_attn") for n in "qk"}
    tables = {"x": 3 + horizon, "lang_cond": most, "img_cond": images}
    return {
        **{f"model.{name}_pos_embed": [1, count, d] for name, count in tables.items()},
        **{f"{name}.weight": shape for name, shape in linears.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linears.items()},
        **{f"{name}.weight": [size] for name, size in norms.items()},
    }


def random_weights() -> Tensors:
    """Return random values under the published names."""
    shapes = names(WIDTH, DEPTH, HORIZON, MOST, 6 * PATCHES)
    return {
        name: 1 + 0.1 * torch.randn(shape)
        if len(shape) == 1 and name.endswith("weight")
        else torch.randn(shape) / math.sqrt(shape[-1])
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a SigLIP that sees 4 patches."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    small = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={"hidden_size": SEEN, "image_size": 28, "patch_size": 14, **small},
        text_config={"hidden_size": SEEN, "vocab_size": 8, **small},
    )
    folder = tmp_path_factory.mktemp("siglip")
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def write(folder: Path, weights: Any, file: str = "pytorch_model.bin", **change: Any) -> Path:
    """Return `folder`, now a published directory."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    if file.endswith("safetensors"):
        save_file(weights, folder / file)
    else:
        torch.save(weights, folder / file)
    return folder


def arguments(folder: Path, siglip: Path, interface: Interface = ROBOT) -> list[str]:
    """Return what the user provides: robot, SigLIP, the words of one sentence."""
    (folder / "spec.json").write_text(json.dumps(interface.to_json()))
    words = torch.randn(3, WORDS, generator=torch.Generator().manual_seed(3))
    tensors = {"words": words, "lengths": torch.tensor([3])}
    save_file(tensors, folder / "words.st", metadata={"sentences": json.dumps([SENTENCE])})
    given = {"interface": "spec.json", "embeddings": "words.st"}
    flags = [part for flag, name in given.items() for part in (f"--{flag}", str(folder / name))]
    return [*flags, "--vision", str(siglip)]


@pytest.mark.parametrize("container", ["bin", "safetensors", "deepspeed"])
def test_imported_policy_answers_what_the_published_parts_answer(
    container: str, tmp_path: Path, siglip: Path
) -> None:
    """Padding to squares, a wrist camera that is not there, frame by frame to camera by camera."""
    from transformers import SiglipVisionModel

    weights = random_weights()
    content = {"module": weights, "ds_version": "0.14"} if container == "deepspeed" else weights
    file = "model.safetensors" if container == "safetensors" else "pytorch_model.bin"
    source = write(tmp_path / "rdt", content, file)
    main([str(source), str(tmp_path / "ours"), *arguments(tmp_path, siglip)])
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy) and policy.kind == "rdt"
    assert policy.config.train_padding and policy.denoiser.sizes.num_images == 6 * PATCHES  # type: ignore[union-attr]
    frames = {c: torch.randint(0, 256, (1, 2, 24, 32, 3)).byte() for c in ROBOT.images}
    eye = SiglipVisionModel.from_pretrained(siglip).eval()
    seen = []
    for frame in range(2):
        for camera in (*ROBOT.images, None):
            square = torch.full((32, 32, 3), 127, dtype=torch.uint8)
            if camera is not None:
                square[4:28] = frames[camera][0, frame]
            pixels = (square.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
            pixels = torch.nn.functional.interpolate(
                pixels, (28, 28), mode="bilinear", antialias=True
            )
            seen.append(eye(pixel_values=pixels).last_hidden_state)
    mask = torch.zeros(1, 128)
    mask[:, [*range(6), 10]] = 1
    state = torch.randn(1, 2, 128) * mask
    words = torch.from_numpy(policy.known_embeddings[SENTENCE])[None]
    inputs = {
        "lang": words,
        "lang_mask": torch.ones(1, 3, dtype=torch.bool),
        "img": torch.cat(seen, 1),
        "state": state[:, -1:],
        "mask": mask[:, None],
        "freq": torch.tensor([25.0]),
    }
    batch = {"state": state, "text": [SENTENCE], "rate_hz": inputs["freq"]}
    batch |= {"state_slots": mask.bool(), "action_slots": mask.bool()}
    batch |= {f"image/{camera}": frame for camera, frame in frames.items()}
    x, sigma = torch.randn(1, HORIZON, 128), torch.tensor([0.7])
    with torch.inference_mode():
        published: Any = build("rdt", FLAT, weights)
        memory = published.denoiser.encode(published.context(inputs))
        want = published.denoiser(x, sigma, memory).actions
        got = policy.denoiser(x, sigma, policy.denoiser.encode(policy.encode(batch))).actions
    assert want.abs().max() > 1e-2
    assert (got - want).abs().max() < 1e-5
    observation = Observation(
        state=np.zeros((2, 7), np.float32), images={c: f[0].numpy() for c, f in frames.items()}
    )
    assert policy.act(observation, Goal(text=SENTENCE)).actions.shape == (HORIZON, 7)


def test_every_tensor_has_a_place_at_the_published_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "WORDS", 4096)
    monkeypatch.setitem(globals(), "SEEN", 1152)
    monkeypatch.setitem(globals(), "HEADS", 32)
    shapes = names(1024, 14, 64, 1024, 4374)
    assert len(shapes) == 324
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    sizes = {**SCHEDULER, **_sizes(tensors, "x"), "img_pos": [[2, 3, -729]], "norm": "variance"}
    with torch.device("meta"):
        network = build("rdt", sizes, tensors)
        want = published_size(RdtConfig.published()).state_dict()
    got = network.state_dict()
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in want.items()}


def test_sentences_are_read_by_the_t5_of_a_folder(
    tmp_path: Path,
    siglip: Path,
    text_model: Callable[[Path, Any], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import T5Config, T5EncoderModel

    small = {"vocab_size": 8, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    fits, other = (
        text_model(tmp_path / str(dim), T5EncoderModel(T5Config(d_model=dim, **small)))
        for dim in (WORDS, 20)
    )
    source, given = write(tmp_path / "rdt", random_weights()), arguments(tmp_path, siglip)
    capsys.readouterr()  # progress of writing the models
    line = refused(source, tmp_path, capsys, [*given, "--language", other])
    assert "gives 20 numbers a word, expected 12" in line
    main([str(source), str(tmp_path / "ours"), *given, "--language", fits])
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy)
    assert policy.embed(["open drawer"])["open drawer"].shape == (3, WORDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lang_adaptor.2.bias"), "no tensor lang_adaptor.2.bias; did you mean"),
        (lambda w: w.pop("model.x_pos_embed"), "no tensor model.x_pos_embed"),
        (lambda w: w.update(odd=torch.zeros(2)), r"unknown tensor odd \(2,\)"),
        (lambda w: w.update({"img_adaptor.2.bias": torch.zeros(2)}), r"is \(2,\), expected \(32,"),
        (
            lambda w: w.update({"model.blocks.0.cross_attn.kv.bias": torch.tensor(1.0)}),
            r"to_kv.bias is \(\), expected",
        ),
        (
            lambda w: w.update({"model.blocks.0.attn.qkv.bias": torch.tensor(1.0)}),
            r"to_qkv.bias is \(\), expected",
        ),
        (lambda w: w.update(step=7), "holds more or other than tensors by name"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    change: Callable[[Any], Any],
    message: str,
    tmp_path: Path,
    siglip: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights: Any = random_weights()
    change(weights)
    source = write(tmp_path / "rdt", weights)
    assert re.search(message, refused(source, tmp_path, capsys, arguments(tmp_path, siglip)))


def test_other_input_that_does_not_fit_is_one_line(
    tmp_path: Path, siglip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, given = random_weights(), arguments(tmp_path, siglip)
    source = write(tmp_path / "a", weights, pred_horizon=64)
    assert "pred_horizon=64, but the tensors have 8" in refused(source, tmp_path, capsys, given)
    source = write(tmp_path / "b", weights, img_pos_embed_config=[["image", [1, 3, -4]]])
    assert "tensors have 24" in refused(source, tmp_path, capsys, given)
    source = write(tmp_path / "c", weights, lang_adaptor="linear")
    assert "lang_adaptor=linear is not supported" in refused(source, tmp_path, capsys, given)
    for n, layout in enumerate(([["image", [math.inf, 3, -4]]], [["image", ["a", 3, -4]]], 7)):
        source = write(tmp_path / f"layout{n}", weights, img_pos_embed_config=layout)
        says = refused(source, tmp_path, capsys, given)
        assert 'config.json: img_pos_embed_config is not [["image", [frames' in says
    for n, (key, value) in enumerate(
        [
            *(("num_train_timesteps", other) for other in ("float99", math.inf, [3], 0, None)),
            *(("num_inference_timesteps", other) for other in ("int64", -4, 5 * 10**12, True)),
            *((key, [0]) for key in ("beta_schedule", "prediction_type")),
        ]
    ):
        scheduler = {**CONFIG["config"], "noise_scheduler": SCHEDULER | {key: value}}
        source = write(tmp_path / f"other{n}", weights, config=scheduler)
        says = refused(source, tmp_path, capsys, given)
        assert str(source) in says and re.search(f"{key}=|num_timesteps=0|sampling.steps=", says)
    source = write(tmp_path / "holes", weights)
    os.truncate(source / "config.json", 1 << 40)
    assert "1,099,511,627,776 bytes" in refused(source, tmp_path, capsys, given)
    source = write(tmp_path / "d", weights)
    assert "--interface FILE names the entries" in refused(source, tmp_path, capsys, [])
    nowhere = [*given[:-1], str(tmp_path / "none")]
    assert "--vision DIR names SigLIP" in refused(source, tmp_path, capsys, nowhere)
    odd = replace(ROBOT, action=replace(ROBOT.action, names=("elbow", *NAMES[1:])))
    given = arguments(tmp_path, siglip, odd)
    assert "entry 'elbow' has no slot" in refused(source, tmp_path, capsys, given)
    (source / "pytorch_model.bin").unlink()
    assert "no published checkpoint that is known" in refused(source, tmp_path, capsys, given)


def refused(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> str:
    """Return the one line with which the import of `source` ends."""
    with pytest.raises(SystemExit) as exit_:
        main([str(source), str(folder / "ours"), *given])
    line = capsys.readouterr().err
    assert exit_.value.code == 2 and line.count("\n") == 1, line
    assert not (folder / "ours").exists()
    return line
