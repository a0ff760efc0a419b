"""Tasks without a simulator whose seeds decide how they break. Imported by workers by name."""

import os
import signal
import time
from typing import Any

import numpy as np

from telic.envs import registry
from telic.envs.task import DictObs, Expert, TaskEnv, box, image_specs, observation_space
from telic.spec import Array, ArraySpec, Interface

INTERFACE = Interface(
    state=ArraySpec(shape=(2,)),
    action=ArraySpec(shape=(1,), minimum=(-1.0,), maximum=(1.0,)),
    rate_hz=20.0,
)


class ToyTask(TaskEnv):
    """State (steps taken, sum of actions); success once the sum passes +1.

    Seeds: 90.. raise at step 3, 91.. kill their process, 92.. never come back, 93.. raise in
    reset, 94.. sense float64 at the start, 95.. a longer state at step 3, 96.. nan there. Pictures
    show the number of steps as their grey level. TOY_SLEEP_S slows the steps down.
    """

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (8, 8),
        max_steps: int = 20,
    ) -> None:
        self.task_id = "toy/sum"
        self.instructions = ["add up", "count", "sum", "go on"]
        self.max_steps = max_steps
        self.interface = Interface(
            state=INTERFACE.state,
            action=INTERFACE.action,
            rate_hz=INTERFACE.rate_hz,
            images=image_specs(cameras, image_size),
        )
        self.observation_space = observation_space(self.interface)
        self.action_space = box(self.interface.action)
        self.drawn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        super().reset(seed=seed)
        self.kind = 0 if seed is None else seed // 10
        if self.kind == 93:
            raise RuntimeError("no\nstart")
        self.state = np.zeros(2, np.float64 if self.kind == 94 else np.float32)
        return self._observation(), {"instruction": self.instructions[0]}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        time.sleep(float(os.environ.get("TOY_SLEEP_S", "0")))
        self.state = self.state + np.array([1.0, action[0]], np.float32)
        if self.state[0] == 3:
            if self.kind == 90:
                raise ZeroDivisionError("the toy broke")
            if self.kind == 91:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == 92:
                time.sleep(1000)
            if self.kind == 96:
                self.state[1] = np.nan
            if self.kind == 95:
                self.state = np.zeros(3, np.float32)
        success = bool(self.state[1] > 1)
        return (
            self._observation(), 0.0, False, self.state[0] >= self.max_steps, {"success": success}
        )  # fmt: skip

    def _observation(self) -> DictObs:
        return {"state": self.state} | (self.images() if self.draw_images else {})

    def expert(self) -> Expert:
        return self

    def act(self, obs: DictObs) -> Array:
        """Add one half a step; seed 7 gives up."""
        return np.full(1, 0.0 if self.np_random_seed == 7 else 0.5, np.float32)

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        if camera != "front":
            raise ValueError(f"the toy has no camera {camera!r}")
        self.drawn += 1
        return np.full((*size, 3), int(self.state[0]) * 10 % 256, np.uint8)


def _make(**kwargs: Any) -> TaskEnv:
    return ToyTask(**kwargs)


for name in ("sum", "other"):
    registry.register(
        registry.TaskEntry(
            task_id=f"toy/{name}", make=_make, instructions=("add up", "b", "c", "d"), robot="toy"
        )
    )
