"""Frozen features from the command line: made, trained from, equal to what acting computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from telic.configs.launch import compose
from telic.datasets.cli import main
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.windows import WindowConfig, Windows
from telic.policy.checkpoint import load_policy
from telic.policy.encoders.images import ImageConfig, ImageEncoder, Pooling, pool
from telic.policy.policy import Policy
from telic.spec import ActRequest, ArraySpec, Goal, Observation
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training import features
from telic.training.config import TrainConfig

TOWER = "efficientnet_lite0"
SMALL = [
    *(f"policy.denoiser.{key}" for key in ("width=32", "num_layers=1", "num_heads=2")),
    *(f"policy.images.{key}" for key in (f"tower={TOWER}", "frozen=true", "random_shift=2")),
    *("data.features=true", "batch_size=4", "steps=2", "log_every=1", "data.held_out=0.34"),
    *ALONE,
]


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Return the path of a store of three episodes with one camera."""
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        "image/front": ArraySpec(shape=(40, 48, 3), dtype="uint8"),
    }
    path = tmp_path / "demos.zarr"
    with EpisodeStore.create(path, fields, rate_hz=10.0) as made:
        for number, length in enumerate((4, 5, 3)):
            append(made, length, number)
    return path


def append(store: EpisodeStore, length: int, seed: int) -> None:
    """Append an episode of random numbers and smooth pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (length, 5, 6, 3), np.uint8)
    episode = {
        "state": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "image/front": coarse.repeat(8, 1).repeat(8, 2),
    }
    store.append(episode, [Segment(start=0, end=length, instruction="reach", task="t")])


def demo_store(*arguments: str) -> int:
    """Run `demo-store` and return its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments], features=features.run)
    return int(left.value.code or 0)


def config(demos: Path, out: Path, *overrides: str) -> TrainConfig:
    """Return a config of two steps from features."""
    return compose(
        TrainConfig, "train", [f"data.stores=[{demos}]", f"out={out}", *SMALL, *overrides]
    )


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        (Pooling.average, []),
        (Pooling.keypoints, ["--pooling", "keypoints", "--resize", "front=72"]),
        (Pooling.perceiver, ["--pooling", "perceiver", "--pad-square"]),
    ],
)
def test_features_of_the_store_are_those_of_acting(
    pooling: Pooling, words: list[str], demos: Path, capsys: Any
) -> None:
    made = ImageConfig(
        tower=TOWER,
        frozen=True,
        pooling=pooling,
        resize={"front": 72} if "--resize" in words else {},
        pad_square="--pad-square" in words,
        random_shift=3,
    )
    asked = ["--tower", TOWER, "--crops", "3", "--random-shift", "3", *words]
    assert demo_store("features", str(demos), *asked) == 0
    assert "3 episodes, 3 of them now" in capsys.readouterr().out
    store = EpisodeStore.open(demos)
    encoder = ImageEncoder(made, ["front"], 32).eval()
    rows = features.find_features(store, encoder.tower(0), made, "front")
    assert rows.crops == 3
    steps, images = np.arange(12), {"front": torch.from_numpy(store.read("image/front", 0, 12))}
    images["front"] = images["front"].unsqueeze(1)
    acted = encoder(images)
    kept = torch.from_numpy(rows.gather(steps[:, None], np.zeros(12, np.int64))).float()
    stored = encoder.tokens([kept])
    scale = acted.abs().max()
    assert torch.isfinite(stored).all() and (stored - acted).abs().max() < 2e-3 * scale
    other = torch.from_numpy(rows.gather(steps[:, None], np.full(12, 1))).float()
    assert (other - kept).abs().max() > 0.05 * kept.abs().max()  # a shifted crop
    answer = encoder.maps(images)[0]
    if pooling is not Pooling.perceiver:
        answer = pool(answer.flatten(0, 1), pooling).unflatten(0, answer.shape[:2])
    assert torch.allclose(kept, answer, rtol=1e-3, atol=1e-3)  # half precision has 11 bits
    crop = features.crop_shifts("front", 1, 3, 3)
    assert crop.shape == (3, 2) and not crop[0].any() and abs(crop).max() <= 3


def test_training_reads_features_and_the_policy_acts_from_pictures(
    demos: Path, tmp_path: Path
) -> None:
    assert (
        demo_store("features", str(demos), "--tower", TOWER, "--crops", "2", "--random-shift", "2")
        == 0
    )
    out = tmp_path / "run"
    looked: list[int] = []
    forward = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: looked.append(1) if type(module).__name__ == "VisionTower" else None
    )
    try:
        numbers = run(config(demos, out, "draws=2"))
    finally:
        forward.remove()
    assert np.isfinite(numbers["held_out_action_error"]) and not looked
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in log if "loss" in line)
    policy = load_policy(out / "checkpoints/last")
    assert isinstance(policy, Policy)
    store = EpisodeStore.open(demos)
    shape = WindowConfig(obs_horizon=policy.obs_horizon, action_horizon=policy.action_horizon)
    windows = Windows(store, shape)
    batch = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in windows.batch(np.arange(4)).items()
    }
    encoder = policy.conditioner.image_encoder
    assert encoder is not None
    rows = features.find_features(store, encoder.tower(0), encoder.config, "front")
    windows.use_features({"image/front": [rows]}, augment=False)
    kept = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in windows.batch(np.arange(4)).items()
    }
    acted, stored = (policy.predict(b, torch.Generator().manual_seed(0)) for b in (batch, kept))
    assert torch.allclose(acted, stored, atol=2e-3)
    observation = Observation(
        state=store.read("state", 0, 1),
        images={"front": store.read("image/front", 0, 1)},
        t_obs_ns=0,
    )
    request = ActRequest(observation=observation, goal=Goal(text="reach"), seed=0, step=0)
    assert policy.act_batch([request])[0].actions.shape == (8, 2)


def test_another_key_or_state_is_refused(demos: Path, tmp_path: Path) -> None:
    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(ValueError, match=match) as error:
            run(config(demos, tmp_path / "run", *overrides))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run/checkpoints").exists()

    asked = (
        f"demo-store features {demos} --tower {TOWER} --cameras front --crops 4 --random-shift 2"
    )
    refused(f"has no features of camera front by {TOWER}; make them: {asked}$")
    make = ["features", str(demos), "--tower", TOWER, "--crops", "2", "--random-shift", "2"]
    assert demo_store(*make) == 0
    refused("random_shift=2, expected 5", "policy.images.random_shift=5")
    refused(r"resize=None, expected 24.*--resize front=24", "+policy.images.resize.front=24")
    refused("pooling=average, expected keypoints", "policy.images.pooling=keypoints")
    refused("pad_square=False, expected True", "policy.images.pad_square=true")
    with EpisodeStore.open(demos, "a") as store:
        append(store, 6, 9)
    refused("has the features of 3 episodes, .* has 4; run demo-store features again")
    assert demo_store(*make) == 0
    run(config(demos, tmp_path / "run"))
    tower = features.build_tower(ImageConfig(tower=TOWER, frozen=True)).eval()
    next(tower.parameters()).mul_(1.5)  # finetuned elsewhere
    with pytest.raises(ValueError, match=r"weights=.*, expected"):
        features.find_features(
            EpisodeStore.open(demos), tower, ImageConfig(tower=TOWER, random_shift=2), "front"
        )


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["policy.images.frozen=false"], "set policy.images.frozen=true"),
        (["policy.future.weight=1"], "policy.future reads the pictures of observations"),
        (["policy.condition_dropout.images=0.1"], "condition_dropout.images=0.1 hides pictures"),
    ],
)
def test_what_reads_pictures_is_refused(overrides: list[str], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        config(tmp_path / "demos.zarr", tmp_path / "run", *overrides)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--crops", "0"], "--crops=0 must be at least 1"),
        (["--tower", "voltron"], "--tower voltron: its weights come with a checkpoint alone"),
        (
            ["--tower", "resnet18"],
            "--tower resnet18: it has no weights of its own, only random",
        ),
        (["--tower", "film_resnet18"], "--tower film_resnet18: it has no weights of its own"),
        (["--tower", f"film_{TOWER}"], f"tower film_{TOWER} looks at pictures under a sentence"),
        (["--cameras", "fron"], "no camera 'fron', only front; did you mean"),
        (["--resize", "front=0"], "--resize front=0: expected CAMERA=SIDE"),
    ],
)
def test_bad_arguments_are_one_line(words: list[str], line: str, demos: Path, capsys: Any) -> None:
    tower = [] if "--tower" in words else ["--tower", TOWER]
    assert demo_store("features", str(demos), *tower, *words) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1
    assert not demos.with_name("demos.zarr.features").exists()


def test_goals_by_picture_have_features_too(demos: Path, tmp_path: Path) -> None:
    goal = [
        *("policy.goal.images=true", "data.goal.text=optional", "data.goal.hindsight=uniform"),
        *(
            f"policy.goal.image.{key}"
            for key in (f"tower={TOWER}", "frozen=true", "pooling=average")
        ),
    ]
    assert demo_store("features", str(demos), "--tower", TOWER) == 0
    shift = ["policy.images.random_shift=0", "policy.goal.image.random_shift=4"]
    numbers = run(config(demos, tmp_path / "run", *goal, *shift))
    assert np.isfinite(numbers["held_out_loss"])
