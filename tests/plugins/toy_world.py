"""A plug-in of another package: a task family, a robot, a format and a published checkpoint.

TELIC_PLUGINS=toy_world has the commands and the conformance suites find them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from telic.datasets.converters import CONVERTERS, Converter
from telic.datasets.layout import STORE
from telic.datasets.store import EpisodeStore, Segment
from telic.envs.registry import TaskEntry, register
from telic.envs.task import TaskEnv, box, image_specs, observation_space
from telic.real_robot.clock import Clock
from telic.real_robot.robot import ROBOTS, Reading
from telic.real_robot.timeline import Motion
from telic.replacement import Replacement
from telic.spec import Array, ArraySpec, Interface

PLACE = ArraySpec(shape=(2,), unit="m", names=("x", "goal"))
SPEED = ArraySpec(shape=(1,), unit="m/s", minimum=(-1.0,), maximum=(1.0,), names=("x",))
SENTENCES = ("toy: reach the goal", "toy: go there", "toy: drive to it", "toy: find the spot")


class PluginTask(TaskEnv):
    """A point on a line that must come to a place."""

    task_id, instructions = "toy/reach", list(SENTENCES)

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (16, 16),
        max_steps: int = 60,
    ) -> None:
        self.max_steps = max_steps
        images = image_specs(cameras, image_size)
        self.interface = Interface(state=PLACE, action=SPEED, rate_hz=10.0, images=images)
        self.observation_space = observation_space(self.interface)
        self.action_space = box(SPEED)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._seen(), {"instruction": SENTENCES[0]}

    def step(self, action: Array) -> Any:
        self.place = self.place + np.float32([np.clip(action[0], -1, 1) / 10, 0])
        self.steps += 1
        away = float(abs(self.place[0] - self.place[1]))
        info = {"success": away < 0.05}
        return self._seen(), -away, False, self.steps >= self.max_steps, info

    def _seen(self) -> dict[str, Array]:
        return {"state": self.place} | (self.images() if self.draw_images else {})

    def expert(self) -> Any:
        def act(seen: dict[str, Array]) -> Array:
            x, goal = seen["state"]
            return np.float32([np.clip(5 * (goal - x), -1, 1)])

        return SimpleNamespace(act=act)

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        picture = np.zeros((*size, 3), np.uint8)
        columns = np.clip((self.place + 1) / 2 * size[1], 0, size[1] - 1).astype(int)
        picture[:, columns[0], 0] = picture[:, columns[1], 1] = 255
        return picture


@dataclass(kw_only=True, slots=True)
class ToyRobotConfig:
    """A carriage on a rail."""

    identity: ClassVar[None] = None  # there may be any number of it

    start_m: float = 0.5

    @classmethod
    def small(cls) -> tuple[ToyRobotConfig, Interface]:
        return cls(), ToyRobot.interface

    def build(self, needs: Interface, clock: Clock) -> ToyRobot:
        return ToyRobot(self, clock)


class ToyRobot:
    """The carriage: an action is how fast it goes."""

    interface = Interface(state=PLACE, action=SPEED, rate_hz=10.0)
    control_hz = 50.0
    motion = Motion.absolute
    binary_dims: tuple[int, ...] = ()
    instruction: str | None = SENTENCES[0]

    def __init__(self, config: ToyRobotConfig, clock: Clock) -> None:
        self.clock, self.state = clock, np.float32([config.start_m, 0.0])

    def connect(self) -> None: ...

    def read(self) -> Reading:
        return Reading(state=self.state, t_obs_ns=self.clock.now_ns())

    def command(self, action: Array) -> None:
        self.state = self.state + np.float32([action[0] / self.control_hz, 0.0])

    def hold(self) -> Array:
        return np.zeros(1, np.float32)

    def stop(self) -> None: ...

    def report(self) -> dict[str, Any]:
        return {"x": float(self.state[0])}


def from_lines(source: Path, target: Path, options: argparse.Namespace, overwrite: bool) -> int:
    """Convert a file with an episode of {"state": ..., "action": ...} on each line."""
    replacement = Replacement(
        target, STORE, overwrite=overwrite, by="--overwrite", sources=[source]
    )
    replacement.require()
    fields = {
        "state": PLACE,
        "action": SPEED,
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns"),
    }
    with replacement.writing() as path:
        rate_hz, lines = options.toy_rate_hz, source.read_text().splitlines()
        with EpisodeStore.create(path, fields, rate_hz=rate_hz) as store:
            for line in lines:
                steps = {name: np.float32(rows) for name, rows in json.loads(line).items()}
                length = len(steps["action"])
                steps["timestamp_ns"] = np.arange(length) * round(1e9 / rate_hz)
                segment = Segment(start=0, end=length, instruction=SENTENCES[0], task="reach")
                store.append(steps, [segment])
    return len(lines)


def small_lines(folder: Path) -> Path:
    """Write three episodes."""
    episode = {"state": [[0.0, 1.0], [0.1, 1.0]], "action": [[1.0], [1.0]]}
    (folder / "small.toy").write_text(3 * (json.dumps(episode) + "\n"))
    return folder / "small.toy"


register(
    TaskEntry(
        task_id="toy/reach",
        make=PluginTask,
        instructions=SENTENCES,
        tags=frozenset(["toy"]),
        robot="point",
    )
)
ROBOTS.register("toy", ToyRobotConfig)
CONVERTERS.register(
    "toy",
    Converter(
        title="from lines of JSON",
        takes=lambda source: source.suffix == ".toy",
        convert=from_lines,
        small=small_lines,
        add_options=lambda group: group.add_argument("--toy-rate-hz", type=float, default=10.0),
    ),
)
