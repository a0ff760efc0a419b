"""A disk that is full and stays full: one line each time, and nothing committed is lost."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.datasets.formats.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.store import EpisodeStore, Segment
from telic.spec import ArraySpec

FIELDS = {"state": ArraySpec(shape=(500,)), "action": ArraySpec(shape=(2,))}


def episode(steps: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(steps, *spec.shape)) for name, spec in FIELDS.items()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 4 MiB; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=400", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all that is left of a disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return ballast


def test_append_truncate_and_open_while_nothing_is_free(small_disk: Path) -> None:
    path = small_disk / "s.zarr"
    segment = Segment(start=0, end=5, instruction="go")
    with EpisodeStore.create(path, FIELDS, rate_hz=10) as store:
        store.append(episode(20), [segment])
        ballast = fill(small_disk)
        for _ in range(3):
            with pytest.raises(ValueError, match=r"No space left on device.* are kept"):
                store.append(episode(300), [segment])
            with pytest.raises(ValueError, match="No space left on device"):
                store.write_embeddings("encoder", np.ones((1, 384)))
            assert store.num_episodes == 1
        with pytest.raises(ValueError, match="No space left on device"):
            store.truncate(0)
    assert EpisodeStore.open(path).num_steps == 20
    with pytest.raises(ValueError, match="No space left on device"):
        EpisodeStore.create(small_disk / "new.zarr", FIELDS, rate_hz=10)
    with pytest.raises(ValueError, match="No space left on device"):
        EpisodeStore.create(path, FIELDS, rate_hz=10, overwrite=True)
    with pytest.raises(ValueError, match="No space left on device"):
        export_hdf5(path, small_disk / "s.hdf5", Hdf5ExportOptions())
    assert sorted(p.name for p in small_disk.iterdir()) == ["ballast", "s.zarr"]
    ballast.unlink()
    with EpisodeStore.open(path, "a") as store:
        assert store.append(episode(30), [segment]) == 1
    assert EpisodeStore.open(path).num_steps == 50


def test_a_disk_that_fills_up_in_an_append(small_disk: Path) -> None:
    """The rows fit in part: what was written is dropped, and then there is room again."""
    with EpisodeStore.create(small_disk / "s.zarr", FIELDS, rate_hz=10) as store:
        store.append(episode(20))
        for _ in range(3):
            with pytest.raises(ValueError, match=r"No space left on device.*1 episodes"):
                store.append(episode(3000))
        assert store.append(episode(30)) == 1
    with EpisodeStore.open(small_disk / "s.zarr", "a") as store:
        assert [len(e) for e in store] == [20, 30]


def test_an_import_that_does_not_fit_leaves_what_was_there(
    small_disk: Path, tmp_path: Path
) -> None:
    with EpisodeStore.create(tmp_path / "large.zarr", FIELDS, rate_hz=10) as store:
        store.append(episode(3000))
    export_hdf5(tmp_path / "large.zarr", tmp_path / "large.hdf5", Hdf5ExportOptions())
    with EpisodeStore.create(small_disk / "s.zarr", FIELDS, rate_hz=10) as store:
        store.append(episode(20))
    with pytest.raises(ValueError, match="No space left on device"):
        import_hdf5(
            tmp_path / "large.hdf5", small_disk / "s.zarr", Hdf5ImportOptions(), overwrite=True
        )
    assert EpisodeStore.open(small_disk / "s.zarr").num_steps == 20
    assert [p.name for p in small_disk.iterdir()] == ["s.zarr"]


def test_of_creators_of_one_path_one_wins(tmp_path: Path) -> None:
    """The others are told in one line, each time."""
    told: list[BaseException] = []
    made: list[EpisodeStore] = []
    start = threading.Barrier(4)

    def create() -> None:
        start.wait()
        try:
            made.append(EpisodeStore.create(tmp_path / "s.zarr", FIELDS, rate_hz=10))
        except BaseException as error:
            told.append(error)

    creators = [threading.Thread(target=create) for _ in range(4)]
    for thread in creators:
        thread.start()
    for thread in creators:
        thread.join()
    assert len(made) == 1 and [type(error) for error in told] == [ValueError] * 3
    assert all("already there" in str(e) or "another writer" in str(e) for e in told)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
    made[0].append(episode(3))


def test_a_neighbours_folders_stay(tmp_path: Path) -> None:
    for name in ("s.zarr.partial", "s.zarr.replaced.partial", ".s.zarr.writing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    make: Callable[..., EpisodeStore] = EpisodeStore.create
    make(tmp_path / "s.zarr", FIELDS, rate_hz=10).close()
    make(tmp_path / "s.zarr", FIELDS, rate_hz=10, overwrite=True).close()
    assert len(list(tmp_path.glob("*/mine")) + list(tmp_path.glob(".*/mine"))) >= 3
