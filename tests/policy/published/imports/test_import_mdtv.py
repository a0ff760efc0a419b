"""MDT-V's checkpoint: what it sees through Voltron and the perceiver, and every name at full size.

Formulas are written out over the published names, in float64.
"""

from __future__ import annotations

import math
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
from telic.policy.published.voltron import null_sentence
from telic.spec import Goal, Observation

Tensors = dict[str, Tensor]
SENTENCE = "open the drawer"
CLIP_SCALE = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET_SCALE = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors below `prefix`, without it, f64."""
    return {k.removeprefix(prefix): v.double() for k, v in tensors.items() if k.startswith(prefix)}


def linear(w: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def scaled(pixels: Tensor, scale: tuple[list[float], list[float]]) -> Tensor:
    mean, std = (torch.tensor(part, dtype=torch.float64).view(3, 1, 1) for part in scale)
    return (pixels - mean) / std


def layer_norm(w: Tensors, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])).clamp(min=1e-8) * gain


def heads_of(x: Tensor, heads: int) -> Tensor:
    b, n, d = x.shape
    return x.view(b, n, heads, d // heads).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def distilbert(w: Tensors) -> Tensor:
    """Return the last hidden states [20 768] of one [CLS] and 19 blanks that are masked out."""
    words = torch.tensor([101] + [0] * 19)
    x = (
        w["embeddings.word_embeddings.weight"][words]
        + (w["embeddings.position_embeddings.weight"][:20])
    )
    x = layer_norm(w, "embeddings.LayerNorm", x, 1e-12)[None]
    mask = torch.tensor([0.0] + [-math.inf] * 19, dtype=torch.float64)
    for layer in range(len({n.split(".")[2] for n in w if n.startswith("transformer.layer.")})):
        at = f"transformer.layer.{layer}"
        q, k, v = (heads_of(linear(w, f"{at}.attention.{n}_lin", x), 12) for n in "qkv")
        heard = ((q @ k.transpose(-1, -2) / 8) + mask).softmax(-1) @ v
        heard = linear(w, f"{at}.attention.out_lin", joined(heard))
        x = layer_norm(w, f"{at}.sa_layer_norm", heard + x, 1e-12)
        y = linear(w, f"{at}.ffn.lin2", F.gelu(linear(w, f"{at}.ffn.lin1", x)))
        x = layer_norm(w, f"{at}.output_layer_norm", y + x, 1e-12)
    return x[0]


def voltron(w: Tensors, frames: Tensor) -> Tensor:
    """Return Voltron's patches [n 196 384] of frames u8 [n h w 3] under the null sentence.

    The frames come scaled as CLIP's are, then they are resized and scaled as ImageNet's.
    """
    pixels = scaled(frames.permute(0, 3, 1, 2).double() / 255, CLIP_SCALE)
    pixels = F.interpolate(pixels, (224, 224), mode="bilinear", align_corners=False)
    pixels = scaled(pixels, IMAGENET_SCALE)
    patches = F.conv2d(pixels, w["patch2embed.proj.weight"], w["patch2embed.proj.bias"], 16)
    patches = patches.flatten(2).transpose(1, 2) + w["encoder_pe"] + w["img_token"]
    words = linear(w, "lang2encoder", distilbert(under(w, "lm."))) + w["lang_token"]
    x = torch.cat([patches, words.expand(len(patches), -1, -1)], 1)
    asks = torch.tensor([1] * 196 + [1] + [0] * 19)
    for layer in range(12):
        at = f"encoder_blocks.{layer}"
        h = rms_norm(x, w[f"{at}.pre_norm_attn.g"])
        q, k, v = (heads_of(part, 6) for part in linear(w, f"{at}.attn.qkv", h).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 8
        scores = scores.masked_fill(asks[:, None] == 0, torch.finfo(torch.float32).min)
        heard = linear(w, f"{at}.attn.proj", joined(scores.softmax(-1) @ v))
        x = x + w[f"{at}.layer_scale_attn.gamma"] * heard
        h = rms_norm(x, w[f"{at}.pre_norm_mlp.g"])
        u, gate = linear(w, f"{at}.mlp.0.project", h).chunk(2, -1)
        y = linear(w, f"{at}.mlp.2", u * gate * gate.sigmoid())
        x = x + w[f"{at}.layer_scale_mlp.gamma"] * y
    return rms_norm(x, w["encoder_norm.g"])[:, :196]


def perceiver(w: Tensors, tokens: Tensor) -> Tensor:
    """Return the latents [b 3 384] of tokens [b n 384]."""
    seen = tokens + w["time_pos_emb"][0]
    z = w["latents"].expand(len(tokens), -1, -1)
    for layer in range(len({n.split(".")[1] for n in w if n.startswith("layers.")})):
        at = f"layers.{layer}.0"
        normed = layer_norm(w, f"{at}.norm_latents", z)
        read = torch.cat([layer_norm(w, f"{at}.norm_media", seen), normed], 1)
        q = heads_of(linear(w, f"{at}.to_q", normed) / 8, 8)
        k, v = (heads_of(linear(w, f"{at}.{name}", read), 8) for name in ("to_k", "to_v"))
        heard = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        z = z + linear(w, f"{at}.to_out", joined(heard))
        at = f"layers.{layer}.1"
        z = z + linear(w, f"{at}.3", F.gelu(linear(w, f"{at}.1", layer_norm(w, f"{at}.0", z))))
    return layer_norm(w, "norm", z)


@pytest.fixture(scope="module")
def seen_frames() -> dict[str, Tensor]:
    """Return a frame of each camera at the size at which it is seen, u8 [1 1 h w 3]."""
    generator = torch.Generator().manual_seed(5)
    return {
        f"image/rgb_{camera}": torch.randint(
            0, 256, (1, 1, side, side, 3), dtype=torch.uint8, generator=generator
        )
        for camera, side in (("static", 224), ("gripper", 84))
    }


@pytest.fixture(scope="module")
def published(agent_shapes: Callable[[str], Tensors], fill: Any) -> Tensors:
    """Return the tensors of a published MDT-V, which all here only read."""
    tensors: Tensors = fill(agent_shapes("mdtv"))
    return tensors


@pytest.fixture(scope="module")
def ours(
    published: Tensors,
    write_run: Callable[..., Path],
    write_vectors: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Policy:
    """Return the policy of a run whose averaged weights are `published`, the others zero."""
    folder = tmp_path_factory.mktemp("mdtv")
    blank = {name: torch.zeros(t.shape) for name, t in published.items()}
    source = write_run(folder / "run", blank, list(published.values()))
    main([str(source), str(folder / "ours"), "--embeddings", str(write_vectors(folder))])
    policy = load_policy(folder / "ours")
    assert isinstance(policy, Policy)
    return policy


def test_imported_policy_answers_what_the_published_parts_answer(
    ours: Policy,
    published: Tensors,
    mdt_config: dict[str, Any],
    seen_frames: dict[str, Tensor],
) -> None:
    policy, tensors = ours, published
    assert policy.kind == "mdt" and policy.conditioner.image_encoder
    tower = policy.conditioner.image_encoder.tower(0)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    weights = under(tensors, "img_encoder.vcond.")
    with torch.inference_mode():
        eyes = [voltron(weights, frame[:, 0]) for frame in seen_frames.values()]
        for eye, frame in zip(eyes, seen_frames.values(), strict=True):
            got = tower(frame[:, 0]).flatten(2).transpose(1, 2)
            # relative: twelve layers in float32 against float64, of entries of about 1
            assert (got - eye).abs().max() < 1e-4 * eye.abs().max()
        few = perceiver(under(tensors, "perceiver."), torch.cat(eyes, 1)).float()
        vector = torch.from_numpy(policy.known_embeddings[SENTENCE])[None, None]
        config = {**mdt_config, "n_obs_token": 3, "obs_dim": 384, "modality": "lang"}
        denoiser = {k: v.float() for k, v in under(tensors, "model.inner_model.").items()}
        network = build("mdtv", config, denoiser)
        x, sigma = torch.randn(1, 10, 7), torch.tensor([0.7])
        want = network(x, sigma, {"goal": vector, "state_images": few})
        blind = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
        batch: dict[str, Any] = {
            **seen_frames,
            "state": torch.zeros(1, 1, 15),
            "text": [SENTENCE],
            "goal_image/rgb_static": blind,
            "goal_images_given": torch.tensor([False]),
        }
        got = policy.denoiser(x, sigma, policy.denoiser.encode(policy.encode(batch))).actions
        other = seen_frames | {"image/rgb_gripper": seen_frames["image/rgb_gripper"].flip(2)}
        moved = policy.denoiser(x, sigma, policy.denoiser.encode(policy.encode(batch | other)))
    assert want.abs().max() > 1e-2
    assert (got - want).abs().max() < 1e-5
    assert (moved.actions - want).abs().max() > 1e-4


def test_imported_policy_acts_on_sentences_and_on_pictures(ours: Policy) -> None:
    rng = np.random.default_rng(0)
    images = {"rgb_static": (1, 200, 200, 3), "rgb_gripper": (1, 84, 84, 3)}
    observation = Observation(
        state=np.zeros((1, 15), np.float32),
        images={c: rng.integers(0, 256, shape, np.uint8) for c, shape in images.items()},
    )
    pictures = [rng.integers(0, 256, (200, 200, 3), np.uint8) for _ in range(2)]
    goals = [Goal(text=SENTENCE), *(Goal(images={"rgb_static": p}) for p in pictures)]
    chunks = [ours.act(observation, goal).actions for goal in goals]
    assert all(chunk.shape == (10, 7) for chunk in chunks)
    assert not any(np.array_equal(chunks[i], chunks[j]) for i, j in ((0, 1), (1, 2)))


def test_every_published_name_has_a_place_at_the_published_size(
    listed: Callable[[str], Tensors],
) -> None:
    agent = {"num_sampling_steps": 10, "sigma_min": 1.0, "sigma_max": 80.0}
    tensors = listed("mdtv_agent_state_dict")
    with torch.device("meta"):
        imported = import_mdt.convert(
            {"n_heads": 8, "n_obs_token": 3},
            agent,
            tensors,
            CheckpointImportOptions(),
            Path("x.ckpt"),
        )
        policy = imported.build()
    used = sum(p.numel() for p in policy.parameters())
    denoiser, resampler = 22_517_767, 11_812_608
    foresight, pool, log_scale = 3_929_088, 2_512_128, 1
    proprio, positions = 8 * 768 + 768 + 768 * 384 + 384, 14 * 384
    clip = 86_192_640
    eye = sum(
        t.numel() for name, t in tensors.items() if name.startswith("img_encoder.vcond.encoder_b")
    )
    eye += 384 * 768 + 384 + 384  # patches, and the last norm's gain
    eye += 20 * 384  # words
    heads = denoiser - proprio - positions + resampler + foresight + pool + log_scale
    assert used == heads + eye + clip
    assert policy.config.foresight == ForesightConfig.published()
    assert policy.config.alignment == AlignmentConfig.published_v()
    assert policy.conditioner.image_encoder and policy.conditioner.image_encoder.num_tokens == 3
    assert policy.config.images.perceiver.num_heads == 8
    assert "img_encoder.vcond.decoder_blocks.*" in imported.dead


def test_null_sentence_needs_the_language_model(published: Tensors) -> None:
    model = {
        k.removeprefix("img_encoder.vcond.lm."): v
        for k, v in published.items()
        if k.startswith("img_encoder.vcond.lm.")
    }
    got = null_sentence(model, "file")
    assert got.shape == (20, 768) and not got.requires_grad
    assert (got - distilbert({k: v.double() for k, v in model.items()})).abs().max() < 1e-4
    old = model | {"embeddings.position_ids": torch.arange(512)[None]}
    assert torch.equal(null_sentence(old, "file"), got)
    short = model | {"embeddings.word_embeddings.weight": torch.zeros(50, 768)}
    with pytest.raises(ValueError, match="file: 50 words, 512 positions, width 768; expected more"):
        null_sentence(short, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("img_encoder.vcond.encoder_pe"), "vcond: no tensor encoder_pe"),
        (
            lambda w: w.update({"img_encoder.vcond.odd": torch.zeros(2)}),
            r"vcond: unknown tensor odd \(2,\)",
        ),
        (lambda w: w.pop("perceiver.norm.bias"), "no tensor norm.bias"),
        (lambda w: w.pop("perceiver.latents"), "no tensor perceiver.latents"),
        (lambda w: w.update({"perceiver.latents": torch.zeros(4, 384)}), "n_obs_token=3, but the"),
        (lambda w: w.pop("clip_proj.latent_proj.latents"), "clip_proj: no tensor latent_proj"),
        (lambda w: w.pop("gen_img.ctx_dec_pe"), "gen_img: no tensor ctx_dec_pe"),
        (lambda w: w.pop("logit_scale"), "no tensor logit_scale"),
        (lambda w: w.pop("visual_goal.clip_model.visual.proj"), "clip_model: no tensor proj"),
        (
            lambda w: w.update({"img_encoder.vcond.encoder_norm.g": torch.zeros(2)}),
            r"towers.0.network.norm.gain is \(2,\), expected \(384,\)",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[Tensors], Any],
    message: str,
    agent_shapes: Callable[[str], Tensors],
    mdt_config: dict[str, Any],
) -> None:
    """On the meta device: names and shapes alone are looked at."""
    weights = agent_shapes("mdtv")
    change(weights)
    config = {**mdt_config, "obs_dim": 384, "n_obs_token": 3}
    agent = {"num_sampling_steps": 10, "sigma_min": 1.0, "sigma_max": 80.0}
    with torch.device("meta"), pytest.raises(ValueError) as error:
        import_mdt.convert(
            config, agent, weights, CheckpointImportOptions(), Path("x.ckpt")
        ).build()
    assert re.search(message, str(error.value)) and "\n" not in str(error.value), error.value
