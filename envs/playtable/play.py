"""Play: tasks done one after the other on a table that is never put back, as CALVIN was recorded.

What can be done next is read off the table as it is, by the same rules that the chains are drawn
by; so a task that did not come off does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable.chain_task import ChainExpert
from telic.envs.playtable.environment import observe, playtable_interface
from telic.envs.playtable.facts import BASE, DRAWER, FLOOR, PLANK, Facts, block
from telic.envs.playtable.instructions import instructions
from telic.envs.playtable.plans import expert
from telic.envs.playtable.rules import BLOCKS, TASK_RULES, State, applicable
from telic.envs.playtable.starts import YAW, calvin_scene_obs, seems_possible
from telic.envs.playtable.tasks import TASKS, held_block, success
from telic.envs.playtable.world import World
from telic.envs.task import DictObs, Expert, StateChoice, TaskEnv, box, observation_space
from telic.spec import Array

NUM_TASKS: Final = 8
LIMIT: Final = 160  # steps after which a task is given up
BLOCK_WEIGHT: Final = 30  # of a task with blocks; 1 of one with door, drawer or lights
_DRAWER_OPEN_M: Final = 0.12  # what its task asks for
_HALF: Final = 0.5
_DESK_M: Final = 0.44  # above it, a block that touches nothing will land on the desk


class PlayTask(TaskEnv):
    """An episode of play: it is a success when `num_tasks` tasks have been done.

    `reset(seed=)` draws blocks as CALVIN's reset does, the parts and lights at random. `info` says
    the `task` at hand and the step at which it began (`task_began`); one that takes more than
    `LIMIT` steps is given up and another drawn. An episode ends where a block has fallen off.
    """

    film_camera = "static"

    def __init__(
        self,
        *,
        scene: str = "D",
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (96, 96),
        max_steps: int = NUM_TASKS * LIMIT,
        state: StateChoice | str = StateChoice.full,
        num_tasks: int = NUM_TASKS,
    ) -> None:
        table.layout(scene)
        if num_tasks < 1 or max_steps < 1:
            raise ValueError(
                f"play: num_tasks={num_tasks} and max_steps={max_steps} must be at least 1"
            )
        self._state, self._num_tasks = StateChoice(state), num_tasks
        self.task_id = "playtable/play"
        self.instructions = [text for name in TASKS for text in instructions(name)]
        self.max_steps = max_steps
        self.interface = playtable_interface(self._state, cameras, image_size)
        self.observation_space = observation_space(self.interface)
        self.action_space = box(self.interface.action)
        self.world = World(scene)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin the episode of `seed`; without one, of a table drawn from this env's generator."""
        super().reset(seed=seed)
        self.world.reset(scene_obs=self._scene())
        self.stage = self._steps = self._done = 0
        self._next_task()
        return self._observation(), self._info()

    def _scene(self) -> Array:
        """Return a scene_obs [24]: CALVIN's draw of blocks, doors and lights at either end."""
        plan, rng = self.world.layout, self.np_random
        scene = calvin_scene_obs(plan, rng, shelf_yaw=YAW)
        left, opened, lit, led = (bool(rng.integers(2)) for _ in range(4))
        scene[0] = plan.slide_range * left
        scene[1] = table.DRAWER_RANGE * opened
        scene[3] = table.SWITCH_RANGE * lit
        scene[4:6] = lit, led
        return scene

    def _next_task(self) -> None:
        self._start, self._began = self.world.facts(), self._steps
        self.stage += 1
        state = symbols(self._start, self.world.layout)
        possible = [task for task in TASK_RULES if state is not None and applicable(task, state)]
        self._lost = not possible
        scene = self.world.scene_obs()
        for task in self._in_drawn_order(possible):
            self.current_task = task
            if seems_possible(self.current_task, scene, self.world.layout, self.np_random):
                break

    def _in_drawn_order(self, possible: list[str]) -> list[str]:
        """Return the tasks in an order drawn so that those with blocks come first more often."""
        weights = [BLOCK_WEIGHT if "block" in task or "place" in task else 1 for task in possible]
        keys = self.np_random.exponential(size=len(possible)) / weights
        return [possible[i] for i in np.argsort(keys)]

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Take an action, within its bounds; a task found done, or given up, makes way."""
        self.world.step(np.clip(np.asarray(action, np.float64), -1.0, 1.0))
        self._steps += 1
        over = self._done == self._num_tasks
        done = not over and success(self.current_task, self._start, self.world.facts())
        self._done += done
        if self._done < self._num_tasks and (done or self._steps - self._began >= LIMIT):
            self._next_task()
        truncated = self._steps >= self.max_steps or self._lost
        return self._observation(), float(done), False, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        return {
            "success": self._done == self._num_tasks,
            "goals_reached": self._done,
            "task": self.current_task,
            "task_began": self._began,
            "instruction": instructions(self.current_task)[0],
        }

    def _observation(self) -> DictObs:
        return observe(self, self.world, self._state)

    def expert(self) -> Expert:
        """Return who plays, each task by the expert of its own."""
        return ChainExpert(self, lambda task: expert(task, self.world, self.np_random))

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what a camera of the table sees."""
        return self.world.picture(camera, size)

    def close(self) -> None:
        """Free the rendering buffer."""
        self.world.close()


def symbols(facts: Facts, plan: table.Layout) -> State | None:
    """Return the table in symbols, or None where a block is nowhere that they know."""
    places = {f"{colour}_block": _place(colour, facts, plan) for colour in table.COLOURS}
    if None in places.values():
        return None
    held = held_block(facts)
    return State(
        led=int(facts.led),
        lightbulb=int(facts.lightbulb),
        slider="left" if facts.joints["slide"] > _HALF * plan.slide_range else "right",
        drawer="open" if facts.joints["drawer"] > _DRAWER_OPEN_M else "closed",
        **{name: str(places[name]) for name in BLOCKS},
        grasped=int(held is not None),
    )


def _place(colour: str, facts: Facts, plan: table.Layout) -> str | None:
    """Return where one block is, in the words of the rules."""
    if held_block(facts) == colour:
        return "grasped"
    here = facts.blocks[colour]
    others = [c for c in table.COLOURS if c != colour and block(c) in here.touches]
    for other in others:
        gap = here.position[2] - facts.blocks[other].position[2]
        if abs(gap) > 0.02:
            return "stacked_top" if gap > 0 else "stacked_bottom"
    if DRAWER in here.touches:
        return "drawer"
    if PLANK in here.touches:
        middle = (plan.left_x[1] + plan.right_x[0]) / 2
        return "slider_left" if here.position[0] < middle else "slider_right"
    if FLOOR in here.touches:
        return None
    return "table" if BASE in here.touches or here.position[2] > _DESK_M else "drawer"
