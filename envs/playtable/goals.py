"""The picture of a goal: the table at the moment at which an expert has done the task from here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np

from telic.envs.task import DictObs, Expert, GoalPictures, TaskEnv
from telic.spec import Array

ATTEMPTS: Final = 3  # experts, each with draws of its own


class Movable(Protocol):
    """What an expert needs of a table to go ahead on it and come back."""

    def step(self, action: Array) -> None:
        """Simulate one action f [A]."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Leave the table afterwards as it was before."""
        ...


def expert_goal(
    env: TaskEnv,
    table: Movable,
    *,
    make_expert: Callable[[np.random.Generator], Expert],
    observation: Callable[[], DictObs],
    done: Callable[[], bool],
    seed: tuple[int, ...],
    max_steps: int,
) -> GoalPictures:
    """Return what the cameras of `env` see when an expert is `done`; the table is then as before.

    The first of three experts who is done in `max_steps`; where none is, the last one's end. What
    they draw is a function of `seed`.
    """
    for attempt in range(ATTEMPTS):
        with table.aside():
            acting = make_expert(np.random.default_rng([*seed, attempt]))
            reached = False
            for _ in range(max_steps):
                table.step(env.interface.action.clip(acting.act(observation())))
                if reached := done():
                    break
            if reached or attempt == ATTEMPTS - 1:
                return GoalPictures(env.pictures(), reached)
    raise AssertionError("the last attempt returns")
