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

from telic.envs.evaluation.outputs import FORMAT, Outputs
from telic.envs.evaluation.protocol import EvaluationProtocol, Outcome
from telic.envs.evaluation.protocols import protocol_from_json
from telic.envs.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    paired_difference,
    wilson_interval,
)
from telic.envs.records import read_record
from telic.envs.rollout.rollout import EpisodeResult
from telic.text_files import read_text


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


def success_row(outcomes: Sequence[Outcome]) -> SuccessRow:
    """Return the line of the table for `outcomes`; no rate where all of them crashed."""
    finished = [outcome for outcome in outcomes if not outcome.crashed]
    to_success = [outcome.steps for outcome in finished if outcome.success]
    return SuccessRow(
        success=len(to_success) / len(finished) if finished else None,
        interval=wilson_interval(len(to_success), len(finished)),
        successes=len(to_success),
        episodes=len(finished),
        crashed=len(outcomes) - len(finished),
        steps_to_success=float(np.median(to_success)) if to_success else None,
        mean_steps=float(np.mean([o.steps for o in finished])) if finished else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The mean of what a protocol measures besides success, with a bootstrap interval of 95 %."""

    mean: float
    interval: Interval
    episodes: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Score | None:
        """Return the summary of the scores, or None where there is none."""
        if not scores:
            return None
        interval = bootstrap_interval(scores)
        return cls(mean=float(np.mean(scores)), interval=interval, episodes=len(scores))


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

    @property
    def goals_unreached(self) -> int:
        """How many pictures of goals show a scene in which no expert has reached the goal."""
        return sum(episode.goals_unreached for episode in self.episodes)

    def overall(self) -> SuccessRow:
        """Return the protocol's line over everything."""
        return success_row(self._by_row()[self.protocol.overall])

    def rows(self) -> dict[str, SuccessRow]:
        """Return row -> its line, in the protocol's order; the overall one is the last."""
        return {row: success_row(outcomes) for row, outcomes in self._by_row().items()}

    def differences(self) -> dict[str, PairedDifference]:
        """Return row -> its success minus the reference row's over the same starts, if there is
        one."""
        rows = self._by_row()
        reference = self.protocol.reference
        if reference is None:
            return {}
        known = {o.start: o.success for o in rows.pop(reference) if not o.crashed}
        found = {}
        for row, outcomes in rows.items():
            pairs = [o for o in outcomes if not o.crashed and o.start in known]
            found[row] = paired_difference(
                [o.success for o in pairs], [known[o.start] for o in pairs]
            )
        return found

    def scores(self) -> dict[tuple[str, int], float]:
        """Return (task, seed) -> score of every finished episode, where the protocol has one."""
        scores = {(e.task, e.seed): self.protocol.score(e) for e in self._finished()}
        return {key: score for key, score in scores.items() if score is not None}

    def _finished(self) -> list[EpisodeResult]:
        return [episode for episode in self.episodes if episode.crashed is None]

    def progress(self) -> str:
        """Return how it stands, in a few words."""
        scores, row = list(self.scores().values()), self.overall()
        if scores:
            return f"{self.protocol.score_name} {np.mean(scores):.2f}"
        return f"{row.successes} of {row.episodes} succeeded"

    def outcomes(self) -> list[Outcome]:
        """Return what the episodes say for every row."""
        return [outcome for e in self.episodes for outcome in self.protocol.outcomes(e)]

    def _by_row(self) -> dict[str, list[Outcome]]:
        groups = self.protocol.rows()
        names = [name for names in groups.values() for name in names]
        found: dict[str, list[Outcome]] = {name: [] for name in [*names, self.protocol.overall]}
        for outcome in self.outcomes():
            found[outcome.row].append(outcome)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON data, rates and intervals included.

        An episode's own latencies are left out; `batch_latency_ms` sums them up.
        """
        episodes = [asdict(replace(episode, policy_latency_ms=[])) for episode in self.episodes]
        rows = {name: asdict(row) for name, row in self.rows().items()}
        groups = self.protocol.rows().items()
        name, score = self.protocol.score_name, Score.of(list(self.scores().values()))
        scored = {} if name is None else {name.replace(" ", "_"): _asdict(score)}
        return {
            "format": FORMAT,
            "policy": self.policy,
            "complete": self.complete,
            **scored,
            "overall": rows[self.protocol.overall],
            **{group: {name: rows[name] for name in names} for group, names in groups},
            **self._differences_json(),
            "chunk_latency_ms": _asdict(self.chunk_latency_ms),
            "batch_latency_ms": _asdict(self.batch_latency_ms),
            "protocol": self.protocol.to_json(),
            "about": self.about,
            "videos": self.videos,
            "episodes": episodes,
        }

    def _differences_json(self) -> dict[str, Any]:
        if self.protocol.reference is None:
            return {}
        found = {row: asdict(pair) for row, pair in self.differences().items()}
        return {f"minus_{self.protocol.reference}": found}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` wrote; ValueError or KeyError for another."""

        def latency(name: str) -> Latency | None:
            return None if data[name] is None else read_record(Latency, data[name])

        policy, about, videos = (data[name] for name in ("policy", "about", "videos"))
        if not isinstance(policy, str) or not isinstance(about, dict):
            raise ValueError(f"policy={policy!r:.40} and about={about!r:.40} cannot be")
        if not isinstance(videos, dict) or not isinstance(data["episodes"], list):
            raise ValueError("videos and episodes are not what they must be")
        return cls(
            policy=policy,
            protocol=protocol_from_json(data["protocol"]),
            episodes=[read_record(EpisodeResult, episode) for episode in data["episodes"]],
            about=about,
            chunk_latency_ms=latency("chunk_latency_ms"),
            batch_latency_ms=latency("batch_latency_ms"),
            videos=videos,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How `first` differs from `second` on the same episodes, and how the second one did.

    per_row: the rows besides the overall one. score: of the paired differences of the scores.
    """

    first: str
    second: str
    second_overall: SuccessRow
    second_per_row: dict[str, SuccessRow]
    overall: PairedDifference
    per_row: dict[str, PairedDifference]
    score: Score | None
    left_out: int  # episodes that crashed, or were not run, in one of the two


def require_same_episodes(mine: EvaluationProtocol, theirs: EvaluationProtocol, path: str) -> None:
    """Raise ValueError where two protocols differ; `path` says where `theirs` is from."""
    others = theirs.to_json()
    for name, value in mine.to_json().items():
        if (other := others[name]) != value:
            raise ValueError(
                f"compare={path}: it has {name}={_short(other)}, this evaluation {_short(value)}; "
                "only results of the same episodes compare, so run both alike"
            )


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Return the paired difference of two evaluations of the same protocol."""
    other = {(o.row, o.key): o.success for o in second.outcomes() if not o.crashed}
    pairs: dict[str, list[tuple[bool, bool]]] = {name: [] for name in first.rows()}
    for outcome in first.outcomes():
        if not outcome.crashed and (outcome.row, outcome.key) in other:
            theirs = other[outcome.row, outcome.key]
            pairs[outcome.row].append((outcome.success, theirs))

    def difference(chosen: list[tuple[bool, bool]]) -> PairedDifference:
        return paired_difference([mine for mine, _ in chosen], [theirs for _, theirs in chosen])

    overall = pairs.pop(first.protocol.overall)
    second_rows = second.rows()
    return Comparison(
        first=first.policy,
        second=second.policy,
        second_overall=second_rows.pop(second.protocol.overall),
        second_per_row=second_rows,
        overall=difference(overall),
        per_row={row: difference(chosen) for row, chosen in pairs.items()},
        score=_score_difference(first, second),
        left_out=first.protocol.num_compared - len(overall),
    )


def _score_difference(first: Evaluation, second: Evaluation) -> Score | None:
    """Return the mean of score(first) - score(second) over the episodes that both finished."""
    mine, theirs = first.scores(), second.scores()
    return Score.of([score - theirs[key] for key, score in mine.items() if key in theirs])


def results_file(path: Path) -> Path:
    """Return the results.json that `path` names itself or by its folder."""
    return path / "results.json" if path.is_dir() else path


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation in results.json at `path` (or in the folder `path`)."""
    file = results_file(path)
    try:
        data = json.loads(read_text(file))
    except FileNotFoundError as error:
        raise ValueError(
            f"no results at {file}; evaluate-policy writes results.json into its out"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, or no text at all
        text = " ".join(str(error).split())
        raise ValueError(f"{file} is not a results.json of evaluate-policy ({text})") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ValueError(f"{file}: format is {found!r:.40}, expected {FORMAT!r}")
    try:
        return Evaluation.from_json(data)
    except KeyError as error:
        raise ValueError(
            f"{file} is damaged: it has no {error}; run that evaluation again"
        ) from error
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{file} is damaged: {text}; run that evaluation again") from error


def read_comparable(path: Path, protocol: EvaluationProtocol) -> Evaluation:
    """Return the evaluation at `path`; ValueError unless its episodes are those of `protocol`."""
    found = read_evaluation(path)
    require_same_episodes(protocol, found.protocol, str(path))
    episodes = {(job.task, job.seed) for job in protocol.jobs()}
    keys = [(episode.task, episode.seed) for episode in found.episodes]
    if strange := next((key for key in keys if key not in episodes), None):
        raise ValueError(
            f"compare={path}: {strange[0]}, seed {strange[1]} is not of its protocol; the file is "
            "damaged, run that evaluation again"
        )
    if len(set(keys)) < len(keys):
        raise ValueError(f"compare={path}: has an episode twice; run that evaluation again")
    return found


def write_evaluation(
    evaluation: Evaluation, comparison: Comparison | None, folder: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Write `folder`/results.json; return what was written. ValueError where it cannot be."""
    text = json.dumps(evaluation.to_json() | {"comparison": _asdict(comparison)}, indent=1)
    with Outputs(folder=folder, overwrite=overwrite).results.writing() as fresh:
        fresh.write_text(text)
    return json.loads(text)


def _asdict(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _short(value: Any) -> str:
    if not isinstance(value, list) or len(value) <= 3:
        return str(value)
    return f"[{', '.join(map(str, value[:3]))}, ...] ({len(value)})"
