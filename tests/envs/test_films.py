"""Films: of any picture that a task may draw; one that fails is said, and fails alone."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult, RolloutConfig, run_rollouts
from telic.spec import ArraySpec, Interface

ODD = Interface(
    state=ArraySpec(shape=(1,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def filmed(task: str, path: Path) -> EpisodeResult:
    config = RolloutConfig(num_workers=0, video_height=32, video_width=48)
    jobs = [EpisodeJob(task=f"odd_tasks:odd/{task}", seed=1, video=path)]
    (result,) = run_rollouts(jobs, RandomPolicy(interface=ODD), config)
    return result


def test_a_picture_in_any_memory_order_is_filmed(tmp_path: Path) -> None:
    result = filmed("drawn", tmp_path / "a.mp4")
    assert result.film_failure is None and result.video == tmp_path / "a.mp4"
    _, *frames = imageio_ffmpeg.read_frames(str(result.video))
    assert len(frames) == 6  # the start and five steps
    shown = np.frombuffer(frames[0], np.uint8).reshape(32, 48, 3).astype(int)
    assert shown[:4].mean() > shown[-4:].mean() + 20, "row 0 of the picture is at the top"


@pytest.mark.parametrize(
    ("task", "how", "why"),
    [
        ("drawn", "grey", "ValueError: a frame's shape is (32, 48), expected (32, 48, 3)"),
        ("drawn", "raising", "RuntimeError: the lens fell off"),
        ("bare", "", "ValueError: odd has no camera ''; it is not drawn"),
    ],
)
def test_a_film_that_fails_leaves_the_episode_as_it_is(
    task: str, how: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_PICTURE", how)
    result = filmed(task, tmp_path / "a.mp4")
    assert (result.success, result.crashed, result.video) == (True, None, None)
    assert result.film_failure == why
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_the_films_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = filmed("drawn", tmp_path / "file" / "a.mp4")
    assert result.success and result.video is None
    assert (result.film_failure or "").startswith(("FileExistsError", "NotADirectoryError"))
