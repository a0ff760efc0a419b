"""`collect-demos`: scripted experts -> an episode store of successful demonstrations."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from telic.configs.launch import launch
from telic.datasets.language import Segment
from telic.datasets.layout import STORE
from telic.datasets.store import EpisodeStore
from telic.envs import registry
from telic.envs.rollout.collection_log import (
    ATTEMPTS,
    CRASHED,
    FAILED,
    KEPT,
    Attempt,
    CollectionLog,
    Quota,
)
from telic.envs.rollout.demos import DemoJob, Demonstration, Stretch, demonstrations, interface_of
from telic.envs.rollout.env_worker import Crashed, EnvChoice
from telic.envs.rollout.pool import Pool, open_pool
from telic.envs.rollout.scene import SCENE, scene_spec, split_scene
from telic.envs.task import StateChoice
from telic.ranges import LAST_SEED, require_range, require_text
from telic.replacement import Replacement
from telic.spec import ArraySpec, Interface

_ANNOTATED = 1  # the stream from which it is drawn what is labelled
STDERR = Console(stderr=True, markup=False)
STDOUT = Console(soft_wrap=True, markup=False)


class EpisodeSentences(Enum):
    """Which sentences an episode is labelled with."""

    canonical = "canonical"  # the task's first
    one = "one"  # one of the task's, drawn for each episode
    all = "all"  # all of the task's: training draws one each time it sees a step


class EpisodeKind(Enum):
    """What an episode of a family (`env`) is."""

    tasks = "tasks"  # one of its tasks
    play = "play"  # its tasks one after the other, as they come


@dataclass(kw_only=True, slots=True)
class CollectConfig:
    """Which demonstrations, and where they go."""

    tasks: list[str] | None = None  # tags or task names; None: those of `env`, or mt10
    env: str | None = None  # a family instead, such as playtable: all its tasks, or its play
    mode: EpisodeKind = EpisodeKind.tasks  # what an episode of `env` is
    # scenes of a family with several, taken in turn
    scenes: list[str] = field(default_factory=list)
    annotated: float = 1.0  # share of the tasks done in play that are labelled
    out: str = "runs/demo/demos.zarr"  # the episode store to write
    # successful episodes of each task; failed ones are counted and dropped
    episodes_per_task: int = 25
    seed: int = 1  # seed of the first attempt; attempt k has seed + k
    state: StateChoice = StateChoice.full  # what the field `state` holds
    scene: bool = False  # record what else the simulator knows as `scene`, with state=robot
    cameras: list[str] = field(default_factory=list)  # names of cameras to record, [] for none
    # height and width of the pictures, pixels
    image_size: list[int] = field(default_factory=lambda: [96, 96])
    # which sentences an episode is labelled with
    phrasings: EpisodeSentences = EpisodeSentences.all
    steps_after_success: int = 20  # steps recorded once the task is done
    max_steps: int | None = None  # steps of an episode; None: 200, or what the tasks' family says
    max_attempts: int | None = None  # attempts at a task; None: 4 x episodes_per_task
    num_workers: int = 2  # simulator processes; 0 simulates in this one
    overwrite: bool = False  # replace what is at `out`
    resume: bool = False  # go on with what is at `out`, if anything is

    def __post_init__(self) -> None:
        require_text(self, "out", "env")
        require_range(self, "episodes_per_task", "max_steps", "max_attempts", at_least=1)
        require_range(self, "annotated", at_least=0, at_most=1)
        require_range(self, "steps_after_success", "num_workers", at_least=0)
        require_range(self, "seed", at_least=0, at_most=LAST_SEED)
        if self.mode is EpisodeKind.play and self.env is None:
            raise ValueError("mode=play needs a family that plays; give env=playtable")
        if self.tasks is not None and self.env is not None:
            raise ValueError(
                f"tasks={self.tasks} and env={self.env} contradict each other; single tasks of a "
                f"family are tasks=[{self.env}/...]"
            )
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size={self.image_size} must be [height, width] in pixels")
        if self.max_attempts is not None and self.max_attempts < self.episodes_per_task:
            raise ValueError(
                f"max_attempts={self.max_attempts} must be >= "
                f"episodes_per_task={self.episodes_per_task}"
            )
        if self.scene and self.state is not StateChoice.robot:
            raise ValueError(
                f"scene=true records beside the robot's own state; add state=robot (it is "
                f"{self.state.value})"
            )
        if self.overwrite and self.resume:
            raise ValueError("overwrite=true and resume=true contradict each other")
        self.task_ids()

    def task_ids(self) -> list[str]:
        """Return the ids of the tasks; ValueError with near misses for an unknown one."""
        if self.env is None:
            return registry.expand(["mt10"] if self.tasks is None else self.tasks)
        return registry.expand([f"{self.env}/play" if self.mode is EpisodeKind.play else self.env])

    def plan(self) -> dict[str, Any]:
        """Return what decides the store's content, as JSON data."""
        return {
            "tasks": self.task_ids(),
            "scenes": list(self.scenes),
            "annotated": self.annotated,
            "episodes_per_task": self.episodes_per_task,
            "seed": self.seed,
            "state": self.state.value,
            "cameras": list(self.cameras),
            "image_size": list(self.image_size),
            "phrasings": self.phrasings.value,
            "steps_after_success": self.steps_after_success,
            "max_steps": self.max_steps,
            "max_attempts": self.max_attempts or 4 * self.episodes_per_task,
            **({"scene": True} if self.scene else {}),
        }


def run(config: CollectConfig) -> list[Attempt]:
    """Fill the store at `config.out` and return every attempt made for it, also earlier ones.

    ValueError, after all else is written, if a task lacks episodes at its last attempt.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        collection = _Collection(config, stack)
        try:
            collection.collect(stack)
        except KeyboardInterrupt:
            kept = collection.store.num_episodes
            STDERR.print(f"{config.out}: {kept} episodes are kept; resume=true goes on from there")
            raise
    _show(collection, time.monotonic() - began)
    _require_quota(collection)
    return collection.log.attempts


class _Collection:
    """The store, the log beside it and the quota that both work off."""

    def __init__(self, config: CollectConfig, stack: ExitStack) -> None:
        plan = config.plan()
        self.config = config
        self.quota = Quota(
            tasks=tuple(plan["tasks"]),
            episodes_per_task=config.episodes_per_task,
            max_attempts=plan["max_attempts"],
        )
        self._wanted = len(self.quota.tasks) * config.episodes_per_task
        self._pool: Pool | None = None
        self._unmet = False  # whether the store there is still to be held against the environments
        out = Path(config.out)
        log_path = out.with_name(f"{out.name}.collect.jsonl")
        if out.exists() and config.resume:
            self.store = stack.enter_context(EpisodeStore.open(out, "a"))
            self.log = CollectionLog.resume(log_path, plan, self.store.num_episodes)
            self._unmet = True
            return
        ways = "resume=true goes on with it, overwrite=true"
        Replacement(out, STORE, overwrite=config.overwrite, by=ways).require()
        # beside a store that is gone, too
        Replacement(log_path, ATTEMPTS, overwrite=True).require()
        interface = _robot(self.quota.tasks, config, self._workers(stack))
        fields = _fields(interface)
        if config.scene:
            full = _common_interface(self.quota.tasks, config, self._workers(stack))
            fields[SCENE] = scene_spec(full.state, interface.state)
        self.store = stack.enter_context(
            _new_store(out, interface, fields, self.quota.tasks, config)
        )
        self.log = CollectionLog(log_path, plan, [])

    def collect(self, stack: ExitStack) -> None:
        """Work through the rounds; what the log already has is not made again."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        progress = stack.enter_context(
            Progress(*columns, TimeRemainingColumn(), console=STDERR, transient=True)
        )
        bar = progress.add_task("", total=self._wanted, completed=self.store.num_episodes)
        settled = 0
        while todo := self.quota.next_round(self.log.attempts[:settled]):
            known = self.log.attempts[settled : settled + len(todo)]
            settled += len(todo)
            todo = todo[len(known) :]
            if not todo:
                continue
            self._require_same_robot(stack)
            jobs = [_job(task, number, self.config) for task, number in todo]
            made = demonstrations(jobs, self._workers(stack))
            for (task, number), (_, report) in zip(todo, made, strict=True):
                self._settle(task, number, report)
                progress.update(bar, completed=self.store.num_episodes, description=task)

    def _require_same_robot(self, stack: ExitStack) -> None:
        """Raise ValueError where the store that was there means other numbers than the tasks."""
        if self._unmet:
            interface = _robot(self.quota.tasks, self.config, self._workers(stack))
            mine, theirs = f"store {self.store.path}", f"task {self.quota.tasks[0]}"
            self.store.interface.require(interface, mine, theirs)
            self._unmet = False

    def _workers(self, stack: ExitStack) -> Pool:
        """Return the pool, started when it is first needed."""
        if self._pool is None:
            num_workers = min(self.config.num_workers, self._wanted)
            self._pool = stack.enter_context(open_pool(num_workers, 1))
        return self._pool

    def _settle(self, task: str, number: int, report: Demonstration | Crashed) -> None:
        """Log the attempt, and store the episode if it succeeded."""
        seed = self.config.seed + number
        if isinstance(report, Crashed):
            outcome, steps, reason = CRASHED, 0, report.reason
        else:
            outcome = KEPT if report.first_success_step is not None else FAILED
            steps, reason = report.steps, ""
        attempt = Attempt(
            task=task, number=number, seed=seed, outcome=outcome, steps=steps, reason=reason
        )
        self.log.add(attempt)
        if isinstance(report, Demonstration) and outcome == KEPT:
            data = report.data
            if self.config.scene:
                data = split_scene(data, self.store.fields[SCENE])
            self.store.append(data, _segments(task, report, seed, self.config))


def _segments(task: str, report: Demonstration, seed: int, config: CollectConfig) -> list[Segment]:
    """Return the labels of an episode: of all of it, or of the tasks done in it."""
    whole = [Stretch(0, report.steps, task)]
    family = registry.entry(task).task_id.split("/")[0]
    play = [s._replace(task=f"{family}/{s.task}") for s in report.stretches]
    drawn = np.random.default_rng([seed, _ANNOTATED]).random(len(play))
    annotated = [s for s, share in zip(play, drawn, strict=True) if share < config.annotated]
    return [
        Segment(start=start, end=end, instruction=text, task=registry.entry(done).task_id)
        for start, end, done in (annotated if play else whole)
        for text in _sentences(registry.entry(done), config.phrasings, seed)
    ]


def _sentences(entry: registry.TaskEntry, phrasings: EpisodeSentences, seed: int) -> list[str]:
    """Return the sentences of the episode with this seed."""
    sentences = list(entry.instructions)
    if phrasings is EpisodeSentences.all:
        return sentences
    drawn = 0
    if phrasings is EpisodeSentences.one:
        rng = np.random.default_rng([seed, zlib.crc32(entry.task_id.encode())])
        drawn = int(rng.integers(len(sentences)))
    return [sentences[drawn]]


def _job(task: str, number: int, config: CollectConfig) -> DemoJob:
    height, width = config.image_size
    choice = EnvChoice(
        task=task,
        cameras=tuple(config.cameras),
        image_size=(height, width),
        max_steps=config.max_steps or registry.entry(task).demo_steps,
        kwargs=_env_kwargs(config, number),
    )
    return DemoJob(
        choice=choice, seed=config.seed + number, steps_after_success=config.steps_after_success
    )


def _env_kwargs(config: CollectConfig, number: int) -> tuple[tuple[str, Any], ...]:
    """Return what attempt `number` of a task is made with besides cameras and limit."""
    kwargs: dict[str, Any] = {}
    if config.state is not StateChoice.full and not config.scene:
        kwargs["state"] = config.state.value
    if config.scenes:
        kwargs["scene"] = config.scenes[number % len(config.scenes)]
    return tuple(kwargs.items())


def _robot(tasks: tuple[str, ...], config: CollectConfig, pool: Pool) -> Interface:
    """Return the interface that the store has: where the scene is apart, that of `state`."""
    return _common_interface(tasks, replace(config, scene=False), pool)


def _common_interface(tasks: tuple[str, ...], config: CollectConfig, pool: Pool) -> Interface:
    """Return the tasks' interface, as one task of each family has it in each of the scenes.

    ValueError if they differ, or there is no such scene.
    """
    families = {registry.entry(task).task_id.split("/")[0]: task for task in reversed(tasks)}
    found = {
        (task, number): interface_of(_job(task, number, config).choice, pool)
        for task in reversed(families.values())
        for number in range(max(1, len(config.scenes)))
    }
    first, *others = ((task, interface) for (task, _), interface in found.items())
    for task, interface in others:
        if interface != first[1]:
            first[1].require(interface, f"task {first[0]}", f"task {task}")
            raise ValueError(f"{first[0]} and {task} have different robots; collect them apart")
    return first[1]


def _new_store(
    out: Path,
    interface: Interface,
    fields: Mapping[str, ArraySpec],
    tasks: tuple[str, ...],
    config: CollectConfig,
) -> EpisodeStore:
    """Return an empty store that says where its demonstrations come from."""
    entries = [registry.entry(task) for task in tasks]
    return EpisodeStore.create(
        out,
        fields,
        rate_hz=interface.rate_hz,
        robot=_listed(entry.robot for entry in entries),
        task_family=_listed(entry.task_id.split("/")[0] for entry in entries),
        licence=_listed(entry.licence for entry in entries),
        source=_listed(entry.source for entry in entries),
        overwrite=config.overwrite,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names) - {""}))


def _fields(interface: Interface) -> dict[str, ArraySpec]:
    """Return the store's fields."""
    images = {f"image/{camera}": spec for camera, spec in interface.images.items()}
    return {
        "state": interface.state,
        "action": interface.action,
        "timestamp_ns": ArraySpec(shape=(), dtype="int64", unit="ns", note="since episode start"),
        **images,
    }


def _show(collection: _Collection, seconds: float) -> None:
    """Print what was collected."""
    table = Table("task", "episodes", "failed", "crashed", "mean steps")
    for column in table.columns[1:]:
        column.justify = "right"
    for task in collection.quota.tasks:
        tried = [attempt for attempt in collection.log.attempts if attempt.task == task]
        kept = [attempt.steps for attempt in tried if attempt.outcome == KEPT]
        counts = [sum(a.outcome == outcome for a in tried) for outcome in (FAILED, CRASHED)]
        mean = f"{np.mean(kept):.0f}" if kept else "-"
        table.add_row(task, str(len(kept)), *(str(count) for count in counts), mean)
    STDOUT.print(table)
    store = collection.store
    STDOUT.print(
        f"{store.num_episodes} episodes, {store.num_steps} steps in {store.path} ({seconds:.1f} s)",
        highlight=False,
    )


def _require_quota(collection: _Collection) -> None:
    """Raise ValueError naming the tasks that lack episodes."""
    lacking = []
    for task in collection.quota.tasks:
        tried = [attempt for attempt in collection.log.attempts if attempt.task == task]
        kept = sum(attempt.outcome == KEPT for attempt in tried)
        if kept < collection.quota.episodes_per_task:
            lacking.append(f"{task} has {kept} of {collection.quota.episodes_per_task}")
            reasons = sorted({attempt.reason for attempt in tried} - {""})
            lacking += [f"it crashed with {reason}" for reason in reasons[:1]]
    if lacking:
        raise ValueError(
            f"{collection.store.path}: too few demonstrations after {collection.quota.max_attempts}"
            f" attempts a task: {'; '.join(lacking)}; the other tasks are complete"
        )


def main() -> None:
    """Run the command."""
    launch(CollectConfig, run, "collect")


if __name__ == "__main__":
    main()
