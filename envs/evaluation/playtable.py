"""CALVIN's two protocols (Mees et al., RA-L 2022): chains of tasks, and each task alone.

LH-MTLC: success of 1 to 5 tasks in a row, each given as a sentence, and the average length of the
chains done; a chain ends at the first task not done within the limit. MTLC: success of each task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from telic.envs.evaluation.protocol import (
    EvaluationProtocol,
    Outcome,
    Phrasings,
    ProtocolSettings,
    TaskProtocol,
    state_kwargs,
)
from telic.envs.playtable.chain_start import require_scene
from telic.envs.playtable.instructions import Phrases, sentences
from telic.envs.playtable.protocol import CHAIN_LENGTH, evaluation_chains
from telic.envs.playtable.rules import TASK_RULES
from telic.envs.registry import entry
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult
from telic.envs.task import StateChoice

STEPS_PER_TASK = 360  # 12 s
IN_A_ROW = tuple(f"{length} in a row" for length in range(1, CHAIN_LENGTH + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainProtocol(EvaluationProtocol):
    """The first `num_chains` evaluation chains in one scene; chain i is the episode of seed i.

    family: whose task "lh_mtlc" runs them. max_steps: for each task of a chain. all_phrasings:
    chain i gets each task's sentence i modulo their number, else the first.
    """

    name: ClassVar[str] = "lh_mtlc"
    overall: ClassVar[str] = IN_A_ROW[-1]
    score_name: ClassVar[str | None] = "average length"
    what: ClassVar[str] = "chains"

    num_chains: int
    scene: str = "D"
    max_steps: int = STEPS_PER_TASK
    family: str = "playtable"
    language_file: str | None = None
    all_phrasings: bool = False
    state: str = "full"

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> ChainProtocol:
        """Return the protocol; ValueError for an unknown family or scene, a bad language file."""
        evaluation_chains(settings.num_chains)
        family = family_of(settings)
        entry(f"{family}/lh_mtlc")
        return cls(
            num_chains=settings.num_chains,
            scene=settings.scene,
            max_steps=STEPS_PER_TASK if settings.max_steps is None else settings.max_steps,
            family=family,
            language_file=settings.language_file,
            all_phrasings=settings.instructions is Phrasings.all,
            state=settings.state.value,
        )

    @property
    def num_episodes(self) -> int:
        """How many chains there are."""
        return self.num_chains

    def jobs(self) -> list[EpisodeJob]:
        """Return the chains, in CALVIN's order."""
        kwargs: dict[str, Any] = {"scene": self.scene, "all_phrasings": self.all_phrasings}
        kwargs |= {} if self.language_file is None else {"language_file": self.language_file}
        kwargs |= state_kwargs(StateChoice(self.state))
        task = f"{self.family}/lh_mtlc"
        return [
            EpisodeJob(task=task, seed=index, env_kwargs=dict(kwargs))
            for index in range(self.num_chains)
        ]

    def sentences(self) -> list[str]:
        """Return the sentences of the tasks that the chains have."""
        texts = sentences(Phrases.held_out, self.language_file)
        tasks = {task for chain in evaluation_chains(self.num_chains) for task in chain.tasks}
        used = None if self.all_phrasings else 1
        return [text for task in texts if task in tasks for text in texts[task][:used]]

    def goal_tasks(self) -> list[str]:
        """Return the tasks that the chains have."""
        return [entry(f"{self.family}/{task}").task_id for task in self.rows()["per_task"]]

    def rows(self) -> dict[str, list[str]]:
        """Return a row for each task that the chains have, and for 1 to 4 tasks in a row."""
        met = {task for chain in evaluation_chains(self.num_chains) for task in chain.tasks}
        tasks = [task for task in TASK_RULES if task in met]
        return {"per_task": tasks, "in_a_row": list(IN_A_ROW[:-1])}

    def outcomes(self, episode: EpisodeResult) -> list[Outcome]:
        """Return the chain's outcome for each length, and for each of its tasks that was begun."""
        done = len(episode.goal_steps)
        if episode.crashed is not None:
            return [Outcome(row=row, key=(row, episode.seed), crashed=True) for row in IN_A_ROW]
        ends = [*episode.goal_steps, episode.steps]
        rows = [
            Outcome(
                row=row,
                key=(row, episode.seed),
                success=done >= length,
                steps=ends[min(length - 1, done)],
            )
            for length, row in enumerate(IN_A_ROW, start=1)
        ]
        begins = [0, *episode.goal_steps]
        tasks = evaluation_chains()[episode.seed].tasks[: done + 1]
        rows += [
            Outcome(
                row=task,
                key=(task, episode.seed),
                success=number < done,
                steps=ends[number] - begins[number],
            )
            for number, task in enumerate(tasks)
        ]
        return rows

    def score(self, episode: EpisodeResult) -> float:
        """Return how many tasks were done in a row."""
        return float(len(episode.goal_steps))

    def title(self) -> str:
        """Return chains, scene and limit."""
        return (
            f"LH-MTLC, {self.num_chains} chains, scene {self.scene}, {self.max_steps} steps a task"
        )


def task_settings(settings: ProtocolSettings) -> dict[str, Any]:
    """Return what a protocol of each task alone is made of; ValueError for an unknown family."""
    family = family_of(settings)
    tasks = [f"{family}/{task}" for task in TASK_RULES]
    for task in tasks:
        entry(task)
    return {
        "tasks": tasks,
        "episodes_per_task": settings.episodes_per_task,
        "seed": settings.seed,
        "max_steps": STEPS_PER_TASK if settings.max_steps is None else settings.max_steps,
        "all_phrasings": settings.instructions is Phrasings.all,
        "env": {"scene": settings.scene} | state_kwargs(settings.state),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleProtocol(TaskProtocol):
    """Each of the 34 tasks alone, from random states in which it is possible.

    A sentence is a held-out one, or one of `language_file`'s.
    """

    name: ClassVar[str] = "mtlc"

    language_file: str | None = None

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> SingleProtocol:
        """Return the protocol; ValueError for an unknown family or scene, a bad language file."""
        return cls(**task_settings(settings), language_file=settings.language_file)

    def phrasing(self, task: str, index: int) -> str:
        """Return what episode `index` of a task is given."""
        texts = sentences(Phrases.held_out, self.language_file)[task.rpartition("/")[2]]
        return texts[index % len(texts) if self.all_phrasings else 0]


def family_of(settings: ProtocolSettings) -> str:
    """Return whose tasks are run; ValueError for an unknown scene or a bad language file."""
    require_scene(settings.scene)
    sentences(Phrases.held_out, settings.language_file)
    return settings.env or "playtable"
