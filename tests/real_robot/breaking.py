"""Policies and arms that break on purpose, in the processes that the daemon starts."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telic.real_robot.clock import Clock
from telic.real_robot.robot import Reading
from telic.real_robot.simulated_arm import ArmConfig, SimulatedArm
from telic.spec import ActionChunk, ActRequest, Array, Interface
from telic.tests.real_robot.reaching import Reaching


class BreakingPolicy(Reaching):
    """Does `how` at its call number `at_call`."""

    def __init__(self, how: str, at_call: int) -> None:
        super().__init__(latency_s=0.005)
        self.how, self.at_call = how, at_call

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        chunks = super().act_batch(requests)
        if self.calls == self.at_call:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "raise":
                raise RuntimeError("out of thoughts")
            elif self.how == "hang":
                time.sleep(60)
            elif self.how == "nan":
                chunks[0].actions[1, 0] = np.nan
        return chunks


@dataclass
class OpenBreaking:
    """What the worker calls. how: kill, raise, hang, nan; refuse or crash instead of opening."""

    how: str
    at_call: int = 30

    def __call__(self) -> Reaching:
        if self.how == "refuse":
            raise ValueError("no such checkpoint")
        if self.how == "crash":
            raise RuntimeError("the weights melted")
        return BreakingPolicy(self.how, self.at_call)


class BreakingArm(SimulatedArm):
    """Does `how` at its command number `at_command`; leaves a file when it was stopped at rest."""

    def __init__(self, config: "BreakingArmConfig", clock: Clock) -> None:
        super().__init__(config, clock)
        self._config = config
        self._commands = 0

    def connect(self) -> None:
        super().connect()
        if self._config.how == "connect":
            raise OSError("no route to the arm")

    def read(self) -> Reading:
        self._raise_in("read")
        reading = super().read()
        if self._config.how == "fault" and self._commands >= self._config.at_command:
            return Reading(state=reading.state, t_obs_ns=reading.t_obs_ns, fault="joint 1 hot")
        return reading

    def command(self, action: Array) -> None:
        super().command(action)
        self._commands += 1
        if self._commands == self._config.at_command:
            if self._config.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self._config.how == "hang":
                time.sleep(60)
        self._raise_in("command")

    def hold(self) -> Array:
        self._raise_in("hold")
        return super().hold()

    def stop(self) -> None:
        super().stop()
        Path(self._config.stopped_file).write_text(str(self.report()["final_speed_rad_s"]))
        self._raise_in("stop")

    def _raise_in(self, method: str) -> None:
        if self._commands >= self._config.at_command and method in self._config.raising:
            raise ValueError(f"a bug in\n{method}")


@dataclass(kw_only=True, slots=True)
class BreakingArmConfig(ArmConfig):
    """how: nothing, kill, hang, fault, connect. `raising`: methods that raise from then on."""

    how: str = "nothing"
    raising: tuple[str, ...] = ()
    at_command: int = 50
    stopped_file: str = "stopped"

    def build(self, needs: Interface, clock: Clock) -> BreakingArm:
        return BreakingArm(self, clock)
