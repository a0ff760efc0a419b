"""The programs of the documentation run as they stand."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from docs_pages import program

from telic.collect import CollectConfig
from telic.collect import run as collect
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore
from telic.datasets.validation import validate
from telic.envs import registry
from telic.policy.checkpoint import load_policy
from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.encoders.towers import TOWERS, load_tower
from telic.real_robot.clock import FakeClock
from telic.real_robot.replay import Timing, replay
from telic.real_robot.robot import robot_config
from telic.spec import Observation
from telic.train import TrainConfig
from telic.train import run as train

SMALL = [
    "experiment=debug",
    "policy.denoiser.width=32",
    "policy.denoiser.num_layers=1",
    "policy.denoiser.feed_forward=32",
    "device=cpu",
    "precision=fp32",
    "data.held_out=0.2",
    "policy.images.tower=keypoint_conv",
    "policy.images.pooling=keypoints",
]
TASK = "my_tasks:lab/line"


def write(page: str, name: str) -> None:
    """Save a program of a page under its name, here."""
    Path(name).write_text(program(page, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder, the current one, with the task of the documentation and a policy for it."""
    path = tmp_path_factory.mktemp("programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        write("docs/how_to/add_a_task.md", "my_tasks.py")
        settings = [f"tasks=[{TASK}]", "episodes_per_task=3", "out=line.zarr", "num_workers=0"]
        collect(compose(CollectConfig, "collect", settings))
        settings = [*SMALL, "data.stores=[line.zarr]", "out=runs/line"]
        train(compose(TrainConfig, "train", settings))
        yield path
        registry.unregister(TASK.partition(":")[2])
        sys.modules.pop("my_tasks", None)


def test_the_task_is_whole_and_its_expert_solves_it(folder: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    from telic.envs import registry

    assert EpisodeStore.open("line.zarr").num_episodes == 3
    check_env(registry.make(TASK), skip_render_check=True)
    lines = Path("my_tasks.py").read_text().partition("class ")[2].partition("\n\n\n")[0]
    assert len([line for line in lines.splitlines() if line]) <= 30


def test_the_quickstart_prints_a_chunk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("docs/how_to/use_from_python.md", "quickstart.py")
    (folder / "runs/demo").symlink_to(folder / "runs/line")
    runpy.run_path("quickstart.py")
    assert capsys.readouterr().out == "(8, 1)\n"
    code = [line for line in Path("quickstart.py").read_text().splitlines() if line]
    assert len(code) == 7


def test_a_policy_acts_in_the_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("docs/how_to/use_from_python.md", "in_a_task.py")
    runpy.run_path("in_a_task.py")
    assert capsys.readouterr().out.startswith("success: ")


def test_the_robot_is_driven_by_that_policy(folder: Path) -> None:
    write("docs/tutorials/own_robot.md", "my_robot.py")
    clock = FakeClock()
    policy = load_policy("runs/line/checkpoints/best")
    robot = robot_config("my_robot:RailConfig", {"port": "/dev/null"}).build(
        policy.interface, clock
    )
    timing = Timing(latency_ns=lambda: 20_000_000)
    summary = replay(robot, policy, clock, timing, duration_s=1.0, goal="go to the middle")
    assert summary["robot"]["x"] != 1.0
    sys.modules.pop("my_robot", None)


def test_parts_of_another_package_train_and_act(folder: Path) -> None:
    write("docs/how_to/add_to_it.md", "my_parts.py")
    runpy.run_path("my_parts.py")
    try:
        chosen = ["policy.sampling.sampler=adams", "policy.images.tower=two_convolutions"]
        settings = [*SMALL, "data.stores=[line.zarr]", "out=runs/parts", *chosen]
        settings.append("policy.images.pooling=average")
        train(compose(TrainConfig, "train", settings))
        policy = load_policy("runs/parts/checkpoints/last")
        assert policy.config.sampling.sampler == "adams"
        start = Observation(state=np.zeros(1, np.float32), t_obs_ns=0)
        assert np.isfinite(policy.act(start, "go to the middle").actions).all()
        images = np.zeros((2, 32, 32, 3), np.uint8)
        tower = load_tower("two_convolutions", frozen=False)
        assert tower(torch.from_numpy(images)).shape[:2] == (2, 32)
    finally:
        SAMPLERS.unregister("adams")
        TOWERS.unregister("two_convolutions")


def test_numpy_arrays_become_a_store_that_trains(folder: Path) -> None:
    write("docs/tutorials/own_data.md", "numpy_to_store.py")
    assert len(Path("numpy_to_store.py").read_text().splitlines()) <= 22
    runpy.run_path("numpy_to_store.py")
    assert list(validate(Path("own.zarr"))) == []
    settings = [*SMALL, "data.stores=[own.zarr]", "out=runs/own"]
    assert train(compose(TrainConfig, "train", settings))["step"] == 2
