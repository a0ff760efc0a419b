"""Films of episodes: H.264 in mp4, written by the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from telic.envs.task import TaskEnv
from telic.replacement import Kind, Replacement
from telic.spec import Array, ArraySpec

_MARK = "telic-film"  # the comment in a film of ours
_TAIL = 1 << 16  # bytes from a film's end in which it is


def is_film(path: Path) -> bool:
    """Return whether a film of ours stands at `path`."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return _MARK.encode() in file.read()
    except OSError:
        return False


def is_films(path: Path) -> bool:
    """Return whether `path` is a folder of our films and nothing else."""
    return path.is_dir() and all(film.is_file() and is_film(film) for film in path.iterdir())


FILM = Kind("a film of an episode", is_film)
FILMS = Kind("a folder of films of episodes", is_films)


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """What to film and where to: every `every`-th step from one camera; size = (h, w), even.

    camera None: the one that the task has for films.
    """

    path: Path
    camera: str | None
    size: tuple[int, int]
    every: int
    fps: float


class FilmWriter:
    """An mp4 in the making, which stands at `path` once it is closed.

    Raises ValueError for odd sizes, which the pixel format cannot hold, and where something else
    than a film of ours stands at `path`.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"{path}: video size {size[0]}x{size[1]} must be even in both")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._spec = ArraySpec(shape=(*size, 3), dtype="uint8")
        with ExitStack() as stack:
            fresh = stack.enter_context(film_at(path).writing())
            self._frames = imageio_ffmpeg.write_frames(
                str(fresh),
                (size[1], size[0]),
                fps=fps,
                macro_block_size=2,
                quality=7,
                output_params=["-metadata", f"comment={_MARK}"],
            )
            self._frames.send(None)
            self._ending = stack.pop_all()

    def add(self, frame: Array) -> None:
        """Append a frame, u8 [h w 3] in any memory order; ValueError for anything else."""
        if (problem := self._spec.malformed(frame)) is not None:
            raise ValueError(f"a frame's {problem}")
        self._frames.send(np.ascontiguousarray(frame))

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._frames.close()
        self._ending.close()

    def abandon(self) -> None:
        """Leave no file."""
        self._frames.close()
        with suppress(_AbandonedError), self._ending:
            raise _AbandonedError


class _AbandonedError(Exception):
    """What ends the writing of a film that is not to be."""


def film_at(path: Path) -> Replacement:
    """A film that is to stand at `path`, in the place of an earlier one."""
    return Replacement(path, FILM, overwrite=True)


class Camera:
    """Films an episode of `env` as it goes: call `step` after the reset and after every step.

    A film that fails leaves no file and does not trouble the episode; `failure` says why.
    """

    def __init__(self, film: Film, env: TaskEnv) -> None:
        self._film, self._env = film, env
        self._name = env.film_camera if film.camera is None else film.camera
        self._writer: FilmWriter | None = None
        self._num_steps = 0
        self.failure: str | None = None
        with self._noted():
            self._writer = FilmWriter(film.path, film.size, film.fps)

    def step(self) -> None:
        """Draw and keep a frame if this step is one to be kept."""
        if self._num_steps % self._film.every == 0 and self._writer is not None:
            with self._noted():
                self._writer.add(self._env.picture(self._name, self._film.size))
        self._num_steps += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            with self._noted():
                self._writer.close()

    def abandon(self) -> None:
        """Leave no file."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.abandon()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Keep why the film failed; a task may raise anything from its pictures."""
        try:
            yield
        except Exception as error:
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
            with suppress(Exception):  # ffmpeg may be what has failed
                self.abandon()
