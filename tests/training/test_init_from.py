"""`train-policy init_from=DIR`: it starts from a checkpoint's policy, scaling and weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.spec import ActRequest, ArraySpec, Goal, Observation
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

FIRST = [
    "policy.denoiser.width=32",
    "policy.denoiser.num_layers=1",
    "policy.denoiser.num_heads=2",
    "policy.denoiser.feed_forward=32",
    "policy.action_horizon=5",
]
RUN = [
    "batch_size=8",
    "log_every=1",
    "validate_every=0",
    "data.held_out=0.34",
    *ALONE,
]
STILL = "optimizer.learning_rate=1e-30"


def store(
    path: Path,
    *,
    centre: float = 0.0,
    actions: int = 2,
    bound: float = 1.0,
    frozen: float | None = None,
) -> Path:
    """Write a store of three episodes whose states lie about `centre`; return its path.

    `frozen`: the last entry of every action.
    """
    fields = {
        "state": ArraySpec(shape=(3,)),
        "action": ArraySpec(shape=(actions,), minimum=(-bound,), maximum=(bound,)),
    }
    rng = np.random.default_rng(0)
    made = EpisodeStore.create(path, fields, rate_hz=10.0)
    for length, sentence in ((12, "open the drawer"), (9, "close the drawer"), (15, "reach")):
        episode = {
            "state": rng.normal(centre, 1, (length, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, actions)).astype(np.float32),
        }
        if frozen is not None:
            episode["action"][:, -1] = frozen
        made.append(episode, [Segment(start=0, end=length, instruction=sentence, task="t")])
    return path


def train(demos: Path, out: Path, *overrides: str) -> Path:
    """Train as a command line would; return the last checkpoint."""
    named = [f"data.stores=[{demos}]", f"out={out}"]
    run(compose(TrainConfig, "train", [*named, *RUN, *overrides]))
    return out / "checkpoints" / "last"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Return a checkpoint trained on states about 0."""
    demos = store(tmp_path / "demos.zarr")
    return train(demos, tmp_path / "first", *FIRST, "steps=3")


def acts(checkpoint: Path) -> tuple[Policy, np.ndarray]:
    """Return the policy and what it does."""
    policy = load_policy(checkpoint)
    assert isinstance(policy, Policy)
    observation = Observation(state=np.full((1, 3), 0.4, np.float32))
    (chunk,) = policy.act_batch([ActRequest(observation=observation, goal=Goal(text="reach"))])
    return policy, chunk.actions


def test_at_step_0_it_acts_as_the_checkpoint_does(first: Path, tmp_path: Path) -> None:
    """On other data: config, statistics and weights are the checkpoint's."""
    other = store(tmp_path / "other.zarr", centre=5.0)
    second = train(other, tmp_path / "second", f"init_from={first}", "steps=1", STILL)
    was, now = acts(first), acts(second)
    assert np.allclose(was[1], now[1], atol=1e-6)
    assert now[0].config == was[0].config and now[0].action_horizon == 5
    np.testing.assert_array_equal(now[0].stats["state"].mean, was[0].stats["state"].mean)
    scratch = acts(train(other, tmp_path / "third", *FIRST, "steps=1", STILL))
    assert not np.allclose(was[1], scratch[1], atol=1e-2)
    assert abs(scratch[0].stats["state"].mean - 5).max() < 1


def test_it_learns_on_and_resumes(first: Path, tmp_path: Path) -> None:
    demos = tmp_path / "demos.zarr"
    start = [f"init_from={first}", "policy.sampling.steps=3"]
    train(demos, tmp_path / "second", *start, "steps=2")
    last = train(demos, tmp_path / "second", *start, "steps=4", "resume=true")
    policy, actions = acts(last)
    assert policy.sampling.steps == 3
    assert not np.array_equal(actions, acts(first)[1])
    lines = (tmp_path / "second" / "log.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == [1, 2, 3, 4]


def test_a_kind_of_goal_may_be_added_and_left_out(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demos = tmp_path / "demos.zarr"
    more = ["policy.goal.state=true", "data.goal.hindsight=uniform", "steps=1"]
    second = train(demos, tmp_path / "second", f"init_from={first}", *more)
    assert "has no goal_encoder.state_in, which begins at random weights" in _said(capsys)
    third = [f"init_from={second}", "policy.goal.state=false", "steps=1", STILL]
    last = train(demos, tmp_path / "third", *third)
    assert "its goal_encoder.state_in is left out" in _said(capsys)
    assert acts(last)[0].config.goal.state is False


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    ("made", "overrides", "says"),
    [
        ({}, ["policy.denoiser.width=64"], r"init_from=.*: \S+ is \(.*\), expected \(.*\);"),
        ({}, ["policy=mdt"], r"init_from=.*: \S+ is \(32, 3\), expected \(128, 3\);"),
        ({}, ["policy.use_state=false"], r"positions is \(7, 32\), expected \(6, 32\);"),
        ({"actions": 4}, [], r"action has shape \(4,\) in data.stores, expected \(2,\)"),
        ({"bound": 2.0}, [], r"data.stores: action has .* minimum -2, expected -1 by init_from="),
        (
            {},
            ["policy.action.scaling=mean_std"],
            r"action would be scaled otherwise \(entry 0: centre and scale .*, expected "
            r"\[0.0, 1.0\]\)",
        ),
        ({}, ["policy.state.clamp=3.0"], r"state would be scaled otherwise .*policy.state"),
    ],
)
def test_what_does_not_fit_is_one_line(
    first: Path, tmp_path: Path, made: dict[str, float], overrides: list[str], says: str
) -> None:
    other = store(tmp_path / "other.zarr", **made)
    with pytest.raises(ValueError, match=says) as error:
        train(other, tmp_path / "second", f"init_from={first}", "steps=1", *overrides)
    assert "\n" not in str(error.value)


def test_where_there_is_no_checkpoint_is_one_line(first: Path, tmp_path: Path) -> None:
    demos = tmp_path / "demos.zarr"
    with pytest.raises(ValueError, match="no checkpoint directory there"):
        train(demos, tmp_path / "second", f"init_from={tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"checkpoints: holds .*, which is read for it"):
        train(demos, tmp_path / "first", f"init_from={first}", "overwrite=true", "steps=1")
    assert acts(first)[1].shape == (5, 2)
    with pytest.raises(ValueError, match="frozen=true would freeze voltron at random weights"):
        overrides = ["policy.images.tower=voltron", "policy.images.frozen=true"]
        train(demos, tmp_path / "second", *overrides)


def test_what_never_varied_there_is_scaled_by_the_new_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a gripper that never moved in the first data could not be taught to move."""
    still = store(tmp_path / "still.zarr", frozen=0.04)
    first = train(still, tmp_path / "first", *FIRST, "steps=1")
    assert (acts(first)[1][:, 1] == np.float32(0.04)).all()
    moving = store(tmp_path / "moving.zarr")
    second = train(moving, tmp_path / "second", f"init_from={first}", "steps=1", STILL)
    assert "action entries 1 never varied there" in capsys.readouterr().err
    was, now = acts(first), acts(second)
    assert len(np.unique(now[1][:, 1])) > 1
    np.testing.assert_allclose(now[1][:, 0], was[1][:, 0], atol=1e-6)
