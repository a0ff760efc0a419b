"""The episode store: what goes in comes out, and what must be refused is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.validation import validate

Make = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def store(make_store: Callable[..., EpisodeStore]) -> EpisodeStore:
    return make_store([])


def test_what_goes_in_comes_out_of_zarr_too(store: EpisodeStore, make_episode: Make) -> None:
    episodes = [make_episode(n, n) for n in (7, 1, 30)]
    for i, data in enumerate(episodes):
        segment = Segment(start=0, end=1, instruction=f"push {i % 2}", task="push")
        assert store.append(data, [segment]) == i
    again = EpisodeStore.open(store.path)
    assert again.num_episodes == 3 and again.num_steps == 38
    assert again.instructions == ["push 0", "push 1"] and again.tasks == ["push"]
    assert [s.episode for s in again.segments] == [0, 1, 2]
    assert again.interface.images["front"].shape == (4, 5, 3)

    def plain(name: str) -> np.ndarray:
        return np.asarray(zarr.open_array(store.path, path=name, mode="r")[:])

    assert plain("meta/episode_ends").tolist() == [7, 8, 38]
    for name in store.fields:
        joined = np.concatenate([data[name] for data in episodes])
        np.testing.assert_array_equal(plain(f"data/{name}"), joined)
        np.testing.assert_array_equal(again.read(name, 0, 38), joined)
        np.testing.assert_array_equal(again.episode(-1)[name], episodes[2][name])


def test_stats_are_those_of_all_steps(store: EpisodeStore, make_episode: Make) -> None:
    episodes = [make_episode(n, n) for n in (7, 1, 30)]
    for data in [*episodes, make_episode(9, 99)]:
        store.append(data)
    store.truncate(3)
    for name in ("state", "action", "timestamp_ns"):
        joined = np.concatenate([data[name] for data in episodes]).reshape(38, -1).astype(float)
        got = store.stats[name]
        np.testing.assert_allclose(got.mean, joined.mean(0))
        np.testing.assert_allclose(got.std, joined.std(0))
        np.testing.assert_allclose(got.minimum, joined.min(0))
        np.testing.assert_allclose(got.maximum, joined.max(0))
        np.testing.assert_allclose(got.q01, np.quantile(joined, 0.01, 0))
        np.testing.assert_allclose(got.q99, np.quantile(joined, 0.99, 0))
        assert got.count == 38
    pixels = np.concatenate([data["image/front"] for data in episodes]).reshape(-1, 3)
    got = store.stats["image/front"]
    np.testing.assert_allclose(got.mean, pixels.mean(0))
    np.testing.assert_allclose(got.std, pixels.std(0))
    np.testing.assert_allclose(got.minimum, pixels.min(0))
    np.testing.assert_allclose(got.q99, np.quantile(pixels, 0.99, 0, method="lower"))


def test_embeddings_belong_to_sentences(store: EpisodeStore, make_episode: Make) -> None:
    for i, sentence in enumerate(("open", "close")):
        store.append(make_episode(3, i), [Segment(start=0, end=3, instruction=sentence)])
    store.write_embeddings("org/model", np.array([[1.0, 2], [3, 4]]))
    store.truncate(1)
    store.append(make_episode(3), [Segment(start=0, end=3, instruction="push")])
    assert store.read_embeddings("org/model")["close"].tolist() == [3, 4]
    store.write_embeddings("org/model", np.array([[1.0, 2], [5, 6]]))
    assert store.encoders == ["org/model"]
    vectors = EpisodeStore.open(store.path).read_embeddings("org/model")
    assert vectors["push"].tolist() == [5, 6] and vectors["open"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="did you mean org/model"):
        store.read_embeddings("org/modl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.full((5, 3), np.nan)}, r"episode 0: state step 0 entry 0 is nan, which is"),
        ({"action": np.full((5, 2), 1.5)}, r"action step 0 entry 0 is 1.5, above its maximum 1"),
        ({"action": np.zeros((5, 3))}, r"action has shape \(5, 3\), expected \(steps, 2\)"),
        ({"state": np.zeros((4, 3))}, "differ in their number of steps: state 4, action 5"),
        ({"timestamp_ns": np.array([0, 1, 1, 2, 3])}, "timestamp_ns step 2 is 1, not after"),
        ({"image/front": np.zeros((5, 4, 5, 3))}, "dtype float64, expected uint8"),
        ({"actoin": np.zeros(5)}, "unknown field 'actoin'.*did you mean action"),
    ],
)
def test_a_bad_episode_is_refused_and_leaves_nothing(
    store: EpisodeStore, make_episode: Make, change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.append({**make_episode(5), **change})
    assert store.num_episodes == 0
    store.append(make_episode(5))
    np.testing.assert_array_equal(store.read("state", 0, 5), make_episode(5)["state"])


def test_there_is_one_writer(store: EpisodeStore, make_episode: Make) -> None:
    with pytest.raises(ValueError, match="another writer"):
        EpisodeStore.open(store.path, "a")
    assert EpisodeStore.open(store.path).num_episodes == 0
    store.close()
    with EpisodeStore.open(store.path, "a") as second:
        second.append(make_episode(2))


def test_what_is_no_store_ends_in_one_line(
    store: EpisodeStore, tmp_path: Path, make_episode: Make
) -> None:
    with pytest.raises(ValueError, match=r"no episode store here; did you mean demos.zarr\?"):
        EpisodeStore.open(tmp_path / "demo.zarr")
    with pytest.raises(ValueError, match="already there"):
        EpisodeStore.create(store.path, store.fields, 20)
    store.append(make_episode(5))
    meta = store.path / "zarr.json"
    text = meta.read_text()
    for old, new, message in (
        ("telic-episodes", "other", "format is 'other', expected telic-ep"),
        ('"version": 1', '"version": 9', "version 9 of the format"),
        ("{", "", "not readable as JSON"),
    ):
        meta.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message) as caught:
            EpisodeStore.open(store.path)
        assert "\n" not in str(caught.value)
    meta.unlink()
    with pytest.raises(ValueError, match="no zarr v3 array or group here"):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize("damage", ["lost", "half", "other keys"])
def test_any_damaged_file_is_one_line(
    store: EpisodeStore, tmp_path: Path, make_episode: Make, damage: str
) -> None:
    for i in range(2):
        store.append(make_episode(3, i), [Segment(start=0, end=2, instruction="go", task="t")])
    store.write_embeddings("encoder", np.ones((1, 4)))
    whole, copy = store.path, tmp_path / "copy.zarr"
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        shutil.copytree(whole, copy)
        content = (copy / file).read_bytes()
        (copy / file).unlink()
        if damage != "lost":
            other = b'{"zarr_format": 3, "shape": [2]}'
            half = content[: len(content) // 2]
            (copy / file).write_bytes(half if damage == "half" else other)
        for use in (read_everything, lambda path: list(validate(path))):
            try:
                use(copy)
            except ValueError as error:
                assert type(error) is ValueError and "\n" not in str(error)
                assert str(copy) in str(error)
        shutil.rmtree(copy)


def read_everything(path: Path) -> None:
    again = EpisodeStore.open(path)
    assert all(len(episode.data) == len(again.fields) for episode in again)
    assert again.stats
    assert len(again.segments) <= 2
    for encoder in again.encoders:
        again.read_embeddings(encoder)
