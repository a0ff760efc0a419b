"""`collect-demos scene=true`: the robot's own state and the scene as two fields, trained from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from telic.collect import CollectConfig, run
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore
from telic.envs.task import StateChoice
from telic.envs.tasks.metaworld import STATE_SPECS
from telic.train import run as train
from telic.training.config import TrainConfig

FULL, ROBOT = STATE_SPECS[StateChoice.full], STATE_SPECS[StateChoice.robot]


def collect(out: Path, state: StateChoice, scene: bool, resume: bool = False) -> EpisodeStore:
    """Collect two episodes of one task."""
    run(
        CollectConfig(
            tasks=["reach-v3"],
            out=str(out),
            episodes_per_task=2,
            state=state,
            scene=scene,
            steps_after_success=2,
            num_workers=0,
            resume=resume,
        )
    )
    return EpisodeStore.open(out)


def test_scene_is_the_rest_of_the_full_state(tmp_path: Path) -> None:
    full = collect(tmp_path / "full.zarr", StateChoice.full, False)
    apart = collect(tmp_path / "apart.zarr", StateChoice.robot, True)
    own = len(ROBOT.names)
    assert apart.fields["state"].names == ROBOT.names
    assert apart.fields["scene"].names == FULL.names[own:]
    assert apart.episode_ends.tolist() == full.episode_ends.tolist()
    for mine, whole in zip(apart, full, strict=True):
        assert np.array_equal(mine["state"], whole["state"][:, :own])
        assert np.array_equal(mine["scene"], whole["state"][:, own:])
        assert np.array_equal(mine["action"], whole["action"])
    again = collect(tmp_path / "apart.zarr", StateChoice.robot, True, resume=True)
    assert again.num_episodes == 2

    def trained(store: EpisodeStore) -> None:
        out = tmp_path / f"run_{store.path.stem}"
        settings = [f"data.stores=[{store.path}]", f"out={out}", "steps=2"]
        settings += ["policy.scene.weight=0.5", "batch_size=8", "log_every=1", "device=cpu"]
        settings += ["policy.denoiser.width=32", "data.held_out=0", "wandb.mode=disabled"]
        settings += ["precision=fp32"]  # as other tests in this process: accelerate has one
        train(compose(TrainConfig, "train", settings))

    trained(apart)
    log = [json.loads(line) for line in (tmp_path / "run_apart/log.jsonl").read_text().splitlines()]
    assert [np.isfinite(line["scene"]) for line in log if "scene" in line] == [True, True]
    with pytest.raises(ValueError, match=r"full.zarr has no field scene; collect-demos state=rob"):
        trained(full)


def test_scene_is_beside_the_robots_own_state_alone() -> None:
    with pytest.raises(ValueError, match="add state=robot"):
        CollectConfig(scene=True)
