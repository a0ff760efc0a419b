"""What an evaluation found: its episodes, success rates with intervals, comparisons; results.json.

A crashed episode says nothing about the policy: it is counted, and left out of every rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from telic.envs.registry import entry
from telic.envs.rollout import EpisodeJob, EpisodeResult
from telic.envs.statistics import (
    Interval,
    PairedDifference,
    paired_difference,
    wilson_interval,
)

FORMAT = "telic-evaluation 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProtocol:
    """Which episodes a policy meets. Results compare pair by pair where their protocols agree.

    Episode i of every task has seed `seed` + i and, with `all_phrasings`, the task's phrasing
    i modulo their number; else the canonical one. `env` goes to the environments' constructors.
    """

    tasks: list[str]
    episodes_per_task: int
    seed: int
    max_steps: int
    all_phrasings: bool = False
    env: dict[str, Any] = field(default_factory=dict)

    @property
    def num_episodes(self) -> int:
        """How many episodes that makes."""
        return len(self.tasks) * self.episodes_per_task

    def jobs(self) -> list[EpisodeJob]:
        """Return every episode, one of each task before the second of any."""
        return [
            EpisodeJob(
                task=task,
                seed=self.seed + index,
                instruction=self._phrasing(task, index),
                env_kwargs=dict(self.env),
            )
            for index in range(self.episodes_per_task)
            for task in self.tasks
        ]

    def _phrasing(self, task: str, index: int) -> str:
        phrasings = entry(task).instructions
        return phrasings[index % len(phrasings)] if self.all_phrasings else phrasings[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuccessRow:
    """One line of the table: k of n episodes with an outcome, and the crashed ones apart."""

    success: float | None
    interval: Interval
    successes: int
    episodes: int
    crashed: int
    steps_to_success: float | None  # median over the successful episodes
    mean_steps: float | None  # of all episodes with an outcome, up to success or the limit


def success_row(episodes: Sequence[EpisodeResult]) -> SuccessRow:
    """Return the line of the table for `episodes`; no rate where none has an outcome."""
    finished = [episode for episode in episodes if episode.crashed is None]
    successes = sum(episode.success for episode in finished)
    to_success = [e.first_success_step for e in finished if e.first_success_step is not None]
    return SuccessRow(
        success=successes / len(finished) if finished else None,
        interval=wilson_interval(successes, len(finished)),
        successes=successes,
        episodes=len(finished),
        crashed=len(episodes) - len(finished),
        steps_to_success=float(np.median(to_success)) if to_success else None,
        mean_steps=float(np.mean([e.steps for e in finished])) if finished else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Milliseconds of `calls` calls of a policy."""

    median: float
    p95: float
    calls: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency | None:
        """Return the summary of the calls, or None where there was none."""
        if not milliseconds:
            return None
        median, p95 = np.percentile(milliseconds, [50, 95])
        return cls(median=float(median), p95=float(p95), calls=len(milliseconds))


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """One policy on one protocol, whole or interrupted.

    about: date, machine, versions, checkpoint and its commit, config: JSON data, in this order.
    chunk_latency_ms: one environment asking alone; batch_latency_ms: a call for all that wait.
    videos: task -> paths relative to the report.
    """

    policy: str
    protocol: EvaluationProtocol
    episodes: list[EpisodeResult] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    chunk_latency_ms: Latency | None = None
    batch_latency_ms: Latency | None = None
    videos: dict[str, list[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every episode of the protocol was run."""
        return len(self.episodes) == self.protocol.num_episodes

    def overall(self) -> SuccessRow:
        """Return the line over all tasks; as each has as many episodes, also the tasks' mean."""
        return success_row(self.episodes)

    def per_task(self) -> dict[str, SuccessRow]:
        """Return task -> its line, in the protocol's order."""
        return {
            task: success_row([e for e in self.episodes if e.task == task])
            for task in self.protocol.tasks
        }

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON data, rates and intervals included.

        An episode's own latencies are left out; `batch_latency_ms` sums them up.
        """
        episodes = [asdict(replace(episode, policy_latency_ms=[])) for episode in self.episodes]
        return {
            "format": FORMAT,
            "policy": self.policy,
            "complete": self.complete,
            "overall": asdict(self.overall()),
            "per_task": {task: asdict(row) for task, row in self.per_task().items()},
            "chunk_latency_ms": _asdict(self.chunk_latency_ms),
            "batch_latency_ms": _asdict(self.batch_latency_ms),
            "protocol": asdict(self.protocol),
            "about": self.about,
            "videos": self.videos,
            "episodes": episodes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` wrote."""

        def latency(name: str) -> Latency | None:
            return None if data[name] is None else Latency(**data[name])

        return cls(
            policy=data["policy"],
            protocol=EvaluationProtocol(**data["protocol"]),
            episodes=[EpisodeResult(**episode) for episode in data["episodes"]],
            about=data["about"],
            chunk_latency_ms=latency("chunk_latency_ms"),
            batch_latency_ms=latency("batch_latency_ms"),
            videos=data["videos"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How `first` differs from `second` on the same episodes, and how the second one did."""

    first: str
    second: str
    second_overall: SuccessRow
    second_per_task: dict[str, SuccessRow]
    overall: PairedDifference
    per_task: dict[str, PairedDifference]
    left_out: int  # episodes that crashed, or were not run, in one of the two


def require_same_episodes(mine: EvaluationProtocol, theirs: EvaluationProtocol, path: str) -> None:
    """Raise ValueError where two protocols differ; `path` says where `theirs` is from."""
    for name, value in asdict(mine).items():
        if (other := asdict(theirs)[name]) != value:
            raise ValueError(
                f"compare={path}: it has {name}={_short(other)}, this evaluation {_short(value)}; "
                "only results of the same episodes compare, so run both alike"
            )


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Return the paired difference of two evaluations of the same protocol."""
    other = {(e.task, e.seed): e.success for e in second.episodes if e.crashed is None}
    pairs: dict[str, list[tuple[bool, bool]]] = {task: [] for task in first.protocol.tasks}
    for episode in first.episodes:
        key = (episode.task, episode.seed)
        if episode.crashed is None and key in other:
            pairs[episode.task].append((episode.success, other[key]))

    def difference(chosen: list[tuple[bool, bool]]) -> PairedDifference:
        return paired_difference([mine for mine, _ in chosen], [theirs for _, theirs in chosen])

    everything = [pair for chosen in pairs.values() for pair in chosen]
    return Comparison(
        first=first.policy,
        second=second.policy,
        second_overall=second.overall(),
        second_per_task=second.per_task(),
        overall=difference(everything),
        per_task={task: difference(chosen) for task, chosen in pairs.items()},
        left_out=first.protocol.num_episodes - len(everything),
    )


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation in results.json at `path` (or in the folder `path`)."""
    file = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"{file}: format is {data['format']!r}, expected {FORMAT!r}")
        return Evaluation.from_json(data)
    except FileNotFoundError as error:
        raise ValueError(
            f"no results at {file}; evaluate-policy writes results.json into its out"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a results.json of evaluate-policy ({error})") from error


def write_evaluation(
    evaluation: Evaluation, comparison: Comparison | None, folder: Path
) -> dict[str, Any]:
    """Write `folder`/results.json in one move; return what was written."""
    text = json.dumps(evaluation.to_json() | {"comparison": _asdict(comparison)}, indent=1)
    partial = folder / "results.json.partial"
    partial.write_text(text)
    partial.replace(folder / "results.json")
    return json.loads(text)


def _asdict(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _short(value: Any) -> str:
    if not isinstance(value, list) or len(value) <= 3:
        return str(value)
    return f"[{', '.join(map(str, value[:3]))}, ...] ({len(value)})"
