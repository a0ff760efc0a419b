"""The control process's loop on the simulated arm, in a time of its own: no process, no waiting.

Time passes in the loop's waits alone. A made-up worker looks at the ring in each of them and
delivers a chunk when its latency has passed, so a run of minutes replays in a second and is the
same every time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.control_process import LoopConfig, drive
from telic.real_robot.policy_worker import observation_window
from telic.real_robot.robot import Reading
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.simulated_arm import ArmConfig, SimulatedArm
from telic.real_robot.wires import Wires
from telic.spec import ActionChunk, ActRequest, Array, Goal
from telic.tests.real_robot.reaching import Reaching

DT = NS // 20


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


@dataclass
class Replay:
    """One run; `play` returns the summary.

    `latency_ns()` is drawn for each chunk, negative for one that never comes; `oversleep_ns()` for
    each wait of the loop.
    """

    duration_s: float = 3.0
    control_hz: float = 100.0
    seam_steps: int = 1
    latency_ns: Callable[[], int] = lambda: 30_000_000
    oversleep_ns: Callable[[], int] = lambda: 0
    change_chunk: Callable[[ActionChunk], ActionChunk] = lambda chunk: chunk
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    watch: Callable[[int], tuple[str | None, str | None]] = lambda now_ns: (None, None)
    sensor: Callable[[Reading], Reading] = lambda reading: reading

    def __post_init__(self) -> None:
        self.clock = FakeClock(t_ns=NS, oversleep=self._let_others_run)
        self.arm = WatchedArm(ArmConfig(control_hz=self.control_hz), self.clock)
        self.arm.sensor = self.sensor
        self.policy = Reaching(latency_s=0.0)
        self.wires = Wires.create(self.arm.interface, self.policy.action_horizon, 64)
        self._worker = self._work()

    def play(self) -> dict[str, Any]:
        rules = LoopConfig(seam_steps=self.seam_steps).build(self.arm, self.safety, self.duration_s)
        self.arm.connect()
        summary = drive(
            self.arm, self.clock, self.wires, rules, lambda: self.watch(self.clock.now_ns())
        )
        self.wires.close()
        return summary | {"robot": self.arm.report()}

    def _let_others_run(self) -> int:
        next(self._worker)
        return self.oversleep_ns()

    def _work(self) -> Iterator[None]:
        """Be the policy worker; one turn for each wait of the loop."""
        while True:
            window = observation_window(self.wires.observations, self.policy.obs_horizon, DT)
            if window is None:
                yield
                continue
            request = ActRequest(observation=window.observation, goal=Goal(text="go"))
            chunk = self.change_chunk(self.policy.act_batch([request])[0])
            started_ns, latency_ns = self.clock.now_ns(), self.latency_ns()
            while self.clock.now_ns() < started_ns + abs(latency_ns):
                yield
            if latency_ns >= 0:
                self.wires.chunks.write(
                    {
                        "actions": chunk.actions,
                        "t_obs_ns": chunk.t_obs_ns,
                        "dt_ns": chunk.dt_ns,
                        "episode": window.episode,
                        "started_ns": started_ns,
                        "finished_ns": self.clock.now_ns(),
                    }
                )
            yield


def largest_change(told: list[tuple[int, str, Array]]) -> float:
    """Return the largest change of an entry from one command or hold to the next."""
    values = np.stack([value for _, _, value in told])
    return float(np.abs(np.diff(values, axis=0)).max())
