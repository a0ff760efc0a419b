"""Small real stores for the tests of this room."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from telic.datasets.store import EpisodeStore, Segment
from telic.spec import Array, ArraySpec

FIELDS = {
    "state": ArraySpec(shape=(3,)),
    "action": ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
    "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    "image/front": ArraySpec(shape=(4, 5, 3), dtype="uint8"),
}
MakeEpisode = Callable[..., dict[str, Array]]
MakeStore = Callable[..., EpisodeStore]


@pytest.fixture(scope="session")
def fields() -> dict[str, ArraySpec]:
    """Return the fields of the stores here."""
    return FIELDS


@pytest.fixture(scope="session")
def make_episode() -> MakeEpisode:
    """Return a function (steps, seed) -> an episode of random numbers."""

    def make(steps: int, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        return {
            "state": rng.normal(size=(steps, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            "timestamp_ns": np.arange(steps) * 50_000_000,
            "image/front": rng.integers(0, 256, (steps, 4, 5, 3)).astype(np.uint8),
        }

    return make


@pytest.fixture
def make_store(tmp_path: Path, make_episode: MakeEpisode) -> MakeStore:
    """Return a function (lengths, segments of each episode, name) -> a store of such episodes."""

    def make(
        lengths: Sequence[int],
        segments: Sequence[Sequence[Segment]] | None = None,
        name: str = "demos.zarr",
    ) -> EpisodeStore:
        store = EpisodeStore.create(tmp_path / name, FIELDS, rate_hz=20, overwrite=True)
        for i, steps in enumerate(lengths):
            store.append(make_episode(steps, i), segments[i] if segments else ())
        return store

    return make
