"""Replay buffers of diffusion_policy and UMI."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc

from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.diffusion_policy import export_buffer, import_buffer
from telic.datasets.store import EpisodeStore
from telic.spec import Array

ENDS = [4, 9]


def write_buffer(path: Path, arrays: dict[str, Array], **compression: Any) -> Path:
    """Write a buffer with two episodes as diffusion_policy does; chunks of three steps."""
    root = zarr.create_group(path, zarr_format=2)
    root.create_array("meta/episode_ends", data=np.array(ENDS), compressors=None)
    for key, rows in arrays.items():
        made = root.create_array(
            f"data/{key}",
            shape=rows.shape,
            chunks=(1 if rows.ndim == 4 else 3, *rows.shape[1:]),
            dtype=rows.dtype,
            **(compression if rows.ndim == 4 else {}),
        )
        made[:] = rows
    return path


def zipped(folder: Path) -> Path:
    """Return the folder as a .zip beside it."""
    target = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return target


@pytest.fixture
def pusht(tmp_path: Path) -> Path:
    """Return a buffer like the one of the task PushT: pictures as floats of whole numbers."""
    rng = np.random.default_rng(0)
    return write_buffer(
        tmp_path / "pusht.zarr",
        {
            "action": rng.uniform(0, 512, (9, 2)).astype(np.float32),
            "state": rng.normal(size=(9, 5)).astype(np.float32),
            "img": rng.integers(0, 256, (9, 8, 8, 3)).astype(np.float32),
            "keypoint": rng.normal(size=(9, 9, 2)).astype(np.float32),
        },
    )


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_buffer_becomes_a_store(pusht: Path, tmp_path: Path, as_zip: bool) -> None:
    group = zarr.open_group(pusht, mode="r")
    source = zipped(pusht) if as_zip else pusht
    options = ImportOptions(rate_hz=10, instruction="push the T", action_is=["unit=px"])
    assert import_buffer(source, tmp_path / "a.zarr", options) == 2
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.episode_ends.tolist() == ENDS and store.instructions == ["push the T"]
    np.testing.assert_array_equal(store.read("action", 0, 9), group["data/action"][:])
    np.testing.assert_array_equal(store.read("image/img", 0, 9), group["data/img"][:])
    assert store.fields["action"].unit == "px" and store.fields["keypoint"].shape == (9, 2)
    assert store.fields["state"].names[4] == "state.4"
    assert store.read("timestamp_ns", 4, 6).tolist() == [0, 100_000_000]


@pytest.mark.parametrize("codec", ["imagecodecs_jpegxl", "imagecodecs_jpeg2k"])
def test_pictures_of_umi_are_decoded(tmp_path: Path, codec: str) -> None:
    codecs = pytest.importorskip("imagecodecs.numcodecs", reason="imagecodecs is not installed")
    codecs.register_codecs(verbose=False)
    kind = {"imagecodecs_jpegxl": codecs.Jpegxl, "imagecodecs_jpeg2k": codecs.Jpeg2k}[codec]
    ramp = np.linspace(0, 250, 32)[:, None] + np.arange(9)[:, None, None]
    pictures = np.repeat(np.repeat(ramp[..., None], 32, 2), 3, 3).clip(0, 255).astype(np.uint8)
    arrays: dict[str, Array] = {
        "robot0_eef_pos": np.arange(27, dtype=np.float32).reshape(9, 3),
        "robot0_eef_rot_axis_angle": np.zeros((9, 3), np.float32),
        "robot0_gripper_width": np.full((9, 1), 0.04, np.float32),
        "camera0_rgb": pictures,
    }
    source = zipped(write_buffer(tmp_path / "umi.zarr", arrays, compressors=kind(level=90)))
    pose = ["robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"]
    options = ImportOptions(rate_hz=20, state_keys=pose, action_keys=pose)
    options.action_is = ["rotation=axis_angle", "gripper=positive_opens"]
    import_buffer(source, tmp_path / "a.zarr", options)
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.fields["state"].shape == (7,) and "robot0_eef_pos" not in store.fields
    assert store.fields["action"].rotation == "axis_angle"
    np.testing.assert_array_equal(store.read("state", 2, 3)[0, :3], [6, 7, 8])
    seen = store.read("image/camera0", 0, 9).astype(int)
    assert np.abs(seen - pictures).mean() < 2 and np.abs(seen - pictures).max() < 20


def test_a_store_comes_back(pusht: Path, tmp_path: Path) -> None:
    stated = ImportOptions(rate_hz=10, action_is=["unit=px", "names=x,y"])
    import_buffer(pusht, tmp_path / "a.zarr", stated)
    for name in ("b.zarr.zip", "c.zarr"):
        assert export_buffer(tmp_path / "a.zarr", tmp_path / name) == 2
        import_buffer(tmp_path / name, tmp_path / f"{name}.again", ImportOptions())
        one = EpisodeStore.open(tmp_path / "a.zarr")
        other = EpisodeStore.open(tmp_path / f"{name}.again")
        assert one.fields == other.fields and one.rate_hz == other.rate_hz
        assert one.episode_ends.tolist() == other.episode_ends.tolist()
        for field in one.fields:
            np.testing.assert_array_equal(one.read(field, 0, 9), other.read(field, 0, 9))
    group = zarr.open_group(tmp_path / "c.zarr", mode="r", zarr_format=2)
    assert group["data/img_rgb"].dtype == np.uint8 and group["data/timestamp"][5] == 0.1


def edit(key: str, **changes: Any) -> Callable[[Path], None]:
    """Return what changes the metadata of an array."""

    def change(root: Path) -> None:
        path = root / f"data/{key}/.zarray"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def set_row(key: str, row: int, value: float) -> Callable[[Path], None]:
    """Return what sets a row of an array."""

    def change(root: Path) -> None:
        zarr.open_group(root, mode="r+", zarr_format=2)[f"data/{key}"][row] = value

    return change


PICKLE = {"filters": [{"id": "pickle", "protocol": 5}], "dtype": "|O"}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (edit("action", **PICKLE), "encoded by .* with filters .*pickle"),
    "codec": (edit("img", compressor={"id": "secret"}), "encoded by 'secret'"),
    "objects": (edit("action", dtype="|O"), "has dtype .* expected numbers"),
    "large": (edit("img", chunks=[9, 80000, 80000, 3]), "has chunks of .* bytes"),
    "short": (edit("action", shape=[7, 2]), "action has 7 steps, the episodes 9"),
    "no data": (lambda r: shutil.rmtree(r / "data"), "data/ holds no arrays"),
    "no json": (lambda r: (r / "data/img/.zarray").write_text("{"), "zarray is not readable"),
    "nan": (set_row("action", 5, np.nan), "action step 1 entry 0 is nan"),
    "fractions": (set_row("img", 2, 0.5), "img holds fractions"),
    "range": (set_row("img", 2, 300), "img holds . to 300, expected 0 to 255"),
    "chunk cut": (
        lambda r: next((r / "data/state").glob("1.0")).write_bytes(b"x"),
        "1.0 has 1 bytes",
    ),
    "ends": (
        lambda r: zarr.open_group(r, mode="r+")["meta/episode_ends"].set_basic_selection(1, 4),
        "episode 1 ends at 4, where it begins",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_damaged_is_refused(pusht: Path, tmp_path: Path, damage: str) -> None:
    change, says = DAMAGES[damage]
    change(pusht)
    with pytest.raises(ValueError, match=says) as refused:
        import_buffer(pusht, tmp_path / "a.zarr", ImportOptions(rate_hz=10))
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pusht.zarr"]


def test_nothing_is_guessed(pusht: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="how many steps a second; pass --rate-hz"):
        import_buffer(pusht, tmp_path / "a.zarr", ImportOptions())
    shutil.rmtree(pusht / "data/state")
    with pytest.raises(ValueError, match="has no state; pass --state-keys, of action"):
        import_buffer(pusht, tmp_path / "a.zarr", ImportOptions(rate_hz=10))


def test_a_cut_zip_is_refused(pusht: Path, tmp_path: Path) -> None:
    archive = zipped(pusht)
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ValueError, match="not readable as zarr"):
        import_buffer(archive, tmp_path / "a.zarr", ImportOptions(rate_hz=10))


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_chunk_of_blosc_that_is_cut_is_not_decoded(tmp_path: Path, as_zip: bool) -> None:
    root = write_buffer(tmp_path / "whole.zarr", {"action": np.ones((9, 2), np.float32)})
    group: Any = zarr.open_group(root, mode="r+", zarr_format=2)
    state = np.random.default_rng(0).normal(size=(9, 500)).astype(np.float32)
    packed = Blosc("lz4", 5, Blosc.NOSHUFFLE)
    made = group.create_array(
        "data/state", shape=(9, 500), chunks=(3, 500), dtype="f4", compressors=packed
    )
    made[:] = state
    options = ImportOptions(rate_hz=10)
    import_buffer(zipped(root) if as_zip else root, tmp_path / "a.zarr", options)
    chunk = root / "data/state/1.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"data/state/1.0 has 100 bytes, by its header \d+ that"):
        import_buffer(zipped(root) if as_zip else root, tmp_path / "b.zarr", options)
    assert not (tmp_path / "b.zarr").exists()
