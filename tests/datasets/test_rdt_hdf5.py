"""RDT's HDF5 episodes and LIBERO's files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.rdt_hdf5 import FROM, PHRASINGS, import_rdt
from telic.datasets.formats.robomimic_hdf5 import Hdf5ImportOptions, import_hdf5
from telic.datasets.store import EpisodeStore

CAMERA = "observations/images/cam_high"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return three episodes with a sentence and two phrasings."""
    return FROM.small(tmp_path)


def encode(folder: Path, kind: str) -> None:
    """Have the pictures red and encoded, as the files in use have them."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(buffer, "PNG")
    data = buffer.getvalue()
    for path in folder.glob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            del file[CAMERA]
            if kind == "vlen":
                cells = file.create_dataset(CAMERA, (4,), h5py.vlen_dtype(np.uint8))
                for step in range(4):
                    cells[step] = np.frombuffer(data, np.uint8)
            elif kind == "bytes":
                file.create_dataset(CAMERA, data=np.array([data + b"\0" * 9] * 4, "S"))
            else:
                padded = np.frombuffer(data + b"\0" * 9, np.uint8)
                file.create_dataset(CAMERA, data=np.tile(padded, (4, 1)))


def test_episodes_become_a_store(folder: Path, tmp_path: Path) -> None:
    assert import_rdt(folder, tmp_path / "a.zarr", ImportOptions(rate_hz=25, task="pour")) == 3
    store = EpisodeStore.open(tmp_path / "a.zarr")
    with h5py.File(folder / "episode_1.hdf5") as file:
        np.testing.assert_array_equal(store.read("state", 4, 8), file["observations/qpos"][()])
        np.testing.assert_array_equal(store.read("image/cam_high", 4, 8), file[CAMERA][()])
    said = [(s.start, s.end, s.instruction) for s in store.episode(0).segments]
    assert said == [
        (0, 4, "Pour the water."),
        (0, 4, "Pour."),
        (0, 4, "Take the bottle and pour the water."),
    ]
    assert store.fields["action"].unit == "" and store.rate_hz == 25


@pytest.mark.parametrize("kind", ["vlen", "bytes", "padded"])
def test_encoded_pictures_need_their_order_of_colours(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    encode(folder, kind)
    with pytest.raises(ValueError, match="encoded pictures; pass --colours rgb, or"):
        import_rdt(folder, tmp_path / "a.zarr", ImportOptions(rate_hz=25))
    for colours, first in (("rgb", 200), ("bgr", 10)):
        target = tmp_path / f"{colours}.zarr"
        import_rdt(folder, target, ImportOptions(rate_hz=25, colours=colours))
        pixel = EpisodeStore.open(target).read("image/cam_high", 0, 1)[0, 0, 0]
        assert pixel[0] == first and pixel[2] == 210 - first


def test_files_go_by_number(folder: Path, tmp_path: Path) -> None:
    (folder / "episode_1.hdf5").rename(folder / "episode_10.hdf5")
    import_rdt(folder, tmp_path / "a.zarr", ImportOptions(rate_hz=25))
    with h5py.File(folder / "episode_10.hdf5") as file:
        last = EpisodeStore.open(tmp_path / "a.zarr").read("action", 8, 12)
        np.testing.assert_array_equal(last, file["action"][()])


def test_what_is_damaged_is_refused(folder: Path, tmp_path: Path) -> None:
    options = ImportOptions(rate_hz=25)
    with pytest.raises(ValueError, match="how many steps a second; pass --rate-hz"):
        import_rdt(folder, tmp_path / "a.zarr", ImportOptions())
    path = folder / "episode_2.hdf5"
    with h5py.File(path, "r+") as file:
        del file["action"]
        file["action"] = np.zeros((5, 14), np.float32)
    with pytest.raises(ValueError, match="differ in their number of steps"):
        import_rdt(folder, tmp_path / "a.zarr", options)
    with h5py.File(path, "r+") as file:
        del file[CAMERA]
    with pytest.raises(ValueError, match=r"episode_2.hdf5: has no observations/images/cam_high"):
        import_rdt(folder, tmp_path / "a.zarr", options)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"episode_2.hdf5: not readable as HDF5"):
        import_rdt(folder, tmp_path / "a.zarr", options)
    (folder / PHRASINGS).write_text("{")
    with pytest.raises(ValueError, match="holds no instruction and its phrasings"):
        import_rdt(folder, tmp_path / "a.zarr", options)
    assert [p.name for p in tmp_path.iterdir()] == ["rdt"]


@pytest.fixture
def libero(tmp_path: Path) -> Path:
    """Return a file as LIBERO's scripts lay it out, its pictures from below."""
    path = tmp_path / "pick_demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i in range(3):
            rng = np.random.default_rng(i)
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (4, 7))
            demo["obs/ee_pos"], demo["obs/gripper_states"] = np.zeros((4, 3)), np.zeros((4, 2))
            pictures = np.zeros((4, 6, 8, 3), np.uint8)
            pictures[:, 0] = 255  # the lowest row
            demo["obs/agentview_rgb"] = pictures
        file["mask/train"] = np.array([b"demo_2", b"demo_0"])
        problem = {"problem_name": "libero", "language_instruction": "pick up the bowl"}
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = "x/PICK_UP_THE_BOWL.bddl"
        data.attrs["env_args"] = json.dumps(
            {"type": 1, "env_name": "Libero", "env_kwargs": {"control_freq": 20}}
        )
    return path


def test_libero_says_its_sentence_and_which_way_is_up(libero: Path, tmp_path: Path) -> None:
    assert import_hdf5(libero, tmp_path / "a.zarr", Hdf5ImportOptions()) == 3
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.instructions == ["pick up the bowl"] and store.tasks == ["PICK_UP_THE_BOWL"]
    picture = store.read("image/agentview", 0, 1)[0]
    assert (picture[-1] == 255).all() and (picture[0] == 0).all()
    import_hdf5(libero, tmp_path / "b.zarr", Hdf5ImportOptions(flip="none", instruction="go"))
    other = EpisodeStore.open(tmp_path / "b.zarr")
    assert (other.read("image/agentview", 0, 1)[0, 0] == 255).all()
    assert other.instructions == ["go"]


def test_a_filter_key_chooses_demos(libero: Path, tmp_path: Path) -> None:
    options = Hdf5ImportOptions(filter_key="train")
    assert import_hdf5(libero, tmp_path / "a.zarr", options) == 2
    store = EpisodeStore.open(tmp_path / "a.zarr")
    with h5py.File(libero) as file:
        second = file["data/demo_2/actions"][()].astype(np.float32)
    np.testing.assert_array_equal(store.read("action", 4, 8), second)
    with pytest.raises(ValueError, match="has no /mask/trian, only train; did you mean train"):
        import_hdf5(libero, tmp_path / "b.zarr", Hdf5ImportOptions(filter_key="trian"))
