"""Camera pictures: upright, of the right size, the goal's marker where the goal is; films."""

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from telic.envs import registry
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts
from telic.envs.task import TaskEnv
from telic.envs.tasks.metaworld import CAMERAS
from telic.spec import Array

pytestmark = [
    pytest.mark.usefixtures("pictures"),
    pytest.mark.filterwarnings("ignore:Constant"),
]


def centre_of(mask: Array) -> Array:
    """Return the (row, column) of the middle of the true pixels."""
    assert mask.any(), "nothing of that colour in the picture"
    return np.argwhere(mask).mean(axis=0)


def marker(picture: Array, other: Array) -> Array:
    """Return which pixels differ clearly between two pictures."""
    return np.abs(picture.astype(int) - other.astype(int)).max(axis=2) > 60


@pytest.mark.parametrize("camera", [name for name in CAMERAS if name.startswith("corner")])
def test_what_is_higher_in_the_world_is_higher_in_the_picture(camera: str) -> None:
    env = registry.make("reach-v3", max_steps=100)
    rows = []
    for height in (-1.0, 1.0):
        env.reset(seed=0)
        for _ in range(40):
            env.step(np.array([0, 0, height, -1], np.float32))
        picture = env.picture(camera, (120, 120)).astype(int)
        red, green, blue = np.moveaxis(picture, 2, 0)
        finger = (blue > 130) & (green > 130) & (red < 60)  # one finger is turquoise
        rows.append(centre_of(finger)[0])
    assert rows[1] < rows[0] - 8, "row 0 is the top"


def test_left_is_left() -> None:
    env = registry.make("reach-v3")
    columns = []
    for side in (-1.0, 1.0):
        env.reset(seed=0)
        before = env.picture("corner2", (120, 120))
        for _ in range(30):
            env.step(np.array([0, side, 0, -1], np.float32))
        after = env.picture("corner2", (120, 120))
        columns.append(centre_of(marker(before, after))[1])
    assert columns[1] > columns[0], "+y, away from the robot, is to the right of corner2"


def projected(env: TaskEnv, camera: str, point: Array, size: int) -> Array:
    """Return the (row, column) at which an upright picture of `camera` shows a world point."""
    base = env._base  # type: ignore[attr-defined]
    view = base.data.camera(camera)
    right, up, back = view.xmat.reshape(3, 3).T @ (point - view.xpos)
    half = size / 2
    focal = half / np.tan(np.deg2rad(base.model.camera(camera).fovy[0]) / 2)
    row, column = half + focal * up / back, half - focal * right / back
    return np.array([size - row, size - column] if camera.startswith("corner") else [row, column])


@pytest.mark.parametrize("camera", ["topview", "corner2"])
@pytest.mark.parametrize("task", ["reach-v3", "push-v3", "coffee-pull-v3", "door-lock-v3"])
def test_the_goal_is_marked_where_the_goal_is(task: str, camera: str) -> None:
    env = registry.make(task)
    for seed in (1, 2):
        env.reset(seed=seed)
        for _ in range(3):  # stepping moves the markers away; a picture puts them back
            obs, *_ = env.step(np.array([0, 0, 1, 0], np.float32))
        shown = env.picture(camera, (240, 240))
        alpha = env._base.model.site_rgba[:, 3]  # type: ignore[attr-defined]
        kept = alpha.copy()
        alpha[:] = 0.0
        hidden = env.picture(camera, (240, 240))
        alpha[:] = kept
        differs = np.argwhere(np.abs(shown.astype(int) - hidden).max(axis=2) > 30)
        expected = projected(env, camera, obs["state"][36:39], 240)
        assert np.linalg.norm(differs - expected, axis=1).min() < 4, "a marker is at the goal"


def test_pictures_in_observations_are_the_cameras_own() -> None:
    env = registry.make("drawer-open-v3", cameras=["corner4", "gripperPOV"], image_size=(48, 64))
    obs, _ = env.reset(seed=1)
    obs, *_ = env.step(np.ones(4, np.float32))
    assert set(obs) == {"state", "image/corner4", "image/gripperPOV"}
    for camera, spec in env.interface.images.items():
        spec.validate(obs[f"image/{camera}"], camera)
        large = env.picture(camera, (480, 640))  # beyond the first buffer, in between
        assert np.array_equal(env.picture(camera, (48, 64)), obs[f"image/{camera}"])
        shrunk = large.reshape(48, 10, 64, 10, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - obs[f"image/{camera}"]).mean() < 12, "the same view at both sizes"
    env.close()


def test_pictures_do_not_change_the_episode() -> None:
    seeing = registry.make("coffee-push-v3", cameras=["corner2"], image_size=(16, 16))
    blind = registry.make("coffee-push-v3")
    for env in (seeing, blind):
        env.reset(seed=5)
    for _ in range(30):
        action = blind.expert().act({})
        assert np.array_equal(action, seeing.expert().act({}))
        seen, known = seeing.step(action), blind.step(action)
        assert np.array_equal(seen[0]["state"], known[0]["state"])
        assert seen[1] == known[1]


def test_a_gymnasium_user_can_render() -> None:
    import gymnasium

    env = gymnasium.make("telic/MetaWorld-reach-v3", render_mode="rgb_array", render_size=(60, 80))
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (60, 80, 3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_film_shows_the_episode(tmp_path: Path, num_workers: int) -> None:
    task = "drawer-close-v3"
    policy = RandomPolicy(interface=registry.make(task).interface)
    film = tmp_path / "films" / "first.mp4"
    jobs = [EpisodeJob(task=task, seed=3, video=film), EpisodeJob(task=task, seed=4)]
    config = RolloutConfig(
        num_workers=num_workers, max_steps=40, video_height=96, video_width=128, video_fps=40
    )
    results = list(run_rollouts(jobs, policy, config))
    assert sorted(str(result.video) for result in results) == sorted([str(film), "None"])
    frames = imageio_ffmpeg.read_frames(str(film))
    facts = next(frames)
    pictures = [np.frombuffer(frame, np.uint8).reshape(96, 128, 3) for frame in frames]
    assert facts["fps"] == 40
    assert len(pictures) == 21  # the start and every second of 40 steps
    env = registry.make(task)
    env.reset(seed=3)
    first = env.picture(env.film_camera, (96, 128))
    assert np.abs(pictures[0].astype(int) - first).mean() < 10
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 0.5, "the arm has moved"
    assert [path.name for path in film.parent.iterdir()] == ["first.mp4"]


def test_torch_can_load_its_kernel_compiler_after_a_picture_was_drawn() -> None:
    pytest.importorskip("triton")
    program = """
from telic.envs.rendering import require_rendering
require_rendering()
import triton
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_that_drew_pictures_ends_without_a_word() -> None:
    """Also where something that outlives Python's modules holds them, as plug-ins of pytest do."""
    program = """
import codecs, functools
from telic.envs import registry, rendering
env = registry.make("reach-v3")
env.reset(seed=0)
env.picture(env.film_camera, (24, 32))
import mujoco
codecs.register(functools.partial(print, rendering, env, *mujoco.__dict__.values()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
