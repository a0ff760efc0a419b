"""Success under control against the policy's latency, in a time of its own (load plays no part).

    python benchmarks/control_delay.py checkpoint [--tasks mt10] [--episodes 10] [--sampling 2]
        [--latency-ms 0 10 20 30 40 50] [--seam-steps 0 1 2] [--execute-horizon 1]

The control daemon's own loop, requests, timeline and scenes; the chunk comes after the latency
given. An episode is a success if the task is solved within 200 steps, 2.5 s, holding included.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from telic.envs.registry import expand
from telic.envs.statistics import wilson_interval
from telic.real_robot.clock import NS, FakeClock
from telic.real_robot.control_process import LoopConfig
from telic.real_robot.policy_worker import open_checkpoint
from telic.real_robot.replay import Timing, replay
from telic.real_robot.requests import WorkerConfig
from telic.real_robot.simulated import MetaWorldConfig, SimulatedScene
from telic.spec import ChunkPolicy

SEED = 400_000


@dataclass(slots=True)
class Outcome:
    """Sums over the tasks of one setting."""

    successes: int = 0
    episodes: int = 0
    held_s: float = 0.0
    active_s: float = 0.0
    late_steps: int = 0
    used_steps: int = 0


def run(
    policy: ChunkPolicy,
    tasks: list[str],
    episodes: int,
    latency_ns: int,
    loop: LoopConfig,
    worker: WorkerConfig,
) -> Outcome:
    """Return what came of `episodes` episodes of each task."""
    outcome = Outcome()
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
        outcome.successes += min(episodes, summary["robot"]["successes"])
        outcome.episodes += episodes
        outcome.held_s += summary["hold_s"].get("no fresh chunk", 0.0)
        outcome.active_s += summary["phase_s"]["ACTIVE"]
        outcome.late_steps += summary["steps"]["late"]
        outcome.used_steps += summary["steps"]["used"]
    return outcome


def _watch(scene: SimulatedScene, episodes: int) -> tuple[str | None, str | None]:
    return None, "enough" if scene.report()["episodes"] > episodes else None


def main() -> None:
    """Print one row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint")
    parser.add_argument("--tasks", nargs="+", default=["mt10"])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--sampling", default="2")
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0, 10, 20, 30, 40, 50])
    parser.add_argument("--seam-steps", type=int, nargs="+", default=[0])
    parser.add_argument("--execute-horizon", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = open_checkpoint(arguments.checkpoint, sampling=arguments.sampling)
    tasks = expand(arguments.tasks)
    console = Console(soft_wrap=True)
    table = Table(title=f"{len(tasks)} tasks, {arguments.sampling} denoising steps")
    for column in ("latency ms", "seam steps", "success", "95 %", "held", "late / used steps"):
        table.add_column(column, justify="right")
    for latency_ms in arguments.latency_ms:
        for seam_steps in arguments.seam_steps:
            outcome = run(
                policy,
                tasks,
                arguments.episodes,
                round(latency_ms * 1e6),
                LoopConfig(seam_steps=seam_steps),
                WorkerConfig(execute_horizon=arguments.execute_horizon, seed=SEED),
            )
            low, high = wilson_interval(outcome.successes, outcome.episodes)
            held = outcome.held_s / (outcome.held_s + outcome.active_s)
            row = (
                f"{latency_ms:g}",
                f"{seam_steps}",
                f"{outcome.successes} / {outcome.episodes}",
                f"{low:.2f} - {high:.2f}",
                f"{held:.0%}",
                f"{outcome.late_steps / max(1, outcome.used_steps):.1f}",
            )
            console.print("  ".join(row), style="dim")
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
