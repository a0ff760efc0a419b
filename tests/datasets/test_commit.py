"""Nothing is cut before the store is shown whole; what is damaged stays as it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from telic.datasets.cli import main
from telic.datasets.lock import WriterLock
from telic.datasets.rebuild import rebuild_ends
from telic.datasets.store import EpisodeStore, Segment

MakeStore = Callable[..., EpisodeStore]
LENGTHS = [10, 20, 15, 4]


@pytest.fixture
def path(make_store: MakeStore) -> Path:
    """Return a closed store of four labelled episodes."""
    segments = [[Segment(start=1, end=n, instruction=f"push {n}", task="push")] for n in LENGTHS]
    with make_store(LENGTHS, segments) as store:
        return store.path


@pytest.fixture
def old(make_old_store: Callable[..., Path], make_episode: Callable[..., Any]) -> Path:
    """Return such a store as it was before checksums."""
    path = make_old_store()
    with EpisodeStore.open(path, "a") as store:
        for n in LENGTHS:
            segment = Segment(start=1, end=n, instruction=f"push {n}", task="push")
            store.append(make_episode(n, n), [segment])
    return path


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def put(name: str, row: Any, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        zarr.open_array(path, path=name, mode="r+")[row] = value

    return damage


def resize(name: str, rows: int) -> Callable[[Path], None]:
    """Return a defect: another number of rows in the array's zarr.json and nothing else."""

    def damage(path: Path) -> None:
        meta = json.loads((path / name / "zarr.json").read_text())
        meta["shape"][0] = rows
        (path / name / "zarr.json").write_text(json.dumps(meta))

    return damage


def more_rows(path: Path) -> None:
    """Two fields go on without a summary of what follows."""
    for name in ("state", "action"):
        array = zarr.open_array(path, path=f"data/{name}", mode="r+")
        array.resize((60, *array.shape[1:]))


def forgotten_field(path: Path) -> None:
    meta = json.loads((path / "zarr.json").read_text())
    del meta["attributes"]["fields"]["state"]
    (path / "zarr.json").write_text(json.dumps(meta))


DAMAGES = {
    "last end": put("meta/episode_ends", 3, 2),
    "smaller last end": put("meta/episode_ends", 3, 48),
    "larger last end": put("meta/episode_ends", 3, 50),
    "first end": put("meta/episode_ends", 0, 9),
    "middle end": put("meta/episode_ends", 1, 31),
    "negative end": put("meta/episode_ends", 0, -1),
    "huge end": put("meta/episode_ends", 2, 1 << 62),
    "two episodes": resize("meta/episode_ends", 2),
    "no episode": resize("meta/episode_ends", 0),
    "too many": resize("meta/episode_ends", 5),
    "trillion": resize("meta/episode_ends", 10**12),
    "short data": resize("data/state", 30),
    "short summaries": resize("meta/stats/action", 2),
    "wrong summary": put("meta/stats/action", 1, 0.0),
    "nan summary": put("meta/stats/action", 2, np.nan),
    "more rows": more_rows,
    "segment beyond": put("meta/segments", 1, [10**6, 10**6 + 3, 1, 0]),
    "last segment beyond": put("meta/segments", 3, [10**6, 10**6 + 3, 1, 0]),
    "segments in disorder": put("meta/segments", 0, [32, 40, 0, 0]),
    "segment of two episodes": put("meta/segments", 0, [1, 14, 0, 0]),
    "segments cut": resize("meta/segments", 2),
    "no such sentence": put("meta/segments", 0, [1, 5, 9, 0]),
    "forgotten field": forgotten_field,
}


@pytest.mark.parametrize("kind", ["path", "old"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_and_nothing_is_cut(
    request: pytest.FixtureRequest, kind: str, damage: str
) -> None:
    path: Path = request.getfixturevalue(kind)
    DAMAGES[damage](path)
    before = files(path)
    with pytest.raises(ValueError) as caught:
        EpisodeStore.open(path, "a")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert files(path) == before
    WriterLock(path).release()


@pytest.mark.parametrize("damage", ["last end", "smaller last end", "two episodes", "no episode"])
def test_a_reader_does_not_believe_wrong_ends_either(path: Path, damage: str) -> None:
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match="demo-store rebuild-ends"):
        EpisodeStore.open(path)


@pytest.mark.parametrize("kind", ["path", "old"])
@pytest.mark.parametrize(
    "damage", ["last end", "first end", "huge end", "two episodes", "no episode", "too many"]
)
def test_ends_are_rebuilt_from_the_summaries(
    request: pytest.FixtureRequest, kind: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path: Path = request.getfixturevalue(kind)
    DAMAGES[damage](path)
    with pytest.raises(SystemExit) as caught:
        main(["rebuild-ends", str(path)])
    assert caught.value.code == 0 and "4 episodes of 49 steps" in capsys.readouterr().out
    with EpisodeStore.open(path, "a") as store:
        assert [len(episode) for episode in store] == LENGTHS
        assert [s.instruction for s in store.segments] == [f"push {n}" for n in LENGTHS]
    with pytest.raises(ValueError, match="nothing was changed"):
        rebuild_ends(path)


@pytest.mark.parametrize("rows", [60, 10**12])
def test_one_array_that_says_it_goes_on_loses_nothing(path: Path, rows: int) -> None:
    """As an append leaves it that was killed before checksums were kept."""
    resize("data/state", rows)(path)
    with EpisodeStore.open(path, "a") as store:
        assert [len(episode.data["state"]) for episode in store] == LENGTHS
    assert zarr.open_array(path, path="data/state", mode="r").shape == (49, 3)


def test_an_unfinished_truncation_goes_on(path: Path) -> None:
    """Killed after its first step, which notes what is being cut."""
    with EpisodeStore.open(path, "a") as store:
        store._ends.resize(1, {"cut_from": [4, 49]})
    assert EpisodeStore.open(path).num_episodes == 1
    with EpisodeStore.open(path, "a") as store:
        assert store.num_steps == 10 and store.instructions == ["push 10"]
    assert zarr.open_array(path, path="data/state", mode="r").shape == (10, 3)
    assert not zarr.open_array(path, path="meta/episode_ends", mode="r").attrs


def test_what_a_user_keeps_in_a_store_is_not_cut(path: Path) -> None:
    for name in ("data/state/c.9.copy", "data/state/c.x.0", "notes.partial", "data/state/c.9.9"):
        (path / name).write_text("mine")
    with EpisodeStore.open(path, "a") as store:
        store.truncate(1)
    for name in ("data/state/c.9.copy", "data/state/c.x.0", "notes.partial", "data/state/c.9.9"):
        assert (path / name).read_text() == "mine"


def test_training_only_reads(path: Path) -> None:
    """Sentence vectors are cached without opening the store for writing."""
    before = files(path)
    store = EpisodeStore.open(path)
    store.cache_embeddings("encoder", np.eye(4, 6))
    after = files(path)
    assert {name for name in after if after[name] != before.get(name)} == {
        "meta/embeddings/encoder/zarr.json",
        "meta/embeddings/encoder/c.0.0",
    }
    with EpisodeStore.open(path, "a"), pytest.raises(ValueError, match="another writer"):
        store.cache_embeddings("encoder", np.ones((4, 6)))
