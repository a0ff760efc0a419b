"""Anchors from the command line: at training start or from a file, kept, resumed, asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from telic import build_anchors
from telic.build_anchors import BuildAnchorsConfig
from telic.collect import CollectConfig
from telic.collect import run as collect
from telic.configs.launch import compose
from telic.evaluate import EvaluateConfig
from telic.evaluate import run as evaluate
from telic.policy.checkpoint import load_policy
from telic.policy.inference.truncated import StartConfig
from telic.policy.inference_config import InferenceConfig, SamplingChoice
from telic.policy.objectives.anchors import AnchorSet
from telic.policy.policy import Policy
from telic.real_robot.policy_worker import open_checkpoint
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

SMALL = [
    *(f"policy.denoiser.{key}" for key in ("width=32", "num_layers=1", "num_heads=2")),
    "policy.denoiser.feed_forward=32",
    "batch_size=16",
    "log_every=1",
    "validate_every=0",
    "data.held_out=0.3",
    *ALONE,
]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of demonstrations with two solutions."""
    path = tmp_path_factory.mktemp("stores") / "demos.zarr"
    config = CollectConfig(
        tasks=["detour"], out=str(path), episodes_per_task=8, num_workers=0, max_steps=80
    )
    collect(config)
    return path


def train(demos: Path, out: Path, *overrides: str) -> Policy:
    """Return the policy that so many steps leave in `out`."""
    given = [f"data.stores=[{demos}]", f"out={out}", *SMALL, *overrides]
    run(compose(TrainConfig, "train", given))
    policy = load_policy(out / "checkpoints" / "last")
    assert isinstance(policy, Policy)
    return policy


def build(demos: Path, out: Path, *overrides: str) -> Path:
    """Return the file that build-anchors leaves."""
    given = [f"stores=[{demos}]", f"out={out}", *overrides]
    build_anchors.run(compose(BuildAnchorsConfig, "build_anchors", given))
    return out


@pytest.fixture(scope="module")
def trained(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of four steps with anchors clustered at its start."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(demos, out, "steps=4", "policy.anchors.count=6")
    return out


def test_anchors_are_clustered_at_training_start(trained: Path) -> None:
    policy = load_policy(trained / "checkpoints" / "last")
    assert isinstance(policy, Policy) and policy.truncated is not None
    chunks = policy.truncated.chunks.numpy()
    assert chunks.shape == (6, 8, 2) and len(np.unique(chunks, axis=0)) == 6
    sideways = chunks[..., 0].mean(1)
    assert sideways.min() < -0.15 and sideways.max() > 0.15, "both ways round"
    assert 0.1 < policy.truncated.sigma_trunc < 0.4
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4
    for line in steps:
        own = 0.01 * line["load_balance"] + line["anchors"]
        assert line["loss"] == pytest.approx(line["diffusion"] + own, rel=1e-5)


def test_a_resumed_run_repeats_the_whole_one(demos: Path, trained: Path, tmp_path: Path) -> None:
    settings = ["policy.anchors.count=6", "optimizer.warmup_steps=2"]
    train(demos, tmp_path / "whole", "steps=4", *settings)
    train(demos, tmp_path / "halves", "steps=2", *settings)
    train(demos, tmp_path / "halves", "steps=4", "resume=true", *settings)
    whole, halves = (
        load_file(tmp_path / name / "checkpoints" / "last" / "model.safetensors")
        for name in ("whole", "halves")
    )
    for name in ("objectives.anchors.chunks", "objectives.anchors.number"):
        assert np.array_equal(whole[name], halves[name]), name


def test_a_file_gives_the_same_as_training_start(demos: Path, tmp_path: Path) -> None:
    file = build(demos, tmp_path / "anchors.safetensors", "count=5")
    given = train(demos, tmp_path / "given", "steps=1", f"policy.anchors.file={file}")
    own = train(
        demos, tmp_path / "own", "steps=1", "policy.anchors.count=5", "data.held_out=0", "seed=1"
    )
    assert given.truncated is not None and own.truncated is not None
    assert np.allclose(given.truncated.chunks, own.truncated.chunks, atol=1e-6)
    assert given.truncated.sigma_trunc == pytest.approx(own.truncated.sigma_trunc)
    assert given.config.anchors.count == 5


def test_sigma_trunc_can_be_given_by_hand(demos: Path, tmp_path: Path) -> None:
    by_hand = ["policy.anchors.count=3", "policy.anchors.sigma_trunc=0.5", "steps=1"]
    policy = train(demos, tmp_path / "run", *by_hand)
    assert policy.truncated is not None and policy.truncated.sigma_trunc == 0.5


def test_evaluation_and_control_choose_among_the_anchors(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "last"
    given = [f"checkpoint={checkpoint}", f"out={tmp_path}", "tasks=[detour]", "num_workers=0"]
    given += ["episodes_per_task=2", "max_steps=20", "sampling=2", "device=cpu", "threads=1"]
    chosen = ["anchors=3", "temperature=0.5"]
    evaluate(compose(EvaluateConfig, "evaluate", [*given, *chosen]))
    header = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])["evaluation"]
    assert header["start"] == {"best": 3, "temperature": 0.5, "hysteresis": 1.0}
    with pytest.raises(ValueError, match="is of start="):
        evaluate(compose(EvaluateConfig, "evaluate", given))
    policy = open_checkpoint(
        str(checkpoint),
        "cpu",
        InferenceConfig(sampling=SamplingChoice(preset="1"), anchors=2),
    )
    assert isinstance(policy, Policy) and policy.start == StartConfig(best=2)


def test_what_cannot_be_is_one_line(demos: Path, trained: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    train(demos, plain, "steps=1")
    for folder, message in (
        (plain, "the policy has no anchors to begin from; train it with policy.anchors.count=32"),
        (trained, "7 anchors are asked for, the policy has 6; ask for at most as many"),
    ):
        for ask in (
            lambda path: open_checkpoint(path, "cpu", InferenceConfig(anchors=7)),
            lambda path: evaluate(
                EvaluateConfig(checkpoint=path, tasks=["detour"], anchors=7, out=str(tmp_path))
            ),
        ):
            with pytest.raises(ValueError, match=message):
                ask(str(folder / "checkpoints" / "last"))
    short = build(demos, tmp_path / "short.safetensors", "action_horizon=4", "count=4")
    fine = build(demos, tmp_path / "fine.safetensors", "count=4")
    for overrides, message in (
        ([f"policy.anchors.file={short}"], "are chunks of 4 actions of 2 numbers, the policy's"),
        ([f"policy.anchors.file={tmp_path / 'no'}"], "no file there; build-anchors writes one"),
        ([f"policy.anchors.file={fine}", "policy.anchors.count=9"], r"more anchors than .* \(4\)"),
        (["policy.anchors.count=5000"], "5000 anchors are asked for, and only"),
        (["policy.anchors.count=4", "policy.anchors.sigma_trunc=99"], "outside of the schedule"),
        (["policy.anchors.count=-4"], "policy.anchors.count=-4 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            train(demos, tmp_path / "refused", "steps=1", *overrides)
        assert "\n" not in str(caught.value)
        overrides = [*overrides, "overwrite=true"]
        with pytest.raises(ValueError, match=message):
            train(demos, plain, "steps=1", *overrides)
        assert (plain / "checkpoints" / "last" / "model.safetensors").is_file(), "nothing is lost"
    with pytest.raises(ValueError, match=rf"from {trained}.*policy.anchors.count=3 .it has 6."):
        train(demos, trained, "steps=5", "resume=true", "policy.anchors.count=3")
    with pytest.raises(ValueError, match=f"policy.anchors.file={short}: the anchors are chunks"):
        train(demos, tmp_path / "refused", "steps=1", f"policy.anchors.file={short}")
    with pytest.raises(ValueError, match="stores is empty; give one"):
        BuildAnchorsConfig()


def test_a_file_is_replaced_only_if_asked_and_if_it_holds_anchors(
    demos: Path, tmp_path: Path
) -> None:
    out = build(demos, tmp_path / "a.safetensors", "count=3")
    with pytest.raises(ValueError, match="is already there; overwrite=true replaces it"):
        build(demos, out, "count=4")
    assert len(AnchorSet.load(out).chunks) == 3
    assert len(AnchorSet.load(build(demos, out, "count=4", "overwrite=true")).chunks) == 4
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years")
    for other in (thesis, demos):
        with pytest.raises(ValueError, match=r"is not a file of anchors|which is read for it"):
            build(demos, other, "overwrite=true")
    assert thesis.read_text() == "years" and demos.is_dir()
