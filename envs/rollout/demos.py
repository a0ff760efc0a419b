"""Scripted experts at work: demonstrations to learn from, and how well the experts do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from telic.envs import registry
from telic.envs.observations import require_action, require_observation
from telic.envs.rollout.env_worker import (
    Crashed,
    EnvChoice,
    EnvRequest,
    EnvWorker,
    Refusal,
    Refused,
    Report,
)
from telic.envs.rollout.pool import Pool, open_pool
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult, RolloutConfig, env_choice
from telic.envs.task import DictObs, NoExpert
from telic.spec import Array, Interface

MAX_IN_FLIGHT: Final = 16  # jobs a slot may be ahead of the one that is due; they wait in memory


class Stretch(NamedTuple):
    """Steps start..end-1 of an episode, in which a task of several was done."""

    start: int
    end: int
    task: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration(Report):
    """How an expert's episode went, and the steps of a successful one if they were asked for.

    stretches: of an environment whose `info` names the `task` at hand and when it began, one for
    each task done. data: "state" f32 [T P], "action" f32 [T A], "timestamp_ns" i64 [T],
    "image/<camera>" u8 [T h w 3]; entry t is what the expert saw and then did.
    """

    first_success_step: int | None
    steps: int
    goal_steps: tuple[int, ...] = ()  # of a task with several goals, the steps each was reached at
    stretches: tuple[Stretch, ...] = ()
    data: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrate(EnvRequest):
    """Let the expert do an episode, and go on for a while after its first success."""

    slot: int
    choice: EnvChoice
    seed: int
    steps_after_success: int
    record: bool = True

    def perform(self, env_worker: EnvWorker) -> Demonstration:
        """Return the demonstration; `max_steps` of the choice bounds it."""
        env = env_worker.env(self.slot, self.choice)
        env.draw_images = self.record
        obs, info = env.reset(seed=self.seed)
        require_observation(obs, env.interface, 0)
        try:
            expert = env.expert()
        except NoExpert as error:
            raise Refusal(str(error)) from error
        observations: list[DictObs] = []
        actions: list[Array] = []
        first_success: int | None = None
        goal_steps: list[int] = []
        stretches: list[Stretch] = []
        for step in range(1, env.max_steps + 1):
            action = np.asarray(expert.act(obs), env.interface.action.dtype)
            if self.record:
                require_action(action, env.interface, step - 1)
                observations.append(obs)
                actions.append(action)
            before = info
            obs, _, terminated, truncated, info = env.step(action)
            require_observation(obs, env.interface, step)
            if info["success"] and first_success is None:
                first_success = step
            if info.get("goals_reached", 0) > len(goal_steps):
                goal_steps.append(step)
                if "task" in before:
                    stretches.append(Stretch(before["task_began"], step, before["task"]))
            settled = first_success is not None and step >= first_success + self.steps_after_success
            if terminated or truncated or settled:
                break
        worth_keeping = self.record and first_success is not None
        data = _stacked(observations, actions, env.interface.rate_hz) if worth_keeping else {}
        return Demonstration(
            slot=self.slot,
            first_success_step=first_success,
            steps=step,
            goal_steps=tuple(goal_steps),
            stretches=tuple(stretches),
            data=data,
        )


def _stacked(observations: list[DictObs], actions: list[Array], rate_hz: float) -> dict[str, Array]:
    fields = {name: np.stack([obs[name] for obs in observations]) for name in observations[0]}
    times = np.round(np.arange(len(observations)) * 1e9 / rate_hz).astype(np.int64)
    return fields | {"action": np.stack(actions), "timestamp_ns": times}


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoJob:
    """One episode for an expert."""

    choice: EnvChoice
    seed: int
    steps_after_success: int = 20
    record: bool = True


def demonstrations(
    jobs: Iterable[DemoJob], pool: Pool
) -> Iterator[tuple[DemoJob, Demonstration | Crashed]]:
    """Yield each job with what came of it, in the order of the jobs, whoever is done first.

    `pool` needs one slot a worker. ValueError for a job that no environment can take.
    """
    jobs = list(jobs)
    last: dict[int, EnvChoice] = {}
    under_way: dict[int, int] = {}  # slot -> index of its job
    waiting = list(range(len(jobs)))
    done: dict[int, Demonstration | Crashed] = {}
    due = 0
    while due < len(jobs):
        for slot in set(range(pool.num_slots)) - set(under_way):
            startable = [index for index in waiting if index < due + MAX_IN_FLIGHT * pool.num_slots]
            if not startable:
                break
            index = _next_for(slot, startable, jobs, last)
            waiting.remove(index)
            under_way[slot] = index
            last[slot] = jobs[index].choice
            pool.send(_order(slot, jobs[index]))
        report = pool.receive()
        if isinstance(report, Refused):
            raise ValueError(report.message)
        assert isinstance(report, Demonstration | Crashed)
        done[under_way.pop(report.slot)] = report
        while due in done:
            yield jobs[due], done.pop(due)
            due += 1


def _next_for(
    slot: int, startable: list[int], jobs: Sequence[DemoJob], last: Mapping[int, EnvChoice]
) -> int:
    """Return the job for a slot: of the environment it has, else of one that no slot has."""
    own = [index for index in startable if jobs[index].choice == last.get(slot)]
    taken = {choice for other, choice in last.items() if other != slot}
    free = [index for index in startable if jobs[index].choice not in taken]
    return (own or free or startable)[0]


def _order(slot: int, job: DemoJob) -> Demonstrate:
    return Demonstrate(
        slot=slot,
        choice=job.choice,
        seed=job.seed,
        steps_after_success=job.steps_after_success,
        record=job.record,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Description(Report):
    """What an environment senses and takes as actions."""

    interface: Interface


@dataclass(frozen=True, kw_only=True, slots=True)
class Describe(EnvRequest):
    """Make an environment and say what it is like."""

    slot: int
    choice: EnvChoice

    def perform(self, env_worker: EnvWorker) -> Description:
        """Return the description."""
        return Description(
            slot=self.slot, interface=env_worker.env(self.slot, self.choice).interface
        )


def interface_of(choice: EnvChoice, pool: Pool) -> Interface:
    """Return the interface of an environment, made where the pool has its own.

    ValueError, with the reason, if it cannot be made.
    """
    pool.send(Describe(slot=0, choice=choice))
    report = pool.receive()
    if isinstance(report, Description):
        return report.interface
    assert isinstance(report, Refused | Crashed)
    reason = report.message if isinstance(report, Refused) else report.reason
    raise ValueError(reason if isinstance(report, Refused) else f"{choice.task}: {reason}")


def expert_results(jobs: Iterable[EpisodeJob], config: RolloutConfig) -> Iterator[EpisodeResult]:
    """Yield how the experts do on `jobs`, in their order: the ceiling for a policy's results."""
    jobs = list(jobs)
    for job in jobs:
        registry.entry(job.task)
    requests = [
        DemoJob(
            choice=env_choice(job, config),
            seed=job.start_seed,
            steps_after_success=0,
            record=False,
        )
        for job in jobs
    ]
    with open_pool(config.num_workers, 1, config.timeout_s) as pool:
        began = time.perf_counter()
        for job, (_, report) in zip(jobs, demonstrations(requests, pool), strict=True):
            first = None if isinstance(report, Crashed) else report.first_success_step
            yield EpisodeResult(
                task=job.task,
                seed=job.seed,
                instruction=job.instruction or registry.entry(job.task).instructions[0],
                success=first is not None,
                steps=0 if isinstance(report, Crashed) else report.steps,
                first_success_step=first,
                crashed=report.reason if isinstance(report, Crashed) else None,
                policy_latency_ms=[],
                wall_s=time.perf_counter() - began,
                goal_steps=[] if isinstance(report, Crashed) else list(report.goal_steps),
            )
            began = time.perf_counter()
