"""`demo-store relabel`: the steps stay, the sentences of each task are others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from telic.datasets.cli import main
from telic.datasets.store import EpisodeStore, Segment

MakeStore = Callable[..., EpisodeStore]


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    """Return three episodes: of two sentences over the same steps, of two tasks, of none."""
    labels = [
        [Segment(start=0, end=10, instruction=text, task="table/open") for text in ("a", "b")],
        [
            Segment(start=1, end=8, instruction="c", task="table/close"),
            Segment(start=8, end=20, instruction="a", task="table/open"),
        ],
        [],
    ]
    with make_store([10, 20, 15], labels) as made:
        made.write_embeddings("toy", np.zeros((3, 4), np.float32))
        return made.path


def run(*arguments: object) -> int:
    """Return the exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def sentences(folder: Path, table: object) -> Path:
    """Return a file of sentences."""
    file = folder / "sentences.yaml"
    file.write_text(yaml.safe_dump(table))
    return file


def test_steps_stay_and_every_stretch_has_all_sentences_of_its_task(
    store: Path, tmp_path: Path
) -> None:
    file = sentences(tmp_path, {"open": ["x", "y", "z"], "table/close": ["v"], "other": ["w"]})
    target = tmp_path / "told.zarr"
    assert run("relabel", store, target, "--sentences", file) == 0
    with EpisodeStore.open(store) as before, EpisodeStore.open(target) as after:
        assert after.num_episodes == 3 and after.encoders == []
        for old, new in zip(before, after, strict=True):
            assert old.data.keys() == new.data.keys()
            assert all(np.array_equal(old[name], new[name]) for name in old.data)
        told = [(s.start, s.end, s.instruction, s.task) for s in after.segments_of(0)]
        assert told == [(0, 10, text, "table/open") for text in "xyz"]
        told = [(s.start, s.end, s.instruction, s.task) for s in after.segments_of(1)]
        later = [(8, 20, text, "table/open") for text in "xyz"]
        assert told == [(1, 8, "v", "table/close"), *later]
        assert after.segments_of(2) == []
        assert [s.instruction for s in before.segments_of(0)] == ["a", "b"]
    assert run("validate", "--deep", target) == 0
    with EpisodeStore.open(target, "a") as again:
        again.append(again.episode(2).data, [Segment(start=0, end=2, instruction="q", task="t")])
        assert again.segments_of(3)[0].instruction == "q"


def test_what_cannot_be_is_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "told.zarr"
    for table, says in (
        ({"open": ["x"]}, "--sentences has none for its task 'table/close'"),
        ({"open": "x"}, "open is 'x', expected sentences"),
        ({"open": ["x", "x"]}, "open has a sentence twice"),
        (["x"], "holds no task -> list of sentences"),
    ):
        assert run("relabel", store, target, "--sentences", sentences(tmp_path, table)) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
        assert not target.exists()
    file = sentences(tmp_path, {"open": ["x"], "close": ["y"]})
    assert run("relabel", store, store, "--sentences", file, "--overwrite") == 2
    assert run("relabel", store, target, "--sentences", tmp_path / "none.yaml") == 2
    target.mkdir()
    (target / "mine").write_text("kept")
    assert run("relabel", store, target, "--sentences", file, "--overwrite") == 2
    assert (target / "mine").read_text() == "kept"
