"""A simulated task as a robot: its scene moves on by one step per control tick, in real time.

An episode ends at success or when its time is up; the scene is then put to a new start, drawn from
the next seed, and the run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from telic.envs.registry import entry, make
from telic.envs.task import TaskEnv, image_specs
from telic.ranges import require_range
from telic.real_robot.clock import Clock
from telic.real_robot.robot import Reading
from telic.real_robot.timeline import Motion
from telic.spec import Array, Interface

_WARM_UPS = 2  # pictures per camera: the first ones set the renderer up
_GRIPPER = 3  # the entry of Meta-World's action that opens and closes
_ROBOT_STATE = (4,)  # Meta-World's state without objects and goal


@dataclass(kw_only=True, slots=True)
class MetaWorldConfig:
    """A Meta-World scene; cameras and state are what the policy needs."""

    identity: ClassVar[None] = None  # there may be any number of it

    task: str = "drawer-open-v3"
    seed: int = 300_000  # of the first episode; the others count on
    max_steps: int = 500  # of an episode, 80 a second

    def __post_init__(self) -> None:
        entry(self.task)
        require_range(self, "max_steps", at_least=1, prefix="robot_options.")
        require_range(self, "seed", at_least=0, prefix="robot_options.")

    @classmethod
    def small(cls) -> tuple[MetaWorldConfig, Interface]:
        """An example, and the interface of a policy for it: what tests run."""
        config = cls(seed=1)
        return config, make(config.task).interface

    def build(self, needs: Interface, clock: Clock) -> SimulatedScene:
        """Return the scene, with the cameras and the state that a policy `needs`."""
        state = "robot" if needs.state.shape == _ROBOT_STATE else "full"
        env = make(self.task, max_steps=self.max_steps, state=state)
        views = {
            camera: (spec.shape[0] or 96, spec.shape[1] or 96)
            for camera, spec in needs.images.items()
        }
        return SimulatedScene(
            env, clock, views, self.seed, motion=Motion.relative, binary_dims=(_GRIPPER,)
        )


class SimulatedScene:
    """A task environment behind the methods of a robot.

    `views` gives the size (h, w) of the pictures of each camera. One camera is drawn per tick, in
    turn, so that a tick never draws more than one picture; the others show what they showed.
    """

    def __init__(
        self,
        env: TaskEnv,
        clock: Clock,
        views: dict[str, tuple[int, int]],
        seed: int,
        *,
        motion: Motion,
        binary_dims: tuple[int, ...] = (),
    ) -> None:
        self.motion, self.binary_dims = motion, binary_dims
        self.instruction: str | None = env.instructions[0]
        self.control_hz = env.interface.rate_hz
        images: dict[str, Any] = {}
        for camera, size in views.items():
            images |= image_specs([camera], size)
        self.interface = replace(env.interface, images=images)
        self._env, self._clock, self._views, self._seed = env, clock, views, seed
        self._episode = self._successes = self._timeouts = self._ticks = 0
        self._over = False
        self._state: Array = np.zeros(0)
        self._pictures: dict[str, Array] = {}
        (action_size,) = env.interface.action.shape
        assert action_size is not None
        self._rest = np.zeros(action_size, np.float32)

    def connect(self) -> None:
        """Put the scene to its first start."""
        self._begin_episode()
        for _ in range(_WARM_UPS):
            self._render(list(self._views))

    def read(self) -> Reading:
        """Return the reading of now; a new start first, if the episode is over."""
        if self._over:
            self._episode += 1
            self._begin_episode()
        elif self._views:
            cameras = list(self._views)
            self._render([cameras[self._ticks % len(cameras)]])
        return Reading(
            state=self._state,
            images=dict(self._pictures),
            t_obs_ns=self._clock.now_ns(),
            episode=self._episode,
        )

    def command(self, action: Array) -> None:
        """Let the scene move on by one step under `action`."""
        self._rest[list(self.binary_dims)] = action[list(self.binary_dims)]
        observation, _, _, truncated, info = self._env.step(action)
        self._state = observation["state"]
        self._ticks += 1
        self._successes += bool(info["success"])
        self._timeouts += truncated and not info["success"]
        self._over = truncated or bool(info["success"])

    def hold(self) -> Array:
        """Let the scene move on by one step at rest, the gripper as it is; return that action."""
        rest = self._rest.copy()
        if not self._over:
            self.command(rest)
        return rest

    def stop(self) -> None:
        """Close the scene."""
        self._env.close()

    def report(self) -> dict[str, Any]:
        """Return the task, how many episodes were begun, and how those that ended did so."""
        return {
            "task": self._env.task_id,
            "episodes": self._episode + 1,
            "successes": self._successes,
            "timeouts": self._timeouts,
            "steps": self._ticks,
        }

    def _begin_episode(self) -> None:
        observation, _ = self._env.reset(seed=self._seed + self._episode)
        self._state, self._over = observation["state"], False
        self._rest[:] = 0.0
        self._render(list(self._views))

    def _render(self, cameras: list[str]) -> None:
        for camera in cameras:
            self._pictures[camera] = self._env.picture(camera, self._views[camera])
