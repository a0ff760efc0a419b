"""Auxiliary objectives: every one with every kind, and each against its formula written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from telic.policy.auxiliary import OBJECTIVES as KNOWN
from telic.policy.config import PolicyConfig
from telic.policy.encoders.clip_vision import ClipVisionConfig
from telic.policy.encoders.goals import GoalConfig, GoalTokens
from telic.policy.encoders.images import ImageConfig
from telic.policy.layers.patches import from_patches, sine_positions, to_patches
from telic.policy.objectives.alignment import (
    Alignment,
    AlignmentConfig,
    Counterpart,
    LatentPool,
    Picture,
    Projection,
    contrastive_loss,
    sentence_digests,
)
from telic.policy.objectives.foresight import Foresight, ForesightConfig
from telic.policy.objectives.future import FutureConfig
from telic.policy.objectives.objective import Encoded, ObjectiveConfig
from telic.policy.policy import Policy

Build = Callable[[PolicyConfig], Policy]
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "foresight": ForesightConfig(weight=0.7, side=16, width=16, num_layers=1, num_heads=2),
    "alignment": AlignmentConfig(weight=0.3, num_heads=2),
}


def policy_config(**objectives: ObjectiveConfig) -> PolicyConfig:
    """Return a policy with both kinds of goals, over two cameras, with these objectives."""
    tower = ImageConfig(tower="keypoint_conv", share_tower=True)
    goal = GoalConfig(images=True, image=tower)
    return PolicyConfig(action_horizon=5, images=tower, goal=goal, **objectives)


def test_objectives_that_are_off_are_not_built(build: Build, make_batch: Any) -> None:
    config = policy_config()
    policy = build(config).train()
    assert not list(policy.objectives) and not config.reads_future
    assert not any("objectives" in name for name in policy.state_dict())
    batch = {k: v for k, v in make_batch(config).items() if not k.startswith("future")}
    policy(batch, torch.Generator()).total.backward()


def test_objectives_do_not_change_what_the_denoiser_is_trained_on(
    build: Build, make_batch: Any
) -> None:
    plain = build(policy_config()).train()
    config = policy_config()
    for name, objective in KNOWN.items():
        if name != "anchors":  # they cut off the sigmas that are trained
            config = config.with_objective(objective.small())
    more = build(config).train()
    more.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch(config)
    terms = [policy(batch, torch.Generator().manual_seed(3)) for policy in (plain, more)]
    assert torch.equal(terms[0].per_sample, terms[1].per_sample)
    assert torch.equal(terms[0].sigma, terms[1].sigma)


def test_objectives_in_bf16_are_close_to_float32(build: Build, make_batch: Any) -> None:
    config = policy_config(**OBJECTIVES, future=FutureConfig(weight=1.0, side=16, patch=4))
    policy, batch = build(config).train(), make_batch(config, size=8)
    want = policy(batch, torch.Generator().manual_seed(0)).parts
    with torch.autocast("cpu", torch.bfloat16):
        got = policy(batch, torch.Generator().manual_seed(0)).parts
    for name in ("foresight", "alignment", "future"):
        assert got[name].dtype == torch.float32, name
        assert torch.allclose(got[name], want[name], rtol=0.03), (name, got[name], want[name])


# --- foresight ---------------------------------------------------------------------------------


def test_foresight_has_the_published_sizes() -> None:
    """MDT-V's decoder reads 384 channels, MDT's 512."""
    for width, count in ((384, 3_929_088), (512, 3_953_664)):
        made = Foresight(ForesightConfig.published(), ["static", "gripper"], width)
        assert sum(p.numel() for p in made.parameters()) == count
        assert made.positions.numel() == 9408


def test_foresight_is_its_formula() -> None:
    config = ForesightConfig(weight=1.0, side=12, patch=4, width=16, num_layers=2, num_heads=2)
    made = Foresight(config, ["front", "wrist"], 10)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    rng = np.random.default_rng(0)
    frames = {
        f"future_image/{camera}": torch.from_numpy(rng.integers(0, 256, (3, 12, 12, 3), np.uint8))
        for camera in ("front", "wrist")
    }
    latent = torch.randn(3, 5, 10)
    got = made(encoded(frames, latent), torch.Generator().manual_seed(4))
    luck = torch.rand((3, 9), generator=torch.Generator().manual_seed(4))
    want = written_out_foresight(
        {name: p.detach().double() for name, p in made.named_parameters()},
        [frames[name].double() for name in frames],
        latent.double(),
        luck,
        patch=4,
        heads=2,
    )
    assert float(got.detach()) == pytest.approx(want, abs=1e-5)


def encoded(batch: dict[str, Any], latent: Tensor) -> Encoded:
    """Return what an objective reads, of a policy that encoded this latent."""
    goals = GoalTokens((), latent[:, :0], latent[:, 0, :0])
    return Encoded(
        batch=batch, goals=goals, latent=latent, latent_of=lambda goal: latent, towers={}
    )


def written_out_foresight(
    p: dict[str, Tensor],
    frames: list[Tensor],
    latent: Tensor,
    luck: Tensor,
    patch: int,
    heads: int,
) -> float:
    """Return MDT's loss, sample by sample and patch by patch."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5) * p[f"{name}.gain"]

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)
    grid, width = frames[0].shape[1] // patch, p["mask_token"].shape[0]
    errors = []
    for sample in range(len(latent)):
        order = luck[sample].argsort()
        visible = set(order[: int(grid * grid * 0.25)].tolist())
        tokens, targets = [linear(latent[sample], "latent_in")], {}
        for camera, video in enumerate(frames):
            image = (video[sample] / 255 - mean) / std
            for n in range(grid * grid):
                row, column = n // grid * patch, n % grid * patch
                pixels = image[row : row + patch, column : column + patch].reshape(-1)
                targets[camera, n] = pixels
                place = position(n // grid, n % grid, width)
                token = p["mask_token"]
                if n in visible:
                    token = linear(pixels, "patch_in") + place
                token = token + place + p["camera_positions"][camera, 0]
                tokens.append(token[None])
        x = torch.cat(tokens)
        for layer in range(2):
            name = f"blocks.{layer}."
            q, k, v = linear(norm(x, name + "attention_norm"), name + "attention.to_qkv").chunk(
                3, -1
            )
            size = width // heads
            heard = []
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                weight = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(-1)
                heard.append(weight @ v[:, part])
            x = x + p[name + "attention_scale"] * linear(
                torch.cat(heard, -1), name + "attention.to_out"
            )
            u, g = linear(norm(x, name + "mlp_norm"), name + "mlp.up").chunk(2, -1)
            x = x + p[name + "mlp_scale"] * linear(u * g * torch.sigmoid(g), name + "mlp.down")
        out = linear(norm(x, "norm"), "patch_out")[latent.shape[1] :]
        for (camera, n), pixels in targets.items():
            if n not in visible:
                errors.append((out[camera * grid * grid + n] - pixels).square().mean())
    assert len(errors) == len(latent) * len(frames) * (grid * grid - len(visible))
    return float(torch.stack(errors).mean())


def position(row: int, column: int, width: int) -> Tensor:
    """Return the sine-cosine position of one patch."""
    quarter = width // 4
    parts = []
    for place in (column, row):
        angles = [place / 10000 ** (j / quarter) for j in range(quarter)]
        parts += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(parts, dtype=torch.float64)


def test_positions_and_patches() -> None:
    table = sine_positions(3, 16).double()
    want = torch.stack([position(n // 3, n % 3, 16) for n in range(9)])
    assert torch.allclose(table, want, atol=1e-6)
    image = torch.arange(2 * 6 * 6 * 3).float().view(2, 6, 6, 3)
    patches = to_patches(image, 2)
    assert patches.shape == (2, 9, 12)
    assert torch.equal(patches[1, 5], image[1, 2:4, 4:6].reshape(-1))
    assert torch.equal(from_patches(patches, 2), image)


# --- alignment ---------------------------------------------------------------------------------


def test_pool_has_the_published_size_and_is_its_formula() -> None:
    assert sum(p.numel() for p in LatentPool(384, 16).parameters()) == 2_512_128
    made = LatentPool(8, 2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randn(3, 5, 8)
    p = {name: value.detach() for name, value in made.named_parameters()}
    for sample in range(3):
        x = tokens[sample] @ p["tokens_in.weight"].T + p["tokens_in.bias"]
        q = (p["query"] @ p["to_q.weight"].T)[0]
        k, v = x @ p["to_kv.weight"][:8].T, x @ p["to_kv.weight"][8:].T
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weight = (k[:, part] @ q[part] / 2).softmax(0)
            heads.append(weight @ v[:, part])
        y = p["query"][0] + p["to_out.weight"] @ torch.cat(heads) + p["to_out.bias"]
        y = y / y.square().mean().sqrt() * p["attention_norm.gain"]
        u, g = (p["mlp.up.weight"] @ y + p["mlp.up.bias"]).chunk(2)
        y = y + p["mlp.down.weight"] @ (u * g / (1 + (-g).exp())) + p["mlp.down.bias"]
        y = y / y.square().mean().sqrt() * p["mlp_norm.gain"]
        assert torch.allclose(made(tokens)[sample], y, atol=1e-5)


def test_contrastive_loss_is_its_formula() -> None:
    torch.manual_seed(2)
    seen, text = torch.randn(6, 4), torch.randn(6, 4)
    counts = torch.tensor([True, True, False, True, True, True])
    group = torch.tensor([0, 1, 0, 0, 2, 1])
    scale = torch.tensor(math.log(1 / 0.07))
    for groups in (None, group):
        want = []
        for i in np.flatnonzero(counts):
            for one, others in ((seen, text), (text, seen)):
                rivals = [
                    j
                    for j in np.flatnonzero(counts)
                    if j == i or groups is None or groups[j] != groups[i]
                ]
                cosines = [
                    float(one[i] @ others[j] / one[i].norm() / others[j].norm()) for j in rivals
                ]
                weights = [math.exp(c / 0.07) for c in cosines]
                want.append(-math.log(weights[rivals.index(i)] / sum(weights)))
        got = float(contrastive_loss(seen, text, scale, counts, groups))
        assert got == pytest.approx(float(np.mean(want)), abs=1e-5)


def test_published_options_are_the_published_loss(build: Build, make_batch: Any) -> None:
    """Twins as negatives, every sample with both goals: plain CLIP over the projected latents."""
    for projection in Projection:
        config = policy_config(
            alignment=AlignmentConfig(weight=1.0, projection=projection, twins_are_negatives=True)
        )
        policy = build(config).eval()
        batch = make_batch(config)
        goals = policy.conditioner.goal_encoder.tokens(batch)
        seen = encoded(batch, policy.denoiser.latent(policy.denoiser.encode(policy.encode(batch))))
        made = policy.objectives["alignment"]
        assert isinstance(made, Alignment)
        assert (made.pool is None) == (projection is Projection.token)

        def latent_of(goal: Tensor, policy: Policy = policy, batch: Any = batch) -> Tensor:
            context = policy.encode(batch)
            context.goal = goal
            return policy.denoiser.latent(policy.denoiser.encode(context))

        vectors = []
        for name in ("images", "text"):
            latent = latent_of(goals.tokens[:, goals.names.index(name)].unsqueeze(1))
            vector = latent[:, 1] if made.pool is None else made.pool(latent)
            vectors.append(vector / vector.norm(dim=-1, keepdim=True))
        logits = vectors[0] @ vectors[1].T / 0.07
        rows, columns = logits.log_softmax(1).diagonal(), logits.log_softmax(0).diagonal()
        read = Encoded(batch=batch, goals=goals, latent=seen.latent, latent_of=latent_of, towers={})
        got = made(read, torch.Generator())
        assert torch.allclose(got, -(rows.mean() + columns.mean()) / 2, atol=1e-5)


def test_alignment_runs_the_towers_once(build: Build, make_batch: Any) -> None:
    config = policy_config(alignment=AlignmentConfig(weight=1.0, num_heads=2))
    policy = build(config).train()
    seen: list[int] = []
    for module in (policy.conditioner.image_encoder, policy.conditioner.goal_encoder.image_in):
        for tower in module.towers:
            tower.register_forward_hook(lambda *args: seen.append(1))
    policy(make_batch(config), torch.Generator().manual_seed(0))
    assert len(seen) == 4  # two cameras, as observation and as goal


def test_alignment_counts_samples_with_both_goals(build: Build, make_batch: Any) -> None:
    config = policy_config(alignment=AlignmentConfig(weight=1.0, num_heads=2))
    policy = build(config).train()

    def loss(**changes: Any) -> Tensor:
        batch = make_batch(config) | changes
        return policy(batch, torch.Generator().manual_seed(0)).parts["alignment"]

    without = loss(text=[""] * 4)
    assert float(without.detach()) == 0
    without.backward()
    assert all(p.grad is not None for p in policy.objectives.parameters())
    some = loss(text=["open the drawer", "", "", "close the drawer"])
    blank = make_batch(config)["goal_image/front"].clone()
    blank[1:3] = 0  # what rows without a sentence hold does not matter
    text = ["open the drawer", "", "", "close the drawer"]
    assert torch.allclose(some, loss(text=text, **{"goal_image/front": blank}), atol=1e-6)
    given = torch.tensor([True, False, False, True])
    whole = ["open the drawer", "close the drawer", "open the drawer", "close the drawer"]
    assert torch.allclose(some, loss(text=whole, goal_images_given=given), atol=1e-6)
    assert float(loss(text=["open the drawer"] * 4).detach()) == 0  # no negatives but twins


def test_sentences_align_with_states_where_there_is_no_camera(
    build: Build, make_batch: Any
) -> None:
    config = PolicyConfig(
        goal=GoalConfig(state=True),
        alignment=AlignmentConfig(weight=1.0, num_heads=2, counterpart=Counterpart.state),
    )
    config.images.cameras = []
    policy = build(config).train()
    batch = make_batch(config, size=32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    batch["goal_state"] = torch.tensor([[1.0] * 5, [-1.0] * 5] * 16)  # as the sentences alternate
    first = None
    for step in range(30):
        terms = policy(batch, torch.Generator().manual_seed(step))
        first = first if first is not None else float(terms.parts["alignment"].detach())
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert float(terms.parts["alignment"].detach()) < 0.2 * first


def _gathered(rank: int, folder: str, vectors: Tensor, texts: list[str]) -> None:
    """Write rank's gradient of the gathered loss over its half of the samples."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    rows = slice(3 * rank, 3 * rank + 3)
    own = vectors[:, rows].clone().requires_grad_()
    loss = _alignment_of(own, texts[rows])
    loss.backward()
    torch.save((loss.detach(), own.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _alignment_of(vectors: Tensor, texts: list[str]) -> Tensor:
    """Return the alignment loss of latents [2 B N D] made with sentence and picture."""
    config = AlignmentConfig(weight=1.0, projection=Projection.token, gather=True)
    given = torch.ones(len(texts), 2, dtype=torch.bool)
    tokens = torch.tensor([0.0, 1.0]).repeat(len(texts), 1).unsqueeze(-1)
    goals = GoalTokens(("text", "images"), tokens, given)
    read = Encoded(
        batch={"text": texts},
        goals=goals,
        latent=vectors[0],
        latent_of=lambda goal: vectors[int(goal[0, 0, 0])],
        towers={},
    )
    loss: Tensor = Alignment(config, vectors.shape[-1])(read, torch.Generator())
    return loss


def test_gathered_negatives_are_those_of_the_whole_batch(tmp_path: Any) -> None:
    """Averaged over two processes, as DDP does it, the gradient is that of one process."""
    vectors = torch.randn(2, 6, 3, 4)
    texts = ["a", "b", "c", "a", "d", "e"]
    torch.multiprocessing.start_processes(
        _gathered, (str(tmp_path), vectors, texts), nprocs=2, start_method="fork"
    )
    whole = vectors.clone().requires_grad_()
    loss = _alignment_of(whole, texts)
    loss.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for got, _ in parts:
        assert torch.allclose(got, loss.detach(), atol=1e-6)
    gradient = torch.cat([grad for _, grad in parts], 1) / 2
    assert torch.allclose(gradient, whole.grad, atol=1e-6)


def test_sentence_numbers_are_the_same_everywhere() -> None:
    first, second, third = sentence_digests(["open", "close", "open"]).tolist()
    assert first == third != second and sentence_digests(["open"]).tolist() == [first]


# --- bad input ---------------------------------------------------------------------------------


def test_impossible_objectives_are_one_line(build: Build, make_batch: Any) -> None:
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"policy.foresight.weight=.* must be 0 or positive"):
            ForesightConfig(weight=bad)
    with pytest.raises(ValueError, match=r"policy.foresight.side=50 must be a multiple of 8"):
        ForesightConfig(side=50)
    with pytest.raises(ValueError, match=r"policy.foresight.mask_ratio=1.0 must lie between"):
        ForesightConfig(mask_ratio=1.0)
    blind = PolicyConfig(foresight=ForesightConfig(weight=1.0))
    blind.images.cameras = []
    with pytest.raises(ValueError, match=r"foresight.weight=1.0 predicts pictures, and the policy"):
        build(blind)
    with pytest.raises(ValueError, match=r"aligns text with images, .* set policy.goal.images=tru"):
        build(PolicyConfig(alignment=AlignmentConfig(weight=1.0)))
    with pytest.raises(ValueError, match="num_heads=3 must divide the denoiser's width=32"):
        build(policy_config(alignment=AlignmentConfig(weight=1.0, num_heads=3)))
    config = policy_config(foresight=OBJECTIVES["foresight"])
    batch = {k: v for k, v in make_batch(config).items() if not k.startswith("future")}
    with pytest.raises(ValueError, match="no future_image/front; set future_steps"):
        build(config).train()(batch, torch.Generator())


def test_pictures_that_are_no_vectors_are_refused(build: Build) -> None:
    """Another projection of a picture needs the one vector of its tower."""
    for picture in (Picture.sentence, Picture.apart):
        config = policy_config(alignment=AlignmentConfig(weight=1.0, num_heads=2, picture=picture))
        with pytest.raises(ValueError, match=f"alignment.picture={picture.value} projects the one"):
            build(config)
    tower = ImageConfig(tower="clip_vision", clip=ClipVisionConfig(side=32, width=64, layers=1))
    config = policy_config(alignment=AlignmentConfig.published_v())
    config.alignment.num_heads, config.goal.image = 2, tower
    with pytest.raises(ValueError, match="pictures are vectors of 512, sentences of 384; use"):
        build(config)
