"""An imported MDT is trained on: both objectives, its own sentences' tower, and it acts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.policy.published.import_checkpoint import main
from telic.policy.published.robots import calvin
from telic.spec import Goal, Observation
from telic.train import run
from telic.training.config import TrainConfig

SENTENCES = ("open the drawer", "close the drawer")


def store(path: Path) -> Path:
    """Write a store of two short episodes of CALVIN's robot; return its path."""
    robot, rng = calvin(), np.random.default_rng(0)
    cameras = {f"image/{name}": spec for name, spec in robot.images.items()}
    fields = {"state": robot.state, "action": robot.action, **cameras}
    made = EpisodeStore.create(path, fields, rate_hz=robot.rate_hz)
    for sentence in SENTENCES:
        episode = {
            name: rng.integers(0, 256, (6, *spec.shape), np.uint8)
            if spec.dtype == "uint8"
            else rng.uniform(-1, 1, (6, *spec.shape)).astype(np.float32)
            for name, spec in fields.items()
        }
        made.append(episode, [Segment(start=0, end=6, instruction=sentence, task="t")])
    return path


def test_an_imported_policy_is_trained_on(
    tmp_path: Path,
    agent_shapes: Callable[[str], dict[str, Tensor]],
    write_run: Callable[..., Path],
    write_vectors: Callable[[Path], Path],
    fill: Any,
) -> None:
    source = write_run(tmp_path / "run", fill(agent_shapes("mdt")), None)
    ours = tmp_path / "ours"
    main([str(source), str(ours), "--raw", "--embeddings", str(write_vectors(tmp_path))])
    before = load_policy(ours)
    overrides = [
        f"init_from={ours}",
        f"data.stores=[{store(tmp_path / 'demos.zarr')}]",
        f"out={tmp_path / 'tuned'}",
        "data.goal.hindsight=uniform",
        "data.held_out=0",
        "batch_size=2",
        "steps=2",
        "log_every=1",
        "validate_every=0",
        "device=cpu",
        "precision=fp32",
        "wandb.mode=disabled",
    ]
    run(compose(TrainConfig, "train", overrides))
    lines = (tmp_path / "tuned" / "log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert len(steps) == 2 and all(line["foresight"] > 0 < line["alignment"] for line in steps)
    for line in steps:
        parts = line["diffusion"] + line["foresight"] + line["alignment"]
        assert abs(line["loss"] - parts) < 1e-4 * parts
    last = tmp_path / "tuned" / "checkpoints" / "last"
    tuned = load_policy(last)
    assert isinstance(tuned, Policy) and isinstance(before, Policy)
    assert tuned.config == before.config
    frozen = "conditioner.goal_encoder.image_in.towers"
    old, new = before.state_dict(), tuned.state_dict()
    assert all((old[k] == new[k]).all() for k in old if k.startswith(frozen))
    assert not all((old[k] == new[k]).all() for k in old if k.startswith("objectives.foresight"))
    assert (last / "language" / "config.json").is_file()
    images = {name: np.zeros((1, *spec.shape), np.uint8) for name, spec in calvin().images.items()}
    observation = Observation(state=np.zeros((1, 15), np.float32), images=images)
    assert tuned.act(observation, Goal(text=SENTENCES[0])).actions.shape == (10, 7)
