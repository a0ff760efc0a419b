"""Auxiliary objectives from the command line: two steps, a log, a checkpoint that acts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.spec import ActRequest, ArraySpec, Goal, Observation
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

SMALL = [
    *(f"policy.denoiser.{key}" for key in ("width=32", "num_layers=1", "num_heads=2")),
    *(f"policy.{eye}.tower=keypoint_conv" for eye in ("images", "goal.image")),
    "policy.goal.images=true",
    "data.goal.text=optional",
    "data.goal.hindsight=uniform",
    *(f"policy.{name}.side=16" for name in ("foresight", "future")),
    *(f"policy.{name}.num_layers=1" for name in ("foresight", "future")),
    "batch_size=8",
    "log_every=1",
    "data.held_out=0.34",
    *ALONE,
    "steps=2",
]
ALL = [f"policy.{name}.weight=0.5" for name in ("foresight", "alignment", "future")]


def store(path: Path, lengths: list[int], sentence: str, num_actions: int = 2) -> Path:
    """Write a store with one camera and return its path; "" leaves it without language."""
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(num_actions,), minimum=(-1.0,), maximum=(1.0,)),
        "image/front": ArraySpec(shape=(16, 16, 3), dtype="uint8"),
    }
    rng = np.random.default_rng(0)
    made = EpisodeStore.create(path, fields, rate_hz=10.0)
    for number, length in enumerate(lengths):
        episode = {
            "state": rng.normal(size=(length, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, num_actions)).astype(np.float32),
            "image/front": rng.integers(0, 256, (length, 16, 16, 3), np.uint8),
        }
        segment = Segment(start=0, end=length, instruction=f"{sentence} {number}", task="t")
        made.append(episode, [segment] if sentence else [])
    return path


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Return the path of a store of three episodes, each with its sentence."""
    return store(tmp_path / "demos.zarr", [12, 9, 15], "reach")


def config(demos: Path, out: Path, *overrides: str) -> TrainConfig:
    """Return a config of two steps on `demos`."""
    return compose(
        TrainConfig, "train", [f"data.stores=[{demos}]", f"out={out}", *SMALL, *overrides]
    )


def test_all_objectives_train_on_demonstrations_and_videos(demos: Path, tmp_path: Path) -> None:
    videos = store(tmp_path / "videos.zarr", [10, 8], "", num_actions=6)  # of another robot
    out = tmp_path / "run"
    made = config(demos, out, *ALL, f"data.video_only=[{videos}]", "data.language_fraction=0.5")
    numbers = run(made)
    assert np.isfinite(numbers["held_out_action_error"])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 2
    for line in steps:
        parts = 0.5 * (line["foresight"] + line["alignment"] + line["future"])
        own = 0.01 * line["load_balance"]
        assert line["loss"] == pytest.approx(line["diffusion"] + own + parts, rel=1e-5)
        assert line["foresight"] > 0 and line["future"] > 0
    policy = load_policy(out / "checkpoints" / "last")
    assert isinstance(policy, Policy)
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    observation = Observation(state=np.zeros((1, 3), np.float32), images={"front": picture})
    (chunk,) = policy.act_batch([ActRequest(observation=observation, goal=Goal(text="reach 0"))])
    assert chunk.actions.shape == (policy.action_horizon, 2)
    batch = {
        "state": torch.zeros(1, 1, 3),
        "image/front": torch.from_numpy(picture[None]),
        "goal_image/front": torch.from_numpy(picture),
        "text": ["reach 0"],
    }
    seen = policy.predict_future(batch, torch.Generator().manual_seed(0))
    assert seen["front"].shape == (1, 16, 16, 3)


def test_videos_alone_move_the_head_and_nothing_of_the_actions(demos: Path, tmp_path: Path) -> None:
    """With weight 1 for the head, steps on videos alone leave the diffusion loss at 0."""
    videos = store(tmp_path / "videos.zarr", [2000], "")
    short = store(tmp_path / "short.zarr", [1], "reach")
    out = tmp_path / "run"
    overrides = ["policy.future.weight=1", f"data.video_only=[{videos}]", "data.held_out=0"]
    run(config(short, out, *overrides))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(line["diffusion"] == 0 < line["future"] for line in lines if "loss" in line)


def test_labelled_windows_have_their_share_of_a_batch(demos: Path, tmp_path: Path) -> None:
    """Without a sentence in the other half, alignment sees the half that has one."""
    silent = store(tmp_path / "silent.zarr", [2000], "")
    out = tmp_path / "run"
    overrides = ["policy.alignment.weight=1", f"data.video_only=[{silent}]", "data.held_out=0"]
    shared = [*overrides, "policy.future.weight=1", "data.labelled_share=1.0"]
    run(config(demos, out, *shared))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(line["alignment"] > 0 < line["diffusion"] for line in lines if "loss" in line)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.labelled_share=0"], "data.labelled_share=0.0 must be more than 0 and at most 1"),
        (
            ["data.labelled_share=0.5", "data.language_fraction=0"],
            r"labelled_share=0.5 asks for windows with a sentence, and none has one; raise data",
        ),
        (
            ["data.language_fraction=2"],
            r"data.language_fraction=2.* must be at least 0 and",
        ),
        (
            ["data.language_fraction=-0.1"],
            "data.language_fraction=-0.1 must be at least 0",
        ),
        (
            ["data.language_fraction=0.5", "data.goal.hindsight=none", "policy.goal.images=false"],
            "language_fraction=0.5 leaves windows without a goal",
        ),
        (["data.future_steps=0"], "data.future_steps=0 must be at least 1"),
        (["data.video_only=[x.zarr]"], r"data.video_only: nothing would learn from them"),
        (["data.video_only=[x.zarr]", "policy.future.weight=1"], r"x.zarr"),
        (["policy.future.weight=-1"], r"policy.future.weight=-1.0 must be 0 or positive"),
        (["policy.alignment.weight=1", "policy.goal.images=false"], "set policy.goal.images=true"),
    ],
)
def test_bad_input_is_one_line(
    demos: Path, tmp_path: Path, overrides: list[str], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        run(config(demos, tmp_path / "run", *overrides))
    assert len(str(caught.value).splitlines()) == 1
