"""`draws=M` from the command line: trains, repeats itself, names the windows of a lost loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.policy.checkpoint import read_parts
from telic.policy.objectives.objective import LossTerms
from telic.spec import ArraySpec
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig
from telic.training.validation import non_finite

SMALL = [
    *(f"policy.denoiser.{key}" for key in ("width=32", "num_layers=1", "num_heads=2")),
    *("batch_size=4", "accumulate=2", "steps=2", "log_every=1", "data.held_out=0"),
    *ALONE,
]


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Return the path of a store of two episodes."""
    fields = {"state": ArraySpec(shape=(3,)), "action": ArraySpec(shape=(2,))}
    rng = np.random.default_rng(0)
    path = tmp_path / "demos.zarr"
    with EpisodeStore.create(path, fields, rate_hz=10.0) as made:
        for length in (9, 12):
            rows = {
                name: rng.normal(size=(length, size)).astype(np.float32)
                for name, size in (("state", 3), ("action", 2))
            }
            made.append(rows, [Segment(start=0, end=length, instruction="reach", task="t")])
    return path


def train(demos: Path, out: Path, draws: int) -> dict[str, torch.Tensor]:
    """Train two steps and return the weights."""
    run(
        compose(
            TrainConfig, "train", [f"data.stores=[{demos}]", f"out={out}", f"draws={draws}", *SMALL]
        )
    )
    return dict(read_parts(out / "checkpoints/last").weights)


def test_a_run_is_a_function_of_seed_and_step(demos: Path, tmp_path: Path) -> None:
    first, again, other = (
        train(demos, tmp_path / name, draws) for name, draws in (("a", 3), ("b", 3), ("c", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^draws=0 must be at least 1$"):
        compose(TrainConfig, "train", ["data.stores=[demos.zarr]", "draws=0"])


def test_a_loss_that_is_not_finite_names_windows_not_draws() -> None:
    per_sample = torch.tensor([1.0, 1.0, 1.0, torch.nan, 1.0, 1.0])
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    terms = LossTerms(
        total=per_sample.mean(), parts={}, per_sample=per_sample, sigma=sigma, draws=2
    )
    error = non_finite(7, 1, [terms])
    assert error.rows.tolist() == [False, True, False]
    assert "not finite for sigma in [4, 4]" in str(error)
