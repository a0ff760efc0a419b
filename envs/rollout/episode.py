"""An episode in a worker: one request begins it, others advance it a chunk of actions at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from telic.envs.observations import require_observation
from telic.envs.rollout.env_worker import EnvChoice, EnvRequest, EnvWorker, Refusal, Report
from telic.envs.rollout.goals import GoalRenderer
from telic.envs.rollout.video import Camera, Film
from telic.envs.task import DictObs, GoalPictures, TaskEnv
from telic.spec import Array, Interface

_NOTHING = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Report):
    """Where an episode stands: the last O observations (state f32 [O P], camera -> u8 [O h w 3]).

    A finished episode has none. instruction: of the goal it is at; goal_steps: steps taken when
    each goal of a task with several was reached; solution: which of the task's it took, as far as
    known; film_failure: why there is no film, where there was to be one. goal_task: the id of the
    task whose goal it is at; goal: its pictures, where they are drawn, as soon as it is at it.
    interface: the environment's, in the answer to `Begin` only.
    """

    steps: int
    first_success_step: int | None
    done: bool
    instruction: str
    goal_steps: tuple[int, ...]
    state: Array
    images: dict[str, Array] = field(default_factory=dict)
    interface: Interface | None = None
    solution: str | None = None
    film_failure: str | None = None
    goal_task: str = ""
    goal: GoalPictures | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin(EnvRequest):
    """Reset the slot's environment to an episode; goals: how its goals are drawn, if they are."""

    slot: int
    choice: EnvChoice
    seed: int
    obs_horizon: int
    film: Film | None = None
    goals: GoalRenderer | None = None

    def perform(self, env_worker: EnvWorker) -> Progress:
        """Return the first observation, repeated to fill the horizon."""
        env = env_worker.env(self.slot, self.choice)
        env.draw_images = False  # a chunk needs the pictures of its last steps only
        episode = RunningEpisode(env, self.seed, self.obs_horizon, self.film, self.goals)
        env_worker.episodes[self.slot] = episode
        return episode.progress(self.slot, env.interface)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance(EnvRequest):
    """Take the actions, f32 [k A], until they are used up, a goal is reached or all is over."""

    slot: int
    actions: Array
    stop_on_success: bool

    def perform(self, env_worker: EnvWorker) -> Progress:
        """Return where that led."""
        episode: RunningEpisode = env_worker.episodes[self.slot]
        episode.advance(self.actions, self.stop_on_success)
        if episode.done:
            env_worker.episodes.pop(self.slot)
        return episode.progress(self.slot)


class RunningEpisode:
    """One episode of one environment, with the observations that a policy will want."""

    def __init__(
        self,
        env: TaskEnv,
        seed: int,
        obs_horizon: int,
        film: Film | None = None,
        goals: GoalRenderer | None = None,
    ) -> None:
        self._env, self._goals = env, goals
        self._new_goal = None if goals is None else goals.at_start(env)  # not yet reported
        self.steps = 0
        self.first_success_step: int | None = None
        self.solution: str | None = None
        self.goal_steps: list[int] = []
        self.done = False
        self._observations: deque[DictObs] = deque(maxlen=obs_horizon)
        obs, info = env.reset(seed=seed)
        self.instruction = str(info["instruction"])
        self.film_failure: str | None = None
        self._camera = None if film is None else Camera(film, env)
        try:
            self._begin(obs)
        except BaseException:
            self.abandon()
            raise

    def _begin(self, obs: DictObs) -> None:
        """Take in the first observation, and film it."""
        env = self._env
        if self._camera is not None:
            self._camera.step()
        try:
            first = obs | env.images()
        except ValueError as error:  # no such camera, nothing to draw with
            raise Refusal(str(error)) from error
        require_observation(first, env.interface, 0)
        self._observations.extend([first] * (self._observations.maxlen or 0))

    def advance(self, actions: Array, stop_on_success: bool) -> None:
        """Take actions until they are used up, or success or the limit ends the episode.

        A goal reached on the way discards the actions left, and earlier observations.
        """
        for index, action in enumerate(actions):
            obs, _, terminated, truncated, info = self._env.step(action)
            self.steps += 1
            require_observation(obs, self._env.interface, self.steps)
            if self._camera is not None:
                self._camera.step()
            if info["success"] and self.first_success_step is None:
                self.first_success_step = self.steps
            self.solution = info.get("solution")
            reached = info.get("goals_reached", 0) > len(self.goal_steps)
            if reached:
                self.goal_steps.append(self.steps)
            succeeded = stop_on_success and self.first_success_step is not None
            self.done = terminated or truncated or succeeded
            if self.done:
                self.close()
                return
            horizon = self._observations.maxlen or 0
            if reached or len(actions) - index <= horizon:
                obs = obs | self._env.images()
                require_observation(obs, self._env.interface, self.steps)
            self._observations.append(obs)
            if reached:
                self.instruction = str(info["instruction"])
                self._new_goal = None if self._goals is None else self._goals.now(self._env)
                self._observations.extend([obs] * horizon)
                return

    def progress(self, slot: int, interface: Interface | None = None) -> Progress:
        """Return where the episode stands."""
        observations = [] if self.done else list(self._observations)
        cameras = [f"image/{camera}" for camera in self._env.interface.images]
        goal, self._new_goal = self._new_goal, None
        return Progress(
            slot=slot,
            steps=self.steps,
            first_success_step=self.first_success_step,
            done=self.done,
            instruction=self.instruction,
            goal_steps=tuple(self.goal_steps),
            state=np.stack([obs["state"] for obs in observations])
            if observations
            else np.zeros((0, 0), np.float32),
            images={
                key[6:]: np.stack([obs[key] for obs in observations])
                for key in cameras
                if observations
            },
            interface=interface,
            solution=self.solution,
            film_failure=self.film_failure,
            goal_task=self._env.goal_task,
            goal=goal,
        )

    def close(self) -> None:
        """Finish the film, if there is one."""
        if self._camera is not None:
            self._camera.close()
            self.film_failure = self._camera.failure
            self._camera = None

    def abandon(self) -> None:
        """Leave no film."""
        if self._camera is not None:
            self._camera.abandon()
            self._camera = None
