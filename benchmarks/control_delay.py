"""Success under control against the policy's latency, in a time of its own (load plays no part).

    python benchmarks/control_delay.py checkpoint [--tasks mt10] [--episodes 10] [--sampling 2]
        [--latency-ms 0 10 20 30 40 50] [--boundary-steps 0 1 2] [--execute-horizon 1]
    python benchmarks/control_delay.py checkpoint --delay-steps 0 2 4 8 --execute-horizon 4
        --prefixing none guided trained

The control daemon's own loop, requests, timeline and scenes; the chunk comes after the latency
given, or after that many control steps. An episode is a success if the task is solved within 200
steps, 2.5 s, holding included. Prefixing (policy/inference/prefix.py) needs chunks longer than the
delay and `execute_horizon` together, and `trained` a policy.prefix.max_delay of a step more than
the delay: when the policy is asked its observation is up to a step old.

Boundary jerk: the median norm of the second difference of the commands where one chunk follows
another, divided by the same inside of chunks. At 1 a chunk boundary does not show.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from telic.envs.evaluation.statistics import wilson_interval
from telic.envs.registry import expand
from telic.policy.inference_config import InferenceConfig, SamplingChoice
from telic.policy.policy import Policy
from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.control_process import LoopConfig
from telic.real_robot.inference_scheduler import WorkerConfig
from telic.real_robot.policy_worker import open_checkpoint
from telic.real_robot.replay import Timing, replay
from telic.real_robot.simulated import MetaWorldConfig, SimulatedScene
from telic.spec import ChunkPolicy

SEED = 400_000


@dataclass(slots=True)
class DelayResult:
    """Sums over the tasks of one setting."""

    successes: int = 0
    episodes: int = 0
    held_s: float = 0.0
    active_s: float = 0.0
    late_steps: int = 0
    chunks: int = 0
    jerks: list[float] = field(default_factory=list)  # of each task, boundaries over inside

    @property
    def jerk(self) -> str:
        """Return the median boundary jerk of the tasks, or a dash where no chunk ran for long."""
        return f"{median(self.jerks):.2f}" if self.jerks else "-"


def run(
    policy: ChunkPolicy,
    tasks: list[str],
    episodes: int,
    latency_ns: int,
    loop: LoopConfig,
    worker: WorkerConfig,
) -> DelayResult:
    """Return what came of `episodes` episodes of each task."""
    result = DelayResult()
    for task in tasks:
        clock = FakeClock(t_ns=NS)
        config = MetaWorldConfig(task=task, seed=SEED, max_steps=200)
        scene = config.build(policy.interface, clock)

        summary = replay(
            scene,
            policy,
            clock,
            Timing(latency_ns=lambda: latency_ns),
            loop=loop,
            worker=worker,
            watch=partial(_watch, scene, episodes),
        )
        result.successes += min(episodes, summary["robot"]["successes"])
        result.episodes += episodes
        result.held_s += summary["hold_s"].get("no fresh chunk", 0.0)
        result.active_s += summary["phase_s"]["ACTIVE"]
        result.late_steps += summary["steps"]["late"]
        result.chunks += summary["chunks"]["merged"]
        if summary["jerk"]["at_boundaries"] and summary["jerk"]["inside"]:
            result.jerks.append(summary["jerk"]["at_boundaries"] / summary["jerk"]["inside"])
    return result


def _watch(scene: SimulatedScene, episodes: int) -> tuple[str | None, str | None]:
    return None, "enough" if scene.report()["episodes"] > episodes else None


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint")
    parser.add_argument("--tasks", nargs="+", default=["mt10"])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--sampling", default="2")
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 10, 20, 30, 40, 50])
    parser.add_argument(
        "--delay-steps", type=int, nargs="+", help="control steps, in place of --latency-ms"
    )
    parser.add_argument("--boundary-steps", type=int, nargs="+", default=[0])
    parser.add_argument("--prefixing", nargs="+", default=[None])
    parser.add_argument("--execute-horizon", type=int, default=1)
    arguments = parser.parse_args()
    try:
        print_rows(arguments)
    except ValueError as error:
        parser.error(str(error))


def print_rows(arguments: argparse.Namespace) -> None:
    """Print one row for each setting, and then the table of all."""
    torch.set_num_threads(1)
    policy = open_checkpoint(
        arguments.checkpoint,
        inference=InferenceConfig(sampling=SamplingChoice(preset=arguments.sampling)),
    )
    assert isinstance(policy, Policy)
    latencies_ms = arguments.latency_ms
    if arguments.delay_steps is not None:
        step_ms = 1e3 / policy.interface.rate_hz
        latencies_ms = [steps * step_ms for steps in arguments.delay_steps]
    tasks = expand(arguments.tasks)
    console = Console(soft_wrap=True)
    table = Table(title=f"{len(tasks)} tasks, {arguments.sampling} denoising steps")
    columns = ("latency ms", "boundary steps", "prefixing", "success", "95 %", "held")
    for column in (*columns, "late steps a chunk", "boundary jerk"):
        table.add_column(column, justify="right")
    for prefixing in arguments.prefixing:  # before anything is run
        if prefixing is not None:
            policy.prefixer.use(prefixing)
    settings = itertools.product(latencies_ms, arguments.boundary_steps, arguments.prefixing)
    for latency_ms, boundary_steps, prefixing in settings:
        if prefixing is not None:
            policy.prefixer.use(prefixing)
        result = run(
            policy,
            tasks,
            arguments.episodes,
            round(latency_ms * 1e6),
            LoopConfig(boundary_steps=boundary_steps),
            WorkerConfig(execute_horizon=arguments.execute_horizon, seed=SEED),
        )
        low, high = wilson_interval(result.successes, result.episodes)
        held = result.held_s / (result.held_s + result.active_s)
        row = (
            f"{latency_ms:g}",
            f"{boundary_steps}",
            policy.prefixer.way.value,
            f"{result.successes} / {result.episodes}",
            f"{low:.2f} - {high:.2f}",
            f"{held:.0%}",
            f"{result.late_steps / max(1, result.chunks):.1f}",
            result.jerk,
        )
        console.print("  ".join(row), style="dim")
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
