"""CALVIN's folders: frames and sentences are carried, pickles run nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.datasets.formats.calvin import ENDS, FROM, LANGUAGE, SPECS, import_calvin
from telic.datasets.formats.converter import ImportOptions
from telic.datasets.formats.numpy_files import load_object
from telic.datasets.store import EpisodeStore
from telic.envs.playtable.control import ACTION_SPEC
from telic.envs.playtable.environment import STATE_SPECS, StateChoice


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Return a split of three episodes of four frames."""
    return FROM.small(tmp_path)


def test_frames_and_sentences_are_carried(split: Path, tmp_path: Path) -> None:
    assert import_calvin(split, tmp_path / "a.zarr", ImportOptions()) == 3
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert [len(episode) for episode in store] == [4, 4, 4] and store.rate_hz == 30
    frame = np.load(split / "episode_0000006.npz")
    np.testing.assert_array_equal(store.read("image/static", 6, 7)[0], frame["rgb_static"])
    np.testing.assert_allclose(store.read("state", 6, 7)[0], frame["robot_obs"], rtol=1e-6)
    np.testing.assert_allclose(store.read("action", 6, 7)[0], frame["rel_actions"], rtol=1e-6)
    (segment,) = store.segments
    assert (segment.episode, segment.start, segment.end) == (1, 1, 4)  # the last frame counts
    assert (segment.instruction, segment.task) == ("open the drawer", "open_drawer")


def test_the_meaning_is_that_of_our_simulation_of_it() -> None:
    for mine, ours in (
        (SPECS["rel_actions"], ACTION_SPEC),
        (SPECS["robot_obs"], STATE_SPECS[StateChoice.robot]),
    ):
        for said in ("shape", "names", "unit", "rotation", "gripper", "frame", "minimum"):
            assert getattr(mine, said) == getattr(ours, said), said


def test_the_absolute_action_may_be_asked_for(split: Path, tmp_path: Path) -> None:
    for path in split.glob("episode_*.npz"):
        frame = dict(np.load(path))
        np.savez(path, **frame, actions=np.full(7, 2.0), depth_static=np.zeros((4, 4), np.float32))
    options = ImportOptions(action_keys=["actions"], instruction="play")
    with pytest.warns(UserWarning, match="not carried: depth_static"):
        import_calvin(split, tmp_path / "a.zarr", options)
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.fields["action"].names[6] == "gripper" and store.read("action", 0, 1)[0, 0] == 2
    assert [s.instruction for s in store.segments] == ["play", "open the drawer", "play"]


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_runs_nothing(split: Path, tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    with (split / LANGUAGE).open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump({"language": Hostile(proof)}, file, protocol)
    with pytest.raises(ValueError, match="mkdir, which is refused"):
        import_calvin(split, tmp_path / "a.zarr", ImportOptions())
    assert not proof.exists() and not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_of_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.npy"
    content = {"emb": np.arange(6.0).reshape(2, 3), "n": np.int64(4), "raw": b"\xff", "t": (1, "x")}
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(np.array(content, dtype=object), file, protocol)
    found = load_object(path)
    np.testing.assert_array_equal(found["emb"], content["emb"])
    assert (found["n"], found["raw"], found["t"]) == (4, b"\xff", (1, "x"))


def resave(frame: int, **changes: Any) -> Callable[[Path], None]:
    """Return what changes arrays of a frame; None takes one out."""

    def change(root: Path) -> None:
        path = root / f"episode_{frame:07d}.npz"
        arrays = {**dict(np.load(path)), **changes}
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})

    return change


def cut(root: Path) -> None:
    """Cut a frame in half."""
    path = root / "episode_0000005.npz"
    path.write_bytes(path.read_bytes()[:500])


def language(content: Any) -> Callable[[Path], None]:
    """Return what writes other annotations."""
    return lambda root: np.save(root / LANGUAGE, content, allow_pickle=True)


def annotated(sentence: Any, frames: tuple[Any, ...]) -> Callable[[Path], None]:
    """Return what writes one annotation."""
    return language({"language": {"ann": [sentence], "task": ["t"]}, "info": {"indx": [frames]}})


OBJECTS = np.array([{}, {}], dtype=object)
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "episode_0000005.npz: not readable as .npz"),
    "gone": (lambda r: (r / "episode_0000007.npz").unlink(), "0000007.npz: is missing"),
    "key": (resave(5, rel_actions=None), "0000005.npz: has no rel_actions, others have"),
    "shape": (resave(5, robot_obs=np.zeros(14)), r"robot_obs is float64 \(14,\), expected"),
    "dtype": (resave(5, rgb_static=np.zeros((20, 20, 3))), "rgb_static is float64"),
    "nan": (
        resave(6, rel_actions=np.full(7, np.nan)),
        "calvin/training episode 1: action step 2 entry 0 is nan",
    ),
    "range": (resave(6, rel_actions=np.full(7, 3.0)), "above its maximum 1"),
    "objects": (resave(5, robot_obs=OBJECTS), "holds object, expected numbers"),
    "ends": (lambda r: np.save(r / ENDS, np.array([[3, 0]])), "ends before it begins"),
    "ends shape": (lambda r: np.save(r / ENDS, np.arange(3)), "expected whole numbers"),
    "language": (language({"language": {"ann": ["x"]}}), "has not language.ann"),
    "no sentence": (
        language({"language": {"ann": [" "], "task": ["t"]}, "info": {"indx": [(0, 1)]}}),
        "frames 0 to 1 have the sentence ' ' and the task 't', expected texts",
    ),
    "bytes": (annotated(b"open it", (0, 1)), "the sentence b'open it' and the task 't'"),
    "number": (annotated(7, (0, 1)), "the sentence 7 and the task 't', expected texts"),
    "float frames": (annotated("x", (0.0, 1.5)), r"frames \[0.0, 1.5\] are no first and last"),
    "three frames": (annotated("x", (0, 1, 2)), r"frames \[0, 1, 2\] are no first and last"),
    "frames back": (annotated("x", (3, 1)), r"frames \[3, 1\] are no first and last"),
    "outside": (annotated("x", (9, 99)), "frames 9 to 99, 'x', lie in no episode of ep_start"),
    "far outside": (annotated("x", (10**30, 10**31)), "'x', lie in no episode"),
    "before": (annotated("x", (-1, 2)), "frames -1 to 2, 'x', lie in no episode"),
    "across episodes": (annotated("x", (2, 5)), "frames 2 to 5, 'x', lie in no episode"),
    "one text for a list": (
        language({"language": {"ann": "x", "task": ["t"]}, "info": {"indx": [(0, 1)]}}),
        "has not language.ann",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_refused(split: Path, tmp_path: Path, damage: str) -> None:
    change, says = DAMAGES[damage]
    change(split)
    with pytest.raises(ValueError, match=says) as refused:
        import_calvin(split, tmp_path / "a.zarr", ImportOptions())
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["calvin"]


def test_a_folder_of_splits_asks_for_one(split: Path, tmp_path: Path) -> None:
    assert FROM.takes(split.parent) and FROM.takes(split)
    with pytest.raises(ValueError, match="holds the splits training; give one of them"):
        import_calvin(split.parent, tmp_path / "a.zarr", ImportOptions())
