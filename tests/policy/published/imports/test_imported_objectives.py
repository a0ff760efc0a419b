"""What an imported MDT and MDT-V learn besides actions: the published losses, and no other act.

Formulas are written out over the published names; latents are those of the published denoiser.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from telic.policy.checkpoint import load_embeddings
from telic.policy.denoisers.context import Context
from telic.policy.objectives.alignment import AlignmentConfig
from telic.policy.objectives.foresight import ForesightConfig
from telic.policy.objectives.objective import Encoded
from telic.policy.policy import Policy
from telic.policy.published.check import build
from telic.policy.published.imported import CheckpointImportOptions
from telic.policy.published.mdt import importer as import_mdt
from telic.spec import Goal, Observation

Tensors = dict[str, Tensor]
Import = Callable[[str], tuple[Tensors, Policy]]
SENTENCES = ["open the drawer", "close the drawer", "open the drawer"]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Tensors, Policy]]:
    """Return what was imported already in this file; Voltron is large."""
    return {}


@pytest.fixture
def imported(
    made: dict[str, tuple[Tensors, Policy]],
    agent_shapes: Callable[[str], Tensors],
    mdt_config: dict[str, Any],
    write_vectors: Callable[[Path], Path],
    fill: Any,
    tmp_path: Path,
) -> Import:
    """Return an importer of a file of a kind ("mdt", "mdtv"): its tensors and the policy."""

    def make(kind: str) -> tuple[Tensors, Policy]:
        if kind not in made:
            tensors = fill(agent_shapes(kind))
            tensors["logit_scale"] = torch.tensor(1.3)
            agent = {"num_sampling_steps": 3, "sigma_min": 0.01, "sigma_max": 80.0}
            network = {"n_heads": mdt_config["n_heads"]}
            options = CheckpointImportOptions()
            policy = import_mdt.convert(network, agent, tensors, options, Path("x.ckpt")).build()
            policy.set_embeddings(load_embeddings(write_vectors(tmp_path)))
            made[kind] = tensors, policy
        return made[kind]

    return make


def batch_of(size: int, *, shown: bool) -> dict[str, Any]:
    """Return windows with sentences and pictures of the goal; `shown`: whether those count."""
    generator = torch.Generator().manual_seed(1)

    def frames(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return {
        "state": torch.zeros(size, 1, 15),
        "text": SENTENCES[:size],
        "image/rgb_static": frames(size, 1, 224, 224, 3),
        "image/rgb_gripper": frames(size, 1, 84, 84, 3),
        "goal_image/rgb_static": frames(size, 224, 224, 3),
        "goal_images_given": torch.full((size,), shown),
        "future_image/rgb_static": frames(size, 112, 112, 3),
        "future_image/rgb_gripper": frames(size, 112, 112, 3),
    }


@pytest.fixture
def read(imported: Import, mdt_config: dict[str, Any]) -> Callable[..., Any]:
    """Return a reader of a batch: the policy's `Encoded`, and the published latent of a goal.

    The published latent is a function of the goal's vector [B C] and of the projection, "text" or
    "image", that the vector goes through.
    """

    def make(kind: str, batch: dict[str, Any]) -> tuple[Encoded, Callable[..., Tensor]]:
        tensors, policy = imported(kind)
        goals = policy.conditioner.goal_encoder.tokens(batch)
        context = policy.encode(batch)

        def latent_of(goal: Tensor) -> Tensor:
            other = dataclasses.replace(context, goal=goal)
            return policy.denoiser.latent(policy.denoiser.encode(other))

        encoded = Encoded(
            batch=batch,
            goals=goals,
            latent=latent_of(context.goal),
            latent_of=latent_of,
            towers={},
            sentence_in=policy.conditioner.goal_encoder.text_in,
        )
        seen = 3 if kind == "mdtv" else 2
        config = {**mdt_config, "n_obs_token": seen, "modality": "lang"}
        if kind == "mdtv":
            config["obs_dim"] = 384
        at = "model.inner_model."
        own = {k.removeprefix(at): v for k, v in tensors.items() if k.startswith(at)}
        published: Any = build(kind, config, own)

        def published_latent(vector: Tensor, projection: str) -> Tensor:
            goal = published.goal_in[projection](vector)[:, None]
            told = Context(goal=goal, images=context.images, state=context.images[:, :0])
            tokens: Tensor = published.denoiser.encode(told).tokens
            return tokens

        return encoded, published_latent

    return make


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])).clamp(min=1e-8) * gain


def linear(w: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def heard(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return attention head by head, each of q, k, v [b n d]."""
    parts = []
    for head in range(heads):
        size = q.shape[-1] // heads
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(size)
        parts.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(parts, -1)


def foresight_loss(w: Tensors, frames: list[Tensor], latent: Tensor, luck: Tensor) -> Tensor:
    """Return masked generative foresight of frames u8 [b 112 112 3] each, patch by patch."""
    b, width, places = len(latent), 192, 49
    order = luck.argsort(1)
    shown = torch.zeros(b, places, dtype=torch.bool).scatter(1, order[:, :12], True)
    pixels = [((f.double() / 255 - MEAN) / STD).permute(0, 3, 1, 2) for f in frames]
    tokens, targets = [linear(w, "encoder2decoder", latent)], []
    for camera, image in enumerate(pixels):
        patches = F.conv2d(image, w["patch2embed.proj.weight"], w["patch2embed.proj.bias"], 16)
        known = patches.flatten(2).transpose(1, 2) + grid_positions(7, width)
        token = torch.where(shown[..., None], known, w["mask_token"])
        tokens.append(token + grid_positions(7, width) + w["ctx_dec_pe"][:, camera])
        cut = image.unfold(2, 16, 16).unfold(3, 16, 16)  # [b c rows columns 16 16]
        targets.append(cut.permute(0, 2, 3, 4, 5, 1).reshape(b, places, -1))
    x = torch.cat(tokens, 1)
    for layer in range(len({n.split(".")[1] for n in w if n.startswith("decoder_blocks.")})):
        at = f"decoder_blocks.{layer}"
        qkv = linear(w, f"{at}.attn.qkv", norm(x, w[f"{at}.pre_norm_attn.g"])).chunk(3, -1)
        y = linear(w, f"{at}.attn.proj", heard(*qkv, heads=8))
        x = x + w[f"{at}.layer_scale_attn.gamma"] * y
        up = linear(w, f"{at}.mlp.0.project", norm(x, w[f"{at}.pre_norm_mlp.g"]))
        u, g = up.chunk(2, -1)
        y = linear(w, f"{at}.mlp.2", u * g * g.sigmoid())
        x = x + w[f"{at}.layer_scale_mlp.gamma"] * y
    out = linear(w, "decoder_patch_prediction", norm(x, w["decoder_norm.g"]))[:, -98:]
    losses = []
    for answer, target in zip(out.split(places, 1), targets, strict=True):
        per_patch = (answer - target).square().mean(-1)
        losses.append((per_patch * ~shown).sum() / (~shown).sum())
    return (losses[0] + losses[1]) / 2


def grid_positions(side: int, width: int) -> Tensor:
    """Return the sines and cosines of each place's column, then of its row, [side^2 width]."""
    quarter = width // 4
    rate = 10000 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows = []
    for n in range(side * side):
        angles = [place * rate for place in (n % side, n // side)]
        rows.append(torch.cat([wave for a in angles for wave in (a.sin(), a.cos())]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
@torch.no_grad()
def test_imported_foresight_is_the_published_loss(
    kind: str, imported: Import, read: Callable[..., Any]
) -> None:
    tensors, policy = imported(kind)
    batch = batch_of(2, shown=False)
    encoded, latent_of = read(kind, batch)
    vector = policy.conditioner.goal_encoder.sentences(batch)
    latent = latent_of(vector, "text" if kind == "mdtv" else "image")
    assert (encoded.latent - latent).abs().max() < 1e-5  # the sentence alone is the goal
    w = {k.removeprefix("gen_img."): v.double() for k, v in tensors.items() if "gen_img." in k}
    luck = torch.rand((2, 49), generator=torch.Generator().manual_seed(4))
    frames = [batch[f"future_image/rgb_{camera}"] for camera in ("static", "gripper")]
    want = foresight_loss(w, frames, latent.double(), luck)
    got = policy.objectives["foresight"](encoded, torch.Generator().manual_seed(4))
    assert float(got) == pytest.approx(float(want), rel=1e-5)


def picture_vectors(w: Tensors, frames: Tensor) -> Tensor:
    """Return OpenAI's CLIP's projected vectors of frames u8 [b 224 224 3]; one head, two layers."""

    def layer_norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    pixels = ((frames.double() / 255 - MEAN) / STD).permute(0, 3, 1, 2)
    patches = F.conv2d(pixels, w["conv1.weight"], None, 32).flatten(2).transpose(1, 2)
    first = w["class_embedding"].expand(len(frames), 1, -1)
    x = layer_norm("ln_pre", torch.cat([first, patches], 1) + w["positional_embedding"])
    for layer in range(2):
        at = f"transformer.resblocks.{layer}"
        into = w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"]
        q, k, v = F.linear(layer_norm(f"{at}.ln_1", x), *into).chunk(3, -1)
        x = x + linear(w, f"{at}.attn.out_proj", heard(q, k, v, heads=1))
        y = linear(w, f"{at}.mlp.c_fc", layer_norm(f"{at}.ln_2", x))
        x = x + linear(w, f"{at}.mlp.c_proj", y * (1.702 * y).sigmoid())
    return layer_norm("ln_post", x[:, 0]) @ w["proj"]


def pooled(w: Tensors, latent: Tensor) -> Tensor:
    """Return MDT-V's vector of latents [b n d]."""
    x = linear(w, "projection", latent)
    query = w["latents"].expand(len(latent), 1, -1)
    k, v = linear(w, "attn.kv", x).chunk(2, -1)
    y = query + linear(w, "attn.proj", heard(linear(w, "attn.q", query), k, v, heads=16))
    y = norm(y, w["attn_norm.g"])
    u, g = linear(w, "mlp.0.project", y).chunk(2, -1)
    return norm(y + linear(w, "mlp.1", u * g * g.sigmoid()), w["mlp_norm.g"])[:, 0]


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
@torch.no_grad()
def test_imported_alignment_is_the_published_loss(
    kind: str, imported: Import, read: Callable[..., Any]
) -> None:
    """Pictures go through the projection that is named after sentences, as published."""
    tensors, policy = imported(kind)
    batch = batch_of(3, shown=True)
    encoded, latent_of = read(kind, batch)
    at = "visual_goal.clip_model.visual."
    clip = {k.removeprefix(at): v.double() for k, v in tensors.items() if k.startswith(at)}
    pictures = picture_vectors(clip, batch["goal_image/rgb_static"])
    sentences = policy.conditioner.goal_encoder.sentences(batch)
    latents = (
        latent_of(pictures.float(), "text"),
        latent_of(sentences, "text" if kind == "mdtv" else "image"),
    )
    at = "clip_proj.latent_proj."
    pool = {k.removeprefix(at): v.double() for k, v in tensors.items() if k.startswith(at)}
    seen, told = (
        pooled(pool, latent.double()) if kind == "mdtv" else latent[:, 1].double()
        for latent in latents
    )
    seen, told = (x / x.norm(dim=-1, keepdim=True) for x in (seen, told))
    logits = math.exp(1.3) * seen @ told.T
    labels = torch.arange(3)
    want = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    got = policy.objectives["alignment"](encoded, torch.Generator())
    assert float(got) == pytest.approx(float(want), abs=1e-5)
    # denoising is told of pictures by the other projection
    own = latent_of(pictures.float(), "image")
    assert (encoded.latent_of(encoded.goals.alone("images")) - own).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["mdt", "mdtv"])
def test_objectives_leave_what_the_policy_does_alone(kind: str, imported: Import) -> None:
    """With them, without them and with NaN in their place it acts the same to the bit.

    So it does with what sees pictures of the goal, where the goal is a sentence.
    """
    _, policy = imported(kind)
    spoilt = copy.deepcopy(policy)
    unread = (spoilt.objectives, spoilt.conditioner.goal_encoder.image_in)
    for parameter in (p for module in unread for p in module.parameters()):
        torch.nn.init.constant_(parameter, math.nan)
    goal = dataclasses.replace(policy.config.goal, images=False)
    off = {"foresight": ForesightConfig(), "alignment": AlignmentConfig()}
    plain = Policy(dataclasses.replace(policy.config, **off), policy.interface, {}).eval()
    deaf = Policy(dataclasses.replace(policy.config, goal=goal, **off), policy.interface, {}).eval()
    for bare in (plain, deaf):
        own = bare.state_dict()
        bare.load_state_dict({k: v for k, v in policy.state_dict().items() if k in own})
        bare.set_embeddings(policy.known_embeddings)
        assert not list(bare.objectives)
    rng = np.random.default_rng(0)
    images = {"rgb_static": (1, 200, 200, 3), "rgb_gripper": (1, 84, 84, 3)}
    observation = Observation(
        state=np.zeros((1, 15), np.float32),
        images={c: rng.integers(0, 256, shape, np.uint8) for c, shape in images.items()},
    )
    want = policy.act(observation, Goal(text=SENTENCES[0])).actions
    for other in (spoilt, plain, deaf):
        assert np.array_equal(other.act(observation, Goal(text=SENTENCES[0])).actions, want)


def test_a_file_without_the_clip_of_pictures_has_no_alignment(
    agent_shapes: Callable[[str], Tensors], mdt_config: dict[str, Any]
) -> None:
    """What needs it stands in the list of what is dead."""
    agent = {"num_sampling_steps": 3, "sigma_min": 0.01, "sigma_max": 80.0}
    for kind, dead in (("mdt", "model.inner_model.lang_emb.*"), ("mdtv", "clip_proj.*")):
        shapes = {k: v for k, v in agent_shapes(kind).items() if "visual_goal" not in k}
        with torch.device("meta"):
            made = import_mdt.convert(
                {"n_heads": mdt_config["n_heads"]},
                agent,
                shapes,
                CheckpointImportOptions(),
                Path("x.ckpt"),
            )
            policy = made.build()
        assert list(policy.objectives) == ["foresight"] and not made.config.goal.images
        assert dead in made.dead and "logit_scale" in made.dead
