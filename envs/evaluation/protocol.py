"""Which episodes a policy meets in an evaluation, and what each of them counts for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, ClassVar

from telic.envs.registry import entry, expand
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult
from telic.envs.task import StateChoice


class Phrasings(Enum):
    """Which of a task's sentences the episodes are given."""

    canonical = "canonical"
    all = "all"  # episode i gets phrasing i modulo their number


@dataclass(kw_only=True, slots=True)
class ProtocolSettings:
    """The protocol of an evaluation by name, and the settings that protocols take."""

    # tasks: any; mtlc: PlayTable's 34; paraphrases: the 34 in other words; lh_mtlc: chains of five
    protocol: str = "tasks"
    tasks: list[str] = field(default_factory=lambda: ["mt10"])  # task names, ids or tags
    episodes_per_task: int = 10  # episodes of each task
    seed: int = 200_000  # seed of each task's first episode; training uses others
    # steps for one goal; None: the protocol's own (tasks 200, else 360)
    max_steps: int | None = None
    # which of a task's sentences the episodes are given
    instructions: Phrasings = Phrasings.canonical
    state: StateChoice = StateChoice.full  # what the field `state` holds, as in collect-demos
    env: str | None = None  # family that all but tasks run; None: playtable
    num_chains: int = 1000  # evaluation chains, the first so many
    scene: str = "D"  # PlayTable's scene: A, B, C or D
    language_file: str | None = None  # yaml of task -> sentences; None: the held-out ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one episode says for one row of the table.

    key tells apart the outcomes of a row, and pairs them with those of another policy. steps: up to
    success or the end. start: pairs them with the outcome of the protocol's reference row.
    """

    row: str
    key: tuple[str, int]
    success: bool = False
    steps: int = 0
    crashed: bool = False
    start: tuple[str, int] | None = None

    @classmethod
    def of(cls, episode: EpisodeResult, row: str, start: tuple[str, int] | None = None) -> Outcome:
        """Return what an episode of one goal says for `row`."""
        first = episode.first_success_step
        return cls(
            row=row,
            key=(episode.task, episode.seed),
            success=episode.success,
            steps=episode.steps if first is None else first,
            crashed=episode.crashed is not None,
            start=start,
        )


class EvaluationProtocol(ABC):
    """Which episodes a policy meets. Results compare pair by pair where their protocols agree.

    overall: the row that sums everything up. score: what else is measured of every episode. what:
    the episodes, for people. reference: the row that the others are compared with, start by start.
    A subclass is a frozen dataclass of JSON data.
    """

    name: ClassVar[str]
    overall: ClassVar[str]
    score_name: ClassVar[str | None] = None
    what: ClassVar[str] = "episodes"
    reference: ClassVar[str | None] = None

    max_steps: int

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: ProtocolSettings) -> EvaluationProtocol:
        """Return the protocol of these settings; ValueError for what is not there."""

    @abstractmethod
    def jobs(self) -> list[EpisodeJob]:
        """Return every episode; (task, seed) tells them apart."""

    @abstractmethod
    def sentences(self) -> list[str]:
        """Return every sentence that a policy may be given."""

    def goal_tasks(self) -> list[str]:
        """Return the id of every task whose goal a policy may be given, each once."""
        return list(dict.fromkeys(entry(job.task).task_id for job in self.jobs()))

    @abstractmethod
    def rows(self) -> Mapping[str, list[str]]:
        """Return the rows of the table besides the overall one, by group, in order."""

    @abstractmethod
    def outcomes(self, episode: EpisodeResult) -> list[Outcome]:
        """Return what `episode` says for each row that it belongs to, the overall one included."""

    @abstractmethod
    def title(self) -> str:
        """Return the protocol in a few words."""

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """How many episodes there are."""

    @property
    def num_compared(self) -> int:
        """How many of them the overall row sums up."""
        return self.num_episodes

    def score(self, episode: EpisodeResult) -> float | None:
        """Return the score of a finished episode, or None where the protocol has none."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the protocol as JSON data."""
        return {"protocol": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProtocol(EvaluationProtocol):
    """Single tasks from seeded starts.

    Episode i of every task has seed `seed` + i and, with `all_phrasings`, the task's phrasing
    i modulo their number; else the canonical one. `env` goes to the environments' constructors.
    """

    name: ClassVar[str] = "tasks"
    overall: ClassVar[str] = "all"

    tasks: list[str]
    episodes_per_task: int
    seed: int
    max_steps: int
    all_phrasings: bool = False
    env: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> TaskProtocol:
        """Return the protocol of the tasks named; ValueError for an unknown one."""
        return cls(
            tasks=expand(settings.tasks),
            episodes_per_task=settings.episodes_per_task,
            seed=settings.seed,
            max_steps=200 if settings.max_steps is None else settings.max_steps,
            all_phrasings=settings.instructions is Phrasings.all,
            env=state_kwargs(settings.state),
        )

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
                instruction=self.phrasing(task, index),
                env_kwargs=dict(self.env),
            )
            for index in range(self.episodes_per_task)
            for task in self.tasks
        ]

    def phrasing(self, task: str, index: int) -> str:
        """Return what episode `index` of a task is given."""
        phrasings = entry(task).instructions
        return phrasings[index % len(phrasings)] if self.all_phrasings else phrasings[0]

    def sentences(self) -> list[str]:
        """Return the sentences of all jobs."""
        return [str(job.instruction) for job in self.jobs()]

    def rows(self) -> dict[str, list[str]]:
        """Return a row for each task."""
        return {"per_task": list(self.tasks)}

    def outcomes(self, episode: EpisodeResult) -> list[Outcome]:
        """Return the episode's outcome for its task and for all."""
        return [Outcome.of(episode, row) for row in (episode.task, self.overall)]

    def title(self) -> str:
        """Return tasks, episodes, seeds and limit."""
        return (
            f"{len(self.tasks)} tasks x {self.episodes_per_task} episodes, seeds from {self.seed}, "
            f"{self.max_steps} steps"
        )


def state_kwargs(state: StateChoice) -> dict[str, Any]:
    """Return what a task's constructor is given so that it shows this state."""
    return {} if state is StateChoice.full else {"state": state.value}
