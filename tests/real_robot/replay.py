"""A simulated arm that can be watched, and runs of it in a time of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.control_process import LoopConfig
from telic.real_robot.replay import Timing, replay
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.simulated_arm import ArmConfig, SimulatedArm
from telic.spec import ActionChunk, ActRequest, Array
from telic.tests.real_robot.reaching import Reaching


class WatchedArm(SimulatedArm):
    """The simulated arm, with a list of all that it was told and a hook in its sensors."""

    def __init__(self, config: ArmConfig, clock: FakeClock) -> None:
        super().__init__(config, clock)
        self.told: list[tuple[int, str, Array]] = []
        self.sensor: Callable[[Reading], Reading] = lambda reading: reading

    def read(self) -> Reading:
        return self.sensor(super().read())

    def command(self, action: Array) -> None:
        self.told.append((self._clock.now_ns(), "command", action))
        super().command(action)

    def hold(self) -> Array:
        held = super().hold()
        self.told.append((self._clock.now_ns(), "hold", held))
        return held


class ChangedReaching(Reaching):
    """The proportional controller, with a list of what it was asked and a hook in its answers."""

    def __init__(self) -> None:
        super().__init__(latency_s=0.0)
        self.asked: list[ActRequest] = []
        self.change: Callable[[ActionChunk], ActionChunk] = lambda chunk: chunk

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        self.asked += requests
        return [self.change(chunk) for chunk in super().act_batch(requests)]


@dataclass
class Replay:
    """One run of the arm; `play` returns its summary."""

    duration_s: float = 3.0
    control_hz: float = 100.0
    boundary_steps: int = 1
    latency_ns: Callable[[], int] = lambda: 30_000_000
    oversleep_ns: Callable[[], int] = lambda: 0
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    watch: Callable[[int], tuple[str | None, str | None]] = lambda now_ns: (None, None)

    def __post_init__(self) -> None:
        self.clock = FakeClock(t_ns=NS)
        self.arm = WatchedArm(ArmConfig(control_hz=self.control_hz), self.clock)
        self.policy = ChangedReaching()

    def play(self) -> dict[str, Any]:
        return replay(
            self.arm,
            self.policy,
            self.clock,
            Timing(latency_ns=lambda: self.latency_ns(), oversleep_ns=self.oversleep_ns),
            duration_s=self.duration_s,
            loop=LoopConfig(boundary_steps=self.boundary_steps),
            safety=self.safety,
            watch=lambda: self.watch(self.clock.now_ns()),
        )


def largest_change(told: list[tuple[int, str, Array]]) -> float:
    """Return the largest change of an entry from one command or hold to the next."""
    values = np.stack([value for _, _, value in told])
    return float(np.abs(np.diff(values, axis=0)).max())
