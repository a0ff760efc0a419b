"""What holds on a machine without rendering libraries: everything that needs no picture."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = "libEGL libEGL_mesa libGL libOpenGL libOSMesa libGLX_mesa"

SCRIPT = """
from telic.envs import registry
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts

env = registry.make("reach-v3")
env.reset(seed=0)
jobs = [EpisodeJob(task="reach-v3", seed=seed) for seed in range(2)]
config = RolloutConfig(num_workers=1, max_steps=8)
results = list(run_rollouts(jobs, RandomPolicy(interface=env.interface), config))
assert [result.steps for result in results] == [8, 8], results
assert not any(result.crashed for result in results), results
for ask in (
    lambda: env.picture("corner2", (32, 32)),
    lambda: registry.make("reach-v3", cameras=["corner2"]),
):
    try:
        ask()
    except ValueError as error:
        print(error)
"""


def without(libraries: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Return how `command` went in a mount namespace where those libraries are empty files.

    That is real for the loader, in the command and in every process it starts.
    """
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed, so libraries cannot be hidden")
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this kernel lets no one hide files from a process")
    hide = (
        "for name in $LIBRARIES; do for folder in /lib /usr/lib /lib/* /usr/lib/*; do "
        "for file in $folder/$name.so*; do "
        '[ -f "$file" ] && mount --bind /dev/null "$(readlink -f "$file")"; '
        'done; done; done 2>/dev/null; exec "$@"'
    )
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    environment |= {
        "LIBRARIES": libraries,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DISPLAY": "",
    }
    environment.pop("PYOPENGL_PLATFORM", None)
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", hide, "sh", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("libraries", [LIBRARIES, "libEGL_mesa libGLX_mesa libOSMesa"])
def test_what_needs_no_picture_works_and_what_does_says_what_to_install(libraries: str) -> None:
    done = without(libraries, [sys.executable, "-c", SCRIPT])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    for line in lines:
        assert line.startswith("cannot draw camera pictures: ")
        assert "apt-get install libegl1 libgl1 libgl1-mesa-dri" in line
    assert done.stderr == ""


def test_asking_for_cameras_is_one_line_and_status_2(tmp_path: Path) -> None:
    arguments = ["tasks=[mt1]", f"out={tmp_path / 'demos.zarr'}", "cameras=[corner4]"]
    done = without(LIBRARIES, [sys.executable, "-m", "telic.collect", *arguments])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "libraries for off-screen rendering are missing" in done.stderr
    assert not (tmp_path / "demos.zarr").exists()


def test_a_display_that_is_not_there_is_one_attempt_and_one_line(tmp_path: Path) -> None:
    pytest.importorskip("glfw")
    given = ["tasks=[mt1]", f"out={tmp_path / 'demos.zarr'}", "cameras=[corner4]", "num_workers=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "telic.collect", *given],
        env=environment | {"MUJOCO_GL": "glfw", "DISPLAY": ":77"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "collect: cannot draw camera pictures: MUJOCO_GL=glfw opens no window on DISPLAY=:77; "
        "leave MUJOCO_GL unset"
    )
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["off", "osmesa", "glfw"])
def test_no_choice_of_backend_kills_the_import(asked: str) -> None:
    script = (
        "from telic.envs import rendering; rendering.choose_backend(); import mujoco\n"
        "try: rendering.require_rendering()\n"
        "except ValueError as error: print(error)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"MUJOCO_GL": asked, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if asked == "off":
        assert "MUJOCO_GL=off switches rendering off" in done.stdout or "missing" in done.stdout
