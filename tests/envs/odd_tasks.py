"""Tasks that draw in unusual ways, or that have neither expert nor picture."""

import os
from typing import Any

import numpy as np

from telic.envs import registry
from telic.envs.task import DictObs, TaskEnv
from telic.spec import Array, ArraySpec, Interface

INTERFACE = Interface(
    state=ArraySpec(shape=(1,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


class Bare(TaskEnv):
    """What a task must have, and no more: state counts the steps, the fifth one is success."""

    instructions = ("wait", "stay", "rest", "sit still")  # type: ignore[assignment]
    interface = INTERFACE
    task_id = "odd/bare"

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (8, 8),
        max_steps: int = 12,
    ) -> None:
        self.max_steps = max_steps
        self.count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        self.count = 0
        return self._observation(), {"instruction": "wait"}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        self.count += 1
        truncated = self.count >= self.max_steps
        return self._observation(), 0.0, False, truncated, {"success": self.count == 5}

    def _observation(self) -> DictObs:
        return {"state": np.full(1, self.count, np.float32)}


class Drawn(Bare):
    """Pictures by ODD_PICTURE: flipped (not contiguous), grey, raising at the third, or dead."""

    film_camera = "front"
    task_id = "odd/drawn"

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        how = os.environ.get("ODD_PICTURE", "flipped")
        if how == "raising" and self.count == 3:
            raise RuntimeError("the lens\nfell off")
        if how == "grey":
            return np.zeros(size, np.uint8)
        rows = np.broadcast_to(np.arange(size[0], dtype=np.uint8)[:, None, None], (*size, 3))
        return rows[::-1]


for name, make in (("bare", Bare), ("drawn", Drawn)):
    registry.register(
        registry.TaskEntry(task_id=f"odd/{name}", make=make, instructions=("wait", "b", "c", "d"))
    )
