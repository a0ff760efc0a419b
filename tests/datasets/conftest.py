"""Small real stores for the tests of this room."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr

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


@pytest.fixture
def make_old_store(tmp_path: Path) -> Callable[..., Path]:
    """Return a function (fields, rate_hz) -> an empty store as it was before checksums."""

    def make(fields: dict[str, ArraySpec] = FIELDS, rate_hz: float = 20.0) -> Path:
        path = tmp_path / "old.zarr"
        about = {name: spec.to_json() for name, spec in fields.items()}
        attributes = {"format": "telic-episodes", "version": 1, "fields": about, "rate_hz": rate_hz}
        root = zarr.create_group(path, attributes=attributes)

        def rows(name: str, row: tuple[int, ...], dtype: str, chunk: int) -> None:
            root.create_array(
                name,
                shape=(0, *row),
                chunks=(chunk, *row),
                dtype=dtype,
                compressors=None,
                filters=None,
                chunk_key_encoding={"name": "default", "separator": "."},
            )

        for name, spec in fields.items():
            row = tuple(int(n or 0) for n in spec.shape)
            rows(f"data/{name}", row, spec.dtype, 109)
            pixels = (3, 256) if name.startswith("image/") else (5, *(row or (1,)))
            rows(f"meta/stats/{name}", pixels, "int64" if len(row) == 3 else "float64", 64)
        rows("meta/segments", (4,), "int64", 4096)
        rows("meta/episode_ends", (), "int64", 4096)
        for name in ("instructions", "tasks"):
            root.create_array(f"meta/{name}", shape=(0,), chunks=(1024,), dtype=str)
        root.create_group("meta/embeddings")
        return path

    return make
