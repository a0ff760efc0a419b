"""A point in the plane that must go round a pillar: left and right are as good, the middle is not.

The demonstrations hold both ways from the same starts, so a policy that answers with the mean of
what it saw runs into the pillar. Each step says in its info which way was taken (`solution`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from telic.envs.task import DictObs, Expert, TaskEnv, box, observation_space
from telic.spec import Array, ArraySpec, Interface

RATE_HZ: Final = 20.0
SIDE_M: Final = 1.0  # the point stays within +- this in x and y
PILLAR_M: Final = 0.3  # radius of the pillar, which stands at (0, 0)
START: Final = np.array([0.0, -0.8])
GOAL: Final = np.array([0.0, 0.8])
REACHED_M: Final = 0.08
MAX_M_S: Final = 1.0  # of each entry of an action
INSTRUCTIONS: Final = (
    "go round the pillar",
    "walk around the column to the far side",
    "pass the post and stop behind it",
    "get to the other side of the pillar",
)
_SPREAD_M: Final = 0.08  # a start lies at most this far from START, in x and y
_EXPERT_M_S: Final = 0.8
_EXPERT_CLEARANCE_M: Final = (0.45, 0.65)  # how far beside the centre it passes, drawn
_EXPERT_WANDER_M_S: Final = 0.1  # std of what it adds to its speed, so that states spread

INTERFACE: Final = Interface(
    state=ArraySpec(
        shape=(2,),
        unit="m",
        names=("eef_pos_x", "eef_pos_y"),
        rate_hz=RATE_HZ,
        frame="world",
    ),
    action=ArraySpec(
        shape=(2,),
        unit="m/s",
        minimum=(-MAX_M_S,),
        maximum=(MAX_M_S,),
        names=("eef_vel_x", "eef_vel_y"),
        rate_hz=RATE_HZ,
        frame="world",
    ),
    rate_hz=RATE_HZ,
)


class DetourTask(TaskEnv):
    """From one side of the pillar to the other; who touches it has failed the episode."""

    metadata = {"render_modes": [], "render_fps": int(RATE_HZ)}  # noqa: RUF012
    task_id = "detour/pillar"

    def __init__(
        self,
        *,
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (96, 96),
        max_steps: int = 80,
    ) -> None:
        for camera in cameras:
            self.picture(camera, image_size)
        if max_steps < 1:
            raise ValueError(f"pillar: max_steps={max_steps} must be at least 1")
        self.instructions = list(INSTRUCTIONS)
        self.max_steps = max_steps
        self.interface = INTERFACE
        self.observation_space = observation_space(INTERFACE)
        self.action_space = box(INTERFACE.action)
        self._place = START.copy()
        self._steps = 0
        self._touched = False
        self._solution: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin the episode of `seed`."""
        super().reset(seed=seed)
        self._place = START + self.np_random.uniform(-_SPREAD_M, _SPREAD_M, 2)
        self._steps = 0
        self._touched = False
        self._solution = None
        return self._observation(), {"instruction": self.instructions[0]}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Move for one tick of 50 ms at speed `action` f32 [2], m/s, clipped to the bounds."""
        speed = np.clip(np.asarray(action, np.float64), -MAX_M_S, MAX_M_S)
        before = self._place
        self._place = np.clip(before + speed / RATE_HZ, -SIDE_M, SIDE_M)
        self._steps += 1
        self._touched = self._touched or touches(before, self._place)
        if self._solution is None and before[1] < 0 <= self._place[1]:
            self._solution = "left" if self._place[0] < 0 else "right"
        error = float(np.linalg.norm(self._place - GOAL))
        info = {"success": error < REACHED_M and not self._touched, "solution": self._solution}
        truncated = self._steps >= self.max_steps
        return self._observation(), -error, False, truncated, info

    def expert(self) -> Expert:
        """Return the expert, which draws its way: left or right, wide or close."""
        return _Around(int(self.np_random.integers(2**32)))

    def _observation(self) -> DictObs:
        return {"state": self._place.astype(np.float32)}


class _Around:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        side = self._rng.choice([-1.0, 1.0])
        self._beside = np.array([side * self._rng.uniform(*_EXPERT_CLEARANCE_M), 0.0])

    def act(self, obs: DictObs) -> Array:
        place = obs["state"].astype(np.float64)
        away = (self._beside if place[1] < 0 else GOAL) - place
        speed = min(_EXPERT_M_S, RATE_HZ * float(np.linalg.norm(away)))
        wanted = speed * away / max(float(np.linalg.norm(away)), 1e-9)
        return INTERFACE.action.clip(wanted + self._rng.normal(0, _EXPERT_WANDER_M_S, 2))


def touches(start: Array, end: Array) -> bool:
    """Return whether the straight way from `start` [2] to `end` [2], in m, meets the pillar."""
    way = end - start
    length = float(way @ way)
    share = 0.0 if length == 0 else float(np.clip(-(start @ way) / length, 0, 1))
    return bool(np.linalg.norm(start + share * way) < PILLAR_M)
