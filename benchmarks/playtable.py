"""PlayTable's steps a second: no cameras, both cameras at CALVIN's sizes, all cores at once.

    python benchmarks/playtable.py [--scene D] [--episodes 6] [--workers N] [--repeats 3]

What runs is `env.step` on actions that experts took before: observation and success included, the
experts themselves not. Each figure is the best of the repeats; steps per second of processor time
say what one core would do with nothing else running.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from telic.envs import registry
from telic.envs.playtable.layout import CAMERAS
from telic.envs.playtable.tasks import TASKS
from telic.envs.rendering import choose_backend
from telic.envs.task import TaskEnv
from telic.spec import Array

STEPS = 60  # of each episode
Episode = tuple[TaskEnv, int, Array]  # environment, seed, actions
Rates = tuple[float, float]  # steps per second that passes, per second of processor time


def record(tasks: list[str], scene: str) -> list[Episode]:
    """Return one expert's episode of each task, in an environment of its own."""
    episodes = []
    for seed, task in enumerate(tasks):
        env = registry.make(f"playtable/{task}", scene=scene)
        obs, _ = env.reset(seed=seed)
        expert = env.expert()
        actions = []
        for _ in range(STEPS):
            actions.append(expert.act(obs))
            obs = env.step(actions[-1])[0]
        episodes.append((env, seed, np.stack(actions)))
    return episodes


def replay(episodes: list[Episode], after_step: Callable[[TaskEnv], object]) -> Rates:
    """Return how fast the episodes go; resets are not counted. `look` follows each step."""
    passed = busy = 0.0
    for env, seed, actions in episodes:
        env.reset(seed=seed)
        after_step(env)  # the first picture of a scene is slow
        began, began_busy = time.perf_counter(), time.process_time()
        for action in actions:
            env.step(action)
            after_step(env)
        passed += time.perf_counter() - began
        busy += time.process_time() - began_busy
    steps = sum(len(actions) for _, _, actions in episodes)
    return steps / passed, steps / busy


def pictures(env: TaskEnv) -> None:
    """Draw what CALVIN's two cameras see, at their sizes."""
    for camera, facts in CAMERAS.items():
        env.picture(camera, facts.size)


def nothing(env: TaskEnv) -> None:
    """Draw nothing."""


def best(episodes: list[Episode], after_step: Callable[[TaskEnv], object], repeats: int) -> Rates:
    """Return the best rates of several replays."""
    rates = [replay(episodes, after_step) for _ in range(repeats)]
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)


def work(tasks: list[str], scene: str, with_cameras: bool, repeats: int) -> float:
    """Return steps/s of one of several processes that run at the same time."""
    return best(record(tasks, scene), pictures if with_cameras else nothing, repeats)[0]


def machine() -> str:
    """Return the processor, the cores this process may use and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), None)
    return f"{model or platform.processor()}, {os.cpu_count()} cores, {date.today().isoformat()}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", default="D")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tasks = list(TASKS)[:: max(1, len(TASKS) // arguments.episodes)][: arguments.episodes]
    table = Table("what runs", "steps/s", "steps/s of processor time", title=machine())
    for column in table.columns[1:]:
        column.justify = "right"
    draws = [False] + [True] * (choose_backend() is not None)
    episodes = record(tasks, arguments.scene)
    for with_cameras in draws:
        rates = best(episodes, pictures if with_cameras else nothing, arguments.repeats)
        name = "one core, both cameras" if with_cameras else "one core, no cameras"
        table.add_row(name, *(f"{rate:.0f}" for rate in rates))
    context = multiprocessing.get_context("spawn")
    for with_cameras in draws:
        settings = [(tasks, arguments.scene, with_cameras, arguments.repeats)] * arguments.workers
        with context.Pool(arguments.workers) as pool:
            rate = sum(pool.starmap(work, settings))
        name = f"{arguments.workers} processes, {'both' if with_cameras else 'no'} cameras"
        table.add_row(name, f"{rate:.0f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
