"""What an evaluation leaves in `out`: in nobody else's place, over an older one only if asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telic.configs.launch import compose
from telic.envs.evaluation.episode_log import EpisodeLog
from telic.envs.evaluation.outputs import Outputs
from telic.envs.rollout.video import FilmWriter, is_films
from telic.evaluate import EvaluateConfig, run


def evaluate(toy: str, out: Path, *overrides: str) -> dict[str, Any]:
    """Return what the scripted expert of the toy task reaches."""
    given = ["checkpoint=expert", f"out={out}", f"tasks=['{toy}']", "num_workers=0"]
    few = ["episodes_per_task=1", "seed=20"]
    return run(compose(EvaluateConfig, "evaluate", [*given, *few, *overrides]))


def film(path: Path) -> Path:
    writer = FilmWriter(path, size=(32, 48), fps=10.0)
    writer.add(np.zeros((32, 48, 3), np.uint8))
    writer.close()
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["episodes.jsonl", "results.json", "report.md", "success.png"])
@pytest.mark.parametrize("asked", ["resume=true", "resume=false", "overwrite=true"])
def test_another_file_stays_and_no_episode_is_run(
    toy: str, tmp_path: Path, name: str, asked: str
) -> None:
    (tmp_path / name).write_text('{"task": "years of work"}\n')
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}: is .*not the \w+ of an evaluation.*give anot"):
        evaluate(toy, tmp_path, asked)
    assert tree(tmp_path) == before


def test_an_evaluation_is_replaced_only_if_that_is_asked_for(toy: str, tmp_path: Path) -> None:
    first = evaluate(toy, tmp_path)
    assert evaluate(toy, tmp_path)["episodes"] == first["episodes"]  # the same one goes on
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="overwrite=true replaces what"):
        evaluate(toy, tmp_path, "seed=21")
    (tmp_path / "episodes.jsonl").unlink()
    with pytest.raises(ValueError, match=r"results.json: is already there; overwrite=true"):
        evaluate(toy, tmp_path)
    assert tree(tmp_path).items() <= before.items()
    assert evaluate(toy, tmp_path, "seed=21", "overwrite=true")["episodes"][0]["seed"] == 21
    assert set(tree(tmp_path)) == set(before)


def test_what_is_compared_with_is_not_written_over(toy: str, tmp_path: Path) -> None:
    evaluate(toy, tmp_path / "one")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"results.json: is .*results.json, which is read for it"):
        evaluate(toy, tmp_path / "one", f"compare={tmp_path / 'one'}", "overwrite=true")
    assert tree(tmp_path) == before


def test_two_evaluations_do_not_write_one_list(toy: str, tmp_path: Path) -> None:
    evaluate(toy, tmp_path)
    before = tree(tmp_path)
    header = {"protocol": "another"}
    with EpisodeLog(tmp_path / "episodes.jsonl", header, [], overwrite=True):
        with pytest.raises(ValueError, match=r"somebody is writing .*episodes.jsonl; close it"):
            evaluate(toy, tmp_path, "overwrite=true")
        with pytest.raises(ValueError, match=r"somebody is writing .*episodes.jsonl; close it"):
            evaluate(toy, tmp_path)
    assert tree(tmp_path) | {"episodes.jsonl": b""} == before | {"episodes.jsonl": b""}


def a_films_folder(folder: Path) -> Path:
    film(folder / "reach_3_success.mp4")
    return folder


def another_film(folder: Path) -> Path:
    folder.mkdir()
    (folder / "reach_3_success.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    return folder


def notes_beside_films(folder: Path) -> Path:
    film(folder / "reach_3_success.mp4")
    (folder / "notes.txt").write_text("years of work")
    return folder


@pytest.mark.parametrize(
    ("make", "replaced"),
    [(a_films_folder, True), (another_film, False), (notes_beside_films, False)],
)
def test_films_are_replaced_together_and_nothing_else_with_them(
    tmp_path: Path, make: Callable[[Path], Path], replaced: bool
) -> None:
    videos = make(tmp_path / "videos")
    before = tree(tmp_path)
    assert is_films(videos) is replaced
    with pytest.raises(ValueError, match=r"videos: is already there"):
        Outputs(folder=tmp_path).require()
    outputs = Outputs(folder=tmp_path, overwrite=True)
    if replaced:
        with outputs.films.writing() as fresh:
            film(fresh / "reach_4_failure.mp4")
            assert tree(tmp_path).items() >= before.items()
        assert list(tree(tmp_path)) == ["videos/reach_4_failure.mp4"]
    else:
        with pytest.raises(ValueError, match=r"videos: is not a folder of films of episodes"):
            outputs.require()
        outputs.require(films=False)
        assert tree(tmp_path) == before


def test_a_film_takes_the_place_of_a_film_alone(tmp_path: Path) -> None:
    path = film(film(tmp_path / "a.mp4"))
    abandoned = FilmWriter(path, size=(32, 48), fps=10.0)
    abandoned.abandon()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    path.write_text("years of work")
    with pytest.raises(ValueError, match=r"a.mp4: is not a film of an episode"):
        film(path)
    assert path.read_text() == "years of work"
