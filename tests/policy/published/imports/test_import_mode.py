"""MoDE's published directory, whole: names, numbers, and what is refused."""

from __future__ import annotations

import dataclasses
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
from safetensors.torch import load_file, save_file
from torch import Tensor

from telic.datasets.lock import WriterLock
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.policy.presets import POLICIES
from telic.policy.published.check import build
from telic.policy.published.import_checkpoint import main
from telic.policy.published.imported import CheckpointImportOptions
from telic.policy.published.mode import importer as import_mode
from telic.policy.routing.noise import NoiseRoutingConfig
from telic.spec import ActRequest, ArraySpec, Goal, Interface, Observation

Tensors = dict[str, Tensor]
CONFIG: dict[str, Any] = {
    "action_dim": 7,
    "goal_dim": 16,
    "obs_dim": 2048,
    "embed_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "num_experts": 4,
    "top_k": 2,
    "router_normalize": True,
    "goal_seq_len": 1,
    "obs_seq_len": 1,
    "action_seq_len": 10,
}
SENTENCE = "open the drawer"


def denoiser_shapes(full: Tensors, config: dict[str, Any]) -> Tensors:
    """Return the names of a published MoDE denoiser at the sizes of `config`."""
    d, hidden = config["embed_dim"], 4 * config["embed_dim"]
    sizes = {1024: d, 2048: 2 * d, 8192: 2 * hidden, 4096: hidden, 128: d // config["n_heads"]}
    sizes |= {4: config["num_experts"], 7: config["action_dim"], 512: config["goal_dim"]}
    shapes = {}
    for name, tensor in full.items():
        parts = name.removeprefix("model.inner_model.").split(".")
        deep = parts[0] == "blocks" and int(parts[1]) >= config["n_layers"]
        if not name.startswith("model.inner_model.") or deep:
            continue
        shape = [sizes.get(size, size) for size in tensor.shape]
        if parts[0] in ("tok_emb", "gripper_embed"):
            shape[1] = config["obs_dim"]
        shapes[name] = torch.empty(shape, device="meta")
    return shapes


@pytest.fixture(scope="module")
def mode_shapes(
    listed: Callable[[str], Tensors], clip_shapes: Callable[..., Tensors]
) -> Callable[..., Tensors]:
    """Return a maker of all names of a MoDE: small denoiser and CLIP, towers of full width."""

    def make(config: dict[str, Any], resnet: str = "50") -> Tensors:
        full = listed("mode_agent_state_dict")
        towers = full if resnet == "50" else listed("mode_resnet18_state_dict")
        shapes = denoiser_shapes(full, config)
        for name, tensor in towers.items():
            if name.startswith("static_resnet."):
                shape = list(tensor.shape)
                if "film" in name and name.endswith("weight"):
                    shape[1] = config["goal_dim"]
                for camera in ("static", "gripper"):
                    place = name.replace("static", camera, 1)
                    shapes[place] = torch.empty(shape, dtype=tensor.dtype, device="meta")
        return shapes | clip_shapes("language_goal.clip_rn50.", 64, 2, 300, config["goal_dim"])

    return make


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    """Return `folder`, now a published MoDE directory."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model_cleaned.safetensors")
    agent = {"num_sampling_steps": 3, "sigma_min": 0.01, "sigma_max": 80, "sampler_type": "ddim"}
    network = {**config, "goal_dim": "${goal_dim}", "_target_": "mode.models.MoDeDiT"}
    inner = {"sigma_data": 0.5, "inner_model": network}
    whole = {"goal_dim": config["goal_dim"], "logger": {"id": "???", "name": "${now:}"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole | {"model": agent | {"model": inner}}))
    return folder


def embeddings(folder: Path) -> Path:
    """Return a file with the vector of SENTENCE."""
    path = folder / "known.safetensors"
    vector = torch.randn(1, CONFIG["goal_dim"], generator=torch.Generator().manual_seed(3))
    save_file({"vectors": vector}, path, metadata={"sentences": json.dumps([SENTENCE])})
    return path


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, mode_shapes: Callable[..., Tensors], fill: Any
) -> Path:
    """Return a published MoDE directory, which all here only read."""
    config = CONFIG | {"obs_dim": 512}
    folder = tmp_path_factory.mktemp("mode") / "published"
    return write(folder, fill(mode_shapes(config, "18")), config)


@pytest.fixture(scope="module")
def ours(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Return the policy that `source` is imported as, with the vector of SENTENCE."""
    folder = tmp_path_factory.mktemp("imported")
    main([str(source), str(folder / "ours"), "--embeddings", str(embeddings(folder))])
    policy = load_policy(folder / "ours")
    assert isinstance(policy, Policy)
    return policy


def observe() -> Observation:
    """Return an observation of CALVIN's robot."""
    rng = np.random.default_rng(0)
    return Observation(
        state=rng.standard_normal((1, 15), np.float32),
        images={
            "rgb_static": rng.integers(0, 256, (1, 200, 200, 3), np.uint8),
            "rgb_gripper": rng.integers(0, 256, (1, 84, 84, 3), np.uint8),
        },
    )


def batch_norm(x: Tensor, w: Tensors, name: str) -> Tensor:
    """Return x as the batch norm of that published name in eval mode makes it."""
    moments = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *moments, w[f"{name}.weight"], w[f"{name}.bias"])


def published_resnet50(w: Tensors, pixels: Tensor, condition: Tensor) -> Tensor:
    """Return the features of the published FiLM-ResNet-50, written out over its names."""
    x = F.conv2d(pixels, w["resnet.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(batch_norm(x, w, "resnet.bn1")), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            at = f"resnet.layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(batch_norm(F.conv2d(x, w[f"{at}.conv1.weight"]), w, f"{at}.bn1"))
            y = F.conv2d(y, w[f"{at}.conv2.weight"], stride=stride, padding=1)
            y = F.relu(batch_norm(y, w, f"{at}.bn2"))
            y = batch_norm(F.conv2d(y, w[f"{at}.conv3.weight"]), w, f"{at}.bn3")
            if block == 0:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = batch_norm(x, w, f"{at}.downsample.1")
            x = F.relu(x + y)
        gamma, beta = (
            F.linear(condition, w[f"film{stage}.{n}.weight"], w[f"film{stage}.{n}.bias"])
            for n in ("gamma", "beta")
        )
        x = x * (1 + gamma[:, :, None, None]) + beta[:, :, None, None]
    return x.mean((-2, -1))


def published_resnet18(w: Tensors, pixels: Tensor, condition: Tensor) -> Tensor:
    """Return the features of the published FiLM-ResNet-18, written out over its names."""
    x = F.conv2d(pixels, w["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(batch_norm(x, w, "bn1")), 3, 2, 1)
    for stage in range(1, 5):
        film = f"film_module{stage}.modulation.1"
        factors = F.linear(F.silu(condition), w[f"{film}.weight"], w[f"{film}.bias"])
        for block in range(2):
            at = f"layer{stage}.{block}"
            gamma, beta = factors.unflatten(1, (2, 2, -1))[:, block, :, :, None, None].unbind(1)
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(batch_norm(y, w, f"{at}.bn1"))
            y = batch_norm(F.conv2d(y, w[f"{at}.conv2.weight"], padding=1), w, f"{at}.bn2")
            if f"{at}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = batch_norm(x, w, f"{at}.downsample.1")
            x = F.relu(gamma * y + beta + x)
    return F.linear(x.mean((-2, -1)), w["fc.weight"], w["fc.bias"])


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors below `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.parametrize("resnet", ["50", "18"])
def test_imported_policy_answers_what_the_published_parts_answer(
    resnet: str,
    tmp_path: Path,
    mode_shapes: Callable[..., Tensors],
    fill: Any,
    request: pytest.FixtureRequest,
) -> None:
    config = CONFIG | {"obs_dim": 2048 if resnet == "50" else 512}
    tensors = fill(mode_shapes(config, resnet))
    if resnet == "18":
        policy = request.getfixturevalue("ours")
    else:
        source = write(tmp_path / "published", tensors, config)
        main([str(source), str(tmp_path / "ours"), "--embeddings", str(embeddings(tmp_path))])
        policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy)
    vector = torch.from_numpy(policy.known_embeddings[SENTENCE])[None]
    mean, std = (
        policy.conditioner.image_encoder.towers[0].mean,
        policy.conditioner.image_encoder.towers[0].std,
    )
    see = published_resnet50 if resnet == "50" else published_resnet18
    batch: dict[str, Any] = {"state": torch.zeros(1, 1, 15), "text": [SENTENCE]}
    features = []
    with torch.inference_mode():
        for index, camera in enumerate(("static", "gripper")):
            frame = torch.randint(0, 256, (1, 1, 224, 224, 3), dtype=torch.uint8)
            batch[f"image/rgb_{camera}"] = frame
            pixels = (frame[:, 0].permute(0, 3, 1, 2) / 255 - mean) / std
            seen = see(under(tensors, f"{camera}_resnet."), pixels, vector)
            tower = policy.conditioner.image_encoder.towers[index](frame[:, 0], vector).flatten(1)
            assert torch.allclose(tower, seen, atol=1e-4, rtol=1e-4)
            features.append(tower)
        published = build("mode", config, under(tensors, "model.inner_model."))
        inputs = {"goal": vector[:, None], "state_images": torch.stack(features, 1)}
        x, sigma = torch.randn(1, 10, 7), torch.tensor([0.7])
        want = published(x, sigma, inputs)
        got = policy.denoiser(x, sigma, policy.denoiser.encode(policy.encode(batch))).actions
    assert want.abs().max() > 1e-2
    assert (got - want).abs().max() < 1e-5


def test_imported_policy_acts_and_depends_on_what_it_sees(ours: Policy) -> None:
    assert ours.sampling.steps == 3 and ours.sampling.sigma_min == 0.01
    seen = observe()
    chunk = ours.act(seen, Goal(text=SENTENCE)).actions
    assert chunk.shape == (10, 7) and np.abs(chunk).max() <= 1
    for camera in seen.images:
        other = observe()
        other.images[camera] = np.zeros_like(other.images[camera])
        assert np.abs(ours.act(other, Goal(text=SENTENCE)).actions - chunk).max() > 1e-5
    request = ActRequest(observation=seen, goal=Goal(text="close the drawer"))
    with pytest.raises(ValueError, match="without a tokenizer, and 'close the drawer'"):
        ours.act_batch([request])


def test_a_checkpoint_is_replaced_only_if_asked_and_the_source_never(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--embeddings", str(embeddings(tmp_path))]
    (tmp_path / "run").mkdir()
    ours = tmp_path / "run" / "checkpoints" / "last"
    main([str(source), str(ours), *known])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years")
    lock = WriterLock(tmp_path / "run", "run")  # as a training has it

    def refused(target: Path, *more: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(source), str(target), *known, *more])
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2
        return line

    assert "is already there; --overwrite replaces it" in refused(ours)
    assert "somebody is writing" in refused(ours, "--overwrite")
    assert "is not a checkpoint of ours" in refused(tmp_path / "thesis", "--overwrite")
    assert "which is read for it" in refused(source, "--overwrite")
    assert "which is read for it" in refused(source.parent, "--overwrite")
    assert "which is read for it" in refused(source / "ours", "--overwrite")
    assert (tmp_path / "thesis" / "text.tex").is_file() and (source / "config.yaml").is_file()
    lock.release()
    main([str(source), str(ours), *known, "--overwrite"])
    assert isinstance(load_policy(ours), Policy)


def test_text_tower_with_a_tokenizer_reads_any_sentence(source: Path, tmp_path: Path) -> None:
    """The vector equals CLIP's formula written out over the published names."""
    files = tokenizer(tmp_path / "tokenizer")
    main([str(source), str(tmp_path / "ours"), "--tokenizer", str(files)])
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy)
    vectors = policy.embed(["open it", "it"])
    w = {
        k: v.float()
        for k, v in under(
            load_file(source / "model_cleaned.safetensors"), "language_goal.clip_rn50."
        ).items()
    }
    for text, words in {"open it": [260, 261], "it": [261]}.items():
        want = written_out_clip(w, torch.tensor([298, *words, 299]))
        assert np.abs(vectors[text] - want.numpy()).max() < 1e-5


def spec(folder: Path, actions: int, cameras: list[str]) -> Path:
    """Return the spec.json of a robot with these actions and cameras."""
    image = ArraySpec(shape=(64, 48, 3), dtype="uint8")
    interface = Interface(
        state=ArraySpec(shape=(4,)),
        action=ArraySpec(shape=(actions,)),
        rate_hz=10.0,
        images=dict.fromkeys(cameras, image),
    )
    path = folder / "spec.json"
    path.write_text(json.dumps({"interface": interface.to_json()}))
    return path


def test_another_robot_takes_part_by_its_interface(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(source), str(tmp_path / "ours"), *options])
        line = capsys.readouterr().err
        assert exit_.value.code == 2 and line.count("\n") == 1
        return line

    names = ["top", "hand", "back"]
    assert "makes 7 actions" in run("--interface", str(spec(tmp_path, 6, names)))
    assert "looks through 2 cameras, the interface has top" in run(
        "--interface", str(spec(tmp_path, 7, names[:1]))
    )
    assert "no readable JSON" in run("--interface", str(tmp_path / "none.json"))
    assert "holds no tokenizer.json" in run("--tokenizer", str(tmp_path))
    assert "is missing" in run("--embeddings", str(tmp_path / "none.safetensors"))
    vectors = {"vectors": torch.zeros(1, 5)}
    save_file(vectors, tmp_path / "other.safetensors", metadata={"sentences": '["go"]'})
    assert "has shape (5,), expected (16,)" in run(
        "--embeddings", str(tmp_path / "other.safetensors")
    )
    known = ["--embeddings", str(embeddings(tmp_path))]
    main(
        [
            str(source),
            str(tmp_path / "ours"),
            *known,
            "--interface",
            str(spec(tmp_path, 7, names)),
        ]
    )
    policy = load_policy(tmp_path / "ours")
    assert isinstance(policy, Policy)
    assert list(policy.interface.images) == ["top", "hand"] and policy.interface.rate_hz == 10
    image = np.zeros((1, 64, 48, 3), np.uint8)
    seen = Observation(state=np.zeros((1, 4), np.float32), images={"top": image, "hand": image})
    assert policy.act(seen, Goal(text=SENTENCE)).actions.shape == (10, 7)
    batch: dict[str, Any] = {
        "state": torch.zeros(2, 1, 4),
        "action": torch.zeros(2, 10, 7),
        "text": [SENTENCE] * 2,
    }
    batch |= {f"image/{c}": torch.zeros(2, 1, 64, 48, 3, dtype=torch.uint8) for c in seen.images}
    policy.train().loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad is not None for p in policy.parameters())


def tokenizer(folder: Path) -> Path:
    """Return a folder with a CLIP tokenizer that knows two words."""
    folder.mkdir()
    letters = [f"{c}{end}" for end in ("", "</w>") for c in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {letter: n for n, letter in enumerate(letters)}
    vocabulary |= {"op": 100, "en</w>": 101, "open</w>": 260, "it</w>": 261}
    vocabulary |= {"<|startoftext|>": 298, "<|endoftext|>": 299}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\no p\ne n</w>\nop en</w>\ni t</w>\n")
    return folder


def written_out_clip(w: Tensors, tokens: Tensor) -> Tensor:
    """Return the sentence vector of tokens [n] that end with the end-of-text token."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    x = w["token_embedding.weight"][tokens] + w["positional_embedding"][: len(tokens)]
    for layer in range(2):
        at = f"transformer.resblocks.{layer}"
        qkv = F.linear(norm(x, f"{at}.ln_1"), w[f"{at}.attn.in_proj_weight"])
        q, k, v = (qkv + w[f"{at}.attn.in_proj_bias"]).chunk(3, -1)
        future = torch.full((len(x), len(x)), float("-inf")).triu(1)
        read = (q @ k.T / 8 + future).softmax(-1) @ v  # one head of 64
        x = x + F.linear(read, w[f"{at}.attn.out_proj.weight"], w[f"{at}.attn.out_proj.bias"])
        h = F.linear(norm(x, f"{at}.ln_2"), w[f"{at}.mlp.c_fc.weight"], w[f"{at}.mlp.c_fc.bias"])
        h = h * torch.sigmoid(1.702 * h)
        x = x + F.linear(h, w[f"{at}.mlp.c_proj.weight"], w[f"{at}.mlp.c_proj.bias"])
    return norm(x, "ln_final")[-1] @ w["text_projection"]


@pytest.mark.parametrize("resnet", ["50", "18"])
def test_every_published_name_has_a_place_at_the_published_size(
    resnet: str, listed: Callable[[str], Tensors]
) -> None:
    tensors = listed("mode_agent_state_dict")
    if resnet == "18":
        tensors = {k: v for k, v in tensors.items() if "_resnet." not in k}
        towers = listed("mode_resnet18_state_dict")
        tensors |= towers | {k.replace("static", "gripper", 1): v for k, v in towers.items()}
        for name in ("tok_emb", "gripper_embed"):
            key = f"model.inner_model.{name}.weight"
            tensors[key] = torch.empty(1024, 512, device="meta")
    agent = {"num_sampling_steps": 10, "sigma_min": 0.001, "sigma_max": 80.0}
    with torch.device("meta"):
        imported = import_mode.convert(
            {"n_heads": 8, "top_k": 2},
            agent,
            tensors,
            CheckpointImportOptions(),
            Path("x/config.yaml"),
        )
        policy = imported.build()
    used = sum(p.numel() for p in policy.parameters())
    tower = 27_447_872 if resnet == "50" else 13_409_088
    obs_dim = 2048 if resnet == "50" else 512
    assert used == 685_853_751 - 1024 * 2048 * 2 + 1024 * obs_dim + 2 * tower
    assert sum(p.numel() for p in imported.language.parameters()) == 63_428_096


def test_preset_is_what_the_import_gives(listed: Callable[[str], Tensors]) -> None:
    agent = {"num_sampling_steps": 10, "sigma_min": 0.001, "sigma_max": 80.0}
    with torch.device("meta"):
        imported = import_mode.convert(
            {"n_heads": 8, "top_k": 2},
            agent,
            listed("mode_agent_state_dict"),
            CheckpointImportOptions(),
            Path("x/config.yaml"),
        )
    preset, config = POLICIES["mode_published"], imported.config
    assert config.denoiser.routing == NoiseRoutingConfig()  # the preset's None stands for it
    assert preset.denoiser == dataclasses.replace(config.denoiser, routing=None)
    assert preset.goal == config.goal
    assert preset.images.tower == config.images.tower == "film_resnet50"
    assert preset.images.share_projection and not preset.use_state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: t.pop("gripper_resnet.fc.bias"), "no tensor .*1.network.out.bias"),
        (lambda t, c: t.pop("model.inner_model.ln.g"), "no tensor ln.g"),
        (lambda t, c: t.pop("model.inner_model.pos_emb"), "no tensor model.inner_model.pos_emb"),
        (lambda t, c: t.pop("language_goal.clip_rn50.ln_final.bias"), "no tensor ln_final.bias"),
        (lambda t, c: t.update(odd=torch.zeros(2)), r"unknown tensor odd \(2,\)"),
        (
            lambda t, c: t.update({"model.inner_model.blocks.0.ln_3.g": torch.zeros(2)}),
            "unknown tensor blocks.0.ln_3.g .*did you mean",
        ),
        (
            lambda t, c: t.update({"static_resnet.odd": torch.zeros(2)}),
            "unexpected tensor .*odd",
        ),
        (
            lambda t, c: t.update({"model.inner_model.out.bias": torch.zeros(6)}),
            r"action_out.bias is \(6,\), expected \(7,\)",
        ),
        (lambda t, c: c.update(n_layers=5), "n_layers=5, but the tensors have 2"),
        (lambda t, c: c.update(use_argmax=True), "use_argmax=True is not supported"),
        (lambda t, c: c.pop("top_k"), "no section has n_heads, top_k"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[Tensors, dict[str, Any]], Any],
    message: str,
    tmp_path: Path,
    mode_shapes: Callable[..., Tensors],
    fill: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = CONFIG | {"obs_dim": 512}
    tensors = mode_shapes(config, "18")
    tensors = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in tensors.items()}
    change(tensors, config)
    source = write(tmp_path / "published", tensors, config)
    with pytest.raises(SystemExit) as exit_:
        main([str(source), str(tmp_path / "ours")])
    line = capsys.readouterr().err
    assert exit_.value.code == 2 and line.count("\n") == 1
    assert re.search(message, line), line
    assert not (tmp_path / "ours").exists()
