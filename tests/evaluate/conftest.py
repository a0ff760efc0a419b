"""Small real policies with random weights, and the toy task of the environments' tests."""

from pathlib import Path

import numpy as np
import pytest
import torch

from telic.envs.registry import entry
from telic.envs.task import StateChoice
from telic.envs.tasks.metaworld import ACTION_SPEC, RATE_HZ, STATE_SPECS
from telic.policy.checkpoint import save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.diffusion.sampling import SamplingConfig
from telic.policy.policy import Policy
from telic.spec import ArraySpec, FieldStats, Interface

TASKS = ["reach-v3", "drawer-close-v3"]
METAWORLD = Interface(state=STATE_SPECS[StateChoice.full], action=ACTION_SPEC, rate_hz=RATE_HZ)
TOY = Interface(
    state=ArraySpec(shape=(2,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of the toy task, importable here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    return "toy_tasks:toy/sum"


@pytest.fixture(scope="session")
def metaworld_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of a tiny MoDE for Meta-World that knows the sentences of TASKS."""
    sentences = [text for task in TASKS for text in entry(task).instructions]
    return checkpoint(tmp_path_factory.mktemp("metaworld") / "best", METAWORLD, sentences)


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of a tiny MoDE for the toy task."""
    sentences = ["add up", "b", "c", "d"]
    return checkpoint(tmp_path_factory.mktemp("toy") / "best", TOY, sentences)


def checkpoint(
    path: Path,
    interface: Interface,
    sentences: list[str],
    sampling: SamplingConfig | None = None,
) -> Path:
    """Write a tiny MoDE with random weights to `path`; its sentence vectors are random too."""
    size = interface.state.shape[0] or 0
    zeros, ones = np.zeros(size), np.ones(size)
    stats = FieldStats(
        minimum=zeros, maximum=ones, mean=zeros, std=ones, q01=zeros, q99=ones, count=2
    )
    denoiser = ModeConfig(width=16, num_layers=1, num_heads=2, feed_forward=16)
    config = PolicyConfig(denoiser=denoiser, sampling=sampling or SamplingConfig())
    torch.manual_seed(0)
    policy = Policy(config, interface, {"state": stats})
    rng = np.random.default_rng(0)
    policy.set_embeddings({text: rng.standard_normal(384, np.float32) for text in sentences})
    save_checkpoint(path, policy)
    return path
