"""Several stores: they are scaled, clustered and split as the one store of all their episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from telic.build_anchors import BuildAnchorsConfig
from telic.build_anchors import run as build
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.unified import shared_stats
from telic.policy.checkpoint import load_policy
from telic.policy.policy import Policy
from telic.spec import Array, ArraySpec
from telic.tests.training.small_runs import ALONE
from telic.train import run
from telic.training.config import TrainConfig

RUN = [
    "policy.denoiser.width=16",
    "policy.denoiser.num_layers=1",
    "policy.denoiser.num_heads=2",
    "policy.denoiser.feed_forward=16",
    "steps=1",
    "batch_size=4",
    "validate_every=0",
    "data.held_out=0",
    *ALONE,
]


def episodes(seed: int, count: int, goal: float) -> list[tuple[Array, Array]]:
    """Return states [T 3], whose last entry is always `goal`, and actions [T 2] towards it."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        state = rng.normal(seed, 1 + seed, (int(rng.integers(9, 14)), 3)).astype(np.float32)
        state[:, 2] = goal
        made.append((state, np.tanh(state[:, :2] - goal)))
    return made


def store(path: Path, rows: Sequence[tuple[Array, Array]], unit: str = "m") -> Path:
    """Write a store of these episodes; return its path."""
    fields = {"state": ArraySpec(shape=(3,), unit=unit), "action": ArraySpec(shape=(2,))}
    made = EpisodeStore.create(path, fields, rate_hz=10.0)
    for state, action in rows:
        segment = Segment(start=0, end=len(state), instruction="reach", task="reach")
        made.append({"state": state, "action": action}, [segment])
    made.close()
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Return two stores; a goal is constant in each, and another in the other."""
    near, far = episodes(0, 3, 0.0), episodes(2, 4, 1.44)
    store(tmp_path / "whole.zarr", [*near, *far])
    return [store(tmp_path / "near.zarr", near), store(tmp_path / "far.zarr", far)]


def trained(stores: Sequence[Path], out: Path, *overrides: str) -> Policy:
    """Return the policy after a step on `stores`."""
    listed = ",".join(map(str, stores))
    overrides = (f"data.stores=[{listed}]", f"out={out}", *RUN, *overrides)
    run(compose(TrainConfig, "train", list(overrides)))
    policy = load_policy(out / "checkpoints" / "last")
    assert isinstance(policy, Policy)
    return policy


def test_statistics_are_those_of_one_store_of_all_episodes(
    parts: list[Path], tmp_path: Path
) -> None:
    whole = EpisodeStore.open(tmp_path / "whole.zarr").stats
    shared = shared_stats([EpisodeStore.open(path) for path in parts])
    assert shared.keys() == whole.keys()
    for name, want in whole.items():
        for part in ("minimum", "maximum", "mean", "std", "q01", "q99", "count"):
            got = getattr(shared[name], part)
            np.testing.assert_allclose(got, getattr(want, part), rtol=1e-12, err_msg=part)


def test_a_goal_that_only_another_store_has_is_read_in_range(
    parts: list[Path], tmp_path: Path
) -> None:
    policy = trained(parts, tmp_path / "run", "policy.action.scaling=mean_std")
    rows = np.concatenate([EpisodeStore.open(path).read("state", 0, 20) for path in parts])
    seen = policy.conditioner.state_features.normalizer.normalize(
        policy.conditioner.state_features.mean.new_tensor(rows)
    )
    assert seen[:, 2].abs().max() < 2 and len(seen[:, 2].unique()) == 2
    other = trained(parts[::-1], tmp_path / "turned", "policy.action.scaling=mean_std")
    for mine, theirs in zip(
        policy.action_normalizer.buffers(), other.action_normalizer.buffers(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_anchors_are_scaled_by_all_stores(parts: list[Path], tmp_path: Path) -> None:
    whole = [tmp_path / "whole.zarr"]
    made = {}
    for name, stores in (("parts", parts), ("whole", whole)):
        made[name] = build(
            BuildAnchorsConfig(
                stores=[str(path) for path in stores],
                count=3,
                action_horizon=4,
                out=str(tmp_path / f"{name}.safetensors"),
            )
        )
    np.testing.assert_allclose(made["parts"].scale, made["whole"].scale, rtol=1e-6)
    assert made["parts"].counts.sum() == made["whole"].counts.sum()
    file = f"policy.anchors.file={tmp_path / 'parts.safetensors'}"
    policy = trained(parts, tmp_path / "run", "policy.action_horizon=4", file)
    assert policy.truncated is not None and len(policy.truncated.chunks) == 3


def test_a_store_in_other_units_is_refused(parts: list[Path], tmp_path: Path) -> None:
    """By training, by build-anchors and by init_from, whichever store comes first."""
    other = store(tmp_path / "mm.zarr", episodes(1, 3, 0.5), unit="mm")
    with pytest.raises(ValueError, match=r"mm\.zarr.*state"):
        trained([*parts, other], tmp_path / "run")
    with pytest.raises(ValueError, match=r"mm\.zarr.*state"):
        build(BuildAnchorsConfig(stores=[str(parts[0]), str(other)], out=str(tmp_path / "a")))
    trained(parts, tmp_path / "first")
    with pytest.raises(ValueError, match=r"data\.stores.*state.*init_from="):
        trained([other], tmp_path / "second", f"init_from={tmp_path}/first/checkpoints/last")
