"""What every simulated task offers, whatever simulator stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import gymnasium
import numpy as np
from gymnasium import spaces

from telic.spec import Array, ArraySpec, Interface

DictObs = dict[str, Array]


class StateChoice(Enum):
    """What the field `state` holds: all that the simulator knows, or what a robot can feel."""

    full = "full"
    robot = "robot"


class Expert(Protocol):
    """A scripted solution of one task, for one episode."""

    def act(self, obs: DictObs) -> Array:
        """Return the next action, f32 [A], inside the action spec's bounds."""
        ...


class NoExpert(ValueError):
    """Raised by a task that nobody has scripted a solution for."""


class GoalPictures(NamedTuple):
    """How a scene looks when a goal is reached: camera -> u8 [h w 3].

    reached: whether it is; False where no expert came there, and then it is how far the last came.
    """

    images: dict[str, Array]
    reached: bool = True


@runtime_checkable
class DrawsGoals(Protocol):
    """An environment that draws the goal at hand at any moment; the episode is not changed."""

    def draw_goal(self) -> GoalPictures:
        """Return the pictures of the interface's cameras."""
        ...


class TaskEnv(gymnasium.Env[DictObs, Array]):
    """One task as a Gymnasium environment.

    `reset(seed=)` returns {"state": f32 [P], "image/<camera>": u8 [h w 3]} and
    {"instruction": str}; the same seed gives the same episode to the last bit. `step(action)`
    returns obs, reward, terminated, truncated and an info with "success": bool and, where a task
    has several solutions, "solution": str | None, the one that is taken. An episode is not
    terminated by success, only truncated at `max_steps`; stepping on after that is harmless.
    Its constructor takes `cameras`, `image_size` (h, w) and `max_steps` by name, and `state` where
    it offers several. `expert` and `picture` are for who has them.
    A task of several goals in a row adds "goals_reached": int and "instruction": str, the sentence
    of the goal it is at, to the info of each step; it succeeds with the last of them. So that its
    goals can be shown by pictures it is a `DrawsGoals` too.
    """

    task_id: str
    interface: Interface
    instructions: list[str]  # >= 4 phrasings; [0] is the canonical one
    max_steps: int
    film_camera: str = ""  # whose pictures tell people best what happens
    draw_images: bool = True  # False leaves the pictures out of observations, for who draws few

    @property
    def goal_task(self) -> str:
        """The id of the task whose goal is at hand; of several in a row, the present one's."""
        return self.task_id

    def expert(self) -> Expert:
        """Return the scripted expert for the episode that the last reset began."""
        raise NoExpert(
            f"task {self.task_id} has no scripted expert, so nothing can be collected from it and "
            "checkpoint=expert cannot do it; give its class the method `expert`"
        )

    def images(self) -> DictObs:
        """Return {"image/<camera>": u8 [h w 3]} of the interface's cameras, drawn now."""
        drawn: DictObs = {}
        for camera, spec in self.interface.images.items():
            height, width = spec.shape[:2]
            assert height and width, "an environment knows the size of its pictures"
            drawn[f"image/{camera}"] = self.picture(camera, (height, width))
        return drawn

    def pictures(self) -> dict[str, Array]:
        """Return camera -> u8 [h w 3] of the interface's cameras, drawn now."""
        return {name.removeprefix("image/"): image for name, image in self.images().items()}

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what `camera` sees now, u8 [h w 3], upright, size = (h, w).

        Raises ValueError for a camera that the task has not, or where nothing can be drawn.
        """
        raise ValueError(f"{self.task_id.split('/')[0]} has no camera {camera!r}; it is not drawn")


def observation_space(interface: Interface) -> spaces.Space[DictObs]:
    """Return the Gymnasium space of the observations that `interface` describes."""
    fields: dict[str, spaces.Space[Any]] = {"state": box(interface.state)}
    for camera, spec in interface.images.items():
        fields[f"image/{camera}"] = box(spec)
    return cast("spaces.Space[DictObs]", spaces.Dict(fields))


def box(spec: ArraySpec) -> spaces.Box:
    """Return the Gymnasium space of one array; a missing bound is infinite (or the dtype's)."""
    shape = tuple(1 if n is None else n for n in spec.shape)
    if np.dtype(spec.dtype).kind in "ui":
        limits = np.iinfo(spec.dtype)
        return spaces.Box(limits.min, limits.max, shape, dtype=np.dtype(spec.dtype).type)
    low = np.broadcast_to(-np.inf if spec.minimum is None else spec.minimum, shape)
    high = np.broadcast_to(np.inf if spec.maximum is None else spec.maximum, shape)
    kind = np.dtype(spec.dtype).type
    return spaces.Box(low.astype(kind), high.astype(kind), shape, dtype=kind)


def image_specs(cameras: Sequence[str], size: tuple[int, int]) -> dict[str, ArraySpec]:
    """Return camera -> the spec of its pictures, size = (h, w)."""
    return {
        camera: ArraySpec(shape=(size[0], size[1], 3), dtype="uint8", unit="RGB")
        for camera in cameras
    }
