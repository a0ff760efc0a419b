"""A policy in many environments at once: one batched call answers all that need a chunk.

All live episodes advance in lockstep, a chunk at a time. So the batches, like the episodes
themselves, do not depend on which worker was faster.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from telic.envs import registry
from telic.envs.rollout.env_worker import Crashed, EnvChoice, Refused, Report
from telic.envs.rollout.episode import Advance, Begin, Progress
from telic.envs.rollout.goals import EpisodeGoals
from telic.envs.rollout.pool import Pool, open_pool
from telic.envs.rollout.video import Film, film_at
from telic.ranges import require_range
from telic.spec import (
    ActionChunk,
    ActRequest,
    Array,
    ChunkPolicy,
    Goal,
    Interface,
    ManyRobots,
    Observation,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeJob:
    """One episode to run. instruction None: the task's canonical one; video: where an mp4 goes.

    start: the seed of scene and noise, where several episodes of a task begin alike; None: `seed`,
    by which the episodes of a task are told apart.
    """

    task: str
    seed: int
    instruction: str | None = None
    video: Path | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)  # e.g. {"state": "robot"}
    start: int | None = None

    @property
    def start_seed(self) -> int:
        """What the scene and the policy's noise are drawn from."""
        return self.seed if self.start is None else self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeResult:
    """How an episode went. A crashed one says why and is neither a success nor a failure.

    first_success_step: actions taken when success was first seen. policy_latency_ms: for each
    chunk, the duration of the batched call that it came from. solution: which one it took, of a
    task with several. goal_steps: of a task with several goals in a row, the actions taken when
    each was reached; instruction is then the last one's. goals_unreached: how many of the pictures
    that it was given as goals show a scene in which no expert has reached the goal.
    """

    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    first_success_step: int | None
    crashed: str | None
    policy_latency_ms: list[float]
    wall_s: float
    video: Path | None = None
    solution: str | None = None
    goal_steps: list[int] = field(default_factory=list)
    film_failure: str | None = None  # why there is no video, where one was asked for
    goals_unreached: int = 0


def crash_list(results: Iterable[EpisodeResult], limit: int = 3) -> str:
    """Return "task, seed: reason; ..." of the crashed ones among `results`, the first `limit`."""
    crashed = [result for result in results if result.crashed is not None]
    listed = [f"{result.task}, seed {result.seed}: {result.crashed}" for result in crashed[:limit]]
    more = [f"and {len(crashed) - limit} more"] if len(crashed) > limit else []
    return "; ".join([*listed, *more])


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """How episodes are run."""

    num_workers: int = 2  # processes; 0 runs everything in this one
    envs_per_worker: int = 10
    execute_horizon: int | None = None  # actions run of each chunk; None: all
    max_steps: int | None = None  # per episode; None: the task's own limit
    stop_on_success: bool = True
    timeout_s: float = 300.0  # for one chunk in one environment, then its worker counts as dead
    video_camera: str | None = None  # None: the task's own for films
    video_height: int = 240  # pixels, even
    video_width: int = 320
    video_fps: float = 20.0

    def __post_init__(self) -> None:
        counts = ("envs_per_worker", "execute_horizon", "max_steps", "video_height", "video_width")
        require_range(self, *counts, at_least=1, prefix="rollout.")
        require_range(self, "timeout_s", "video_fps", above=0, prefix="rollout.")
        require_range(self, "num_workers", at_least=0, prefix="rollout.")
        if self.video_height % 2 or self.video_width % 2:
            raise ValueError(
                f"rollout.video_height={self.video_height} and video_width={self.video_width} "
                "must be even"
            )


def run_rollouts(
    jobs: Iterable[EpisodeJob],
    policy: ChunkPolicy,
    config: RolloutConfig,
    pool: Pool | None = None,
    goals: EpisodeGoals | None = None,
) -> Iterator[EpisodeResult]:
    """Return an iterator of results, in the order the episodes finish; nothing runs before it does.

    goals: what the policy is given as goals; None: sentences. A policy of several robots acts for
    that of the tasks, and goes on doing so.
    Worker processes end with the iterator, also when it is closed early; a `pool` given is used
    instead and left open. ValueError before any episode for an unknown task or a policy that does
    not fit the tasks' interface.
    """
    jobs = list(jobs)
    horizon = _begin(jobs, policy, config)
    rollout = _Rollout(jobs, policy, config, horizon, goals or EpisodeGoals())
    return _with_pool(rollout, config, pool)


def require_fit(jobs: Sequence[EpisodeJob], policy: ChunkPolicy, config: RolloutConfig) -> None:
    """Raise ValueError unless `policy` can act in the jobs' tasks; each is made, none is run."""
    _begin(jobs, policy, config)
    for job in jobs:
        env = env_choice(job, config, policy.interface).make()
        try:
            policy.interface.require(env.interface, "the policy", f"task {job.task}")
        finally:
            env.close()


def _begin(jobs: Sequence[EpisodeJob], policy: ChunkPolicy, config: RolloutConfig) -> int:
    """Have a policy of several robots act for that of the jobs; return the execute horizon."""
    robots = {registry.entry(job.task).robot for job in jobs}
    if isinstance(policy, ManyRobots) and policy.robots and jobs:
        if len(robots) > 1:
            raise ValueError(
                f"the tasks are of several robots ({', '.join(sorted(robots))}), and a policy acts "
                "for one at a time; run them apart"
            )
        policy.use_embodiment(robots.pop())
    horizon = config.execute_horizon or policy.action_horizon
    if horizon > policy.action_horizon:
        raise ValueError(
            f"rollout.execute_horizon={horizon} must be <= the policy's "
            f"action_horizon={policy.action_horizon}"
        )
    return horizon


def _with_pool(
    rollout: _Rollout, config: RolloutConfig, pool: Pool | None
) -> Iterator[EpisodeResult]:
    if pool is not None:
        yield from rollout.run(pool)
        return
    num_workers = min(config.num_workers, rollout.num_jobs)
    with open_pool(num_workers, config.envs_per_worker, config.timeout_s) as own:
        yield from rollout.run(own)


@dataclass(kw_only=True, slots=True)
class _Live:
    """An episode under way in a slot."""

    job: EpisodeJob
    instruction: str
    number: int  # unique within the run, and a new one for each goal
    began: float
    progress: Progress | None = None
    latency_ms: list[float] = field(default_factory=list)
    rest: Array | None = None  # of the last chunk, what was not run
    goal_images: dict[str, Array] = field(default_factory=dict)  # of the goal at hand, if shown
    goals_unreached: int = 0


class _JobQueue:
    """Jobs by the environment they need: a slot goes on with the one it has, if there are more."""

    def __init__(self, jobs: Sequence[EpisodeJob], policy: ChunkPolicy, config: RolloutConfig):
        self._interface, self._config = policy.interface, config
        self._jobs: dict[EnvChoice, deque[EpisodeJob]] = {}
        self._last: dict[int, EnvChoice] = {}
        for job in jobs:
            self._jobs.setdefault(self.choice(job), deque()).append(job)

    def choice(self, job: EpisodeJob) -> EnvChoice:
        return env_choice(job, self._config, self._interface)

    def put_back(self, job: EpisodeJob) -> None:
        self._jobs[self.choice(job)].appendleft(job)

    def take(self, slot: int) -> EpisodeJob | None:
        """Return the slot's next job: of its own environment, else of one with no slot yet."""
        waiting = [choice for choice, jobs in self._jobs.items() if jobs]
        if not waiting:
            return None
        choice = self._last.get(slot)
        if choice not in waiting:
            held = list(self._last.values())
            # fewest slots first, then most jobs, then the order asked for
            choice = min(waiting, key=lambda c: (held.count(c), -len(self._jobs[c])))
        self._last[slot] = choice
        return self._jobs[choice].popleft()


def env_choice(
    job: EpisodeJob, config: RolloutConfig, interface: Interface | None = None
) -> EnvChoice:
    """Return the environment that a job needs, with the cameras of a policy's interface."""
    return EnvChoice(
        task=job.task,
        cameras=() if interface is None else tuple(interface.images),
        image_size=(96, 96) if interface is None else _image_size(interface),
        max_steps=config.max_steps,
        kwargs=tuple(sorted((key, _hashable(value)) for key, value in job.env_kwargs.items())),
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _image_size(interface: Interface) -> tuple[int, int]:
    """Return the (h, w) of all the policy's pictures; ValueError if they differ or are free."""
    sizes = {spec.shape[:2] for spec in interface.images.values()} or {(96, 96)}
    height, width = sizes.pop()
    if sizes or height is None or width is None:
        raise ValueError("the policy's cameras must all have one fixed size, [h w 3]")
    return height, width


class _Rollout:
    def __init__(
        self,
        jobs: Sequence[EpisodeJob],
        policy: ChunkPolicy,
        config: RolloutConfig,
        horizon: int,
        goals: EpisodeGoals,
    ) -> None:
        self._policy, self._config, self._horizon = policy, config, horizon
        self._goals = goals
        self._queue = _JobQueue(jobs, policy, config)
        self.num_jobs = len(jobs)
        self._live: dict[int, _Live] = {}
        self._episode_numbers = itertools.count()

    def run(self, pool: Pool) -> Iterator[EpisodeResult]:
        """Yield the results. No order is outstanding at a yield, so it may be the last."""
        while True:
            for slot in range(pool.num_slots):
                if slot not in self._live and (job := self._queue.take(slot)) is not None:
                    self._begin(slot, job, pool)
            if not self._live:
                return
            yield from self._settle(pool, outstanding=set(self._live))
            self._act(pool)

    def _begin(self, slot: int, job: EpisodeJob, pool: Pool) -> None:
        canonical = registry.entry(job.task).instructions[0]
        self._live[slot] = _Live(
            job=job,
            instruction=canonical if job.instruction is None else job.instruction,
            number=next(self._episode_numbers),
            began=time.perf_counter(),
        )
        choice = self._queue.choice(job)
        pool.send(
            Begin(
                slot=slot,
                choice=choice,
                seed=job.start_seed,
                obs_horizon=self._policy.obs_horizon,
                film=None if job.video is None else self._film(job.video),
                goals=self._goals.renderer(choice, job.start_seed),
            )
        )

    def _film(self, path: Path) -> Film:
        config, rate_hz = self._config, self._policy.interface.rate_hz
        every = max(1, round(rate_hz / config.video_fps))
        return Film(
            path=path,
            camera=config.video_camera,
            size=(config.video_height, config.video_width),
            every=every,
            fps=rate_hz / every,
        )

    def _settle(self, pool: Pool, outstanding: set[int]) -> list[EpisodeResult]:
        """Take in one report per slot; return the results of the episodes that are over."""
        results = {}
        while outstanding:
            report = pool.receive()
            outstanding.discard(report.slot)
            if isinstance(report, Crashed):
                self._remove_part(report.slot)
                results[report.slot] = self._result(report.slot, report.reason)
                for slot in report.lost_slots:  # their environments died with the worker
                    outstanding.discard(slot)
                    if slot in self._live and slot not in results:
                        self._queue.put_back(self._live.pop(slot).job)
                continue
            live = self._live[report.slot]
            self._update(live, report)
            assert live.progress is not None
            if live.progress.done:
                results[report.slot] = self._result(report.slot, None)
        for slot in results:
            del self._live[slot]
        return [results[slot] for slot in sorted(results)]

    def _remove_part(self, slot: int) -> None:
        """Delete what a killed worker left of a film."""
        if (video := self._live[slot].job.video) is not None:
            film_at(video).tidy()

    def _update(self, live: _Live, report: Report) -> None:
        """Take in where an episode stands; ValueError if it cannot be run with this policy."""
        if isinstance(report, Refused):
            raise ValueError(report.message)
        assert isinstance(report, Progress)
        if report.interface is not None:
            self._policy.interface.require(report.interface, "the policy", f"task {live.job.task}")
        is_new_goal = live.progress is None or report.goal_steps != live.progress.goal_steps
        if live.progress is not None and is_new_goal:
            # a policy's memory begins anew with each goal
            live.number = next(self._episode_numbers)
            live.rest = None  # it was for the goal before
        if is_new_goal and not report.done:
            self._show_goal(live, report)
        if live.job.instruction is None:
            live.instruction = report.instruction
        live.progress = report

    def _show_goal(self, live: _Live, report: Progress) -> None:
        """Take in the pictures of the goal that an episode has come to, where they are given."""
        if (stored := self._goals.stored) is not None and self._goals.choice.shows:
            number = live.job.seed + len(report.goal_steps)
            live.goal_images = dict(stored(report.goal_task, number))
        elif report.goal is not None:
            live.goal_images = report.goal.images
            live.goals_unreached += not report.goal.reached

    def _act(self, pool: Pool) -> None:
        """Ask the policy once for all live episodes, and send everyone its actions."""
        if not self._live:
            return
        requests = [self._request(live) for live in self._live.values()]
        began = time.perf_counter()
        chunks = self._policy.act_batch(requests)
        latency_ms = (time.perf_counter() - began) * 1e3
        for (slot, live), chunk in zip(self._live.items(), chunks, strict=True):
            live.latency_ms.append(latency_ms)
            actions = self._checked(chunk, live)
            rest = chunk.actions[self._horizon :]
            live.rest = rest if len(rest) else None
            stop = self._config.stop_on_success
            pool.send(Advance(slot=slot, actions=actions, stop_on_success=stop))

    def _checked(self, chunk: ActionChunk, live: _Live) -> Array:
        """Return the actions to run; ValueError, which ends the run, if one cannot be run.

        The observations are as promised, so the policy itself is at fault: no episode says more.
        """
        actions = np.asarray(chunk.actions, np.float32)[: self._horizon]
        for index, action in enumerate(actions):
            if (problem := self._policy.interface.action.malformed(action)) is not None:
                assert live.progress is not None
                raise ValueError(
                    f"task {live.job.task} seed {live.job.seed} step {live.progress.steps}: action "
                    f"{index} of the policy's chunk: {problem}; the observation was finite, so the "
                    "policy is at fault: evaluate another checkpoint of it"
                )
        return actions

    def _result(self, slot: int, crashed: str | None) -> EpisodeResult:
        live = self._live[slot]
        progress = live.progress
        film_failure = None if progress is None else progress.film_failure
        first_success = None if progress is None else progress.first_success_step
        return EpisodeResult(
            task=live.job.task,
            seed=live.job.seed,
            instruction=live.instruction,
            success=crashed is None and first_success is not None,
            steps=0 if progress is None else progress.steps,
            first_success_step=first_success,
            crashed=crashed,
            policy_latency_ms=live.latency_ms,
            wall_s=time.perf_counter() - live.began,
            video=live.job.video if crashed is None and film_failure is None else None,
            film_failure=film_failure,
            solution=None if progress is None else progress.solution,
            goal_steps=[] if progress is None else list(progress.goal_steps),
            goals_unreached=live.goals_unreached,
        )

    def _request(self, live: _Live) -> ActRequest:
        progress = live.progress
        assert progress is not None
        text = live.instruction if self._goals.choice.says else None
        return ActRequest(
            observation=Observation(
                state=progress.state,
                images=progress.images,
                t_obs_ns=round(progress.steps * 1e9 / self._policy.interface.rate_hz),
            ),
            goal=Goal(text=text, images=live.goal_images),
            episode=live.number,
            seed=live.job.start_seed,
            step=progress.steps,
            prefix=live.rest,
        )
