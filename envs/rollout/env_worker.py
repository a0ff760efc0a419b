"""Where environments live: an `EnvWorker` holds one per slot and executes requests one by one.

The same class serves in a worker process (`worker.py`) and in the caller's own (`pool.LocalPool`).
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from telic.envs import registry
from telic.envs.observations import Broken
from telic.envs.task import TaskEnv


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The answer to one request."""

    slot: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Crashed(Report):
    """The environment of a slot, or its process, broke; what it was doing is lost."""

    reason: str
    lost_slots: tuple[int, ...] = ()  # other slots whose environments died with it


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused(Report):
    """What was asked for cannot be: the user's error, in one line."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready(Report):
    """A worker process has started and takes requests."""


class EnvRequest(ABC):
    """Work for an `EnvWorker` in one slot. Requests and reports travel between processes."""

    slot: int

    @abstractmethod
    def perform(self, env_worker: EnvWorker) -> Report:
        """Return the report; whatever this raises becomes a `Crashed`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvChoice:
    """Which environment a slot needs; an equal choice is served by the same object again."""

    task: str
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (96, 96)
    max_steps: int | None = None
    kwargs: tuple[tuple[str, Any], ...] = ()

    def make(self) -> TaskEnv:
        """Return a new environment; ValueError if there is no such thing."""
        return registry.make(
            self.task,
            cameras=self.cameras,
            image_size=self.image_size,
            max_steps=self.max_steps,
            **dict(self.kwargs),
        )


class Refusal(Exception):
    """Raised while a request is prepared: the user's error rather than a crash."""


class EnvWorker:
    """The environments of some slots, kept for as long as the slot's choice stays the same.

    `episodes` holds what a request of a slot leaves for its next one.
    """

    def __init__(self) -> None:
        self.episodes: dict[int, Any] = {}  # what is in here can `abandon()`
        self._envs: dict[int, tuple[EnvChoice, TaskEnv]] = {}

    def env(self, slot: int, choice: EnvChoice) -> TaskEnv:
        """Return the slot's environment, made anew if its choice has changed."""
        held = self._envs.get(slot)
        if held is not None and held[0] == choice:
            return held[1]
        self.drop(slot)
        try:
            env = choice.make()
        except ValueError as error:
            raise Refusal(str(error)) from error
        self._envs[slot] = (choice, env)
        return env

    def drop(self, slot: int) -> None:
        """Close the slot's environment, if there is one."""
        if (episode := self.episodes.pop(slot, None)) is not None:
            episode.abandon()
        if (held := self._envs.pop(slot, None)) is not None:
            held[1].close()

    def close(self) -> None:
        """Close all environments."""
        for slot in list(self._envs):
            self.drop(slot)

    def execute(self, request: EnvRequest) -> Report:
        """Return the request's report; an exception becomes one that says what happened where.

        A simulator may raise anything; it ends the slot's episode, never the others'.
        """
        try:
            return request.perform(self)
        except Refusal as error:
            return Refused(slot=request.slot, message=str(error))
        except Exception as error:  # counted, with its reason, as this episode's crash
            self._envs.pop(request.slot, None)  # broken: not even closed
            self.drop(request.slot)
            return Crashed(slot=request.slot, reason=_reason(error))


def _reason(error: Exception) -> str:
    """Return the error and the place it was raised, in one line; of `Broken` its own words."""
    if isinstance(error, Broken):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
