"""Environment steps a second: the vectorised rollout against a bare loop over one environment.

    python benchmarks/rollout.py [--tasks mt10] [--steps 200] [--workers 0 1 2] [--cameras ...]

Both run a random policy; each figure is the best of three. The bare loop draws every picture of
every step, as `env.step` does; the rollout draws those that the policy will see, the last of each
chunk. Starting workers and building environments is not counted: they are kept from a first run.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from telic.envs import registry
from telic.envs.rendering import choose_backend
from telic.envs.rollout.baselines import RandomPolicy
from telic.envs.rollout.pool import open_pool
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig, run_rollouts

REPEATS = 3
SLOTS = 10  # environments alive at once, whatever the number of workers


def bare_loop(tasks: list[str], cameras: list[str], steps: int) -> float:
    """Return steps/s of `env.step` alone, resets included, one environment after the other."""
    rng = np.random.default_rng(0)
    seconds = 0.0
    for task in tasks:
        env = registry.make(task, cameras=cameras)
        env.reset(seed=0)  # the first picture of a scene is slow: not counted
        actions = np.stack([env.interface.action.sample(rng) for _ in range(steps)])
        tries = []
        for seed in range(REPEATS):
            began = time.perf_counter()
            env.reset(seed=seed)
            for action in actions:
                env.step(action)
            tries.append(time.perf_counter() - began)
        seconds += min(tries)
        env.close()
    return steps * len(tasks) / seconds


def rollout(
    tasks: list[str], cameras: list[str], steps: int, workers: int, execute_horizon: int
) -> float:
    """Return steps/s over all tasks at once, resets included, on warm environments."""
    env = registry.make(tasks[0], cameras=cameras)
    policy = RandomPolicy(interface=env.interface, action_horizon=8)
    env.close()
    config = RolloutConfig(max_steps=steps, stop_on_success=False, execute_horizon=execute_horizon)
    rates = []
    with open_pool(workers, SLOTS // max(1, workers)) as pool:
        for seed in range(1 + REPEATS):  # the first builds the environments: not counted
            jobs = [EpisodeJob(task=task, seed=seed) for task in tasks]
            began = time.perf_counter()
            taken = sum(result.steps for result in run_rollouts(jobs, policy, config, pool))
            rates.append(taken / (time.perf_counter() - began))
    return max(rates[1:])


def measure(tasks: list[str], cameras: list[str], steps: int, workers: list[int]) -> Table:
    """Return the table for one choice of cameras."""
    title = f"{len(cameras)} cameras 96x96" if cameras else "state only"
    table = Table("what runs", "steps/s", "x bare loop", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    bare = bare_loop(tasks, cameras, steps)
    table.add_row("bare loop, one environment", f"{bare:.0f}", "1.00")
    for execute_horizon in (1, 8):
        for count in workers:
            rate = rollout(tasks, cameras, steps, count, execute_horizon)
            where = f"{count} worker{'s' * (count != 1)}" if count else "in process"
            chunk = f"chunks of {execute_horizon}"
            table.add_row(f"rollout, {SLOTS} environments, {where}, {chunk}", f"{rate:.0f}",
                          f"{rate / bare:.2f}")  # fmt: skip
    return table


def machine() -> str:
    """Return the processor, the cores this process may use and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model or platform.processor()}, {cores} cores, {date.today().isoformat()}"


def main() -> None:
    """Print one table without cameras and one with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["mt10"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--picture-steps", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cameras", nargs="*", default=["corner4", "gripperPOV"])
    arguments = parser.parse_args()
    console = Console()
    tasks = registry.expand(arguments.tasks)
    console.print(machine(), highlight=False)
    console.print(measure(tasks, [], arguments.steps, arguments.workers))
    if arguments.cameras and choose_backend() is not None:
        steps = arguments.picture_steps
        console.print(measure(tasks, arguments.cameras, steps, arguments.workers))


if __name__ == "__main__":
    main()
