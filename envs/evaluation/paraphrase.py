"""What other words cost: PlayTable's 34 tasks under a sentence trained on and under paraphrases.

Start i of a task is met four times, alike to the last bit but for the sentence: one to train on,
then an easy, a medium and a hard paraphrase. Ten starts meet all 30 paraphrases of a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from telic.envs.evaluation.playtable import task_settings
from telic.envs.evaluation.protocol import (
    Outcome,
    ProtocolSettings,
    TaskProtocol,
)
from telic.envs.playtable.instructions import instructions
from telic.envs.playtable.paraphrases import AXES, DIFFICULTIES, Paraphrase, drawn
from telic.envs.rollout.rollout import EpisodeJob, EpisodeResult

TRAINING = "training"
_WAYS = 1 + len(DIFFICULTIES)  # sentences for each start


@dataclass(frozen=True, kw_only=True, slots=True)
class ParaphraseProtocol(TaskProtocol):
    """The episode of seed `seed` + 4 i + d begins at start `seed` + i, with sentence d.

    d is 0 for the task's first sentence to train on (sentence i in turn with `all_phrasings`), then
    1 to 3 for an easy, a medium and a hard paraphrase.
    """

    name: ClassVar[str] = "paraphrases"
    overall: ClassVar[str] = "paraphrases"
    reference: ClassVar[str | None] = TRAINING

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> ParaphraseProtocol:
        """Return the protocol; ValueError for an unknown family or scene."""
        return cls(**task_settings(settings))

    @property
    def num_episodes(self) -> int:
        """How many episodes that makes, those with sentences of the training among them."""
        return len(self.tasks) * self.episodes_per_task * _WAYS

    @property
    def num_compared(self) -> int:
        """How many have a paraphrase as instruction."""
        return len(self.tasks) * self.episodes_per_task * len(DIFFICULTIES)

    def jobs(self) -> list[EpisodeJob]:
        """Return every episode, one start of each task before the second of any."""
        return [
            EpisodeJob(
                task=task,
                seed=self.seed + _WAYS * index + way,
                start=self.seed + index,
                instruction=text,
                env_kwargs=dict(self.env),
            )
            for index in range(self.episodes_per_task)
            for task in self.tasks
            for way, text in enumerate(self.ways(task, index))
        ]

    def ways(self, task: str, index: int) -> list[str]:
        """Return the sentences that start `index` of a task is met with."""
        return [self.phrasing(task, index), *(each.text for each in self.paraphrases(task, index))]

    def phrasing(self, task: str, index: int) -> str:
        """Return the training sentence of start `index`."""
        texts = instructions(task.rpartition("/")[2])
        return texts[index % len(texts) if self.all_phrasings else 0]

    def paraphrases(self, task: str, index: int) -> tuple[Paraphrase, ...]:
        """Return the paraphrases of start `index`."""
        return drawn(task.rpartition("/")[2], index)

    def rows(self) -> dict[str, list[str]]:
        """Return rows for axes, difficulties, both, and tasks; all but "training" paraphrased."""
        return {
            "per_axis": [TRAINING, *AXES],
            "per_difficulty": list(DIFFICULTIES),
            "per_axis_and_difficulty": [f"{a}, {d}" for a in AXES for d in DIFFICULTIES],
            "per_task": list(self.tasks),
        }

    def outcomes(self, episode: EpisodeResult) -> list[Outcome]:
        """Return the episode's outcome for each row of its sentence."""
        index, way = divmod(episode.seed - self.seed, _WAYS)
        rows = [TRAINING]
        if way:
            chosen = self.paraphrases(episode.task, index)[way - 1]
            axis, difficulty = chosen.axis, chosen.difficulty
            both = f"{axis}, {difficulty}"
            rows = [axis, difficulty, both, episode.task, self.overall]
        return [Outcome.of(episode, row, start=(episode.task, index)) for row in rows]

    def title(self) -> str:
        """Return tasks, starts, sentences and limit."""
        return (
            f"paraphrases, {len(self.tasks)} tasks x {self.episodes_per_task} starts x {_WAYS} "
            f"sentences, starts from {self.seed}, {self.max_steps} steps"
        )
