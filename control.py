"""`control-daemon`: a checkpoint and a robot in, a closed loop in real time out.

    control-daemon checkpoint=runs/demo/checkpoints/best robot=metaworld task=drawer-open-v3

Ends after `duration_s`, or on Ctrl-C or SIGTERM with the robot in its safe state. Exit status: 0
when the time was up, 130 / 143 after a signal, 1 after a fault or where `out` could not be written,
2 when the input is at fault: then nothing has moved.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console

from telic.configs.launch import launch
from telic.policy.inference_config import InferenceKeys
from telic.ranges import require_range
from telic.real_robot.control_process import LoopConfig
from telic.real_robot.daemon import DaemonConfig, supervise
from telic.real_robot.goal import ControlGoal
from telic.real_robot.inference_scheduler import WorkerConfig
from telic.real_robot.policy_worker import open_checkpoint
from telic.real_robot.robot import robot_config
from telic.real_robot.safety import SafetyConfig
from telic.real_robot.summary import render
from telic.real_robot.summary_file import SummaryFile
from telic.yaml_files import plain

STDERR = Console(stderr=True, soft_wrap=True, markup=False)


@dataclass(kw_only=True, slots=True)
class ControlConfig(InferenceKeys):
    """Which policy on which robot, for how long."""

    checkpoint: str = ""  # a checkpoint directory
    robot: str = "metaworld"  # a robot by name (metaworld, arm), or module:Config of your own
    task: str | None = None  # task, of a robot that has tasks
    robot_options: dict[str, Any] = field(default_factory=dict)  # options of the robot's own config
    embodiment: str | None = None  # robot, of a policy trained for several; None: the first
    goal: ControlGoal = field(default_factory=ControlGoal)
    duration_s: float | None = 10.0  # length of the run; None: until stopped
    # steps after which a new chunk is asked for; 1: as soon as the policy is free
    execute_horizon: int = 1
    seed: int = 300_000  # seed of the scene's starts and of the policy's noise
    device: str = "auto"  # device of the policy: auto, cpu, cuda
    threads: int = 1  # CPU threads of the policy
    loop: LoopConfig = field(default_factory=LoopConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    out: str | None = "runs/control.json"  # file of the summary; None: nowhere
    overwrite: bool = False  # replace the summary of an earlier run; another file never is

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ValueError(
                "checkpoint is missing; give one: checkpoint=runs/demo/checkpoints/best"
            )
        try:
            require_range(self, "duration_s", above=0, at_most=1e9)
        except ValueError as error:
            raise ValueError(f"{error}; duration_s=null: until stopped") from None
        require_range(self, "anchors", "threads", "execute_horizon", at_least=1)
        require_range(self, "temperature", at_least=0)
        require_range(self, "seed", at_least=0, at_most=2**31)
        if self.out is not None and not self.out.strip():
            raise ValueError("out is empty; give a file, or out=null for none")


def run(config: ControlConfig) -> dict[str, Any]:
    """Control the robot as `config` says; return the summary, which is also in `out`.

    What can be refused is refused before the robot is touched. Of a summary that cannot be written
    at the end, "unwritten" says why.
    """
    options = config.robot_options | ({} if config.task is None else {"task": config.task})
    pictures = config.goal.pictures()
    robot = robot_config(config.robot, options, defaults={"seed": config.seed})
    with SummaryFile(config.out, config.overwrite) as out:
        summary = supervise(
            robot,
            partial(
                open_checkpoint,
                config.checkpoint,
                device=config.device,
                inference=config.inference(),
                threads=config.threads,
                embodiment=config.embodiment,
            ),
            DaemonConfig(
                loop=config.loop,
                safety=config.safety,
                worker=WorkerConfig(execute_horizon=config.execute_horizon, seed=config.seed),
                duration_s=config.duration_s,
            ),
            names=(f"checkpoint {config.checkpoint}", f"robot {config.robot}"),
            goal=config.goal.text,
            goal_images=pictures,
            report=STDERR.print,
        )
        summary["config"] = plain(config)
        if (problem := out.write(summary)) is not None:
            summary["unwritten"] = problem
    return summary


def run_and_show(config: ControlConfig) -> None:
    """Run, print the summary, and end with the status that it deserves."""
    summary = run(config)
    unwritten = summary.get("unwritten")
    with suppress(OSError):  # the terminal may be gone; the status is not
        Console().print(render(summary))
        if config.out is not None:
            STDERR.print(f"summary: {config.out}" if unwritten is None else f"error: {unwritten}")
    if summary["ended"]["failed"]:
        sys.exit(1)
    if summary["ended"]["signal"] is not None:
        raise KeyboardInterrupt(signal.Signals[summary["ended"]["signal"]])
    if unwritten is not None:
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    launch(ControlConfig, run_and_show, "control")


if __name__ == "__main__":
    main()
