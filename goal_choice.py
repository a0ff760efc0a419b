"""Goals of an evaluation: sentences, pictures that an expert leaves, or pictures out of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.envs.evaluation.protocol import EvaluationProtocol
from telic.envs.registry import entry
from telic.envs.rollout.goals import EpisodeGoals, GoalChoice
from telic.ranges import require_text
from telic.spec import Array, ArraySpec, ChunkPolicy, Goal, GoalKinds, near_misses


@dataclass(kw_only=True)
class GoalKeys:
    """The keys by which `evaluate-policy` chooses goals; a base of its config."""

    __slots__ = ()

    goal: GoalChoice = GoalChoice.text  # goal given to the policy: sentence, picture, or both
    # store whose episodes show the goals; None: an expert's end from the episode's own start
    goal_store: str | None = None
    goal_cache: str | None = "runs/goals"  # folder that keeps an expert's pictures; None: none is

    def require_goals(self) -> None:
        """Raise ValueError where the keys do not go together."""
        require_text(self, "goal_store", "goal_cache")
        if self.goal_store is not None and not self.goal.shows:
            raise ValueError(
                f"goal_store={self.goal_store} gives pictures, and goal={self.goal.value} asks for "
                "none; add goal=image or goal=both"
            )
        if self.goal.shows and self.goal_cache is not None and Path(self.goal_cache).is_file():
            raise ValueError(f"goal_cache={self.goal_cache} is a file; give a folder")

    def goals(self, policy: ChunkPolicy, who: str, protocol: EvaluationProtocol) -> EpisodeGoals:
        """Return the goals of the protocol's episodes; ValueError where `policy` takes no such."""
        kinds, choice = GoalKinds.of(policy), self.goal
        kinds.require(f"goal={choice.value}", who, text=choice.says, images=choice.shows)
        stored = None
        if self.goal_store is not None:
            camera_specs = {camera: policy.interface.images[camera] for camera in kinds.cameras}
            stored = StoreGoals(Path(self.goal_store), protocol.goal_tasks(), camera_specs).pictures
        cache = None if self.goal_cache is None else Path(self.goal_cache)
        return EpisodeGoals(choice=choice, stored=stored, cache=cache)

    def goal_identity(self) -> dict[str, Any]:
        """Return what results depend on, as JSON data; nothing for sentences."""
        if not self.goal.shows:
            return {}
        store = None if self.goal_store is None else EpisodeStore.open(self.goal_store)
        about_store = {} if store is None else {"goal_store": [str(store.path), store.num_steps]}
        return {"goal": self.goal.value, **about_store}

    def goal_title(self, policy: ChunkPolicy) -> str:
        """Return what titles say of the goal; "" of a policy that takes sentences alone."""
        if not GoalKinds.of(policy).cameras:
            return ""
        store = "" if self.goal_store is None else f" from {Path(self.goal_store).name}"
        return f", goal={self.goal.value}{store}"


def any_goal(policy: ChunkPolicy, choice: GoalChoice, text: str) -> Goal:
    """Return a goal of the kinds chosen, with blank pictures: to time a chunk by."""
    images = {}
    for camera in GoalKinds.of(policy).cameras if choice.shows else ():
        spec = policy.interface.images[camera]
        images[camera] = np.zeros([n or 1 for n in spec.shape], spec.dtype)
    return Goal(text=text if choice.says else None, images=images)


class StoreGoals:
    """Pictures of goals out of demonstrations: the last step of each in which a task is done.

    They show another start than the episode's. ValueError where the store lacks a camera or one of
    the tasks, or has pictures of another size.
    """

    def __init__(
        self, path: Path, tasks: Sequence[str], camera_specs: Mapping[str, ArraySpec]
    ) -> None:
        self._store = EpisodeStore.open(path)
        offered = {
            name.removeprefix("image/"): spec
            for name, spec in self._store.fields.items()
            if name.startswith("image/")
        }
        for camera, spec in camera_specs.items():
            if camera not in offered:
                there = ", ".join(offered) or "none"
                raise ValueError(
                    f"goal_store={path}: no camera {camera!r}, only {there}"
                    f"{near_misses(camera, offered)}"
                )
            if (got := offered[camera].shape) != spec.shape:
                raise ValueError(
                    f"goal_store={path}: pictures of {camera} are {got}, the policy takes "
                    f"{spec.shape}"
                )
        self._cameras = list(camera_specs)
        self._ends = {task: self._ends_of(task) for task in tasks}
        if missing := [task for task, ends in self._ends.items() if not len(ends)]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"goal_store={path}: no labelled step of task {missing[0]}{more}; collect it there"
            )

    def _ends_of(self, task: str) -> Array:
        """Return the last step of each stretch in which `task` was done, over the whole store.

        By the task's name, and in a store that names none by the task's sentences.
        """
        store, known = self._store, entry(task)
        table = store.segment_table
        names = np.array([name == known.task_id for name in store.tasks] or [False])
        known_text = np.array(
            [text in known.instructions for text in store.instructions] or [False]
        )
        chosen = names[table[:, 3]] if any(store.tasks) else known_text[table[:, 2]]
        ends: Array = np.unique(table[chosen, 1]) - 1
        return ends

    def pictures(self, task: str, number: int) -> dict[str, Array]:
        """Return camera -> u8 [h w 3] of demonstration `number` of `task`, modulo their number."""
        ends = self._ends[task]
        step = int(ends[number % len(ends)])
        names = {camera: f"image/{camera}" for camera in self._cameras}
        return {c: self._store.read(name, step, step + 1)[0] for c, name in names.items()}
