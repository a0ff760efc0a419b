"""A chain of tasks as one environment: the goal's sentence changes, the table is not reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from telic.envs.playtable.chain_start import start_obs
from telic.envs.playtable.environment import MAX_STEPS, Observed, observe, playtable_interface
from telic.envs.playtable.goals import Movable, expert_goal
from telic.envs.playtable.instructions import Phrases, sentences
from telic.envs.playtable.plans import expert
from telic.envs.playtable.protocol import (
    CHAIN_LENGTH,
    NUM_CHAINS,
    Chain,
    check_chain,
    evaluation_chains,
)
from telic.envs.playtable.tasks import success
from telic.envs.playtable.world import World
from telic.envs.task import (
    DictObs,
    Expert,
    GoalPictures,
    StateChoice,
    TaskEnv,
    box,
    observation_space,
)
from telic.spec import Array, Interface


class Table(Observed, Movable, Protocol):
    """What a chain needs of the simulated table."""

    def reset(self, robot_obs: Array, scene_obs: Array, scene: str) -> None:
        """Put robot [15] and scene [24] at rest where the vectors say."""
        ...

    def facts(self) -> Any:
        """Return what the success of tasks is judged by, as it is now."""
        ...

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what a camera sees now, u8 [h w 3]."""
        ...

    def close(self) -> None:
        """Free what pictures needed."""
        ...


Success = Callable[[str, Any, Any], bool]  # of (task, facts when it began, facts now)
MakeExpert = Callable[[str, Table, np.random.Generator], Expert]


class ChainTask(TaskEnv):
    """An evaluation chain, `reset(seed=i)` the i-th, on a table that outlives its tasks.

    Each task begins where the one before it was done, and has `max_steps` steps; the first that is
    not done in time ends the episode. `reset(options={"initial_state": ..., "tasks": ...})` begins
    a chain of one's own. Raises ValueError for a chain that cannot be done.
    """

    film_camera = "static"

    def __init__(
        self,
        table: Table,
        success: Success,
        make_expert: MakeExpert,
        interface: Interface,
        *,
        scene: str = "D",
        max_steps: int = 360,
        state: StateChoice | str = StateChoice.full,
        language_file: str | None = None,
        all_phrasings: bool = False,
    ) -> None:
        self._table, self._success, self._make_expert = table, success, make_expert
        self._scene, self._limit, self._state = scene, max_steps, StateChoice(state)
        self._sentences = sentences(Phrases.held_out, language_file)
        self._all_phrasings = all_phrasings
        self.task_id = "playtable/lh_mtlc"
        self.instructions = [text for texts in self._sentences.values() for text in texts]
        self.max_steps = CHAIN_LENGTH * max_steps
        self.interface = interface
        self.observation_space = observation_space(interface)
        self.action_space = box(interface.action)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin chain `seed`, or a random one, or that of `options`."""
        super().reset(seed=seed)
        self._number = int(self.np_random.integers(NUM_CHAINS)) if seed is None else seed
        self._chain = self._chosen(options)
        self.goals_reached = self._steps = 0
        self._table.reset(*start_obs(self._chain.initial_state, self._scene), self._scene)
        self._start = self._table.facts()
        return self._observation(), {"instruction": self._instruction()}

    def _chosen(self, options: dict[str, Any] | None) -> Chain:
        if options:
            return check_chain(options["initial_state"], options["tasks"])
        if not 0 <= self._number < NUM_CHAINS:
            raise ValueError(f"chain {self._number} does not exist, expected 0 to {NUM_CHAINS - 1}")
        return evaluation_chains()[self._number]

    @property
    def current_task(self) -> str:
        """The task that it is at; the last one when all are done."""
        return self._chain.tasks[min(self.goals_reached, len(self._chain.tasks) - 1)]

    @property
    def goal_task(self) -> str:
        """The id of the task that it is at."""
        return f"{self.task_id.partition('/')[0]}/{self.current_task}"

    def draw_goal(self) -> GoalPictures:
        """Return the picture of the moment at which an expert has done the current task."""
        task = self.current_task
        return expert_goal(
            self,
            self._table,
            make_expert=lambda rng: self._make_expert(task, self._table, rng),
            observation=self._observation,
            done=lambda: self._success(task, self._start, self._table.facts()),
            seed=(self._number, self.goals_reached, self._steps),
            max_steps=MAX_STEPS,
        )

    def _instruction(self) -> str:
        texts = self._sentences[self.current_task]
        return texts[self._number % len(texts) if self._all_phrasings else 0]

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Take an action, within its bounds; a task found done hands over to the next one."""
        self._table.step(self.interface.action.clip(action))
        self._steps += 1
        now, length = self._table.facts(), len(self._chain.tasks)
        done = self.goals_reached < length and self._success(self.current_task, self._start, now)
        if done:
            self.goals_reached += 1
            self._start, self._steps = now, 0
        info = {
            "success": self.goals_reached == length,
            "goals_reached": self.goals_reached,
            "instruction": self._instruction(),
        }
        return self._observation(), float(done), False, self._steps >= self._limit, info

    def _observation(self) -> DictObs:
        return observe(self, self._table, self._state)

    @property
    def stage(self) -> int:
        """How many tasks it has left behind."""
        return self.goals_reached

    def expert(self) -> Expert:
        """Return who solves the chain, each task by the expert of its own."""
        return ChainExpert(self, lambda task: self._make_expert(task, self._table, self.np_random))

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what a camera of the table sees."""
        return self._table.picture(camera, size)

    def close(self) -> None:
        """Free what pictures needed."""
        self._table.close()


class Chained(Protocol):
    """An environment whose tasks follow one another: the one at hand, and how many came before."""

    @property
    def current_task(self) -> str:
        """The task at hand."""
        ...

    @property
    def stage(self) -> int:
        """A number that is another one for each task."""
        ...


class ChainExpert:
    """Solves tasks that follow one another, each by an expert of its own."""

    def __init__(self, env: Chained, make: Callable[[str], Expert]) -> None:
        self._env, self._make = env, make
        self._begin()

    def _begin(self) -> None:
        self._at = self._env.stage
        self._expert = self._make(self._env.current_task)

    def act(self, obs: DictObs) -> Array:
        """Return the action of the current task's expert."""
        if self._env.stage != self._at:
            self._begin()
        return self._expert.act(obs)


def table_chains(
    *,
    scene: str = "D",
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] = (96, 96),
    state: StateChoice | str = StateChoice.full,
    **kwargs: Any,
) -> ChainTask:
    """Return the chains on the simulated table with its experts; `kwargs` as of `ChainTask`.

    ValueError for an unknown scene, state or camera, and where pictures cannot be drawn.
    """
    interface = playtable_interface(StateChoice(state), cameras, image_size)
    world = World(scene)

    def make_expert(task: str, _: Table, rng: np.random.Generator) -> Expert:
        return expert(task, world, rng)

    return ChainTask(world, success, make_expert, interface, scene=scene, state=state, **kwargs)
