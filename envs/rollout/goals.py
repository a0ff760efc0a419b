"""What the episodes of an evaluation are given as their goals, and where its pictures are from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from telic.envs import registry
from telic.envs.rollout.env_worker import EnvChoice, Refusal
from telic.envs.rollout.goal_cache import GoalCache
from telic.envs.task import DictObs, DrawsGoals, GoalPictures, NoExpert, TaskEnv
from telic.spec import Array

StoredGoals = Callable[[str, int], Mapping[str, Array]]  # (task id, number) -> camera -> picture


class GoalChoice(Enum):
    """Which goals a policy is given in each episode."""

    text = "text"  # the sentence
    image = "image"  # a picture of the scene with the goal reached
    both = "both"

    @property
    def says(self) -> bool:
        """Whether a sentence is given."""
        return self is not GoalChoice.image

    @property
    def shows(self) -> bool:
        """Whether pictures are given."""
        return self is not GoalChoice.text


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeGoals:
    """The goals of all episodes of a run.

    stored: where pictures are from; None: from an expert who solves the task from the same start.
    cache: folder in which an expert's pictures are kept for further runs; None: nowhere.
    """

    choice: GoalChoice = GoalChoice.text
    stored: StoredGoals | None = None
    cache: Path | None = None

    def renderer(self, choice: EnvChoice, seed: int) -> GoalRenderer | None:
        """Return how a worker draws the goals of an episode; None where it is not to."""
        if not self.choice.shows or self.stored is not None:
            return None
        return GoalRenderer(choice=choice, seed=seed, cache=self.cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalRenderer:
    """Draws the goals of one episode by an expert, in the environment's own process."""

    choice: EnvChoice
    seed: int
    cache: Path | None = None

    def at_start(self, env: TaskEnv) -> GoalPictures:
        """Return the first goal's pictures, kept ones where there are; the env needs a reset then.

        Refusal where no expert or nothing to draw with is there.
        """
        kept = None if self.cache is None else GoalCache(self.cache, env, self.choice, self.seed)
        if kept is not None and (found := kept.read()) is not None:
            return found
        try:
            obs, _ = env.reset(seed=self.seed)
            goal = env.draw_goal() if isinstance(env, DrawsGoals) else self._expert_end(env, obs)
            if kept is not None:
                kept.write(goal)
        except NoExpert as error:
            raise Refusal(
                f"{error}; so there is no picture of its goal either: goal=text, or "
                "goal_store=STORE for pictures out of demonstrations"
            ) from error
        except (ValueError, OSError) as error:  # no such camera, nothing to draw with, a full disk
            raise Refusal(str(error)) from error
        return goal

    def _expert_end(self, env: TaskEnv, obs: DictObs) -> GoalPictures:
        """Return the pictures of the moment at which the expert succeeds; `obs`: of the reset.

        Those of its last step where it does not. It has as long as for a demonstration, however
        short the policy's episodes are.
        """
        expert, reached = env.expert(), False
        for _ in range(registry.entry(self.choice.task).demo_steps):
            obs, _, terminated, _, info = env.step(expert.act(obs))
            if (reached := bool(info["success"])) or terminated:
                break
        return GoalPictures(env.pictures(), reached)

    def now(self, env: TaskEnv) -> GoalPictures:
        """Return the pictures of the goal that an episode under way has come to."""
        if not isinstance(env, DrawsGoals):
            raise Refusal(
                f"task {env.task_id} has several goals in a row and cannot draw them; give its "
                "class the method `draw_goal`, or leave goal=text"
            )
        return env.draw_goal()
