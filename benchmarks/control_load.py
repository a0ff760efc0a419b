"""How well the control loop keeps its rate beside other work, as any process and in real time.

    python benchmarks/control_load.py [--control-hz 500] [--seconds 6] [--busy 0 4] [--work-ms 5]

The daemon with its own processes drives the simulated arm by a policy that computes for `work-ms`
a chunk; `busy` other processes want a core each. One row for each of loop.priority=0 and null (50
where the right to it is there).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from telic.real_robot.control_process import LoopConfig
from telic.real_robot.daemon import DaemonConfig, supervise
from telic.real_robot.simulated_arm import ArmConfig, arm_interface
from telic.spec import ActionChunk, ActRequest, Interface


class Working:
    """A policy that goes half of the way to the goal at each step, after so much work."""

    def __init__(self, work_s: float) -> None:
        self.interface: Interface = arm_interface()
        self.obs_horizon, self.action_horizon = 1, 8
        self.work_s = work_s

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one chunk per request, after `work_s` of computing."""
        matrix = np.ones((64, 64), np.float32)
        until = time.perf_counter() + self.work_s
        while time.perf_counter() < until:
            matrix = matrix @ matrix / 64
        return [self._chunk(request) for request in requests]

    def _chunk(self, request: ActRequest) -> ActionChunk:
        state = request.observation.state[-1]
        share = 1 - 0.5 ** np.arange(1, self.action_horizon + 1)[:, None]
        return ActionChunk(
            actions=(state[:2] + share * (state[4:] - state[:2])).astype(np.float32),
            t_obs_ns=request.observation.t_obs_ns,
            dt_ns=round(1e9 / self.interface.rate_hz),
        )


@dataclass
class OpenWorking:
    """What the policy worker calls."""

    work_s: float

    def __call__(self) -> Working:
        return Working(self.work_s)


def keep_busy() -> None:
    """Want a core, for as long as the parent runs."""
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(100_000))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--control-hz", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--work-ms", type=float, default=5.0)
    arguments = parser.parse_args()
    table = Table(
        "busy", "priority", "ticks missed", "lag p50 / p99 / p99.9 / max ms", "chunk ms", "load"
    )
    for busy in arguments.busy:
        others = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(busy)]
        for other in others:
            other.start()
        for priority in (0, None):
            summary = supervise(
                ArmConfig(control_hz=arguments.control_hz),
                OpenWorking(arguments.work_ms / 1e3),
                DaemonConfig(loop=LoopConfig(priority=priority), duration_s=arguments.seconds),
            )
            lag = " / ".join(f"{value:.3f}" for value in summary["lag_ms"].values())
            total = summary["ticks"] + summary["missed_ticks"]
            table.add_row(
                str(busy),
                summary["realtime"].split(",")[0],
                f"{summary['missed_ticks']} of {total}",
                lag,
                f"{summary['latency_ms']['median']:.1f}",
                f"{os.getloadavg()[0]:.1f}",
            )
        for other in others:
            other.kill()
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
