"""The converter: robomimic reads what we write, and a store comes back as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from telic.datasets.formats.robomimic_hdf5 import (
    Hdf5ExportOptions,
    Hdf5ImportOptions,
    export_hdf5,
    import_hdf5,
)
from telic.datasets.store import EpisodeStore, Segment

MakeStore = Callable[..., EpisodeStore]
LENGTHS = [10, 7, 12, 5]


@pytest.fixture
def store(make_store: MakeStore) -> EpisodeStore:
    """Return four episodes of two tasks, the last without language."""
    segments: list[list[Segment]] = [
        [Segment(start=0, end=10, instruction="open it", task="open")],
        [
            Segment(start=0, end=4, instruction="close it", task="close"),
            Segment(start=4, end=6, instruction="shut it", task="close"),
        ],
        [Segment(start=0, end=12, instruction="open it", task="open")],
        [],
    ]
    with make_store(LENGTHS, segments) as made:
        return made


def test_a_store_comes_back_as_it_was(store: EpisodeStore, tmp_path: Path) -> None:
    file, again = tmp_path / "a.hdf5", tmp_path / "again.zarr"
    assert export_hdf5(store.path, file, Hdf5ExportOptions(goal="")) == 4
    assert import_hdf5(file, again, Hdf5ImportOptions()) == 4
    back = EpisodeStore.open(again)
    assert back.fields == store.fields and back.rate_hz == store.rate_hz
    assert back.segments == store.segments and back.tasks == ["open", "close"]
    for one, other in zip(back, store, strict=True):
        for name in store.fields:
            np.testing.assert_array_equal(one[name], other[name])
    assert {p.name for p in tmp_path.iterdir()} == {"a.hdf5", "again.zarr", "demos.zarr"}


def test_robomimic_reads_what_we_export(store: EpisodeStore, tmp_path: Path) -> None:
    pytest.importorskip("robomimic", reason="robomimic is not installed")
    from robomimic.config import config_factory
    from robomimic.utils import file_utils, obs_utils
    from robomimic.utils.dataset import SequenceDataset

    path = tmp_path / "demos.hdf5"
    options = Hdf5ExportOptions(goal="", valid_fraction=0.25, seed=1)
    export_hdf5(store.path, path, options)
    config = config_factory("bc")
    with config.unlocked():
        config.observation.modalities.obs.low_dim = ["state", "goal"]
        config.observation.modalities.obs.rgb = ["front_image"]
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = file_utils.get_shape_metadata_from_dataset(str(path))
    assert shapes["ac_dim"] == 2
    assert shapes["all_shapes"]["state"] == [3] and shapes["all_shapes"]["goal"] == [2]
    assert shapes["all_shapes"]["front_image"] == [3, 4, 5]
    assert file_utils.get_env_metadata_from_dataset(str(path))["type"] == 2

    def open_split(name: str | None, cache: str | None) -> Any:
        return SequenceDataset(
            hdf5_path=str(path),
            obs_keys=("state", "goal", "front_image"),
            dataset_keys=("actions", "rewards", "dones"),
            seq_length=3,
            frame_stack=2,
            get_pad_mask=True,
            hdf5_cache_mode=cache,
            filter_by_attribute=name,
        )

    sizes = [len(open_split(name, "low_dim")) for name in ("train", "valid", None)]
    assert sizes[0] + sizes[1] == sizes[2] == sum(LENGTHS) and sizes[1] in LENGTHS
    whole = open_split(None, None)
    episode, window = store.episode(1), whole[LENGTHS[0] + 5]  # frames 4 and 5, then the end
    steps = [4, 5, 6, 6]
    np.testing.assert_array_equal(window["obs"]["state"], episode["state"][steps])
    np.testing.assert_array_equal(window["next_obs"]["state"], episode["state"][[5, 6, 6, 6]])
    np.testing.assert_array_equal(window["actions"], episode["action"][steps])
    np.testing.assert_array_equal(window["pad_mask"][:, 0], [1, 1, 1, 0])
    np.testing.assert_array_equal(window["dones"], [0, 0, 1, 1])
    np.testing.assert_array_equal(window["obs"]["goal"], [[0, 1], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(window["obs"]["front_image"], episode["image/front"][steps])


def test_the_goal_is_the_cached_embedding(store: EpisodeStore, tmp_path: Path) -> None:
    with EpisodeStore.open(store.path, "a") as writer:
        writer.write_embeddings("encoder", np.eye(3, 6) + 1)
    export_hdf5(store.path, tmp_path / "a.hdf5", Hdf5ExportOptions(goal="encoder", next_obs=False))
    with h5py.File(tmp_path / "a.hdf5") as file:
        goal = file["data/demo_1/obs/goal"][()]
        assert goal.shape == (7, 6) and "next_obs" not in file["data/demo_1"]
        np.testing.assert_array_equal(goal[[3, 4, 6]], [*(np.eye(3, 6) + 1)[1:], np.zeros(6)])
        meaning = json.loads(file["data"].attrs["telic"])["goal"]
        assert meaning == {"kind": "embedding", "encoder": "encoder"}
    with pytest.raises(ValueError, match=r"no embeddings of 'encodr'.*did you mean encoder"):
        export_hdf5(store.path, tmp_path / "b.hdf5", Hdf5ExportOptions(goal="encodr"))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a file laid out as robosuite's collectors write them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "low_dim.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i, steps in ((0, 6), (10, 4), (2, 8)):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["rewards"], demo["dones"] = np.zeros(steps), np.zeros(steps, np.int64)
            demo["states"] = rng.normal(size=(steps, 11))
            demo["obs/object"] = rng.normal(size=(steps, 4))
            demo["obs/eef_pos"] = np.full((steps, 3), i, np.float64)
            demo["obs/agentview_image"] = rng.integers(0, 255, (steps, 4, 4, 3)).astype(np.uint8)
            demo.attrs["num_samples"] = steps
        controller = {"control_freq": 20, "controller_configs": {"type": "OSC_POSE"}}
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": controller}
        data.attrs["env_args"] = json.dumps(env_args)
    return path


def test_anybodys_file_becomes_a_store(foreign: Path, tmp_path: Path) -> None:
    target = tmp_path / "lift.zarr"
    options = Hdf5ImportOptions(state_keys=["eef_pos"], instruction="lift it", task="lift")
    assert import_hdf5(foreign, target, options) == 3
    store = EpisodeStore.open(target)
    assert [len(episode) for episode in store] == [6, 8, 4]  # by number: 0, 2, 10
    assert store.read("state", 0, 18)[[0, 6, 14], 0].tolist() == [0, 2, 10]
    assert store.fields["state"].names == ("eef_pos.0", "eef_pos.1", "eef_pos.2")
    assert store.fields["action"].gripper == "positive_closes"
    assert store.fields["action"].maximum == (1.0,) and store.rate_hz == 20
    assert set(store.fields) == {
        *("state", "action", "object", "image/agentview", "reward", "done", "states"),
        "timestamp_ns",
    }
    assert store.read("timestamp_ns", 0, 3).tolist() == [0, 50_000_000, 100_000_000]
    assert store.instructions == ["lift it"] and store.attrs["task_family"] == "Lift"
    export_hdf5(target, tmp_path / "back.hdf5", Hdf5ExportOptions())
    with h5py.File(tmp_path / "back.hdf5") as file, h5py.File(foreign) as first:
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "Lift"
        np.testing.assert_allclose(file["data/demo_1/states"], first["data/demo_2/states"])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pictures_of_another_dtype_are_refused(foreign: Path, tmp_path: Path, dtype: type) -> None:
    with h5py.File(foreign, "r+") as file:
        for demo in file["data"].values():
            pictures = demo["obs/agentview_image"][:]
            del demo["obs/agentview_image"]
            demo["obs/agentview_image"] = pictures.astype(dtype)
    with pytest.raises(
        ValueError, match=r"low_dim.hdf5: field image/agentview is .* make it uint8$"
    ):
        import_hdf5(foreign, tmp_path / "lift.zarr", Hdf5ImportOptions())
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


@pytest.mark.parametrize("said", [7, 8.5, "8", [8, 8]])
def test_a_demo_of_another_number_of_steps_than_it_says_is_refused(
    foreign: Path, tmp_path: Path, said: Any
) -> None:
    with h5py.File(foreign, "r+") as file:
        file["data/demo_2"].attrs["num_samples"] = said
    with pytest.raises(
        ValueError, match=r"demo_2: attribute num_samples is .*, its arrays have 8 steps"
    ):
        import_hdf5(foreign, tmp_path / "lift.zarr", Hdf5ImportOptions())
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_a_bad_file_leaves_no_store(foreign: Path, tmp_path: Path) -> None:
    target = tmp_path / "lift.zarr"
    with pytest.raises(ValueError, match=r"no vector 'objct', only .*did you mean object"):
        import_hdf5(foreign, target, Hdf5ImportOptions(state_keys=["objct"]))
    with h5py.File(foreign, "r+") as file:
        file["data/demo_2/actions"][3, 1] = np.nan
    with pytest.raises(ValueError, match="demo_2: action step 3 entry 1 is nan"):
        import_hdf5(foreign, target, Hdf5ImportOptions())
    with h5py.File(foreign, "r+") as file:
        del file["data/demo_2/obs/object"]
    with pytest.raises(ValueError, match="demo_2: has no obs/object, the first demo has"):
        import_hdf5(foreign, target, Hdf5ImportOptions())
    with h5py.File(foreign, "r+") as file:
        file["data/demo_2/obs/other"] = file["data/demo_2/obs/object"] = np.zeros((4, 3))
    with pytest.raises(ValueError, match="demo_2: has obs/other, the first demo has not"):
        import_hdf5(foreign, target, Hdf5ImportOptions())
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]
