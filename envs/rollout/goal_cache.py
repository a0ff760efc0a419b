"""Pictures of goals on disk, so that each is drawn once for all policies and runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from telic.envs import registry
from telic.envs.rendering import choose_backend
from telic.envs.rollout.env_worker import EnvChoice
from telic.envs.task import GoalPictures, TaskEnv

_ENVS: Final = Path(__file__).resolve().parents[1]
_DRAWS: Final = ("*.py", "playtable/**/*", "tasks/*")  # what a picture and an expert depend on
_SIMULATORS: Final = ("mujoco", "metaworld")


class GoalCache:
    """The kept pictures of the first goal of one episode, in `folder`.

    The file's name is a digest of all that they depend on: task, seed, the constructor's settings
    (scene), cameras, size, the physics' version, the code and the meshes of simulator and
    experts, the simulators' own versions, and what draws.
    """

    def __init__(self, folder: Path, env: TaskEnv, choice: EnvChoice, seed: int) -> None:
        self._images = env.interface.images
        about = {
            **{name: value for name, value in asdict(choice).items() if name != "max_steps"},
            "task": env.task_id,
            "seed": seed,
            "physics": registry.entry(choice.task).physics,
            "simulator": _simulator(inspect.getsourcefile(type(env))),
            "drawn_by": choose_backend(),
        }
        text = json.dumps(about, sort_keys=True, default=str)
        name = f"{env.task_id.replace('/', '_')}_{seed}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        self.path = folder / f"{name}_{digest}.npz"

    def read(self) -> GoalPictures | None:
        """Return the pictures; None where there are none, or where the file is damaged."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                images = {camera: file[f"image/{camera}"] for camera in self._images}
                reached = bool(file["reached"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        specs = self._images.items()
        whole = all(spec.malformed(images[camera]) is None for camera, spec in specs)
        return GoalPictures(images, reached) if whole else None

    def write(self, goal: GoalPictures) -> None:
        """Keep the pictures; another process never reads half of them. OSError where it cannot."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"image/{camera}": picture for camera, picture in goal.images.items()
        }
        handle, fresh = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, reached=goal.reached, **arrays)
            Path(fresh).replace(self.path)
        except BaseException:
            with suppress(OSError):
                Path(fresh).unlink()
            raise


@cache
def _simulator(source: str | None) -> str:
    """Return the digest of our simulators' files, of `source`, and the versions of others'."""
    digest = hashlib.sha256()
    files = {path for pattern in _DRAWS for path in _ENVS.glob(pattern) if path.is_file()}
    own = [] if source is None else [Path(source)]
    for path in [*sorted(files), *own]:
        if "__pycache__" not in path.parts:
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    for package in _SIMULATORS:
        with suppress(PackageNotFoundError):
            digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()
