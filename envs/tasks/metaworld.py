"""Meta-World's 50 tasks (PyPI `metaworld`): a Sawyer arm over a table, with scripted experts.

`metaworld` and `mujoco` are imported when the first environment is made, after the rendering
backend is chosen; the catalogue alone (names, tags, phrasings) costs a yaml file.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import yaml

from telic.envs.rendering import SceneRenderer, choose_backend, require_rendering
from telic.envs.task import (
    DictObs,
    Expert,
    StateChoice,
    TaskEnv,
    box,
    image_specs,
    observation_space,
)
from telic.spec import Array, ArraySpec, Interface, near_misses

RATE_HZ: Final = 80.0  # 5 simulator steps of 2.5 ms
CAMERAS: Final = (
    "topview",
    "corner",
    "corner2",
    "corner3",
    "corner4",
    "behindGripper",
    "gripperPOV",
)
_ROBOT_ENTRIES: Final = 4  # of the state: hand position and gripper opening

_BODY = ("x", "y", "z", "qx", "qy", "qz", "qw")
_NOW = (
    "hand_x",
    "hand_y",
    "hand_z",
    "gripper_opening",
    *(f"object1_{entry}" for entry in _BODY),
    *(f"object2_{entry}" for entry in _BODY),
)
_STATE_NAMES = (*_NOW, *(f"previous_{name}" for name in _NOW), "goal_x", "goal_y", "goal_z")

ACTION_SPEC: Final = ArraySpec(
    shape=(4,),
    minimum=(-1.0,),
    maximum=(1.0,),
    names=("hand_dx", "hand_dy", "hand_dz", "gripper"),
    unit="0.01 m; gripper 1",
    rate_hz=RATE_HZ,
    gripper="positive_closes",
    frame="world",
    note="hand_d*: displacement of the target in a step",
)
STATE_SPECS: Final = {
    StateChoice.full: ArraySpec(
        shape=(39,),
        unit="m; gripper_opening 0..1; quaternions 1",
        names=_STATE_NAMES,
        rate_hz=RATE_HZ,
        rotation="quaternion_xyzw",
        gripper="positive_opens",
        frame="world",
        note="this step, the step before, the goal; an absent object is zero",
    ),
    StateChoice.robot: ArraySpec(
        shape=(_ROBOT_ENTRIES,),
        unit="m; gripper_opening 0..1",
        names=_STATE_NAMES[:_ROBOT_ENTRIES],
        rate_hz=RATE_HZ,
        gripper="positive_opens",
        frame="world",
        note="hand position; neither object nor goal",
    ),
}


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Return task name -> {"group": str, "suites": [str], "instructions": [str]}."""
    text = (files("telic.envs.tasks") / "metaworld_tasks.yaml").read_text()
    return yaml.safe_load(text)


class MetaWorldTask(TaskEnv):
    """One Meta-World task whose every `reset(seed=)` draws new object and goal positions.

    name: a key of the catalogue, such as "reach-v3". cameras: any of CAMERAS, drawn upright at
    image_size = (h, w) with the goal's marker visible. state: "full" (39 entries with objects and
    goal) or "robot" (4 entries that a real arm would feel). `render()` draws `render_camera`.
    """

    film_camera = "corner4"

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        *,
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (96, 96),
        max_steps: int = 500,
        state: StateChoice | str = StateChoice.full,
        render_mode: str | None = None,
        render_camera: str = "corner2",
        render_size: tuple[int, int] = (480, 480),
    ) -> None:
        for camera in (*cameras, render_camera):
            _check_camera(camera)
        if max_steps < 1 or min(*image_size, *render_size) < 1:
            raise ValueError(
                f"{name}: max_steps={max_steps}, image_size={image_size} and "
                f"render_size={render_size} must be at least 1"
            )
        if cameras or render_mode is not None:
            require_rendering()
        self.task_id = f"metaworld/{name}"
        self.instructions = list(catalogue()[name]["instructions"])
        self.max_steps = max_steps
        self.render_mode = render_mode
        self._render_view = (render_camera, (int(render_size[0]), int(render_size[1])))
        self._state_choice = StateChoice(state)
        self.interface = Interface(
            state=STATE_SPECS[self._state_choice],
            action=ACTION_SPEC,
            rate_hz=RATE_HZ,
            images=image_specs(cameras, image_size),
        )
        self.observation_space = observation_space(self.interface)
        self.action_space = box(ACTION_SPEC)
        self._name = name
        self._base = _fresh_base(name)
        self._raw: Array = np.zeros(39)
        self._steps = 0
        self._renderer: SceneRenderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin the episode of `seed`; without one, of a seed drawn from this env's generator."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._base.seed(seed)  # the base class ignores reset(seed=)
        self._raw, _ = self._base.reset()
        self._steps = 0
        return self._observation(), {"instruction": self.instructions[0]}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Move one tick of 12.5 ms; `action` is f32 [4], clipped to [-1, 1]."""
        clipped = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        self._raw, reward, _, _, info = self._base.step(clipped)
        self._steps += 1
        truncated = self._steps >= self.max_steps
        success = bool(info["success"])
        return self._observation(), float(reward), False, truncated, {"success": success}

    def expert(self) -> Expert:
        """Return Meta-World's scripted policy; it reads the full state whatever `state` shows."""
        return _ScriptedExpert(self)

    def picture(self, camera: str, size: tuple[int, int]) -> Array:
        """Return what `camera` sees now, u8 [h w 3], upright, the goal's marker in its place."""
        _check_camera(camera)
        if self._renderer is None:
            self._renderer = SceneRenderer(self._base.model)
        for site, position in self._base._target_site_config:  # mj_forward has moved the markers
            self._base._set_pos_site(site, np.asarray(position))
        pixels = self._renderer.picture(self._base.data, camera, size)
        if camera.startswith("corner"):  # mounted upside down in the scene
            pixels = pixels[::-1, ::-1]
        return np.ascontiguousarray(pixels)

    def render(self) -> Any:
        """Return the picture of `render_camera`, or None unless render_mode is "rgb_array"."""
        return self.picture(*self._render_view) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the rendering buffer."""
        if self._renderer is not None:
            self._renderer.close()

    def scripted_action(self) -> Array:
        """Return what Meta-World's policy does now, f32 [4], clipped to [-1, 1]."""
        action = _policies()[self._name].get_action(self._raw)
        return np.clip(np.asarray(action), -1.0, 1.0).astype(np.float32)

    def _observation(self) -> DictObs:
        entries = self.interface.state.shape[0]
        obs: DictObs = {"state": self._raw[:entries].astype(np.float32)}
        if self.draw_images:
            obs |= self.images()
        return obs


class _ScriptedExpert:
    def __init__(self, env: MetaWorldTask) -> None:
        self._env = env

    def act(self, obs: DictObs) -> Array:
        return self._env.scripted_action()


def _check_camera(camera: str) -> None:
    if camera not in CAMERAS:
        raise ValueError(
            f"Meta-World has no camera {camera!r}; it has {', '.join(CAMERAS)}"
            f"{near_misses(camera, CAMERAS)}"
        )


@cache
def _simulator() -> Any:
    """Return the `metaworld` package, imported after the rendering backend is chosen."""
    choose_backend()
    import metaworld

    return metaworld


@cache
def _policies() -> dict[str, Any]:
    """Return task name -> its scripted policy (they keep no state)."""
    choose_backend()
    policies = importlib.import_module("metaworld.policies").ENV_POLICY_MAP

    # its proportional controllers overshoot [-1, 1] all the time and say so every time
    warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
    return {name: policy() for name, policy in policies.items()}


def _fresh_base(name: str) -> Any:
    """Return Meta-World's own environment, goal visible and drawn anew from each seed."""
    base = _simulator().ALL_V3_ENVIRONMENTS[name]()
    base._partially_observable = False
    # cached while the goal was hidden; left there, step() would clip the goal to zero
    base.__dict__.pop("sawyer_observation_space", None)
    base._freeze_rand_vec = False
    base.seeded_rand_vec = True
    base._set_task_called = True
    base.max_path_length = sys.maxsize  # it raises beyond; the length of an episode is ours
    return base
