"""PlayTable's tasks as Gymnasium environments: each from random states in which it can be done.

The names of the tasks and what a person says for them cost no simulator; MuJoCo is imported when
the first environment is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable.control import ACTION_SPEC, RATE_HZ
from telic.envs.playtable.facts import FLOOR, Facts
from telic.envs.playtable.goals import expert_goal
from telic.envs.playtable.instructions import instructions
from telic.envs.playtable.plans import expert
from telic.envs.playtable.starts import task_start
from telic.envs.playtable.tasks import check_task, success
from telic.envs.playtable.world import ROBOT_OBS, SCENE_OBS, World, check_camera
from telic.envs.rendering import require_rendering
from telic.envs.task import (
    DictObs,
    Expert,
    GoalPictures,
    StateChoice,
    TaskEnv,
    box,
    image_specs,
    observation_space,
)
from telic.spec import Array, ArraySpec, Interface

MAX_STEPS: Final = 360  # what CALVIN gives a subtask
_SETTLE_STEPS: Final = 6
_MAX_DRAWS: Final = 50
_NO_SUPPORT: Final = {"slide", "button", "switch", FLOOR}

_UNIT: Final = "m; rad; gripper_action -1 or 1; lights 0 or 1"
_ROTATION, _GRIPPER, _FRAME = ACTION_SPEC.rotation, ACTION_SPEC.gripper, ACTION_SPEC.frame
_NOTE: Final = (
    "blocks in the order of CALVIN's scene: red, blue, pink in B and D; pink, blue, red in A; "
    "blue, red, pink in C"
)
STATE_SPECS: Final = {
    StateChoice.full: ArraySpec(
        shape=(len(ROBOT_OBS) + len(SCENE_OBS),),
        unit=_UNIT,
        names=(*ROBOT_OBS, *SCENE_OBS),
        rate_hz=RATE_HZ,
        rotation=_ROTATION,
        gripper=_GRIPPER,
        frame=_FRAME,
        note=f"robot_obs, then scene_obs; {_NOTE}",
    ),
    StateChoice.robot: ArraySpec(
        shape=(len(ROBOT_OBS),),
        unit=_UNIT,
        names=ROBOT_OBS,
        rate_hz=RATE_HZ,
        rotation=_ROTATION,
        gripper=_GRIPPER,
        frame=_FRAME,
    ),
}


class PlayTableTask(TaskEnv):
    """One of the 34 tasks, in one scene; each `reset(seed=)` draws a state to begin from.

    name: a key of TASKS. scene: "A" to "D". cameras: "static", "gripper", drawn at image_size =
    (h, w). state: "full" (robot_obs and scene_obs, 39 entries) or "robot" (robot_obs, 15).
    `render()` draws `render_camera`. The simulator is `world`.
    """

    film_camera = "static"
    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        *,
        scene: str = "D",
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (96, 96),
        max_steps: int = MAX_STEPS,
        state: StateChoice | str = StateChoice.full,
        render_mode: str | None = None,
        render_camera: str = "static",
        render_size: tuple[int, int] = (400, 400),
    ) -> None:
        check_task(name)
        table.layout(scene)
        check_camera(render_camera)
        if max_steps < 1 or min(*image_size, *render_size) < 1:
            raise ValueError(
                f"{name}: max_steps={max_steps}, image_size={image_size} and "
                f"render_size={render_size} must be at least 1"
            )
        if render_mode is not None:
            require_rendering()
        self.task_id = f"playtable/{name}"
        self.instructions = list(instructions(name))
        self.max_steps = max_steps
        self.render_mode = render_mode
        self._render_view = (render_camera, (int(render_size[0]), int(render_size[1])))
        self._state_choice = StateChoice(state)
        self.interface = playtable_interface(self._state_choice, cameras, image_size)
        self.observation_space = observation_space(self.interface)
        self.action_space = box(ACTION_SPEC)
        self.world = World(scene)
        self.world.reset()
        self._name = name
        self._start = self.world.facts()
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin the episode of `seed`; without one, of a state drawn from this env's generator."""
        super().reset(seed=seed)
        self._start = begin(self.world, self._name, self.np_random)
        self._steps = 0
        return self._observation(), {"instruction": self.instructions[0]}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Move one tick of a thirtieth of a second; `action` is f32 [7], clipped to [-1, 1]."""
        self.world.step(np.clip(np.asarray(action, np.float64), -1.0, 1.0))
        self._steps += 1
        done = success(self._name, self._start, self.world.facts())
        truncated = self._steps >= self.max_steps
        return self._observation(), float(done), False, truncated, {"success": done}

    def draw_goal(self) -> GoalPictures:
        """Return the picture of the moment at which an expert has done the task from here."""
        return expert_goal(
            self,
            self.world,
            make_expert=lambda rng: expert(self._name, self.world, rng),
            observation=self._observation,
            done=lambda: success(self._name, self._start, self.world.facts()),
            seed=(abs(self.np_random_seed), self._steps),
            max_steps=MAX_STEPS,
        )

    def expert(self) -> Expert:
        """Return the scripted expert; it looks into the simulator whatever `state` shows."""
        seed = self.np_random.integers(2**31)
        return expert(self._name, self.world, np.random.default_rng(seed))

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what `camera` sees now, u8 [h w 3], upright."""
        return self.world.picture(camera, size)

    def render(self) -> Any:
        """Return the picture of `render_camera`, or None unless render_mode is "rgb_array"."""
        return self.picture(*self._render_view) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the rendering buffer."""
        self.world.close()

    def _observation(self) -> DictObs:
        return observe(self, self.world, self._state_choice)


class Observed(Protocol):
    """What of a table an observation is made of; vectors are f64, in m and rad."""

    def robot_obs(self) -> Array:
        """Return the robot's vector [15]."""
        ...

    def scene_obs(self) -> Array:
        """Return the scene's vector [24]."""
        ...


def playtable_interface(
    state: StateChoice, cameras: Sequence[str], image_size: tuple[int, int]
) -> Interface:
    """Return what a PlayTable environment senses and takes as actions.

    ValueError for an unknown camera, and where pictures are asked for and cannot be drawn.
    """
    for camera in cameras:
        check_camera(camera)
    if cameras:
        require_rendering()
    return Interface(
        state=STATE_SPECS[state],
        action=ACTION_SPEC,
        rate_hz=RATE_HZ,
        images=image_specs(cameras, image_size),
    )


def observe(env: TaskEnv, world: Observed, state: StateChoice) -> DictObs:
    """Return an environment's observation of the table as it is now."""
    parts = [world.robot_obs()]
    parts += [world.scene_obs()] if state is StateChoice.full else []
    pictures = env.images() if env.draw_images else {}
    return {"state": np.concatenate(parts).astype(np.float32)} | pictures


def begin(world: World, task: str, rng: np.random.Generator) -> Facts:
    """Put `world` into a random state in which `task` can be done, and return the facts there.

    Blocks settle before; a state is drawn again where one slipped, fell, or leans on a part.
    """
    for _ in range(_MAX_DRAWS):
        robot, scene = task_start(task, world.layout, rng)
        world.reset(robot, scene)
        before = world.scene_obs()
        for _ in range(_SETTLE_STEPS):
            world.step(np.array([0, 0, 0, 0, 0, 0, robot[14]]))
        settled = np.abs(world.scene_obs() - before)[[*range(6), 6, 7, 8, 12, 13, 14, 18, 19, 20]]
        facts = world.facts()
        leans = any(block.touches & _NO_SUPPORT for block in facts.blocks.values())
        if settled.max() < 0.01 and not leans:
            return facts
    raise AssertionError(f"{task}: no state found in which blocks stay")
