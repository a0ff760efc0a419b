"""Features beside a store: committed once an episode, resumed, and of one state of the store."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.datasets.arrays import RowArray
from telic.datasets.features import FeatureRows, FeatureWriter, features_folder, known_keys
from telic.datasets.goals import Hindsight, TextGoal, WindowGoalConfig
from telic.datasets.store import EpisodeStore
from telic.datasets.windows import WindowConfig, Windows
from telic.spec import Array

KEY: dict[str, Any] = {"camera": "front", "tower": "some/tower", "crops": 2}
SHAPE = (3, 2)


def rows(episode: int, steps: int, key: dict[str, Any] = KEY) -> Array:
    """Return features that are a function of episode, step and crop."""
    rng = np.random.default_rng(episode)
    return rng.normal(size=(steps, key["crops"], *SHAPE)).astype(np.float32)


def write(store: EpisodeStore, episodes: int | None = None, **more: Any) -> Path:
    """Append the features of the episodes that lack them, up to `episodes` in all."""
    with FeatureWriter(store, KEY, SHAPE, **more) as writer:
        while writer.episodes < (store.num_episodes if episodes is None else episodes):
            steps = len(store.episode(writer.episodes))
            writer.append(rows(writer.episodes, steps))
        return writer.path


def expect(store: EpisodeStore, lengths: Sequence[int]) -> None:
    """Assert that both crops of all steps are there."""
    found = FeatureRows(store, KEY)
    steps = np.arange(sum(lengths))
    whole = np.concatenate([rows(i, n) for i, n in enumerate(lengths)]).astype(np.float16)
    for crop in (0, 1):
        got = found.gather(steps, np.full(len(steps), crop))
        assert got.dtype == np.float16 and np.array_equal(got, whole[:, crop])


def test_rows_are_those_of_step_and_crop(make_store: Any) -> None:
    store = make_store([3, 5])
    path = write(store)
    assert path == features_folder(store.path, KEY) and path.parent.name == "demos.zarr.features"
    expect(store, [3, 5])
    found = FeatureRows(store, KEY)
    picked = found.gather(np.array([[0, 1], [7, 7]]), np.array([1, 0]))
    want = np.concatenate([rows(0, 3), rows(1, 5)]).astype(np.float16)
    assert np.array_equal(picked[0], want[:2, 1]) and np.array_equal(picked[1, 1], want[7, 0])
    assert known_keys(store.path, "front") == [KEY] and not known_keys(store.path, "wrist")


def test_a_store_that_has_grown_gets_the_others(make_store: Any, make_episode: Any) -> None:
    store = make_store([3, 5])
    path = write(store)
    store.append(make_episode(4, 9))
    with pytest.raises(ValueError, match=r"features of 2 episodes, .* has 3; run demo-store featu"):
        FeatureRows(store, KEY)
    before = (path / "zarr.json").stat().st_mtime_ns
    write(store)
    assert (path / "zarr.json").stat().st_mtime_ns > before
    expect(store, [3, 5, 4])


def test_another_state_of_the_store_is_refused(make_store: Any, make_episode: Any) -> None:
    store = make_store([3, 5])
    write(store)
    store.truncate(1)
    store.append(make_episode(5, 77))  # as long, other pictures
    with pytest.raises(ValueError, match=r"is of another state of .*; demo-store features --over"):
        FeatureRows(store, KEY)
    with pytest.raises(ValueError, match=r"is of another state of .*; --overwrite makes it anew"):
        write(store)
    write(store, overwrite=True)
    expect(store, [3, 5])
    store.truncate(1)
    with pytest.raises(ValueError, match="is of another state of"):
        FeatureRows(store, KEY)


def test_what_does_not_fit_is_refused_and_nothing_written(make_store: Any) -> None:
    store = make_store([3])
    with pytest.raises(ValueError, match="no features there"):
        FeatureRows(store, KEY)
    with FeatureWriter(store, KEY, SHAPE) as writer:
        with pytest.raises(ValueError, match=r"are \(2, 2, 3, 2\), expected \(3, 2, 3, 2\)"):
            writer.append(rows(0, 2))
        with pytest.raises(ValueError, match="features that fp16 cannot hold"):
            writer.append(rows(0, 3) * 1e9)
        assert writer.episodes == 0
        with pytest.raises(ValueError, match="another writer has this folder of features open"):
            FeatureWriter(store, KEY, SHAPE)
    write(store)
    expect(store, [3])


def test_damage_is_told(make_store: Any) -> None:
    store = make_store([3])
    path = write(store)
    chunk = next(path.glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"expected .* bytes; demo-store features --overwrite"):
        FeatureRows(store, KEY)
    meta = path / "zarr.json"
    meta.write_text(meta.read_text().replace("telic-features", "others"))
    with pytest.raises(ValueError, match="format 'others'"):
        FeatureRows(store, KEY)
    assert not known_keys(store.path, "wrist")


def _killed_at(change: int, store: EpisodeStore) -> bool:
    """Write in a child that gets SIGKILL before that change of the disk; whether it was killed."""
    child = os.fork()
    if not child:
        left = [change]

        def watch(event: str, told: tuple[Any, ...]) -> None:
            if event == "open" and not told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            if event in ("open", "os.rename", "os.truncate", "os.remove", "os.mkdir"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        with suppress(BaseException):
            write(store)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_anywhere_it_goes_on_and_ends_the_same(make_store: Any) -> None:
    lengths = [3, 5, 2]
    store = make_store(lengths)
    store.close()
    change = 0
    while True:
        folder = features_folder(store.path, KEY)
        shutil.rmtree(folder.parent, ignore_errors=True)
        killed = _killed_at(change, store)
        if (folder / "zarr.json").is_file():
            kept = RowArray(folder)  # whole episodes alone
            assert len(kept) in [2 * n for n in (0, 3, 8, 10)]
        write(store)
        expect(store, lengths)
        if not killed:
            break
        change += 1
    assert change > 10


def test_windows_carry_features_in_place_of_pictures(make_store: Any) -> None:
    lengths = [6, 9]
    store = make_store(lengths)
    write(store)
    goal = WindowGoalConfig(text=TextGoal.none, hindsight=Hindsight.uniform)
    config = WindowConfig(obs_horizon=2, action_horizon=3, goal=goal)
    windows, plain = Windows(store, config, seed=4), Windows(store, config, seed=4)
    found = FeatureRows(store, KEY)
    windows.use_features({"image/front": [found], "goal_image/front": [found]}, augment=True)
    batch, pictures = windows.batch(np.arange(15)), plain.batch(np.arange(15))
    assert "image/front" not in batch and "goal_image/front" not in batch
    for name in ("state", "action", "goal_ahead", "goal_state"):
        assert np.array_equal(batch[name], pictures[name])
    whole = np.concatenate([rows(i, n) for i, n in enumerate(lengths)]).astype(np.float16)
    crops = set()
    for row in range(15):
        newest, ahead = whole[row], whole[row + pictures["goal_ahead"][row]]
        shown = batch["image_features/front"][row]
        crop = [k for k in (0, 1) if np.array_equal(shown[1], newest[k])]
        before = row - 1 if pictures["step"][row] else row
        assert np.array_equal(shown[0], whole[before][crop[0]])  # frames of a window move alike
        reached = batch["goal_image_features/front"][row]
        assert any(np.array_equal(reached, ahead[k]) for k in (0, 1))
        crops.add(crop[0])
    assert crops == {0, 1}
    again = windows.batch(np.arange(15))
    assert np.array_equal(again["image_features/front"], batch["image_features/front"])
    windows.use_features({"image/front": [found]}, augment=False)
    held_out = windows.batch(np.arange(15))
    assert np.array_equal(held_out["image_features/front"][:, 1], whole[:, 0])
    assert np.array_equal(held_out["goal_image/front"], pictures["goal_image/front"])
